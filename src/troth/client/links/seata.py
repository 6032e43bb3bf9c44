"""The link that speaks Seata's binary protocol: one background thread with one event loop that owns the sockets.

Sync and async programs share it. A caller puts its call in a queue and wakes the loop only when that may be asleep; the
loop takes all that is queued, and each connection gets it in one write. The coordinator's own requests (phase two) come
in on the same thread and are handed on at once; their answers go back through the same queue.

Two connections, as Java has them: one for the TM, made at the start; one for the RM, made with the first resource.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from troth.client.errors import ClientClosed, CoordinatorUnavailable
from troth.client.links.calls import AwaitedCall, BlockingCall, Call
from troth.client.links.channel import Channel, Route
from troth.client.links.link import OnRequest
from troth.client.links.registration import Identity
from troth.client.links.wire import Wire
from troth.client.settings import Address, ClientSettings
from troth.wire.seata.frame import Frame
from troth.wire.seata.lock_wait import LockWaitRequest
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchReportRequest,
    Message,
    RegisterResponse,
    RegisterRMRequest,
)
from troth.wire.seata.saga import SAGA_REQUESTS

log = logging.getLogger(__name__)

_RM_REQUESTS = (
    BranchRegisterRequest,
    BranchReportRequest,
    RegisterRMRequest,
    *SAGA_REQUESTS,
)  # a lock query is a BranchRegisterRequest


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer to a request of the coordinator, on its way to the loop."""

    wire: Wire
    request: Frame
    message: Message


@dataclass(frozen=True, slots=True)
class _Resources:
    """Resources to register, on their way to the loop."""

    ids: tuple[str, ...]


