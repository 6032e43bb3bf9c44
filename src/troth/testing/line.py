"""A client's way to the coordinator: the client's own `Wire`s, one after another, over the simulated network.

`MergingWire` speaks as Java's client does: what is asked within a moment goes out as one merged request (59).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from troth.client.errors import CoordinatorUnavailable, TrothError
from troth.client.links.calls import AwaitedCall, Call
from troth.client.links.wire import OnFrame, Wire
from troth.client.settings import Address, ClientSettings
from troth.testing.loop import VirtualLoop
from troth.testing.network import Network, Process
from troth.testing.weather import Weather
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import (
    BatchResultMessage,
    MergedWarpMessage,
    MergeResultMessage,
    Message,
    RegisterResponse,
    RegisterRMRequest,
    RegisterTMRequest,
)

ADDRESS = Address("10.0.0.1", 8091)
SETTINGS = ClientSettings(
    connect_timeout_s=1.0,
    link_wait_s=1.0,
    tm_timeout_s=2.5,
    rm_timeout_s=2.0,
    heartbeat_s=1.0,
    idle_timeout_s=3.0,
    begin_retry_timeout_s=3.0,
    commit_retry_timeout_s=6.0,
    rollback_retry_timeout_s=3.0,
)
_TICK_S = 0.3
_GATHER_S = 0.001


class MergingWire(Wire):
    """Sends requests merged; understands both ways of answering them (60 and 121)."""

    def __init__(self, loop: VirtualLoop, on_frame: OnFrame, weather: Weather) -> None:
        super().__init__(ADDRESS, SETTINGS, loop, on_frame)
        self._weather = weather
        self._gathered: list[tuple[int, Message]] = []
        self._merged: dict[int, tuple[int, ...]] = {}

    def ask(self, call: Call, due: float) -> None:
        if isinstance(call.message, RegisterRMRequest | RegisterTMRequest):
            super().ask(call, due)
            return
        request_id = self._connection.request(call.message).request_id
        call.due = due
        self._calls[request_id] = call
        self._gathered.append((request_id, call.message))

    def flush(self) -> None:
        if self._gathered:
            if len(self._gathered) > 1:
                self._weather.count("requests merged")
            ids = tuple(request_id for request_id, _ in self._gathered)
            messages = tuple(message for _, message in self._gathered)
            self._gathered.clear()
            frame = self._connection.oneway(MergedWarpMessage(messages, ids))
            self._merged[frame.request_id] = ids
            self._outbox.append(self._connection.send(frame))
        super().flush()

    def _receive(self, frame: Frame) -> None:
        body = frame.body
        if isinstance(body, BatchResultMessage):
            self._settle(body.msg_ids, body.result_messages)
        elif isinstance(body, MergeResultMessage):
            self._settle(self._merged.pop(frame.request_id), body.msgs)
        else:
            super()._receive(frame)

    def _settle(self, ids: tuple[int, ...], answers: tuple[Message, ...]) -> None:
        for request_id, answer in zip(ids, answers, strict=True):
            call = self._calls.pop(request_id, None)
            if call is not None:
                call.succeed(answer)


class Witness(Protocol):
    """Hears what is asked and answered."""

    def asks(self, who: str, request: Message) -> object:
        """A request leaves; what this returns comes back with its answer."""
        ...

    def hears(self, who: str, request: Message, answer: Message, note: object) -> None:
        """An answer is here."""
        ...


class Line:
    """Connects, registers, reconnects. A `Teller` for the client's talks."""

    def __init__(
        self,
        process: Process,
        network: Network,
        witness: Witness,
        rng: random.Random,
        registration: Callable[[], Message],
        make_wire: Callable[[], Wire],
        timeout_s: float,
    ) -> None:
        self._process = process
        self._network = network
        self._witness = witness
        self._rng = rng
        self._registration = registration
        self._make_wire = make_wire
        self._timeout_s = timeout_s
        self._loop = network.loop
        self._wire: Wire | None = None
        self._ready = asyncio.Event()
        self._flushing = False
        process.spawn(self._stay_connected())

    # ---- asking ----

    def tell(self, message: Message) -> Message:
        """Nothing blocks here."""
        raise TypeError("there are no threads in the simulation: use atell")

    async def atell(self, message: Message) -> Message:
        """See `troth.client.flow.Coordinator.atell`."""
        wire = await self._usable_wire(message)
        call = AwaitedCall(message)
        wire.ask(call, self._loop.time() + self._timeout_s)
        if not self._flushing:
            self._flushing = True
            self._loop.call_later(_GATHER_S * self._rng.random(), self._flush)
        note = self._witness.asks(self._process.name, message)
        answer = await call.wait()
        self._witness.hears(self._process.name, message, answer, note)
        return answer

    async def _usable_wire(self, message: Message) -> Wire:
        try:
            async with asyncio.timeout(SETTINGS.link_wait_s):
                while self._wire is None or self._wire.closed.done():
                    await self._ready.wait()
                    if self._wire is None or self._wire.closed.done():
                        await asyncio.sleep(_GATHER_S)
        except TimeoutError as error:
            raise CoordinatorUnavailable(f"{type(message).__name__} was not sent, no link") from error
        return self._wire

    def cut(self) -> None:
        """The connection, if there is one, is lost."""
        if self._wire is not None:
            self._wire.drop("cut")

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is not None and not self._process.dead:
            self._wire.flush()

    # ---- connecting ----

    async def _stay_connected(self) -> None:
        while True:
            wire = self._make_wire()
            try:
                async with asyncio.timeout(SETTINGS.connect_timeout_s):
                    await self._network.connect(self._process, wire)
                    await self._register(wire)
            except (OSError, TimeoutError, TrothError):
                wire.drop("it did not take us")
                await asyncio.sleep(self._rng.uniform(0.02, 0.4))
                continue
            self._wire = wire
            self._ready.set()
            self._tick(wire)
            await asyncio.wait([wire.closed])
            self._wire = None
            self._ready.clear()

    async def _register(self, wire: Wire) -> None:
        call = AwaitedCall(self._registration())
        wire.ask(call, self._loop.time() + SETTINGS.connect_timeout_s)
        wire.flush()
        answer = await call.wait()
        if not isinstance(answer, RegisterResponse) or not answer.identified:
            raise CoordinatorUnavailable(f"refused to register: {answer}")

    def _tick(self, wire: Wire) -> None:
        if not wire.closed.done() and not self._process.dead:
            wire.tick(self._loop.time())
            self._loop.call_later(_TICK_S, self._tick, wire)
