"""A store in PostgreSQL that several coordinators share: one leads by a lease, each batch is one call of one function.

Three connections: batches, the lease, and what is read or swept, so that none of them waits for another's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from troth.core.model import Outcome, Phase
from troth.stores import postgres_keyvalues as kv
from troth.stores import postgres_reading as reading
from troth.stores.cursors import check_limit, decode_cursor
from troth.stores.folding import fold
from troth.stores.lease import Incumbent, LeaseTerms, Seconds, Tenure, boottime_s
from troth.stores.migrations import Migration, load_migrations
from troth.stores.postgres_link import Connection, Link
from troth.stores.postgres_schema import identify, migrate
from troth.stores.postgres_statements import APPEND, CELL, columns
from troth.stores.secrets import without_secrets
from troth.stores.store import (
    Batch,
    BatchRefused,
    EndedPage,
    Hot,
    KeyValue,
    LeaseLost,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreUnreachable,
)

T = TypeVar("T")

TAKE = (
    "UPDATE troth.cell SET epoch = epoch + 1, holder = $2, lease_until = clock_timestamp() + $3 * interval '1 second'"
    " WHERE id = $1 AND lease_until <= clock_timestamp() RETURNING epoch, node"
)
WHO = (
    "SELECT coalesce(holder, 'nobody') AS holder, epoch,"
    " greatest(extract(epoch FROM lease_until - clock_timestamp()), 0)::float8 AS left_s FROM troth.cell WHERE id = $1"
)
RENEW = (
    "UPDATE troth.cell SET lease_until = greatest(lease_until, clock_timestamp() + $3 * interval '1 second')"
    " WHERE id = $1 AND epoch = $2 RETURNING epoch"
)
RESIGN = "UPDATE troth.cell SET lease_until = '-infinity', holder = NULL WHERE id = $1 AND epoch = $2"
NOW = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_CONNECT_WITHIN_S = 5.0
_RESIGN_WITHIN_S = 1.0
_TRY_AGAIN_S = 0.05
_RESTORE_S_PER_TRANSACTION = 0.0001
"""Taking up what was loaded holds up the event loop, and with it the renewal: the lease is made so much longer."""


class PostgresStore:
    """A durable store in the schema `troth` of the database at `url`. Implements `SharedStore`.

    A batch that is refused for what it says leaves the store as it was. After any other failure every later call
    raises, until the store is closed and opened again.
    """

    def __init__(
        self,
        url: str,
        terms: LeaseTerms | None = None,
        *,
        clock: Seconds = boottime_s,
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        """Nothing is connected before `open()` or `stand_by()`. `clock` and `migrations` are for tests."""
        self._name = without_secrets(url)
        self._terms = terms or LeaseTerms()
        self._clock = clock
        self._migrations = load_migrations("postgres") if migrations is None else migrations
        self._writer, self._keeper, self._reader = Link(url), Link(url), Link(url)
        self._tenure: Tenure | None = None
        self._is_open = False
        self._failure: StoreError | None = None

    @property
    def url(self) -> str:
        return self._name

    @property
    def durable(self) -> bool:
        return True

    # ---- leadership ----

    @property
    def tenure(self) -> Tenure | None:
        return self._tenure

    async def stand_by(self) -> None:
        async def look(connection: Connection) -> None:
            if await identify(connection, self._name, self._migrations[-1].number) == 0:
                await migrate(connection, self._name, self._migrations)

        await self._keeper.use(look, _CONNECT_WITHIN_S)

    async def try_lead(self) -> Incumbent | None:
        asked_at_s = self._clock()
        ttl_s = self._terms.ttl_s

        async def take(connection: Connection) -> Incumbent | None:
            await identify(connection, self._name, self._migrations[-1].number)
            row = await connection.fetchrow(TAKE, CELL, self._terms.holder, ttl_s)
            if row is not None:
                self._tenure = Tenure(row["epoch"], row["node"], ttl_s, asked_at_s, self._clock)
                return None
            who = await connection.fetchrow(WHO, CELL)
            if who is None:
                raise StoreCorrupt(f"{self._name} has lost the row of its cell: restore it from a copy")
            return Incumbent(who["holder"], who["epoch"], who["left_s"])

        return await self._keeper.use(take, _CONNECT_WITHIN_S)

    async def now_ms(self) -> int:
        async def ask(connection: Connection) -> int:
            return int(await connection.fetchval(NOW))

        return await self._keeper.use(ask, _CONNECT_WITHIN_S)

    async def renew(self) -> None:
        await self._renew(self._terms.ttl_s)

    async def _renew(self, ttl_s: float) -> None:
        tenure = self._elected()
        asked_at_s = self._clock()

        async def extend(connection: Connection) -> object:
            return await connection.fetchval(RENEW, CELL, tenure.epoch, ttl_s)

        if await self._keeper.use(extend, max(tenure.left_s, tenure.ttl_s / 3)) is None:
            raise self._fail(LeaseLost(f"{self._name} is led by another coordinator now: epoch {tenure.epoch} is over"))
        tenure.renewed(asked_at_s)

    async def _resign(self, tenure: Tenure) -> None:
        async def give_up(connection: Connection) -> None:
            await connection.execute(RESIGN, CELL, tenure.epoch)

        await self._keeper.use(give_up, _RESIGN_WITHIN_S)

    # ---- the store ----

    async def open(self) -> None:
        if self._is_open:
            raise StoreError(f"{self._name} is open already")
        try:
            if self._tenure is None:
                await self.stand_by()
                await self._win_at_once()
            # not before the cell is ours: a leader of an older version must not lose its tables under its feet
            await self._keeper.use(
                lambda connection: migrate(connection, self._name, self._migrations), self._elected().ttl_s
            )
        except BaseException:
            await self.close()
            raise
        self._is_open = True

    async def _win_at_once(self) -> None:
        incumbent = await self.try_lead()
        if incumbent is not None:
            raise StoreInUse(
                f"{self._name} is led by {incumbent.holder} (epoch {incumbent.epoch}), for {incumbent.left_s:.1f} s "
                "unless it renews: connect to that coordinator, stop it, or name another database"
            )

    async def load_hot(self) -> Hot:
        tenure = self._leading()
        hot = await self._reader.use(lambda connection: reading.read_hot(connection, tenure.epoch), None)
        await self._persist(lambda: self._renew(tenure.ttl_s + len(hot.transactions) * _RESTORE_S_PER_TRANSACTION))
        return hot

    async def append(self, batch: Batch) -> None:
        tenure = self._leading()
        arguments = [CELL, tenure.epoch, batch.number, batch.last_id, *self._columns(batch)]
        try:
            written = await self._write(tenure, arguments)
        except StoreUnreachable:
            await self._settle(batch, tenure, arguments)
            return
        if not written:
            raise await self._why_not(batch, tenure)

    async def outcome(self, xid: str) -> Outcome | None:
        return await self._read(lambda connection: reading.read_outcome(connection, xid))

    async def find_gid(self, gid: str) -> str | None:
        return await self._read(lambda connection: reading.read_gid(connection, gid))

    async def kv_get(self, cat: str, key: str) -> KeyValue | None:
        return await self._read(lambda connection: kv.get(connection, cat, key))

    async def kv_put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        """As `Store.kv_put`; after a lost connection False may also mean that this very change is there."""
        epoch = self._leading().epoch
        return await self._read(lambda link: kv.put(link, epoch, cat, key, value, expected_version, now_ms))

    async def kv_delete(self, cat: str, key: str) -> bool:
        """As `Store.kv_delete`; after a lost connection False may also mean that this very call has done it."""
        epoch = self._leading().epoch
        return await self._read(lambda link: kv.delete(link, epoch, cat, key))

    async def kv_scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        check_limit(limit)
        return await self._read(lambda connection: kv.scan(connection, cat, after, limit))

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        check_limit(limit)
        position = None if cursor is None else decode_cursor(cursor)
        return await self._read(lambda connection: reading.read_ended(connection, phase, limit, position))

    async def purge(self, before_ms: int, limit: int) -> int:
        check_limit(limit)
        tenure = self._leading()
        return await self._read(lambda connection: reading.purge(connection, tenure.epoch, before_ms, limit))

    async def close(self) -> None:
        self._is_open = False
        tenure, self._tenure = self._tenure, None
        if tenure is not None and not isinstance(self._failure, LeaseLost):
            try:
                await self._resign(tenure)
            except StoreError:
                self._keeper.drop()  # the lease ends by itself, only later
        self._failure = None
        for link in (self._writer, self._keeper, self._reader):
            await link.close()

    # ---- one batch ----

    def _columns(self, batch: Batch) -> list[object]:
        try:
            return columns(fold(batch.writes))
        except OverflowError as too_large:
            raise BatchRefused(f"{self._name} refuses the batch for its contents: {too_large}") from too_large

    async def _write(self, tenure: Tenure, arguments: Sequence[object]) -> bool:
        async def call(connection: Connection) -> bool:
            return bool(await connection.fetchval(APPEND, *arguments))

        return await self._writer.use(call, max(tenure.left_s, tenure.ttl_s / 3))

    async def _settle(self, batch: Batch, tenure: Tenure, arguments: Sequence[object]) -> None:
        """The outcome of `batch` is unknown: find it by its number, or send it again, until the lease ends."""
        while True:
            try:
                if await self._is_written(batch, tenure) or await self._write(tenure, arguments):
                    return
            except StoreUnreachable as trouble:
                if tenure.left_s <= 0:
                    raise self._fail(
                        LeaseLost(f"whether batch {batch.number} is written was not known in time: {trouble}")
                    ) from trouble
                await asyncio.sleep(_TRY_AGAIN_S)

    async def _is_written(self, batch: Batch, tenure: Tenure) -> bool:
        """Waits for the lost connection's work, if that still goes on: it holds the lock of the row."""

        async def look(connection: Connection) -> reading.Row:
            return await reading.read_cell(connection, " FOR NO KEY UPDATE")

        cell = await self._writer.use(look, max(tenure.left_s, tenure.ttl_s / 3))
        if cell["epoch"] != tenure.epoch:
            raise self._fail(LeaseLost(f"epoch {tenure.epoch} is over: epoch {cell['epoch']} leads {self._name}"))
        if cell["last_batch"] == batch.number and cell["last_batch_epoch"] == tenure.epoch:
            return True
        if cell["last_batch"] != batch.number - 1:
            raise self._fail(
                StoreCorrupt(
                    f"{self._name} has gone back to batch {cell['last_batch']}, but {batch.number - 1} was written: "
                    "it is another server, or a replica that has lost commits; look before you start again"
                )
            )
        return False

    async def _why_not(self, batch: Batch, tenure: Tenure) -> StoreError:
        cell = await self._read(reading.read_cell)
        if cell["epoch"] != tenure.epoch:
            return self._fail(LeaseLost(f"epoch {tenure.epoch} is over: epoch {cell['epoch']} leads {self._name}"))
        return StoreError(f"batch {batch.number} is out of order: {self._name} holds batch {cell['last_batch']}")

    # ---- what all calls share ----

    async def _read(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        tenure = self._leading()
        try:
            return await self._persist(lambda: self._reader.use(question, max(tenure.left_s, tenure.ttl_s)))
        except ValueError as nonsense:  # such as a phase that there is not, or bytes that are no UTF-8
            raise StoreCorrupt(
                f"{self._name} holds what no troth has written ({nonsense}): restore it from a copy"
            ) from nonsense

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again, over new connections, until the lease ends; for what may be done twice."""
        tenure = self._elected()
        while True:
            try:
                return await ask()
            except StoreUnreachable as trouble:
                if tenure.left_s <= 0:
                    raise self._fail(LeaseLost(f"the lease has ended: {trouble}")) from trouble
                await asyncio.sleep(_TRY_AGAIN_S)

    def _elected(self) -> Tenure:
        if self._failure is not None:
            raise self._failure
        if self._tenure is None:
            raise StoreError(f"{self._name} is not open")
        return self._tenure

    def _leading(self) -> Tenure:
        if not self._is_open:
            raise StoreError(f"{self._name} is not open")
        return self._elected()

    def _fail(self, failure: StoreError) -> StoreError:
        self._failure = failure
        return failure