class SeataLink:
    """A `Link` (see there) to a Seata coordinator."""

    def __init__(
        self, addresses: tuple[Address, ...], identity: Identity, settings: ClientSettings, on_request: OnRequest
    ) -> None:
        self._route = Route(addresses)
        self._identity = identity
        self._settings = settings
        self._on_request = on_request
        self._queue: deque[Call | _Reply | _Resources] = deque()
        self._awake = False
        self._closing = False
        self._closed = False
        self._registered = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._run, name="troth-link", daemon=True)
        self._resource_ids: dict[str, None] = {}
        self._named: frozenset[str] = frozenset()
        """Those that the newest registration of a connection has named."""
        self._tm: Channel | None = None
        self._rm: Channel | None = None
        # Longer than any wait of the link's own: it is for a link thread that died.
        self._guard_s = max(settings.tm_timeout_s, settings.rm_timeout_s) + settings.link_wait_s + 10.0

    # --- the caller's side: any thread --------------------------------------------------------------------------------

    def start(self) -> None:
        """See `Link.start`."""
        self._thread.start()
        if not self._settings.connect_at_init or self._registered.wait(self._settings.connect_timeout_s):
            return
        reason = self._tm.trouble if self._tm is not None else "the link thread does not run"
        self.close()
        raise CoordinatorUnavailable(
            f"no coordinator ({reason}). Start one with `troth serve`, or say where it is: "
            "troth.init(coordinator='host:port')"
        )

    def tell(self, message: Message) -> Message:
        """See `Link.tell`."""
        call = BlockingCall(message)
        self._submit(call)
        patient_s = self._settings.lock_wait_timeout_s if isinstance(message, LockWaitRequest) else 0.0
        return call.wait(self._guard_s + patient_s)

    async def atell(self, message: Message) -> Message:
        """See `Link.atell`."""
        call = AwaitedCall(message)
        self._submit(call)
        return await call.wait()

    def ensure_resources(self, resource_ids: Iterable[str]) -> None:
        """See `Link.ensure_resources`."""
        self._submit(_Resources(tuple(resource_ids)))

    def close(self) -> None:
        """See `Link.close`."""
        if self._closing:
            return
        self._closing = True
        if self._thread.ident is None:
            self._closed = True
            self._loop.close()
        else:
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join()
        self._fail_queue()

    def abandon(self) -> None:
        """See `Link.abandon`.

        The loop itself must not be closed: its epoll object is the parent's too, and taking a socket out of it would
        make the parent deaf. So only descriptors are closed, and the objects stay as they are.
        """
        self._closing = self._closed = True
        for sock in self._route.sockets:
            sock.close()
        self._selector.close()

    def _submit(self, item: Call | _Reply | _Resources) -> None:
        self._queue.append(item)
        if self._closed:
            self._fail_queue()
        elif not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # closed just now
                self._fail_queue()

    def _fail_queue(self) -> None:
        while self._queue:
            try:
                item = self._queue.popleft()
            except IndexError:  # another thread was faster
                return
            if isinstance(item, Call):
                item.fail(_closed_error())

    # --- the loop's side ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread: one loop until `close` stops it."""
        self._loop.call_soon(self._open)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._close_channels())
        finally:
            self._closed = True
            self._loop.close()
            self._fail_queue()

    def _open(self) -> None:
        self._tm = Channel(
            "TM",
            self._route,
            self._settings,
            self._tm_registration,
            self._settings.tm_timeout_s,
            self._receive,
            self._registered.set,
        )
        self._tick()
        self._drain()

    def _stop(self) -> None:
        self._drain()
        self._closed = True
        self._loop.stop()

    def _open_rm(self) -> Channel:
        return Channel(
            "RM",
            self._route,
            self._settings,
            self._rm_registration,
            self._settings.rm_timeout_s,
            self._receive,
            self._name_the_rest,
        )

    def _tm_registration(self, local_ip: str) -> Message:
        return self._identity.as_tm(local_ip, time.time_ns() // 1_000_000)

    def _rm_registration(self, _local_ip: str) -> Message:
        self._named = frozenset(self._resource_ids)
        return self._identity.as_rm(self._resource_ids)

    def _name_the_rest(self) -> None:
        """Resources that came while the registration was under way are not in it; requests that wait may need them."""
        late = [resource_id for resource_id in self._resource_ids if resource_id not in self._named]
        if late and self._rm is not None:
            self._rm.submit_first(_RegisterLater(self._identity.as_rm(late)))

    def _drain(self) -> None:
        # The flag first: what is queued after this line wakes the loop again, what was queued before is taken now.
        self._awake = False
        while self._queue:
            self._take(self._queue.popleft())
        for channel in self._channels():
            channel.flush()

    def _take(self, item: Call | _Reply | _Resources) -> None:
        if isinstance(item, Call):
            channel = self._channel_for(item.message)
            if channel is None:
                item.fail(_closed_error())
            else:
                channel.submit(item)
        elif isinstance(item, _Reply):
            item.wire.answer(item.request, item.message)
        else:
            self._add_resources(item.ids)

    def _channel_for(self, message: Message) -> Channel | None:
        """A program that has no resource speaks as RM on the TM's connection: the coordinator takes it on both."""
        return self._rm if self._rm is not None and isinstance(message, _RM_REQUESTS) else self._tm

    def _add_resources(self, ids: tuple[str, ...]) -> None:
        new = [resource_id for resource_id in ids if resource_id not in self._resource_ids]
        self._resource_ids.update(dict.fromkeys(new))
        if self._rm is None:
            if new:
                self._rm = self._open_rm()
        elif new and self._rm.ready:
            # Not ready: the registration that opens the connection will name them, or `_name_the_rest`.
            self._rm.submit(_RegisterLater(self._identity.as_rm(new)))

    def _receive(self, wire: Wire, frame: Frame) -> None:
        self._on_request(frame.body, functools.partial(self._reply, wire, frame))

    def _reply(self, wire: Wire, request: Frame, message: Message) -> None:
        self._submit(_Reply(wire, request, message))

    def _tick(self) -> None:
        self._loop.call_later(self._tick_s(), self._tick)
        now = self._loop.time()
        for channel in self._channels():
            channel.tick(now)

    def _tick_s(self) -> float:
        settings = self._settings
        shortest = min(settings.heartbeat_s, settings.link_wait_s, settings.tm_timeout_s, settings.rm_timeout_s)
        return min(max(shortest / 5, 0.01), 0.25)

    def _channels(self) -> tuple[Channel, ...]:
        return tuple(channel for channel in (self._tm, self._rm) if channel is not None)

    async def _close_channels(self) -> None:
        for channel in self._channels():
            await channel.close(_closed_error)


class _RegisterLater(Call):
    """A further resource of an RM that is registered already: nobody waits, but a refusal must be heard."""

    __slots__ = ()

    def succeed(self, answer: Message) -> None:
        if isinstance(answer, RegisterResponse) and answer.identified:
            log.info("registered: %s", self.message)
        else:
            log.error("the coordinator refused %s: %s; it cannot serve phase two here", self.message, answer)

    def fail(self, error: Exception) -> None:
        log.info("%s was not registered (%s); the next connection names it again", self.message, error)


def _closed_error() -> Exception:
    return ClientClosed("the client is closed")
