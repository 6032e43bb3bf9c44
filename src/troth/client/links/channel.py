"""One role's way to the coordinator (TM or RM): a connection, and after its loss the next. Runs on the link's loop."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import structs

from troth.client.errors import CoordinatorUnavailable
from troth.client.links.calls import AwaitedCall, Call
from troth.client.links.wire import OnFrame, Wire, open_socket
from troth.client.settings import Address, ClientSettings
from troth.client.sql.lockkeys import LockText
from troth.wire.seata.errors import WireError
from troth.wire.seata.lock_wait import MODE_NOT_KNOWN, NOT_NEGOTIATED, LockWaitRequest, ModeRegisterRequest, agrees
from troth.wire.seata.messages import BranchRegisterRequest, Message, RegisterResponse
from troth.wire.seata.saga import SAGA_REQUESTS
from troth.wire.seata.saga import agrees as keeps_sagas
from troth.wire.seata.saga import refusal as no_sagas

log = logging.getLogger(__name__)

_PRIVATE = frozenset({LockWaitRequest, ModeRegisterRequest, *SAGA_REQUESTS})


@dataclass(slots=True)
class Route:
    """Which address to try first; shared by the channels of a link, so that both roles meet at one coordinator."""

    addresses: tuple[Address, ...]
    sockets: set[socket.socket] = field(default_factory=set)
    """All that are open: a forked child closes them."""

    def prefer(self, address: Address) -> None:
        """`address` has just served a registration."""
        if self.addresses[0] != address:
            self.addresses = (address, *(other for other in self.addresses if other != address))

    def __str__(self) -> str:
        return ", ".join(str(address) for address in self.addresses)


class Channel:
    """Connects, registers, reconnects with back-off; keeps requests that could not be sent yet for a bounded time."""

    def __init__(
        self,
        role: str,
        route: Route,
        settings: ClientSettings,
        registration: Callable[[str], Message],
        timeout_s: float,
        on_frame: OnFrame,
        on_ready: Callable[[], None],
    ) -> None:
        self.role = role
        self._failures: dict[Address, str] = {}
        self._route = route
        self._settings = settings
        self._registration = registration
        self._timeout_s = timeout_s
        self._on_frame = on_frame
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[Call] = deque()
        self._wire: Wire | None = None
        self._task = self._loop.create_task(self._stay_connected())
        self._task.add_done_callback(self._task_ended)

    # --- requests -----------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Take a request; it is sent at the next `flush` if there is a connection, else when there is one."""
        if len(self._unsent) >= self._settings.unsent_limit:
            call.fail(CoordinatorUnavailable(f"{len(self._unsent)} requests wait for the link already"))
            return
        call.due = self._loop.time() + self._settings.link_wait_s
        self._unsent.append(call)

    def submit_first(self, call: Call) -> None:
        """Take a request that goes before all that wait: they may need what it registers."""
        call.due = self._loop.time() + self._settings.link_wait_s
        self._unsent.appendleft(call)

    def flush(self) -> None:
        """Send all that waits, in one write."""
        wire = self._wire
        # A wire is closed a turn of the loop before `_serve` takes it away: what it got then would never be settled.
        if wire is None or wire.closed.done() or not wire.writable:
            return
        due = self._loop.time() + self._timeout_s
        while self._unsent:
            call = self._unsent.popleft()
            if type(call.message) in _PRIVATE:
                self._ask_privately(wire, call, due)
                continue
            if not wire.waits_cold:
                _speak_plainly(call)
            wire.ask(call, due)
        wire.flush()

    def _ask_privately(self, wire: Wire, call: Call, due: float) -> None:
        """What no Seata server knows goes only to a coordinator that has agreed to it."""
        if isinstance(call.message, LockWaitRequest):
            if wire.waits_cold:
                wire.ask_patiently(call, self._loop.time() + self._settings.lock_wait_timeout_s)
            else:
                call.succeed(NOT_NEGOTIATED)
            return
        if isinstance(call.message, ModeRegisterRequest) and not wire.waits_cold:
            call.succeed(MODE_NOT_KNOWN)
        elif isinstance(call.message, SAGA_REQUESTS) and not wire.keeps_sagas:
            call.succeed(no_sagas(call.message))
        else:
            wire.ask(call, due)

    @property
    def trouble(self) -> str:
        """Why there is no connection: the last reason of each address."""
        reasons = [f"{address}: {reason}" for address, reason in self._failures.items()]
        return "; ".join(reasons) or f"not connected yet to {self._route}"

    @property
    def ready(self) -> bool:
        """Connected and registered."""
        return self._wire is not None

    def tick(self, now: float) -> None:
        """Let time pass: expire what waits, keep the connection alive."""
        while self._unsent and self._unsent[0].due <= now:
            call = self._unsent.popleft()
            name = type(call.message).__name__
            call.fail(CoordinatorUnavailable(f"{name} was not sent, no link to a coordinator: {self.trouble}"))
        if self._wire is not None:
            self._wire.tick(now)
            self.flush()

    async def close(self, error: Callable[[], Exception]) -> None:
        """Close the connection and fail all that waits with `error()`."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._fail_unsent(error)

    def _fail_unsent(self, error: Callable[[], Exception]) -> None:
        while self._unsent:
            self._unsent.popleft().fail(error())

    # --- connecting ---------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            started = self._loop.time()
            served = await self._serve_one_connection()
            lasted_s = self._loop.time() - started
            # A connection that outlived its back-off was a good one: the next attempt is made at once.
            if served and lasted_s >= max(self._ceiling_s(failures), self._settings.reconnect_min_s):
                failures = 0
            else:
                failures += 1
            await self._back_off(self._ceiling_s(failures) * random.uniform(0.5, 1.0))

    async def _back_off(self, pause_s: float) -> None:
        """Pause; but while a request waits, no longer than lets it see several attempts before it is given up."""
        shortest_s = min(pause_s, self._settings.link_wait_s / 4)
        until = self._loop.time() + pause_s
        await asyncio.sleep(shortest_s)
        while not self._unsent and (left_s := until - self._loop.time()) > 0:
            await asyncio.sleep(min(left_s, shortest_s))

    def _ceiling_s(self, failures: int) -> float:
        if failures == 0:
            return 0.0
        return min(self._settings.reconnect_max_s, self._settings.reconnect_min_s * 2.0 ** min(failures - 1, 30))

    async def _serve_one_connection(self) -> bool:
        """Connect to the first address that takes us and stay until it is lost. False: none took us."""
        for address in self._route.addresses:
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    wire = await self._open(address)
            except TimeoutError:
                self._failed(address, f"no answer in {self._settings.connect_timeout_s} s")
            except (OSError, CoordinatorUnavailable, WireError) as error:
                self._failed(address, _reason(error))
            else:
                await self._serve(wire)
                return True
        return False

    def _failed(self, address: Address, reason: str) -> None:
        self._failures[address] = reason
        log.info("%s cannot connect to %s: %s", self.role, address, reason)

    async def _open(self, address: Address) -> Wire:
        sock = await open_socket(address, self._loop)
        self._route.sockets.add(sock)
        wire = Wire(address, self._settings, self._loop, self._on_frame)
        wire.closed.add_done_callback(lambda _: self._route.sockets.discard(sock))
        try:
            await self._loop.create_connection(lambda: wire, sock=sock)
            await self._register(wire)
        except BaseException:
            wire.drop("the registration was given up")
            raise
        return wire

    async def _register(self, wire: Wire) -> None:
        call = AwaitedCall(self._registration(wire.local_ip))
        wire.ask(call, self._loop.time() + self._settings.connect_timeout_s)
        wire.flush()
        answer = await call.wait()
        if not isinstance(answer, RegisterResponse) or not answer.identified:
            raise CoordinatorUnavailable(f"{wire.address} refused to register this {self.role}: {answer}")
        wire.waits_cold = agrees(answer.version)
        wire.keeps_sagas = keeps_sagas(answer.version)

    async def _serve(self, wire: Wire) -> None:
        log.info("%s is registered at %s", self.role, wire.address)
        self._route.prefer(wire.address)
        self._failures.clear()
        self._wire = wire
        self._on_ready()
        self.flush()
        try:
            reason = await asyncio.shield(wire.closed)
        finally:
            self._wire = None
            await wire.finish()
        self._failed(wire.address, reason)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        log.critical("the %s channel stopped by a bug; requests on it will fail", self.role, exc_info=task.exception())
        self._failures = dict.fromkeys(self._route.addresses, f"the channel stopped by a bug: {task.exception()!r}")


def _speak_plainly(call: Call) -> None:
    """A Seata server gets no locks of unique keys: see `LockText`."""
    message = call.message
    if isinstance(message, BranchRegisterRequest) and isinstance(message.lock_key, LockText):
        call.message = structs.replace(message, lock_key=message.lock_key.of_seata)


def _reason(error: Exception) -> str:
    """asyncio says "Connect call failed"; the operating system says why."""
    if isinstance(error, socket.gaierror):
        return f"the name is not known: {error.strerror}"  # its number is none of errno's
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
