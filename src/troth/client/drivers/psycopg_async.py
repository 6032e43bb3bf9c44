"""`troth.client.drivers.psycopg` for asyncio: psycopg 3's `AsyncConnection` and `AsyncCursor` under AT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

try:
    import psycopg
    from psycopg.rows import tuple_row
except ImportError as error:
    raise ImportError("AT on PostgreSQL needs psycopg 3: pip install 'troth[postgresql]'") from error

from troth.client.context import watch
from troth.client.drivers.psycopg_batch import (
    NOTHING,
    Waiting,
    begins,
)
from troth.client.drivers.psycopg_place import PostgresUrl, parse_url
from troth.client.drivers.psycopg_results import Shown
from troth.client.drivers.psycopg_work import AtWork, Block, swallows
from troth.client.drivers.running import arun
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Later, Query, ResourceClient, Rows
from troth.client.sql.additive import Floor
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement

if TYPE_CHECKING:
    from psycopg.abc import Params
    from psycopg.pq.abc import PGconn

R = TypeVar("R")


async def connect_async(url: str, client: ResourceClient | None = None, **driver_options: Any) -> AsyncConnection:
    """Open the database under AT; arguments as `troth.client.drivers.psycopg.connect` takes them."""
    return await AsyncConnection.connect(url, client=client, **driver_options)


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """`psycopg.AsyncConnection` under AT."""

    at: AtWork

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = AsyncCursor
        self.server_cursor_factory = AsyncServerCursor
        # psycopg lets tasks share a connection, statement by statement; here each is many.
        self._at_lock = asyncio.Lock()
        self._plain_blocks = 0
        self._at_blocks = 0

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        client: ResourceClient | None = None,
        additive: Mapping[str, Floor] | None = None,
        **options: Any,
    ) -> Self:
        """Open a connection; `conninfo` is a URL or libpq's own text."""
        place = parse_url(conninfo) if "://" in conninfo else PostgresUrl(conninfo, None)
        connection = await super().connect(place.conninfo, **options)
        connection.at = AtWork(place, connection.info, client, _in_thread, additive)
        connection.at.announce()
        return connection

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """A cursor under AT; arguments as `psycopg.AsyncConnection.cursor` takes them."""
        made = super().cursor(*arguments, **options)
        if not isinstance(made, AsyncCursor | AsyncServerCursor):
            raise NotSupported(
                f"{type(made).__name__} would pass by AT.", "Use the cursors of the connection, or inherit from them."
            )
        return made

    # --- AT ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.at.resource_id

    async def at_flow(self, flow: Flow[R], cursor: AsyncCursor | None = None, **options: Any) -> R:
        """Run a flow on this connection; the user's own statement runs on `cursor`."""
        return await arun(flow, _Executor(self, cursor, options), self.at)

    @asynccontextmanager
    async def at_turn(self) -> AsyncIterator[AtWork]:
        """One task at a time; what belongs to an ended global transaction is rolled back first."""
        async with self._at_lock:
            if self.at.abandoned:
                await self.at_flow(self.at.phase_one.roll_back())
                self.at.forget()
            yield self.at

    async def at_check_calls(self, statement: Statement) -> None:
        """Refuse functions that may write unseen. Raises NotSupported."""
        flow = self.at.check_calls(statement)
        if flow is not None:
            await self.at_flow(flow)

    def at_plan(self, statement: Statement, sets: Iterable[Any]) -> Flow[Outcome] | None:
        """The flow for a statement, or None; refused in a block that began before the global transaction."""
        work = self.at
        if self._plain_blocks and statement.verb.writes:
            raise NotSupported(
                "the `async with conn.transaction()` around it was begun before the global transaction.",
                "Enter the global transaction first.",
            )
        if self._pipeline is not None:
            work.refuse_inside("a pipeline that was entered before", "Enter the global transaction first.")
        flow = work.plan(statement, sets, work.situation(autocommit=self.autocommit))
        if flow is not None:
            watch(self)
        return flow

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        return self.at.unfinished(xid)

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`. It is rolled back at the next use, since that has to be awaited."""
        self.at.abandon(xid)

    # --- the local transaction ---

    async def commit(self) -> None:
        """Commit the local transaction; inside a global one that is a branch of it (see `PhaseOne.commit`)."""
        async with self._at_lock:
            if self.at.is_idle:
                await super().commit()
                return
        async with self.at_turn() as work:
            work.phase_one.notice(in_transaction=work.in_transaction)
            if work.phase_one.local is None:
                await super().commit()
                return
            self._refuse_in_block("commit")
            await self.at_flow(work.phase_one.commit(work.situation(autocommit=self.autocommit).xid))

    async def rollback(self) -> None:
        """Roll the local transaction back."""
        async with self._at_lock:
            if self.at.phase_one.local is not None:
                self._refuse_in_block("rollback")
            await super().rollback()
            self.at.forget()

    def _refuse_in_block(self, what: str) -> None:
        if self._at_blocks:
            raise psycopg.ProgrammingError(f"Explicit {what}() forbidden within a Transaction context.")

    async def close(self) -> None:
        """Close the connection; an open local transaction is rolled back."""
        self.at.forget()
        self.at.queue.close()
        await super().close()

    @asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[Any]:
        """`psycopg.AsyncConnection.transaction`: a local transaction, or a savepoint in one."""
        if not self.at.concerns:
            self._plain_blocks += 1
            try:
                async with super().transaction(savepoint_name, force_rollback) as plain:
                    yield plain
            finally:
                self._plain_blocks -= 1
            return
        async with self.at_turn() as work:
            block = Block(work, savepoint_name, self._at_blocks, autocommit=self.autocommit)
            await self.at_flow(block.enter())
        watch(self)
        self._at_blocks += 1
        try:
            yield block
        except BaseException as error:
            self._at_blocks -= 1
            await self._leave(block, error)
            if not swallows(error, block):
                raise
        else:
            self._at_blocks -= 1
            async with self._at_lock:
                await self.at_flow(block.leave(keep=not force_rollback))

    async def _leave(self, block: Block, error: BaseException) -> None:
        """Roll the block back; trouble in that is noted on the error that ended it."""
        try:
            async with self._at_lock:
                await self.at_flow(block.leave(keep=False))
        except psycopg.Error as second:
            error.add_note(f"ROLLBACK said: {second}.")

    # --- what would write past AT ---

    def pipeline(self) -> Any:
        """`psycopg.AsyncConnection.pipeline`, outside of a global transaction only."""
        self.at.refuse_inside("a pipeline")
        return super().pipeline()

    async def tpc_begin(self, xid: Any) -> None:
        """`psycopg.AsyncConnection.tpc_begin`, outside of a global transaction only."""
        self.at.refuse_inside("a two-phase transaction of your own")
        await super().tpc_begin(xid)


def _in_thread(settle: Any) -> Any:
    return lambda xid, branch_id: asyncio.to_thread(settle, xid, branch_id)


class _Executor:
    """Runs the queries of a flow. psycopg opens local transactions by itself, unless in autocommit."""

    def __init__(self, connection: AsyncConnection, cursor: AsyncCursor | None, options: dict[str, Any]) -> None:
        self._connection = connection
        self._queue = connection.at.queue
        self._users = None if cursor is None else (cursor, options)

    def postpone(self, step: Query) -> Later:
        """Let it wait for the next one."""
        return Later(NOTHING) if self._queue.passes(step.sql, self._connection) else self._queue.put(step)

    async def query(self, step: Query) -> Rows:
        """Run it with all that waits for it, and fetch everything."""
        if self._queue.passes(step.sql, self._connection):
            return NOTHING
        connection, queue = self._connection, self._queue
        begin, waiting = begins(connection), queue.take(step.sql, connection)
        if begin is not None:
            waiting.insert(0, Waiting(Query(begin), Later()))
        async with connection.lock:
            return await connection.wait(queue.trip(connection, waiting, step, self._users))


class AsyncCursor(Shown, psycopg.AsyncCursor[Any]):
    """`psycopg.AsyncCursor` under AT."""

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        super().__init__(connection, row_factory=row_factory)
        self._forget_shown()

    async def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        """Execute one statement; arguments as `psycopg.AsyncCursor.execute` takes them."""
        self._at_rows = None
        async with self._conn._at_lock:
            if self._conn.at.is_idle:
                return await super().execute(query, params, **options)
        async with self._conn.at_turn() as work:
            if not work.concerns:
                return await super().execute(query, params, **options)
            statement = work.parse(query, self, parameterised=params is not None)
            await self._conn.at_check_calls(statement)
            flow = self._conn.at_plan(statement, [params])
            if flow is None:
                return await super().execute(query, params, **options)
            self._show(statement, await self._conn.at_flow(flow, self, **options))
        return self

    async def executemany(self, query: Any, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Execute one statement for each of `params_seq`. Inside a global transaction that is one local transaction."""
        self._forget_shown()
        async with self._conn.at_turn() as work:
            if not work.concerns:
                await super().executemany(query, params_seq, returning=returning)
                return
            if returning:
                raise NotSupported("executemany(returning=True) is not supported.", "Use execute() for each.")
            given = list(params_seq)
            statement = work.parse(query, self, parameterised=True)
            await self._conn.at_check_calls(statement)
            flow = self._conn.at_plan(statement, given)
            if flow is None or not statement.verb.writes:
                await super().executemany(query, given)
                return
            outcome = await self._conn.at_flow(flow, self)
            self._show(statement, Outcome(outcome.rowcount, last_rowcount=outcome.last_rowcount))

    async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        """`psycopg.AsyncCursor.stream`; inside a global transaction for reading only."""
        work = self._conn.at
        if work.concerns:
            await self._conn.at_check_calls(work.parse(query, self, parameterised=params is not None))
        self._check_read(query, params, "stream()")
        async for row in super().stream(query, params, **options):
            yield row

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """`psycopg.AsyncCursor.copy`; inside a global transaction TO STDOUT only."""
        self._check_read(statement, params, "COPY")
        return super().copy(statement, params, **options)

    def _check_read(self, query: Any, params: Any, what: str) -> None:
        self._forget_shown()
        work = self._conn.at
        if work.concerns and not work.reads(query, self, parameterised=params is not None):
            work.refuse_inside(what)

    # --- results ---

    @property
    def rownumber(self) -> int | None:
        """Index of the next row."""
        return super().rownumber if self._at_rows is None else self._at_next

    async def fetchone(self) -> Any:
        """The next row, or None."""
        if self._at_rows is None:
            return await super().fetchone()
        return next(iter(self._take(1)), None)

    async def fetchmany(self, size: int = 0) -> list[Any]:
        """The next `size` (`arraysize`) rows."""
        return await super().fetchmany(size) if self._at_rows is None else self._take(size or self.arraysize)

    async def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return await super().fetchall() if self._at_rows is None else self._take(None)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move in the rows."""
        if self._at_rows is None:
            await super().scroll(value, mode)
        else:
            self._move(value, mode)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row


class AsyncServerCursor(psycopg.AsyncServerCursor[Any]):
    """`psycopg.AsyncServerCursor`: it reads, so AT has only to see that it does."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Declare the cursor."""
        connection: Any = self.connection
        work: AtWork = connection.at
        if work.concerns:
            await connection.at_check_calls(work.parse(query, self, parameterised=params is not None))
            if not work.reads(query, self, parameterised=params is not None):
                work.refuse_inside("a server-side cursor that does more than read")
        return await super().execute(query, params, **options)
