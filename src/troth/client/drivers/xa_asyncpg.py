"""asyncpg under XA: `asyncpg.Connection` whose outermost `transaction()` inside a global one is prepared as a branch.

asyncpg has no two-phase calls, so the statements are sent as they are. What runs outside of `transaction()` inside a
global transaction is a branch of its own. Phase two is psycopg's business, as for AT.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

try:
    import asyncpg  # type: ignore[import-untyped,unused-ignore]
    from asyncpg import prepared_stmt
except ImportError as error:
    raise ImportError("this way to PostgreSQL needs asyncpg: pip install 'troth[asyncpg]'") from error

from troth.client.context import current_xid, watch
from troth.client.drivers.asyncpg_place import AsyncpgUrl, parse_url
from troth.client.drivers.running import arun
from troth.client.drivers.xa_work import SHOW_SETTING, XaWork, check_server
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, ResourceClient, Rows
from troth.client.sql.dialects.postgres import resource_id

_Base: Any = asyncpg.Connection
_Prepared: Any = prepared_stmt.PreparedStatement
_NEEDED = ("_prepare", "_execute", "_executemany", "_copy_in", "_copy_out", "_addr", "_params")
if not all(hasattr(_Base, name) or name in ("_addr", "_params") for name in _NEEDED):
    raise ImportError(f"XA does not know this asyncpg ({asyncpg.__version__})")


async def connect_async(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database under XA. `driver_options` go to `asyncpg.connect`.

    Raises:
        NotSupported: the server keeps no prepared transactions; the text has the fix.
    """
    place = parse_url(url)
    connection = await asyncpg.connect(**{**place.arguments, "connection_class": Connection, **driver_options})
    if not isinstance(connection, Connection):
        await connection.close()
        raise NotSupported(f"{type(connection).__name__} would pass by XA.", "Inherit from this Connection.")
    try:
        check_server(await _Base.fetchval(connection, SHOW_SETTING))
    except BaseException:
        await connection.close()
        raise
    connection.xa_open(place, client)
    return connection


class Connection(_Base):  # type: ignore[misc]
    """`asyncpg.Connection` under XA. Made by `connect_async`."""

    xa: XaWork | None = None

    def xa_open(self, place: AsyncpgUrl, client: ResourceClient | None) -> None:
        """Begin to work under XA."""
        address = self._addr
        on_socket = isinstance(address, str)
        host = "localhost" if on_socket else str(address[0])
        port = int(address.rpartition(".")[2]) if on_socket else int(address[1])
        name = resource_id(host, port, str(self._params.database), place.place.current_schema)
        self.xa = XaWork(place.place, name, client)
        self.xa.served.announce()

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return "" if self.xa is None else self.xa.served.resource_id

    # --- XA ---

    async def _xa_concern(self) -> XaWork | None:
        """XA, if it has to look at a call now; what belongs to an ended global transaction is rolled back first."""
        work = self.xa
        if work is None:
            return None
        if work.phase_one.abandoned:
            if self.is_in_transaction():
                await super().execute("ROLLBACK")
            work.phase_one.forget()
        elif work.phase_one.xid is not None and not self.is_in_transaction():
            work.phase_one.forget()
        return work if work.concerns else None

    @asynccontextmanager
    async def xa_statement(self, text: str) -> AsyncIterator[None]:
        """Around one statement."""
        work = await self._xa_concern()
        if work is None:
            yield
            return
        work.enter(text)
        if self.is_in_transaction():
            watch(self)
            work.phase_one.note(text.strip().upper() or None)
            yield
            return
        async with self.transaction():
            yield

    async def _xa_run(self, flow: Flow[None], work: XaWork) -> None:
        await arun(flow, _Executor(self), work.served)

    async def xa_query(self, step: Query) -> Rows:
        """Run a query of a flow, past XA."""
        sql = step.sql.replace("%%", "%")
        if sql.startswith("SELECT"):
            found = await super()._execute(sql, (), 0, None)
            return Rows((), [tuple(record) for record in found], len(found), None)
        if sql == "ROLLBACK" and (self.is_closed() or not self.is_in_transaction()):
            return Rows((), [], -1, None)
        return Rows((), [], -1, None, str(await super().execute(sql)))

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        open_now = self.xa is not None and not self.is_closed() and self.is_in_transaction()
        return self.xa.phase_one.unfinished(xid) if open_now and self.xa is not None else None

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`. It is rolled back at the next use, since that has to be awaited."""
        if self.xa is not None:
            self.xa.abandon(xid)

    # --- statements ---

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """`asyncpg.Connection.execute`; what `Transaction` sends comes by here, too."""
        work = await self._xa_concern()
        word = query.strip().rstrip(";").upper()
        if work is None or word == "ROLLBACK":
            if work is not None:
                work.phase_one.forget()
            return str(await super().execute(query, *args, timeout=timeout))
        if word == "COMMIT" and self.is_in_transaction():
            await self._xa_run(work.phase_one.commit(current_xid()), work)
            return "COMMIT"
        if word.startswith("BEGIN"):
            status = str(await super().execute(query, timeout=timeout))
            work.enter(None)
            watch(self)
            return status
        async with self.xa_statement(query):
            return str(await super().execute(query, *args, timeout=timeout))

    async def _execute(self, query: str, *args: Any, **options: Any) -> Any:
        async with self.xa_statement(query):
            return await super()._execute(query, *args, **options)

    async def _executemany(self, query: str, *args: Any, **options: Any) -> Any:
        async with self.xa_statement(query):
            return await super()._executemany(query, *args, **options)

    async def _copy_in(self, copy_stmt: str, *args: Any, **options: Any) -> Any:
        async with self.xa_statement(copy_stmt):
            return await super()._copy_in(copy_stmt, *args, **options)

    async def _copy_out(self, copy_stmt: str, *args: Any, **options: Any) -> Any:
        async with self.xa_statement(copy_stmt):
            return await super()._copy_out(copy_stmt, *args, **options)

    async def _prepare(self, query: str, **options: Any) -> Any:
        statement = await super()._prepare(query, **options)
        statement.__class__ = PreparedStatement
        return statement


class PreparedStatement(_Prepared):  # type: ignore[misc]
    """`asyncpg.prepared_stmt.PreparedStatement` under XA."""

    __slots__ = ()

    async def fetch(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.fetch`."""
        async with self._connection.xa_statement(self._query):
            return await super().fetch(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.fetchval`."""
        async with self._connection.xa_statement(self._query):
            return await super().fetchval(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.fetchrow`."""
        async with self._connection.xa_statement(self._query):
            return await super().fetchrow(*args, **options)

    async def fetchmany(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.fetchmany`."""
        async with self._connection.xa_statement(self._query):
            return await super().fetchmany(*args, **options)

    async def executemany(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.executemany`."""
        async with self._connection.xa_statement(self._query):
            return await super().executemany(*args, **options)


class _Executor:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def query(self, step: Query) -> Rows:
        return await self._connection.xa_query(step)
