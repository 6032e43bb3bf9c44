"""asyncmy under AT: PyMySQL's connections for coroutines, and so is this (`troth.client.drivers.pymysql`).

Phase two and the undo table are PyMySQL's business (`troth.client.drivers.pymysql_places`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from troth.client.context import reads_committed, watch, work_xid
from troth.client.drivers.asyncmy_cursor import Cursor
from troth.client.drivers.asyncmy_executor import Executor, arguments_for, arguments_like, asyncmy
from troth.client.drivers.pymysql_places import MySqlPlace, MySqlResource, parse_url
from troth.client.drivers.running import arun
from troth.client.drivers.served import ServedResource
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, ResourceClient, Rows
from troth.client.modes.additive import additions_of
from troth.client.modes.at import LockRetry, PhaseOne, Situation
from troth.client.modes.at_write import Writer
from troth.client.sql.additive import Floor
from troth.client.sql.checked_reads import checked_read, only_set
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb

R = TypeVar("R")

_MULTI_STATEMENTS = asyncmy.constants.CLIENT.MULTI_STATEMENTS
_FOUND_ROWS = asyncmy.constants.CLIENT.FOUND_ROWS


async def connect_async(
    url: str,
    client: ResourceClient | None = None,
    *,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Connection:
    """Open the database under AT. `driver_options` go to `asyncmy.connect`.

    `client` is None: the process's default one, at each use.
    """
    if driver_options.get("stmt_cache_size"):
        raise NotSupported("AT does not know asyncmy's cache of prepared statements.", "Leave stmt_cache_size at 0.")
    place = parse_url(url)
    raw = await asyncmy.connect(**arguments_for(place, driver_options))
    connection = Connection(raw, place, driver_options, client, additive)
    connection.served.announce()
    return connection


class Connection:
    """`asyncmy.connection.Connection` under AT. What is not defined here is the driver's own."""

    def __init__(
        self,
        raw: Any,
        place: MySqlPlace,
        given: Mapping[str, Any],
        client: ResourceClient | None,
        additive: Mapping[str, Floor] | None = None,
    ) -> None:
        self._raw = raw
        self._place = place
        self._dialect = place.dialect(counts_found=bool(raw._client_flag & _FOUND_ROWS))
        self._resource = MySqlResource(place, arguments_like(place, given, raw))
        writer = Writer(
            self._dialect, expects=self._dialect, additions=additions_of(self._dialect, additive, self._ask)
        )
        self._phase_one = PhaseOne(self._dialect, place.resource_id, writer, LockRetry(), settle=self._settle)
        self.served = ServedResource(place.resource_id, self._resource, self._phase_one, client)
        self._executor = Executor(raw)
        # AT sends several statements in one text; the user only if the user has asked for that, too.
        self._user_sends_several = bool(given.get("client_flag", 0) & _MULTI_STATEMENTS)
        # Two statements of a connection at a time break asyncmy; here each is many, so the second one waits.
        self._lock = asyncio.Lock()
        self._abandoned = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    async def _ask(self, sql: str, parameters: Parameters) -> Rows:
        return await asyncio.to_thread(self._resource.ask, sql, parameters)

    async def _settle(self, xid: str, branch_id: int) -> bool:
        return await asyncio.to_thread(self._resource.settle, xid, branch_id)

    # --- statements ---

    def cursor(self, cursor: Any = None) -> Cursor:
        """A cursor under AT; `cursor` is a class of asyncmy's (default: the connection's)."""
        return Cursor(self, self._raw.cursor(cursor))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One task at a time; what belongs to an ended global transaction is rolled back first."""
        async with self._lock:
            if self._abandoned:
                await self._roll_back()
            yield

    async def statement(self, cursor: Any, sql: Any, sets: list[Any] | None, *, many: bool) -> Outcome | None:
        """Execute on the driver's `cursor`; None where the driver has done it and has the result itself.

        `sets` are the parameters, once for each execution; None: the text is run as it stands, without parameters.
        """
        async with self.turn():
            inside = work_xid() is not None or self._phase_one.local is not None
            statement = self._dialect.parse(text_of(sql), parameterised=sets is not None)
            if not inside:
                return await self._passed(cursor, statement, sql, sets, many=many)
            return await self._inside(cursor, statement, sql, sets, many=many)

    async def _inside(
        self, cursor: Any, statement: Statement, sql: Any, sets: list[Any] | None, *, many: bool
    ) -> Outcome | None:
        self._phase_one.notice(in_transaction=self._executor.in_transaction)
        if reads_committed():
            statement = checked_read(statement, lambda sql: self._locking(sql, parameterised=sets is not None))
        match statement.verb:
            case Verb.READ:
                return await self._passed(cursor, statement, sql, sets, many=many)
            case Verb.REFUSED:
                raise statement.refusal()
            case Verb.INSERT | Verb.UPDATE | Verb.DELETE:
                given = [()] if sets is None else [_parameters(one) for one in sets]
                return await self._run_registered(self._phase_one.write(self._situation(), statement, given))
            case Verb.LOCKING_READ:
                one = () if sets is None else _parameters(only_set(sets))
                return await self._run_registered(self._phase_one.read_locked(self._situation(), statement, one))
            case Verb.COMMIT if self._executor.in_transaction:
                await self._commit()
            case Verb.ROLLBACK if self._executor.in_transaction:
                await self._roll_back()
            case Verb.COMMIT | Verb.ROLLBACK:
                return await self._passed(cursor, statement, sql, sets, many=many)
            case Verb.BEGIN if self._executor.in_transaction:
                raise NotSupported("BEGIN would commit the open local transaction.", "Commit or roll it back first.")
            case _:
                watch(self)
                await self._run(self._phase_one.control(self._situation(), statement))
        return Outcome(0)

    async def _passed(
        self, cursor: Any, statement: Statement, sql: Any, sets: list[Any] | None, *, many: bool
    ) -> Outcome | None:
        """Let the driver execute it; the driver's cursor then has the result."""
        if statement.verb is Verb.REFUSED or statement.sql.lstrip()[:3].upper() == "SET":
            self._dialect.forget_session()
        if statement.verb not in (Verb.READ, Verb.LOCKING_READ):
            self._dialect.has_written = True
        await self._executor.flush()
        try:
            async with self.as_given(statement.sql):
                if many:
                    await cursor.executemany(sql, sets)
                else:
                    await cursor.execute(sql, *(sets or ()))
                self._executor.note()
        except BaseException as error:
            self._executor.note_error(error)
            raise
        self._dialect.has_written = self._dialect.has_written and self._executor.in_transaction
        return None

    @asynccontextmanager
    async def as_given(self, sql: str) -> AsyncIterator[None]:
        """Inside, the server takes several statements in one text only if the user has opened the connection so."""
        if self._user_sends_several or ";" not in sql.rstrip("; \t\r\n"):
            yield
            return
        async with self._executor.one_by_one():
            yield

    def _locking(self, sql: str, *, parameterised: bool) -> Statement:
        return self._dialect.parse(f"{sql}\nLOCK IN SHARE MODE", parameterised=parameterised)

    async def _run_registered(self, flow: Flow[R]) -> R:
        self.served.register()
        watch(self)
        return await self._run(flow)

    def _situation(self) -> Situation:
        return Situation(work_xid(), self._executor.in_transaction, not self._executor.is_autocommit)

    async def _run(self, flow: Flow[R]) -> R:
        return await arun(flow, self._executor, self.served)

    # --- the local transaction ---

    async def begin(self) -> None:
        """Begin a local transaction."""
        await self.statement(self._raw.cursor(asyncmy.cursors.Cursor), "BEGIN", None, many=False)

    async def commit(self) -> None:
        """Commit the local transaction; inside a global one that is a branch of it (see `PhaseOne.commit`)."""
        async with self.turn():
            self._phase_one.notice(in_transaction=self._executor.in_transaction)
            await self._commit()

    async def _commit(self) -> None:
        if self._phase_one.local is None:
            await self._raw.commit()
            self._ended()
        else:
            await self._run(self._phase_one.commit(work_xid()))
            self._dialect.has_written = False

    async def rollback(self) -> None:
        """Roll the local transaction back."""
        async with self._lock:
            await self._roll_back()

    async def _roll_back(self) -> None:
        self._forget()
        await self._raw.rollback()
        self._ended()

    async def autocommit(self, value: bool) -> None:
        """Let the server commit each statement by itself from now on, or no more; not inside of a local transaction."""
        async with self.turn():
            if self._phase_one.local is not None:
                raise NotSupported(
                    "autocommit() would commit the open local transaction.", "Commit or roll back first."
                )
            await self._raw.autocommit(value)
            self._ended()

    def _ended(self) -> None:
        self._executor.in_transaction = False
        self._dialect.has_written = False

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        local = self._phase_one.local
        if local is None or local.xid != xid or not local.changes:
            return None
        return f"its local transaction on {self.resource_id} was not committed"

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`. It is rolled back at the next use, since that has to be awaited."""
        local = self._phase_one.local
        if local is not None and local.xid == xid:
            self._abandoned = True

    def _forget(self) -> None:
        self._executor.drop_postponed()
        self._phase_one.local = None
        self._abandoned = False

    def close(self) -> None:
        """Close the connection at once; the server rolls an open local transaction back."""
        self._forget()
        self._raw.close()
        self._executor.in_transaction = False

    async def ensure_closed(self) -> None:
        """Say good-bye and close the connection; the server rolls an open local transaction back."""
        async with self._lock:
            self._forget()
            await self._raw.ensure_closed()
            self._executor.in_transaction = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.ensure_closed()

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    # --- the coordinator ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self._place.resource_id

    # --- what would write past AT ---

    async def query(self, *arguments: Any, **options: Any) -> Any:
        """`asyncmy.connection.Connection.query`, outside of a global transaction only."""
        async with self.turn():
            self.refuse_inside("Connection.query")
            self._dialect.forget_session()
            async with self.as_given(text_of(arguments[0] if arguments else options.get("sql", ""))):
                return await self._raw.query(*arguments, **options)

    async def prepare(self, query: Any) -> Any:
        """`asyncmy.connection.Connection.prepare`, outside of a global transaction only."""
        self.refuse_inside("a prepared statement")
        return await self._raw.prepare(query)

    async def select_db(self, db: str) -> None:
        """Use another database, outside of a global transaction only. (AT works on the one of the URL.)"""
        self.refuse_inside("select_db")
        self._dialect.forget_session()
        await self._raw.select_db(db)

    async def set_charset(self, charset: str) -> None:
        """Use another character set, outside of a global transaction only. (AT needs utf8mb4.)"""
        self.refuse_inside("set_charset")
        self._dialect.forget_session()
        await self._raw.set_charset(charset)

    async def ping(self, reconnect: bool = True) -> None:
        """Whether the server is there; a new connection would lose the local transaction, so none is made inside."""
        async with self._lock:
            await self._raw.ping(reconnect and self._phase_one.local is None)
            if reconnect:
                self._dialect.forget_session()

    def refuse_inside(self, what: str) -> None:
        """Raises NotSupported inside a global transaction, or where a local one still belongs to one."""
        if work_xid() is not None or self._phase_one.local is not None:
            raise NotSupported(
                f"{what} may write past AT.", "Do it outside of the global transaction, or use execute()."
            )


def text_of(sql: Any) -> str:
    """The statement as text, however it was given."""
    return sql.decode("utf-8", "surrogateescape") if isinstance(sql, bytes | bytearray) else str(sql)


def _parameters(given: Any) -> Parameters:
    """The parameters of one execution, as asyncmy takes them: a value alone is one, too."""
    if isinstance(given, Mapping | tuple | list):
        return given
    return (given,)


__all__ = ["Connection", "Cursor", "connect_async"]
