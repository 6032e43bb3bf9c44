"""A PostgreSQL connection under AT: psycopg 3's own `Connection` and `Cursor`, which AT looks over the shoulder.

Outside of a global transaction every call is psycopg's. Inside one, reads are too; writes become flows
(`troth.client.modes.at`), and what would write past AT is refused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from troth.client.drivers.psycopg_place import (
    PostgresUrl,
    check,
    init,
    init_hot_rows,
    parse_url,
)
from troth.client.drivers.psycopg_results import Shown
from troth.client.drivers.psycopg_work import AtWork, Block, swallows
from troth.client.drivers.running import run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Later, Query, ResourceClient, Rows
from troth.client.sql.additive import Floor
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement

if TYPE_CHECKING:
    from psycopg.abc import Params
    from psycopg.pq.abc import PGconn

__all__ = ["Connection", "Cursor", "ServerCursor", "check", "connect", "init", "init_hot_rows"]

R = TypeVar("R")

log = logging.getLogger(__name__)


def connect(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database under AT. `url` as `parse_url` takes it; `driver_options` go to `psycopg.connect`.

    `client` is None: the process's default one, at each use. The resource is registered now if there is a client, else
    when `troth.init` has connected one.
    """
    return Connection.connect(url, client=client, **driver_options)


class Connection(psycopg.Connection[Any]):
    """`psycopg.Connection` under AT. Made by `connect`, or by a pool that has it as its `connection_class`."""

    at: AtWork

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor
        # psycopg lets threads share a connection, statement by statement; here each is many.
        self._at_lock = threading.RLock()
        self._plain_blocks = 0
        self._at_blocks = 0

    @classmethod
    def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        client: ResourceClient | None = None,
        additive: Mapping[str, Floor] | None = None,
        **options: Any,
    ) -> Self:
        """Open a connection; `conninfo` is a URL or libpq's own text."""
        place = parse_url(conninfo) if "://" in conninfo else PostgresUrl(conninfo, None)
        connection = super().connect(place.conninfo, **options)
        connection.at = AtWork(place, connection.info, client, lambda settle: settle, additive)
        connection.at.announce()
        return connection

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """A cursor under AT; arguments as `psycopg.Connection.cursor` takes them."""
        made = super().cursor(*arguments, **options)
        if not isinstance(made, Cursor | ServerCursor):
            raise NotSupported(
                f"{type(made).__name__} would pass by AT.", "Use the cursors of the connection, or inherit from them."
            )
        return made

    # --- AT ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.at.resource_id

    def at_flow(self, flow: Flow[R], cursor: Cursor | None = None, **options: Any) -> R:
        """Run a flow on this connection; the user's own statement runs on `cursor`."""
        return run(flow, _Executor(self, cursor, options), self.at)

    @contextmanager
    def at_turn(self) -> Iterator[AtWork]:
        """One thread at a time; what belongs to an ended global transaction is rolled back first."""
        with self._at_lock:
            if self.at.abandoned:
                self.at_flow(self.at.phase_one.roll_back())
                self.at.forget()
            yield self.at

    def at_check_calls(self, statement: Statement) -> None:
        """Refuse functions that may write unseen. Raises NotSupported."""
        flow = self.at.check_calls(statement)
        if flow is not None:
            self.at_flow(flow)

    def at_plan(self, statement: Statement, sets: Iterable[Any]) -> Flow[Outcome] | None:
        """The flow for a statement, or None; refused in a block that began before the global transaction."""
        work = self.at
        if self._plain_blocks and statement.verb.writes:
            raise NotSupported(
                "the `with conn.transaction()` around it was begun before the global transaction.",
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
        """See `troth.client.context.LocalWork`."""
        if not self.at.abandon(xid):
            return
        try:
            with self.at_turn():
                pass  # which has rolled it back
        except psycopg.Error as error:
            log.warning(
                "a local transaction of %s on %s stays open until its next use: %s", xid, self.resource_id, error
            )

    # --- the local transaction ---

    def commit(self) -> None:
        """Commit the local transaction; inside a global one that is a branch of it (see `PhaseOne.commit`)."""
        with self._at_lock:
            if self.at.is_idle:
                super().commit()
                return
        with self.at_turn() as work:
            work.phase_one.notice(in_transaction=work.in_transaction)
            if work.phase_one.local is None:
                super().commit()
                return
            self._refuse_in_block("commit")
            self.at_flow(work.phase_one.commit(work.situation(autocommit=self.autocommit).xid))

    def rollback(self) -> None:
        """Roll the local transaction back."""
        with self._at_lock:
            if self.at.phase_one.local is not None:
                self._refuse_in_block("rollback")
            super().rollback()
            self.at.forget()

    def _refuse_in_block(self, what: str) -> None:
        if self._at_blocks:
            raise psycopg.ProgrammingError(f"Explicit {what}() forbidden within a Transaction context.")

    def close(self) -> None:
        """Close the connection; an open local transaction is rolled back."""
        self.at.forget()
        self.at.queue.close()
        super().close()

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Any]:
        """`psycopg.Connection.transaction`: a local transaction, or a savepoint in one."""
        if not self.at.concerns:
            self._plain_blocks += 1
            try:
                with super().transaction(savepoint_name, force_rollback) as plain:
                    yield plain
            finally:
                self._plain_blocks -= 1
            return
        with self.at_turn() as work:
            block = Block(work, savepoint_name, self._at_blocks, autocommit=self.autocommit)
            self.at_flow(block.enter())
        watch(self)
        self._at_blocks += 1
        try:
            yield block
        except BaseException as error:
            self._at_blocks -= 1
            self._leave(block, error)
            if not swallows(error, block):
                raise
        else:
            self._at_blocks -= 1
            with self._at_lock:
                self.at_flow(block.leave(keep=not force_rollback))

    def _leave(self, block: Block, error: BaseException) -> None:
        """Roll the block back; trouble in that is noted on the error that ended it."""
        try:
            with self._at_lock:
                self.at_flow(block.leave(keep=False))
        except psycopg.Error as second:
            error.add_note(f"ROLLBACK said: {second}.")

    # --- what would write past AT ---

    def pipeline(self) -> Any:
        """`psycopg.Connection.pipeline`, outside of a global transaction only."""
        self.at.refuse_inside("a pipeline")
        return super().pipeline()

    def tpc_begin(self, xid: Any) -> None:
        """`psycopg.Connection.tpc_begin`, outside of a global transaction only."""
        self.at.refuse_inside("a two-phase transaction of your own")
        super().tpc_begin(xid)


