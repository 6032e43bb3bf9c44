"""`troth.client.drivers.xa_psycopg` for coroutines: `psycopg.AsyncConnection` whose `commit()` prepares a branch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

try:
    import psycopg
    from psycopg import pq
    from psycopg.rows import tuple_row
except ImportError as error:
    raise ImportError("XA on PostgreSQL needs psycopg 3: pip install 'troth[postgresql]'") from error

from troth.client.context import current_xid, watch
from troth.client.drivers.psycopg_place import PostgresUrl, arguments_of, parse_url, rows_of
from troth.client.drivers.running import arun
from troth.client.drivers.xa_resource import without
from troth.client.drivers.xa_work import SHOW_SETTING, XaWork, check_server
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, ResourceClient, Rows

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

_IDLE = pq.TransactionStatus.IDLE
_NO_ROWS = Rows((), [], -1, None)


async def connect_async(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database under XA. `url` as for AT; `driver_options` go to `psycopg.AsyncConnection.connect`.

    Raises:
        NotSupported: the server keeps no prepared transactions; the text has the fix.
    """
    return await Connection.connect(url, client=client, **driver_options)


class Connection(psycopg.AsyncConnection[Any]):
    """`psycopg.AsyncConnection` under XA. Made by `connect`, or by a pool that has it as its `connection_class`."""

    xa: XaWork

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, client: ResourceClient | None = None, **options: Any
    ) -> Self:
        """Open a connection; `conninfo` is a URL or libpq's own text."""
        place = parse_url(conninfo) if "://" in conninfo else PostgresUrl(conninfo, None)
        connection = await super().connect(place.conninfo, autocommit=True, **without(options, "autocommit"))
        try:
            async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
                await cursor.execute(SHOW_SETTING)
                check_server((await cursor.fetchall())[0][0])
            connection.xa = XaWork(place, place.resource_id(connection.info), client)
            connection.xa.served.announce()
            await connection.set_autocommit(options.get("autocommit", False))
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.xa.served.resource_id

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """A cursor under XA; arguments as `psycopg.AsyncConnection.cursor` takes them."""
        made = super().cursor(*arguments, **options)
        if not isinstance(made, Cursor | ServerCursor):
            raise NotSupported(f"{type(made).__name__} would pass by XA.", "Use the cursors of the connection.")
        return made

    # --- XA ---

    @asynccontextmanager
    async def xa_turn(self) -> AsyncIterator[XaWork]:
        """What belongs to an ended global transaction is rolled back first."""
        if self.xa.phase_one.abandoned:
            await super().rollback()
            self.xa.phase_one.forget()
        elif self.xa.phase_one.xid is not None and self.info.transaction_status is _IDLE:
            self.xa.phase_one.forget()  # the user's own, past us, or there was none yet
        yield self.xa

    @asynccontextmanager
    async def xa_statement(self, text: Any, cursor: Any, *, alone: bool = True) -> AsyncIterator[None]:
        """Around one statement. `alone`: it may be a local transaction of its own."""
        async with self.xa_turn() as work:
            if not work.concerns:
                yield
                return
            if self.autocommit and self.info.transaction_status is _IDLE:
                if not alone:
                    raise NotSupported("this needs a local transaction inside a global one.", "Use conn.transaction().")
                work.enter(text)
                async with self.xa_block():
                    yield
                return
            work.enter(text)
            watch(self)
            yield
            work.phase_one.note(cursor.statusmessage)

    @asynccontextmanager
    async def xa_block(self) -> AsyncIterator[list[bool]]:
        """A local transaction that is a branch. Set the item to False, and it is rolled back without an error."""
        async with self.xa_turn() as work:
            if self.autocommit:
                await self.xa_query(Query(self._get_tx_start_command().decode()))
            else:
                await self.xa_query(Query("SELECT 1"))  # psycopg begins
            work.enter(None)
            watch(self)
        keep = [True]
        try:
            yield keep
        except BaseException as error:
            await self._xa_run(work.phase_one.roll_back(error))
            raise
        await self._xa_run(work.phase_one.commit(current_xid()) if keep[0] else work.phase_one.roll_back())

    async def _xa_run(self, flow: Flow[None]) -> None:
        await arun(flow, _Executor(self), self.xa.served)

    async def xa_query(self, step: Query) -> Rows:
        """Run a query of a flow, past XA."""
        if step.sql == "ROLLBACK":
            await super().rollback()
            return _NO_ROWS
        async with psycopg.AsyncCursor(self, row_factory=tuple_row) as cursor:
            sql, parameters = arguments_of(step)
            await cursor.execute(sql, parameters, prepare=False)
            return rows_of(cursor)

    # --- the end of a global transaction (`troth.client.context.LocalWork`) ---

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        return None if self.info.transaction_status is _IDLE else self.xa.phase_one.unfinished(xid)

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`. It is rolled back at the next use, since that has to be awaited."""
        self.xa.abandon(xid)

    # --- the local transaction ---

    async def commit(self) -> None:
        """Commit the local transaction; inside a global one that prepares it (see `PostgresPhaseOne.commit`)."""
        async with self.xa_turn() as work:
            if not work.concerns or self.info.transaction_status is _IDLE:
                await super().commit()
                return
            self._refuse_in_block()
            await self._xa_run(work.phase_one.commit(current_xid()))

    async def rollback(self) -> None:
        """Roll the local transaction back; the global one may still commit."""
        async with self.xa_turn() as work:
            await super().rollback()
            work.phase_one.forget()

    def _refuse_in_block(self) -> None:
        if self._num_transactions:
            raise psycopg.ProgrammingError("commit() cannot be used within `with conn.transaction()`")

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """`psycopg.AsyncConnection.transaction`; the outermost one inside a global transaction is a branch."""
        async with self.xa_turn() as work:
            outermost = work.concerns and self.info.transaction_status is _IDLE
        if not outermost:
            async with super().transaction(savepoint_name, force_rollback) as block:
                yield block
            return
        async with self.xa_block() as keep:
            keep[0] = False
            async with super().transaction(savepoint_name, force_rollback) as block:
                yield block
                keep[0] = not force_rollback  # `psycopg.Rollback` does not come here

    # --- what would go past XA ---

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """`psycopg.AsyncConnection.pipeline`, outside of a global transaction only."""
        self.xa.refuse_inside("a pipeline", "Do it outside of the global transaction.")
        async with super().pipeline() as pipeline:
            yield pipeline

    async def tpc_begin(self, xid: Any) -> None:
        """`psycopg.AsyncConnection.tpc_begin`, outside of a global transaction only."""
        self.xa.refuse_inside("a two-phase transaction of your own", "Call commit(): that prepares.")
        await super().tpc_begin(xid)


class _Executor:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def query(self, step: Query) -> Rows:
        return await self._connection.xa_query(step)


class Cursor(psycopg.AsyncCursor[Any]):
    """`psycopg.AsyncCursor` under XA."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """`psycopg.AsyncCursor.execute`."""
        async with _connection(self).xa_statement(query, self):
            return await super().execute(query, params, **options)

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """`psycopg.AsyncCursor.executemany`; inside a global transaction it is one local transaction."""
        async with _connection(self).xa_statement(query, self):
            await super().executemany(query, params_seq, **options)

    async def stream(self, query: Any, params: Any = None, **options: Any) -> AsyncIterator[Any]:
        """`psycopg.AsyncCursor.stream`."""
        async with _connection(self).xa_statement(query, self, alone=False):
            async for row in super().stream(query, params, **options):
                yield row

    @asynccontextmanager
    async def copy(self, statement: Any, params: Any = None, **options: Any) -> AsyncIterator[psycopg.AsyncCopy]:
        """`psycopg.AsyncCursor.copy`."""
        async with (
            _connection(self).xa_statement(statement, self),
            super().copy(statement, params, **options) as copy,
        ):
            yield copy


class ServerCursor(psycopg.AsyncServerCursor[Any]):
    """`psycopg.AsyncServerCursor` under XA."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """`psycopg.AsyncServerCursor.execute`."""
        async with _connection(self).xa_statement(query, self, alone=False):
            return await super().execute(query, params, **options)


def _connection(cursor: Any) -> Connection:
    connection: Connection = cursor.connection
    return connection
