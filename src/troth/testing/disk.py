"""A store that can be slow, fail, be full or read-only, and lose its answer; what is on it survives the coordinator.

`Disk` is what is durable; a `DiskStore` is one coordinator's access to it, and dies with that coordinator.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from troth.core.model import Outcome, Phase
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch, EndedPage, Hot, KeyValue, StoreError
from troth.testing.network import Process
from troth.testing.weather import Weather


@dataclass(slots=True)
class Disk:
    """What is durable, and the state it is in. `written` hears of every batch at the moment it becomes durable."""

    rng: random.Random
    weather: Weather
    written: Callable[[Batch], None]
    content: MemoryStore
    refusal: str | None = None
    """Why nothing can be written now."""
    delay_s: float = 0.0
    batches: int = 0

    def latency_s(self) -> float:
        """Half of what one write takes."""
        return self.rng.uniform(0.0001, 0.0015) + self.rng.random() * self.delay_s


class DiskStore:
    """Implements `Store` for one life of the coordinator, over what is durable."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process

    @property
    def url(self) -> str:
        return "simulated://"

    @property
    def durable(self) -> bool:
        return True

    async def open(self) -> None:
        await self._disk.content.close()  # the operating system has taken it from a process that died
        await self._disk.content.open()

    async def load_hot(self) -> Hot:
        await asyncio.sleep(self._disk.latency_s())
        return await self._disk.content.load_hot()

    async def append(self, batch: Batch) -> None:
        """See `Store.append`; everything that can happen around a write happens here."""
        disk, strikes = self._disk, self._disk.weather.strikes
        await asyncio.sleep(disk.latency_s())
        if disk.refusal is not None:
            raise StoreError(disk.refusal)
        if strikes("store failed"):
            raise StoreError("the write failed")
        if strikes("coordinator killed before the write"):
            await self._die()
        await disk.content.append(batch)
        disk.batches += 1
        disk.written(batch)
        await asyncio.sleep(disk.latency_s())
        if strikes("coordinator killed between write and effects"):
            await self._die()
        if strikes("commit applied, answer lost"):
            raise StoreError("the connection was lost in COMMIT")
        if strikes("coordinator killed among its answers"):
            self._process.fuse = disk.rng.randrange(3)

    async def _die(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._process.dies)
        await loop.create_future()

    async def outcome(self, xid: str) -> Outcome | None:
        await asyncio.sleep(self._disk.latency_s())
        return await self._disk.content.outcome(xid)

    async def find_gid(self, gid: str) -> str | None:
        await asyncio.sleep(self._disk.latency_s())
        return await self._disk.content.find_gid(gid)

    async def kv_get(self, cat: str, key: str) -> KeyValue | None:
        return await self._disk.content.kv_get(cat, key)

    async def kv_put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        return await self._disk.content.kv_put(cat, key, value, expected_version, now_ms)

    async def kv_delete(self, cat: str, key: str) -> bool:
        return await self._disk.content.kv_delete(cat, key)

    async def kv_scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        return await self._disk.content.kv_scan(cat, after, limit)

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        return await self._disk.content.find_ended(phase, limit, cursor)

    async def purge(self, before_ms: int, limit: int) -> int:
        return await self._disk.content.purge(before_ms, limit)

    async def close(self) -> None:
        if not self._process.dead:
            await self._disk.content.close()
