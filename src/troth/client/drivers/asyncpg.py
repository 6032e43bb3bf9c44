"""asyncpg under AT: `asyncpg.Connection` whose writes inside a global transaction are branches of it.

asyncpg commits each statement by itself, except inside of `connection.transaction()`; so it is here. What
`Transaction` sends goes by `Connection.execute`, so it needs nothing of its own. Phase two and the undo table are
psycopg's business (`troth.client.drivers.psycopg_place`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

try:
    import asyncpg  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("this way to PostgreSQL needs asyncpg: pip install 'troth[asyncpg]'") from error

from psycopg import pq

from troth.client.context import watch
from troth.client.drivers.asyncpg_executor import Executor
from troth.client.drivers.asyncpg_place import AsyncpgUrl, parse_url
from troth.client.drivers.asyncpg_records import cut
from troth.client.drivers.asyncpg_statement import PreparedStatement
from troth.client.drivers.asyncpg_texts import Numbered, named, to_dialect
from troth.client.drivers.psycopg_work import AtWork
from troth.client.drivers.running import arun
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Later, ResourceClient
from troth.client.sql.additive import Floor
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb

R = TypeVar("R")

_Base: Any = asyncpg.Connection
_NEEDED = ("_prepare", "_addr", "_params", "_protocol")
if not all(hasattr(_Base, name) for name in _NEEDED):
    raise ImportError(f"AT does not know this asyncpg ({asyncpg.__version__})")

_AS_IMAGES_ARE_READ = frozenset(
    {"text", "varchar", "bpchar", "name", "bytea", "bool", "int2", "int4", "int8", "oid", "integer", "bigint"}
)
_TEXTS_REMEMBERED = 256


async def connect_async(
    url: str,
    client: ResourceClient | None = None,
    *,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Connection:
    """Open the database under AT. `driver_options` go to `asyncpg.connect`.

    `client` is None: the process's default one, at each use.
    """
    place = parse_url(url)
    connection = await asyncpg.connect(**{**place.arguments, "connection_class": Connection, **driver_options})
    if not isinstance(connection, Connection):
        raise NotSupported(
            f"{type(connection).__name__} would pass by AT.", "Inherit from troth.client.drivers.asyncpg.Connection."
        )
    connection.at_open(place, client, additive)
    return connection


def create_pool(
    url: str, *, client: ResourceClient | None = None, additive: Mapping[str, Floor] | None = None, **options: Any
) -> Any:
    """`asyncpg.create_pool` of connections under AT; `options` are asyncpg's, of the pool and of connections."""
    place = parse_url(url)

    async def connect(*arguments: Any, **given: Any) -> Any:
        connection = await asyncpg.connect(*arguments, **given)
        connection.at_open(place, client, additive)
        return connection

    return asyncpg.create_pool(**{**place.arguments, "connection_class": Connection, **options, "connect": connect})


class _Info:
    """What `AtWork` asks psycopg's `ConnectionInfo` for."""

    encoding = "utf-8"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        address = connection._addr
        on_socket = isinstance(address, str)
        self.host = "localhost" if on_socket else str(address[0])
        self.port = int(address.rpartition(".")[2]) if on_socket else int(address[1])
        self.dbname = str(connection._params.database)

    @property
    def server_version(self) -> int:
        """As libpq gives it: 150004 is 15.4, for asyncpg (15, 0, 4)."""
        version = self._connection.get_server_version()
        return int(version.major) * 10_000 + int(version.minor) * 100 + int(version.micro)

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        """IDLE, or not."""
        return pq.TransactionStatus.INTRANS if self._connection.at_is_open() else pq.TransactionStatus.IDLE