class _Executor:
    """Runs the queries of a flow. psycopg opens local transactions by itself, unless in autocommit."""

    def __init__(self, connection: Connection, cursor: Cursor | None, options: dict[str, Any]) -> None:
        self._connection = connection
        self._queue = connection.at.queue
        self._users = None if cursor is None else (cursor, options)

    def postpone(self, step: Query) -> Later:
        """Let it wait for the next one."""
        return Later(NOTHING) if self._queue.passes(step.sql, self._connection) else self._queue.put(step)

    def query(self, step: Query) -> Rows:
        """Run it with all that waits for it, and fetch everything."""
        if self._queue.passes(step.sql, self._connection):
            return NOTHING
        connection, queue = self._connection, self._queue
        begin, waiting = begins(connection), queue.take(step.sql, connection)
        if begin is not None:
            waiting.insert(0, Waiting(Query(begin), Later()))
        with connection.lock:
            return connection.wait(queue.trip(connection, waiting, step, self._users))


class Cursor(Shown, psycopg.Cursor[Any]):
    """`psycopg.Cursor` under AT."""

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        super().__init__(connection, row_factory=row_factory)
        self._forget_shown()

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        """Execute one statement; arguments as `psycopg.Cursor.execute` takes them."""
        self._at_rows = None
        with self._conn._at_lock:
            if self._conn.at.is_idle:
                return super().execute(query, params, **options)
        with self._conn.at_turn() as work:
            if not work.concerns:
                return super().execute(query, params, **options)
            statement = work.parse(query, self, parameterised=params is not None)
            self._conn.at_check_calls(statement)
            flow = self._conn.at_plan(statement, [params])
            if flow is None:
                return super().execute(query, params, **options)
            self._show(statement, self._conn.at_flow(flow, self, **options))
        return self

    def executemany(self, query: Any, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Execute one statement for each of `params_seq`. Inside a global transaction that is one local transaction."""
        self._forget_shown()
        with self._conn.at_turn() as work:
            if not work.concerns:
                super().executemany(query, params_seq, returning=returning)
                return
            if returning:
                raise NotSupported("executemany(returning=True) is not supported.", "Use execute() for each.")
            given = list(params_seq)
            statement = work.parse(query, self, parameterised=True)
            self._conn.at_check_calls(statement)
            flow = self._conn.at_plan(statement, given)
            if flow is None or not statement.verb.writes:
                super().executemany(query, given)
                return
            outcome = self._conn.at_flow(flow, self)
            self._show(statement, Outcome(outcome.rowcount, last_rowcount=outcome.last_rowcount))

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        """`psycopg.Cursor.stream`; inside a global transaction for reading only."""
        self._check_read(query, params, "stream()")
        return super().stream(query, params, **options)

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """`psycopg.Cursor.copy`; inside a global transaction TO STDOUT only."""
        self._check_read(statement, params, "COPY")
        return super().copy(statement, params, **options)

    def _check_read(self, query: Any, params: Any, what: str) -> None:
        self._forget_shown()
        work = self._conn.at
        if work.concerns:
            self._conn.at_check_calls(work.parse(query, self, parameterised=params is not None))
            if not work.reads(query, self, parameterised=params is not None):
                work.refuse_inside(what)

    # --- results ---

    @property
    def rownumber(self) -> int | None:
        """Index of the next row."""
        return super().rownumber if self._at_rows is None else self._at_next

    def fetchone(self) -> Any:
        """The next row, or None."""
        if self._at_rows is None:
            return super().fetchone()
        return next(iter(self._take(1)), None)

    def fetchmany(self, size: int = 0) -> list[Any]:
        """The next `size` (`arraysize`) rows."""
        return super().fetchmany(size) if self._at_rows is None else self._take(size or self.arraysize)

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return super().fetchall() if self._at_rows is None else self._take(None)

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move in the rows."""
        if self._at_rows is None:
            super().scroll(value, mode)
        else:
            self._move(value, mode)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row


class ServerCursor(psycopg.ServerCursor[Any]):
    """`psycopg.ServerCursor`: it reads, so AT has only to see that it does."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Declare the cursor."""
        connection: Any = self.connection
        work: AtWork = connection.at
        if work.concerns:
            connection.at_check_calls(work.parse(query, self, parameterised=params is not None))
            if not work.reads(query, self, parameterised=params is not None):
                work.refuse_inside("a server-side cursor that does more than read")
        return super().execute(query, params, **options)
