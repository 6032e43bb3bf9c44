"""One TCP connection to a coordinator, from connect to close. Everything here runs on the link's loop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable

from troth.client.errors import CoordinatorUnavailable, RequestTimeout
from troth.client.links.calls import Call
from troth.client.settings import Address, ClientSettings
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import MessageType
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import Message

log = logging.getLogger(__name__)


class Wire(asyncio.Protocol):
    """Matches answers to calls, hands requests on, keeps the connection alive. It never reconnects: a channel does."""

    def __init__(
        self, address: Address, settings: ClientSettings, loop: asyncio.AbstractEventLoop, on_frame: OnFrame
    ) -> None:
        self.address = address
        self.closed: asyncio.Future[str] = loop.create_future()
        """Done when the connection is gone; the result says why."""
        self.writable = True
        self._settings = settings
        self._loop = loop
        self._on_frame = on_frame
        self._connection = Connection(max_unregistered_bytes=None)
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, Call] = {}
        self._patient_calls: dict[int, Call] = {}
        self.waits_cold = False
        """The coordinator knows the messages of wire/seata/lock_wait.py."""
        self.keeps_sagas = False
        """It knows those of wire/seata/saga.py."""
        self._outbox: list[bytes] = []
        self._reason: str | None = None
        self._read_at = self._wrote_at = self._pinged_at = loop.time()

    @property
    def local_ip(self) -> str:
        """Our own address on this connection."""
        if self._transport is None:
            raise AssertionError("asked before the connection was made")
        return str(self._transport.get_extra_info("sockname")[0])

    # --- what goes out ------------------------------------------------------------------------------------------------

    def ask(self, call: Call, due: float) -> None:
        """Queue a request for the next `flush`; its answer, or the loss of the connection, settles `call`."""
        try:
            frame = self._connection.request(call.message)
            data = self._connection.send(frame)
        except WireError as error:
            call.fail(error)
            return
        call.due = due
        self._calls[frame.request_id] = call
        self._outbox.append(data)

    def ask_patiently(self, call: Call, due: float) -> None:
        """`ask` for a call that may take longer than others: they are timed out in the order in which they were asked.

        It is not timed out here but by the coordinator; `due` is for one that has forgotten it.
        """
        self.ask(call, due)
        if self._calls and next(reversed(self._calls.values())) is call:
            request_id, _ = self._calls.popitem()
            self._patient_calls[request_id] = call

    def answer(self, request: Frame, message: Message) -> None:
        """Queue the answer to a request of the coordinator for the next `flush`."""
        if self.closed.done():
            log.debug("%s: gone, the answer %s is dropped; it will ask again", self.address, type(message).__name__)
            return
        try:
            self._outbox.append(self._connection.send(self._connection.reply(request, message)))
        except WireError:
            log.exception(
                "%s: the answer cannot be written, so the coordinator will ask again: %s", self.address, message
            )

    def flush(self) -> None:
        """Write what is queued, as one piece."""
        if not self._outbox or self._transport is None:
            return
        data = b"".join(self._outbox)
        self._outbox.clear()
        self._wrote_at = self._loop.time()
        self._transport.write(data)

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Expire calls, ping when quiet, drop the connection when the coordinator is silent."""
        self._expire_calls(now)
        silent_s = now - self._read_at
        if silent_s >= self._settings.idle_timeout_s:
            self.drop(f"nothing heard for {silent_s:.1f} s")
            return
        # Also after a long time without a read: one who only writes would never ping, and take the silence for death.
        quiet_s = now - min(self._wrote_at, self._read_at)
        if quiet_s >= self._settings.heartbeat_s and now - self._pinged_at >= self._settings.heartbeat_s:
            self._pinged_at = now
            self._outbox.append(self._connection.send(self._connection.ping()))
            self.flush()

    def _expire_calls(self, now: float) -> None:
        # All calls of one kind have the same time limit, so the oldest is the first.
        for calls in (self._calls, self._patient_calls):
            while calls:
                request_id, call = next(iter(calls.items()))
                if call.due > now:
                    break
                del calls[request_id]
                call.fail(RequestTimeout(f"{self.address} did not answer {type(call.message).__name__} in time"))

    # --- what comes in ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a stream is needed, not {transport!r}")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read_at = self._loop.time()
        try:
            frames = self._connection.receive_data(data)
            for frame in frames:
                self._receive(frame)
        except WireError as error:
            self.drop(f"it sent bytes that are not Seata's protocol: {error}")
            return
        self.flush()

    def _receive(self, frame: Frame) -> None:
        if frame.message_type is MessageType.RESPONSE:
            call = self._calls.pop(frame.request_id, None) or self._patient_calls.pop(frame.request_id, None)
            if call is None:
                log.debug("%s: a late answer (%s) is dropped", self.address, type(frame.body).__name__)
            else:
                call.succeed(frame.body)
        elif frame.message_type is MessageType.HEARTBEAT_PING:
            self._outbox.append(self._connection.send(self._connection.pong(frame)))
        elif frame.message_type is not MessageType.HEARTBEAT_PONG:
            self._on_frame(self, frame)

    # --- the end ------------------------------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Close the connection for `reason`; calls in flight fail when it is closed."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """Close the connection, after what is written has gone out if that goes quickly."""
        if self._transport is not None and not self.closed.done():
            self._reason = self._reason or "the client is closed"
            self.flush()
            self._transport.close()
            await asyncio.wait([self.closed], timeout=1.0)
            self._transport.abort()
            await asyncio.wait([self.closed])

    def connection_lost(self, exc: Exception | None) -> None:
        reason = self._reason or (str(exc) if exc else "it closed the connection")
        calls = [*self._calls.values(), *self._patient_calls.values()]
        self._calls, self._patient_calls = {}, {}
        for call in calls:
            name = type(call.message).__name__
            call.fail(CoordinatorUnavailable(f"the link to {self.address} broke while {name} was in flight: {reason}"))
        if not self.closed.done():
            self.closed.set_result(reason)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True


OnFrame = Callable[[Wire, Frame], None]
"""Called for each request of the coordinator."""


async def open_socket(address: Address, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """A connected, non-blocking socket to `address`: the first that answers of all that its name stands for.

    The socket is made here, not by asyncio, so that a forked child can close it without touching the parent's loop.
    """
    failure: OSError | None = None
    for family, place in await _resolve(address, loop):
        # The protocol is named: asyncio turns Nagle's algorithm off only where it is. With it, a small message that
        # follows another one unanswered waits for the peer's delayed ACK: 40 ms for every row that changed hands.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, place)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{address.host} has no address")


async def _resolve(address: Address, loop: asyncio.AbstractEventLoop) -> list[tuple[int, tuple[str, int]]]:
    try:
        number = ipaddress.ip_address(address.host)
    except ValueError:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return [(family, (str(place[0]), int(place[1]))) for family, _, _, _, place in found]
    return [(socket.AF_INET6 if number.version == 6 else socket.AF_INET, (address.host, address.port))]