class Connection(_Base):  # type: ignore[misc]
    """`asyncpg.Connection` under AT. Made by `connect_async`, or by `create_pool`."""

    at: AtWork

    def at_open(
        self, place: AsyncpgUrl, client: ResourceClient | None, additive: Mapping[str, Floor] | None = None
    ) -> None:
        """Begin to work under AT."""
        self.at = AtWork(place.place, cast("Any", _Info(self)), client, _in_thread, additive)
        # Two statements of a connection at a time are an error in asyncpg; here each is many, so the second one waits.
        self._at_lock = asyncio.Lock()
        self._at_waiting: list[tuple[str, Later]] = []
        self._at_texts: dict[str, Numbered] = {}
        self._at_cuts: dict[tuple[str, Any], Any] = {}
        self.at.announce()

    # --- AT ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.at.resource_id

    def at_is_open(self) -> bool:
        """See `Bare`."""
        return not self.is_closed() and bool(self.is_in_transaction())

    async def at_simple(self, sql: str) -> str:
        """See `Bare`."""
        return str(await super().execute(sql))

    async def at_fetch(
        self, sql: str, arguments: tuple[object, ...], *, cached: bool, as_user: bool, **options: Any
    ) -> tuple[Any, list[Any]]:
        """See `Bare`."""
        record_class = None
        if as_user:
            record_class = self._at_cut(sql, options.get("record_class") or self._params_record_class())
        statement = await super()._prepare(
            sql, name=None if cached else False, use_cache=cached, record_class=record_class or asyncpg.Record
        )
        return statement, await statement.fetch(*arguments, timeout=options.get("timeout"))

    def _params_record_class(self) -> Any:
        return self._protocol.get_record_class()

    def _at_cut(self, sql: str, base: Any) -> Any:
        """One class for a text, so that asyncpg can keep its prepared statement."""
        made = self._at_cuts.get((sql, base))
        if made is None:
            if len(self._at_cuts) >= _TEXTS_REMEMBERED:
                self._at_cuts.clear()
            made = self._at_cuts[sql, base] = cut(base)
        return made

    @asynccontextmanager
    async def at_turn(self) -> AsyncIterator[AtWork]:
        """One task at a time; what belongs to an ended global transaction is rolled back first."""
        async with self._at_lock:
            if self.at.abandoned:
                await self.at_flow(self.at.phase_one.roll_back())
                self.at_forget()
            yield self.at

    async def at_flow(self, flow: Flow[R], **options: Any) -> R:
        """Run a flow on this connection; `options` are for the user's own statement."""
        return await arun(flow, Executor(self, self._at_waiting, options), self.at)

    def at_forget(self) -> None:
        """The local transaction is over."""
        self.at.forget()
        self._at_waiting.clear()

    def at_parse(self, query: str) -> tuple[Statement, int]:
        """What the user's text is, and how many parameters it takes."""
        numbered = self._at_texts.get(query)
        if numbered is None:
            if len(self._at_texts) >= _TEXTS_REMEMBERED:
                self._at_texts.clear()
            numbered = self._at_texts[query] = to_dialect(query)
        return self.at.parse(numbered.sql, None, parameterised=True), numbered.count

    async def at_run(self, query: str, sets: Iterable[Sequence[Any]], **options: Any) -> tuple[str, list[Any]] | None:
        """Run a statement for each of `sets`: its command tag, and its records. None: it is asyncpg's own affair.

        Call it within `at_turn`.
        """
        statement, count = self.at_parse(query)
        given = list(sets)
        for one in given:
            if len(one) != count and statement.verb is not Verb.READ:
                raise asyncpg.InterfaceError(
                    f"the server expects {count} argument{'' if count == 1 else 's'} for this query, "
                    f"{len(one)} {'was' if len(one) == 1 else 'were'} passed"
                )
        await self._at_check_calls(statement)
        flow = self.at.plan(statement, [named(one) for one in given], self.at.situation(autocommit=True))
        if flow is None:
            return None
        watch(self)
        return _shown(statement, await self.at_flow(flow, **options))

    async def _at_check_calls(self, statement: Statement) -> None:
        """Refuse functions that may write unseen. Raises NotSupported."""
        flow = self.at.check_calls(statement)
        if flow is not None:
            await self.at_flow(flow)

    async def at_learn(self, query: str) -> None:
        """Ask what functions the query calls, inside a global transaction. Raises NotSupported if they may write."""
        if self.at.concerns:
            async with self.at_turn():
                await self._at_check_calls(self.at_parse(query)[0])

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        return self.at.unfinished(xid)

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`. It is rolled back at the next use, since that has to be awaited."""
        self.at.abandon(xid)

    # --- statements ---

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """`asyncpg.Connection.execute`."""
        async with self.at_turn() as work:
            done = await self.at_run(query, [args], timeout=timeout) if work.concerns else None
            return str(await super().execute(query, *args, timeout=timeout)) if done is None else done[0]

    async def executemany(self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """`asyncpg.Connection.executemany`; inside a global transaction it is one local transaction."""
        async with self.at_turn() as work:
            if not work.concerns:
                await super().executemany(command, args, timeout=timeout)
                return
            given = list(args)
            if await self.at_run(command, given, timeout=timeout) is None:
                await super().executemany(command, given, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> list[Any]:
        """`asyncpg.Connection.fetch`."""
        async with self.at_turn() as work:
            options = {"timeout": timeout, "record_class": record_class}
            done = await self.at_run(query, [args], **options) if work.concerns else None
            return list(await super().fetch(query, *args, **options)) if done is None else done[1]

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, record_class: Any = None) -> Any:
        """`asyncpg.Connection.fetchrow`."""
        async with self.at_turn() as work:
            options = {"timeout": timeout, "record_class": record_class}
            done = await self.at_run(query, [args], **options) if work.concerns else None
            return await super().fetchrow(query, *args, **options) if done is None else next(iter(done[1]), None)

    async def fetchval(self, query: str, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """`asyncpg.Connection.fetchval`."""
        if "at" not in self.__dict__:  # `asyncpg.connect` looks what kind of server it has found
            return await super().fetchval(query, *args, column=column, timeout=timeout)
        async with self.at_turn() as work:
            done = await self.at_run(query, [args], timeout=timeout) if work.concerns else None
            if done is None:
                return await super().fetchval(query, *args, column=column, timeout=timeout)
            return done[1][0][column] if done[1] else None

    async def fetchmany(
        self, query: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None, record_class: Any = None
    ) -> list[Any]:
        """`asyncpg.Connection.fetchmany`; inside a global transaction for reading only."""
        await self.at_learn(query)
        self.at_check_read(query, "fetchmany()")
        async with self.at_turn():
            return list(await super().fetchmany(query, args, timeout=timeout, record_class=record_class))

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """`asyncpg.Connection.cursor`; inside a global transaction for reading only."""
        self.at_check_read(query, "a cursor")
        return super().cursor(query, *args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        """`asyncpg.Connection.prepare`: the statement runs under AT wherever it is run inside a global transaction."""
        async with self.at_turn():
            return PreparedStatement(self, await super().prepare(query, **options), options.get("record_class"))

    def at_check_read(self, query: str, what: str) -> None:
        """Raises NotSupported inside a global transaction, if the query does more than read. See `at_learn`."""
        if self.at.concerns and not self.at.only_reads(self.at_parse(query)[0]):
            self.at.refuse_inside(what, "Use fetch() or execute(), or do it outside of the global transaction.")

    # --- what would write past AT ---

    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> Any:
        """`asyncpg.Connection.copy_from_query`; inside a global transaction for reading only."""
        await self.at_learn(query)
        self.at_check_read(query, "COPY of a query that writes")
        return await super().copy_from_query(query, *args, **options)

    async def copy_to_table(self, table_name: str, **options: Any) -> Any:
        """`asyncpg.Connection.copy_to_table`, outside of a global transaction only."""
        self.at.refuse_inside("COPY FROM", "Use executemany().")
        return await super().copy_to_table(table_name, **options)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> Any:
        """`asyncpg.Connection.copy_records_to_table`, outside of a global transaction only."""
        self.at.refuse_inside("COPY FROM", "Use executemany().")
        return await super().copy_records_to_table(table_name, **options)

    async def set_type_codec(self, typename: str, **options: Any) -> None:
        """`asyncpg.Connection.set_type_codec`, for the types that AT does not read images in."""
        _check_codec(typename)
        await super().set_type_codec(typename, **options)

    async def set_builtin_type_codec(self, typename: str, **options: Any) -> None:
        """`asyncpg.Connection.set_builtin_type_codec`, for the types that AT does not read images in."""
        _check_codec(typename)
        await super().set_builtin_type_codec(typename, **options)

    # --- the end ---

    async def reset(self, *, timeout: float | None = None) -> None:
        """`asyncpg.Connection.reset`, as a pool does it: an open local transaction is rolled back."""
        async with self._at_lock:
            self.at_forget()
            asyncpg_execute = super().execute
            self._clear_listeners()
            if self.at_is_open():
                self._top_xact = None
                await asyncpg_execute("ROLLBACK", timeout=timeout)
            query = self.get_reset_query()
            if query:
                await asyncpg_execute(query, timeout=timeout)

    def _clear_listeners(self) -> None:
        self._listeners.clear()
        self._log_listeners.clear()

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the connection; an open local transaction is rolled back."""
        self.at_forget()
        await super().close(timeout=timeout)

    def terminate(self) -> None:
        """Drop the connection; the server rolls an open local transaction back."""
        self.at_forget()
        super().terminate()


def _in_thread(settle: Callable[[str, int], bool]) -> Any:
    return lambda xid, branch_id: asyncio.to_thread(settle, xid, branch_id)


def _check_codec(typename: str) -> None:
    if typename in _AS_IMAGES_ARE_READ:
        raise NotSupported(
            f"AT reads its images as {typename}, so that type keeps asyncpg's own codec.",
            "Cast in the query, or make a domain.",
        )


def _shown(statement: Statement, outcome: Outcome) -> tuple[str, list[Any]]:
    """Command tag and records, as asyncpg would give them."""
    verb = statement.verb
    if outcome.columns is None:
        records: list[Any] = []
    else:
        full = cast("list[Any]", outcome.native)
        records = [full[int(str(place))] for (place,) in outcome.rows]
        if full:
            type(full[0]).show(outcome.columns)
    match verb:
        case Verb.INSERT:
            return f"INSERT 0 {outcome.rowcount}", records
        case Verb.LOCKING_READ:
            return f"SELECT {outcome.rowcount}", records
        case Verb.ROLLBACK_TO:
            return "ROLLBACK", records
        case _ if verb.writes:
            return f"{verb.value} {outcome.rowcount}", records
        case _:
            return verb.value, records
