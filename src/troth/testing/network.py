"""Connections that carry bytes between simulated processes, and what can go wrong with them.

A connection is a pair of `Transport`s, each handing what arrives to a real asyncio protocol. Within one direction bytes
keep their order, as TCP keeps it; between connections they do not. What is lost is lost with its connection.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from troth.testing.loop import VirtualLoop
from troth.testing.weather import Weather

LONGEST_DELAY_S = 2.5
_EARLY_S = 1e-6


class Process:
    """One life of a simulated program: its tasks and connections end with it. `ip` is where it runs."""

    def __init__(self, loop: VirtualLoop, name: str, ip: str) -> None:
        self.name = name
        self.ip = ip
        self.dead = False
        self.fuse: int | None = None
        """Dies when it has written so many more pieces (see `Network.carry`)."""
        self.dies: Callable[[], None] = lambda: None
        self.newest_arrival = 0
        self.paused = False
        """Stopped (SIGSTOP): nothing comes in, nothing goes out, until it goes on as if nothing had been."""
        self._loop = loop
        self._tasks: dict[asyncio.Task[object], None] = {}

    def spawn(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run `work` until it ends or the process dies."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"a task of {self.name} failed", "exception": error})

    def end(self) -> None:
        """Stop all that runs here."""
        self.dead = True
        for task in list(self._tasks):
            task.cancel()


@dataclass(frozen=True, slots=True)
class Ending:
    """Arrives where a connection ends: `error` None for a close that was meant."""

    error: Exception | None


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, process: Process, client: str, here: tuple[str, int], there: tuple[str, int]):
        super().__init__({"sockname": here, "peername": there})
        self.process = process
        self.client = client
        """Name of the client process: partitions are between it and the coordinator."""
        self.silent = False
        """Half-open: nothing arrives here until it heals."""
        self.peer = self
        self.lost = False
        self._network = network
        self._protocol: asyncio.Protocol | None = None
        self._inbox: deque[tuple[float, int, bytes | Ending]] = deque()
        self._last_s = 0.0
        self._closing = False
        self._paused = False

    def join(self, peer: Transport, protocol: asyncio.Protocol) -> None:
        """Make the connection on this side."""
        self.peer = peer
        self._protocol = protocol
        protocol.connection_made(self)

    # ---- what protocols call ----

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing and not self.process.dead:
            self._network.carry(self, bytes(data))

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(ConnectionResetError("reset by peer"))

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._network.loop.call_soon(self.pump)

    def _close(self, error: Exception | None) -> None:
        if self._closing or self.process.dead:
            return
        self._closing = True
        self._network.send(self.peer, Ending(error))
        self._network.loop.call_soon(self.lose, None)

    # ---- what the network does ----

    def put(self, at_s: float, number: int, payload: bytes | Ending) -> None:
        """`payload` will arrive at `at_s`, not before what was sent earlier."""
        self._last_s = max(self._last_s, at_s)
        self._inbox.append((self._last_s, number, payload))
        self._network.loop.call_at(self._last_s, self.pump)

    def pump(self) -> None:
        """Hand over what is here by now."""
        now_s = self._network.loop.time() + _EARLY_S
        while self._inbox and self._inbox[0][0] <= now_s and not self._held():
            _, number, payload = self._inbox.popleft()
            if isinstance(payload, Ending):
                self.lose(payload.error)
            elif not self._closing and not self.process.dead and self._protocol is not None:
                self._network.arrived(self.process, number)
                self._protocol.data_received(payload)

    def _held(self) -> bool:
        return self.silent or self._paused or self.process.paused or self.client in self._network.cut_off

    def drop_inbox(self) -> None:
        """What was on its way is gone."""
        self._inbox.clear()

    def lose(self, error: Exception | None) -> None:
        """The connection has ended on this side."""
        if self.lost:
            return
        self.lost = self._closing = True
        self._network.forget(self)
        if not self.process.dead and self._protocol is not None:
            self._protocol.connection_lost(error)


class Network:
    """All connections, the one listener, and the faults between them."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: Weather) -> None:
        self.loop = loop
        self.cut_off: dict[str, None] = {}
        """Names of client processes that cannot reach the coordinator, nor it them."""
        self.bytes_carried = 0
        self._rng = rng
        self._weather = weather
        self._transports: dict[Transport, None] = {}
        self._held_back: dict[Process, list[tuple[Transport, bytes]]] = {}
        self._listener: tuple[Process, Callable[[], asyncio.Protocol]] | None = None
        self._ports = 20_000
        self._sent = 0
        self._slow_s = rng.choice((0.0005, 0.002, 0.01))

    # ---- connections ----

    def listen(self, process: Process, accept: Callable[[], asyncio.Protocol]) -> None:
        """`process` takes connections from now on."""
        self._listener = (process, accept)

    def refuse(self, process: Process) -> None:
        """`process` takes none any more."""
        if self._listener is not None and self._listener[0] is process:
            self._listener = None

    async def connect(self, process: Process, protocol: asyncio.Protocol) -> Transport:
        """A connection to the coordinator. Raises ConnectionRefusedError; hangs in a partition."""
        await asyncio.sleep(self._latency_s())
        while process.name in self.cut_off:
            await asyncio.sleep(0.1)
        if self._listener is None or self._listener[0].dead:
            raise ConnectionRefusedError("connection refused")
        server, accept = self._listener
        self._ports += 1
        near, far = (process.ip, self._ports), (server.ip, 8091)
        here = Transport(self, process, process.name, near, far)
        there = Transport(self, server, process.name, far, near)
        self._transports |= {here: None, there: None}
        here.peer, there.peer = there, here
        there.join(here, accept())
        here.join(there, protocol)
        return here

    def forget(self, transport: Transport) -> None:
        """It has ended."""
        self._transports.pop(transport, None)

    @property
    def connections(self) -> int:
        """Ends that are open."""
        return len(self._transports)

    # ---- bytes ----

    def carry(self, sender: Transport, data: bytes) -> None:
        """Take `data` to the other end, unless something happens to it."""
        process, weather = sender.process, self._weather
        if process.paused:
            self._held_back.setdefault(process, []).append((sender, data))
            return
        if process.fuse is not None:
            if process.fuse == 0:
                process.dies()
                return
            process.fuse -= 1
        self.bytes_carried += len(data)
        if weather.strikes("message lost with its connection"):
            self.cut(sender)
            return
        if weather.strikes("half-open silence"):
            self._silence(sender.peer)
        if len(data) > 1 and weather.strikes("message split"):
            place = self._rng.randrange(1, len(data))
            self.send(sender.peer, data[:place])
            self.send(sender.peer, data[place:])
        else:
            self.send(sender.peer, data)
        if weather.strikes("connection cut behind a message"):
            self.loop.call_later(self._rng.uniform(0, 4 * self._slow_s), self.cut, sender)

    def send(self, receiver: Transport, payload: bytes | Ending) -> None:
        """Put it on its way."""
        delay_s = self._latency_s()
        if self._weather.strikes("message delayed"):
            delay_s += self._rng.choice((0.05, 0.4, LONGEST_DELAY_S))
        self._sent += 1
        receiver.put(self.loop.time() + delay_s, self._sent, payload)

    def arrived(self, process: Process, number: int) -> None:
        """Count what overtakes: a message that arrives behind one that was sent later, on another connection."""
        if number < process.newest_arrival:
            self._weather.count("messages reordered")
        process.newest_arrival = max(process.newest_arrival, number)

    def _latency_s(self) -> float:
        return self._rng.uniform(0.0001, self._slow_s)

    # ---- faults ----

    def cut(self, transport: Transport) -> None:
        """Both ends lose the connection, and what was on its way."""
        for end in (transport, transport.peer):
            if not end.lost:
                end.drop_inbox()
                self.send(end, Ending(ConnectionResetError("connection reset")))

    def _silence(self, receiver: Transport) -> None:
        receiver.silent = True
        self.loop.call_later(self._rng.choice((0.3, 1.5, 8.0)), self._hear_again, receiver)

    def _hear_again(self, receiver: Transport) -> None:
        receiver.silent = False
        receiver.pump()

    def separate(self, names: tuple[str, ...], seconds: float) -> None:
        """These clients are cut off for a while; what is sent meanwhile arrives afterwards, if anybody still waits."""
        self.cut_off |= dict.fromkeys(names)
        self.loop.call_later(seconds, self._rejoin, names)

    def _rejoin(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.cut_off.pop(name, None)
        for transport in list(self._transports):
            transport.pump()

    def pause(self, process: Process, seconds: float) -> None:
        """Stop `process` for a while; what it has to say meanwhile, and what it is told, comes afterwards."""
        process.paused = True
        self.loop.call_later(seconds, self.go_on, process)

    def go_on(self, process: Process) -> None:
        """It runs again."""
        if not process.paused:
            return
        process.paused = False
        for sender, data in self._held_back.pop(process, ()):
            sender.write(data)
        for transport in [t for t in self._transports if t.process is process]:
            transport.pump()

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        self._rejoin(tuple(self.cut_off))
        for transport in list(self._transports):
            self._hear_again(transport)

    def kill(self, process: Process) -> None:
        """The process is gone; what it had written still arrives."""
        process.end()
        for transport in [t for t in self._transports if t.process is process]:
            transport.lost = True
            self.forget(transport)
            self.send(transport.peer, Ending(ConnectionResetError("connection reset by a death")))
