"""A relay between clients and the coordinator that knows frames: drops, doubles, holds, cuts, and tells who waits.

It runs in a thread with a loop of its own. Each client has a port of its own, so that it can be cut off alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from troth.wire.seata.frame import decode_frame

_LENGTH: Final = slice(3, 7)
_HEAD_BYTES: Final = 16
T = TypeVar("T")


@dataclass(frozen=True)
class Passing:
    """A frame on its way."""

    client: str
    inward: bool
    """To the coordinator."""
    kind: str
    """The message's class name; heartbeats are `HeartbeatMessage`."""


@dataclass(frozen=True)
class Fate:
    """What becomes of a frame."""

    copies_after_s: tuple[float, ...] = (0.0,)
    """One entry per copy: when it goes out. What comes behind may overtake it."""
    hold_s: float = 0.0
    """How long it and all that is behind it waits."""


PASSES: Final = Fate()
LOST: Final = Fate(())
Rule = Callable[[Passing], Fate]


class Proxy:
    """All clients' ways to one coordinator."""

    def __init__(self) -> None:
        self.upstream_port = 0
        self.rule: Rule = lambda _: PASSES
        self.seen: Counter[str] = Counter()
        self._silent: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self._servers: list[asyncio.Server] = []
        self._lines: dict[asyncio.Task[None], str] = {}
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Condition()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()

    # ---- for the test's thread ----

    def listen(self, client: str) -> int:
        """The port at which `client` finds the coordinator."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._lines[task] = client
            try:
                await self._relay(client, reader, writer)
            finally:
                del self._lines[task]

        async def start() -> int:
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self._servers.append(server)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return self._run(start())

    def cut(self, *clients: str, silent: bool) -> None:
        """A partition: `silent` loses nothing and says nothing, as a dead switch; else connections are reset."""

        async def change() -> None:
            if silent:
                self._silent |= frozenset(clients)
            else:
                self._refused |= frozenset(clients)
                for task, client in list(self._lines.items()):
                    if client in clients:
                        task.cancel()

        self._run(change())

    def heal(self) -> None:
        """Everything passes; what was held by a silent partition arrives now."""

        async def change() -> None:
            self.rule = lambda _: PASSES
            self._silent = self._refused = frozenset()
            async with self._open:
                self._open.notify_all()

        self._run(change())

    def close(self) -> None:
        async def end() -> None:
            lines = list(self._lines)
            for task in lines:
                task.cancel()
            await asyncio.gather(*lines, return_exceptions=True)
            for server in self._servers:
                server.close()
                await server.wait_closed()
            await asyncio.sleep(0)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- on the loop ----

    async def _relay(self, client: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner: asyncio.StreamWriter | None = None
        try:
            if client in self._refused:
                return
            await self._may_pass(client)
            back, inner = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            ways = {
                asyncio.ensure_future(self._pump(client, True, reader, inner)),
                asyncio.ensure_future(self._pump(client, False, back, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # refused by the coordinator, or cut by us: the client sees its connection end
        finally:
            for end in (writer, inner):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, client: str, inward: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readexactly(_HEAD_BYTES)
                data = head + await reader.readexactly(int.from_bytes(head[_LENGTH], "big") - _HEAD_BYTES)
                kind = type(decode_frame(data).body).__name__
                self.seen[kind] += 1
                fate = self.rule(Passing(client, inward, kind))
                if fate.hold_s:
                    await asyncio.sleep(fate.hold_s)
                await self._may_pass(client)
                for after_s in fate.copies_after_s:
                    if after_s:
                        self._loop.call_later(after_s, _write, writer, data)
                    else:
                        writer.write(data)

    async def _may_pass(self, client: str) -> None:
        async with self._open:
            await self._open.wait_for(lambda: client not in self._silent)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)
