"""A store that two coordinators share: a row says who leads and until when; each batch locks it while it is written.

What `stores/postgres.py` does with a server, here on a `Disk`. The world's two processes keep the real `Leadership`
over it; what is simulated is the database: a transaction whose client is gone goes on, and may commit late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from troth.core.model import Outcome, Phase
from troth.stores.lease import Incumbent, Tenure
from troth.stores.store import Batch, EndedPage, Hot, KeyValue, LeaseLost, StoreError, StoreUnreachable
from troth.testing.disk import Disk
from troth.testing.network import Process

T = TypeVar("T")

TTL_S = 1.5
POLL_S = 0.2
_TRY_AGAIN_S = 0.05


@dataclass(slots=True)
class LeaseRow:
    """The row that every leader, every batch and every renewal locks; `clock` is the database's own, in seconds."""

    clock: Callable[[], float]
    epoch_ms: int
    epoch: int = 0
    holder: str = ""
    until_s: float = 0.0
    last_batch: tuple[int, int] = (0, 0)
    """Epoch and number."""
    row: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Fair, as a database's row lock nearly is."""


class SharedDiskStore:
    """Implements `SharedStore` for one process over what is durable."""

    def __init__(self, disk: Disk, cell: LeaseRow, process: Process) -> None:
        self._disk = disk
        self._cell = cell
        self._process = process
        self._tenure: Tenure | None = None
        self._failure: LeaseLost | None = None

    @property
    def url(self) -> str:
        return "simulated://shared"

    @property
    def durable(self) -> bool:
        return True

    @property
    def tenure(self) -> Tenure | None:
        return self._tenure

    # ---- the way to the database and back ----

    async def _travel(self) -> None:
        """Raises StoreUnreachable. A process that is stopped sends nothing and hears nothing."""
        await asyncio.sleep(self._disk.latency_s())
        while self._process.paused:
            await asyncio.sleep(_TRY_AGAIN_S)
        if self._disk.refusal is not None:
            raise StoreUnreachable(self._disk.refusal)

    def _elected(self) -> Tenure:
        if self._failure is not None:
            raise self._failure
        if self._tenure is None:
            raise StoreError("not open")
        return self._tenure

    def _lost(self, why: str) -> LeaseLost:
        self._failure = LeaseLost(why)
        return self._failure

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        tenure = self._elected()
        while True:
            try:
                return await ask()
            except StoreUnreachable as trouble:
                if tenure.left_s <= 0:
                    raise self._lost(f"the lease has ended: {trouble}") from trouble
                await asyncio.sleep(_TRY_AGAIN_S)

    # ---- leadership ----

    async def stand_by(self) -> None:
        await self._travel()

    async def try_lead(self) -> Incumbent | None:
        cell, asked_at_s = self._cell, self._cell.clock()
        await self._travel()
        async with cell.row:
            now_s = cell.clock()
            if cell.until_s > now_s:
                return Incumbent(cell.holder, cell.epoch, cell.until_s - now_s)
            cell.epoch += 1
            cell.holder = self._process.name
            cell.until_s = now_s + TTL_S
            epoch = cell.epoch
        await self._travel()
        self._tenure = Tenure(epoch, 7, TTL_S, asked_at_s, cell.clock)
        if epoch > 1:
            self._disk.weather.count("cell taken over")
        return None

    async def now_ms(self) -> int:
        await self._travel()
        return self._cell.epoch_ms + int(self._cell.clock() * 1000)

    async def renew(self) -> None:
        tenure, cell = self._elected(), self._cell
        asked_at_s = cell.clock()
        await self._travel()
        async with cell.row:
            if cell.epoch != tenure.epoch:
                raise self._lost(f"epoch {tenure.epoch} is over: {cell.holder} leads")
            cell.until_s = max(cell.until_s, cell.clock() + TTL_S)
        await self._travel()
        tenure.renewed(asked_at_s)

    # ---- the store ----

    async def open(self) -> None:
        self._elected()
        content = self._disk.content
        await content.close()  # it counts no connections; who may write is the lease's business
        await content.open()

    async def load_hot(self) -> Hot:
        return await self._persist(self._load)

    async def _load(self) -> Hot:
        await self._travel()
        if self._cell.epoch != self._elected().epoch:
            raise self._lost("another process has taken over before the load")
        hot = await self._disk.content.load_hot()
        await self._travel()
        return hot

    async def append(self, batch: Batch) -> None:
        """See `SharedStore`: what is unknown is looked for, and sent again, until the lease ends."""
        tenure = self._elected()
        try:
            written = await self._write(batch, tenure)
        except StoreUnreachable:
            await self._persist(lambda: self._settle(batch, tenure))
            return
        if not written:
            raise self._lost(f"epoch {tenure.epoch} is over: batch {batch.number} was not written")

    async def _write(self, batch: Batch, tenure: Tenure) -> bool:
        disk, strikes = self._disk, self._disk.weather.strikes
        await self._travel()
        if strikes("store failed"):
            raise StoreUnreachable("the connection was lost before COMMIT")
        if strikes("coordinator killed before the write"):
            await self._die()
        late = strikes("commit applied late")
        delay_s = disk.rng.choice((0.1, 0.8, 2.5)) if late else 0.0
        commit = asyncio.get_running_loop().create_task(self._commit(batch, tenure.epoch, delay_s))
        if late:
            await asyncio.sleep(disk.latency_s())
            if disk.rng.random() < 0.5:
                await self._die()
            raise StoreUnreachable("the connection was lost in COMMIT")
        written = await asyncio.shield(commit)
        await self._travel()
        if strikes("coordinator killed between write and effects"):
            await self._die()
        if strikes("commit applied, answer lost"):
            raise StoreUnreachable("the connection was lost in COMMIT")
        if strikes("coordinator killed among its answers"):
            self._process.fuse = disk.rng.randrange(3)
        return written

    async def _commit(self, batch: Batch, epoch: int, delay_s: float) -> bool:
        """The database's own work: it does not end with the client that asked for it."""
        cell, disk = self._cell, self._disk
        async with cell.row:
            if cell.epoch != epoch:
                return False
            await asyncio.sleep(delay_s)
            await disk.content.append(batch)
            cell.last_batch = (epoch, batch.number)
            disk.batches += 1
            disk.written(batch)
            return True

    async def _settle(self, batch: Batch, tenure: Tenure) -> None:
        await self._travel()
        async with self._cell.row:  # waits for the lost connection's transaction
            if self._cell.epoch != tenure.epoch:
                raise self._lost(f"epoch {tenure.epoch} is over: {self._cell.holder} leads")
            found = self._cell.last_batch == (tenure.epoch, batch.number)
        if not found and not await self._write(batch, tenure):
            raise self._lost(f"epoch {tenure.epoch} is over")

    async def _die(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._process.dies)
        await loop.create_future()

    async def outcome(self, xid: str) -> Outcome | None:
        async def ask() -> Outcome | None:
            await self._travel()
            return await self._disk.content.outcome(xid)

        return await self._persist(ask)

    async def find_gid(self, gid: str) -> str | None:
        async def ask() -> str | None:
            await self._travel()
            return await self._disk.content.find_gid(gid)

        return await self._persist(ask)

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
        """Resign, unless the process is dead or has lost the cell."""
        tenure, self._tenure = self._tenure, None
        if tenure is not None and self._failure is None and not self._process.dead:
            async with self._cell.row:
                if self._cell.epoch == tenure.epoch:
                    self._cell.until_s = 0.0
