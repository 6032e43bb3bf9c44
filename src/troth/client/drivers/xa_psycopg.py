"""A psycopg 3 connection under XA: `psycopg.Connection` whose `commit()` inside a global transaction prepares a branch.

Statements run as they do without troth. In autocommit each one inside a global transaction is a branch of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

try:
    import psycopg
    from psycopg import pq
    from psycopg.rows import tuple_row
except ImportError as error:
    raise ImportError("XA on PostgreSQL needs psycopg 3: pip install 'troth[postgresql]'") from error

from troth.client.context import current_xid, watch
from troth.client.drivers.psycopg_place import PostgresUrl, arguments_of, parse_url, rows_of
from troth.client.drivers.running import run
from troth.client.drivers.xa_resource import without
from troth.client.drivers.xa_work import SHOW_SETTING, XaWork, check_server
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, ResourceClient, Rows

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

log = logging.getLogger(__name__)

_IDLE = pq.TransactionStatus.IDLE
_NO_ROWS = Rows((), [], -1, None)


def connect(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database under XA. `url` as for AT; `driver_options` go to `psycopg.connect`.

    Raises:
        NotSupported: the server keeps no prepared transactions; the text has the fix.
    """
    return Connection.connect(url, client=client, **driver_options)


class Connection(psycopg.Connection[Any]):
    """`psycopg.Connection` under XA. Made by `connect`, or by a pool that has it as its `connection_class`."""

    xa: XaWork

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor
        self._xa_lock = threading.RLock()

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, client: ResourceClient | None = None, **options: Any
    ) -> Self:
        """Open a connection; `conninfo` is a URL or libpq's own text."""
        place = parse_url(conninfo) if "://" in conninfo else PostgresUrl(conninfo, None)
        connection = super().connect(place.conninfo, autocommit=True, **without(options, "autocommit"))
        try:
            with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
                check_server(cursor.execute(SHOW_SETTING).fetchall()[0][0])
            connection.xa = XaWork(place, place.resource_id(connection.info), client)
            connection.xa.served.announce()
            connection.autocommit = options.get("autocommit", False)
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.xa.served.resource_id

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """A cursor under XA; arguments as `psycopg.Connection.cursor` takes them."""
        made = super().cursor(*arguments, **options)
        if not isinstance(made, Cursor | ServerCursor):
            raise NotSupported(f"{type(made).__name__} would pass by XA.", "Use the cursors of the connection.")
        return made

    # --- XA ---

    @contextmanager
    def xa_turn(self) -> Iterator[XaWork]:
        """One thread at a time; what belongs to an ended global transaction is rolled back first."""
        with self._xa_lock:
            if self.xa.phase_one.abandoned:
                super().rollback()
                self.xa.phase_one.forget()
            elif self.xa.phase_one.xid is not None and self.info.transaction_status is _IDLE:
                self.xa.phase_one.forget()  # the user's own, past us, or there was none yet
            yield self.xa

    @contextmanager
    def xa_statement(self, text: Any, cursor: Any, *, alone: bool = True) -> Iterator[None]:
        """Around one statement. `alone`: it may be a local transaction of its own."""
        with self.xa_turn() as work:
            if not work.concerns:
                yield
                return
            if self.autocommit and self.info.transaction_status is _IDLE:
                if not alone:
                    raise NotSupported("this needs a local transaction inside a global one.", "Use conn.transaction().")
                work.enter(text)
                with self.xa_block():
                    yield
                return
            work.enter(text)
            watch(self)
            yield
            work.phase_one.note(cursor.statusmessage)

    @contextmanager
    def xa_block(self) -> Iterator[list[bool]]:
        """A local transaction that is a branch. Set the item to False, and it is rolled back without an error."""
        with self.xa_turn() as work:
            if self.autocommit:
                self.xa_query(Query(self._get_tx_start_command().decode()))
            else:
                self.xa_query(Query("SELECT 1"))  # psycopg begins
            work.enter(None)
            watch(self)
        keep = [True]
        try:
            yield keep
        except BaseException as error:
            self._xa_run(work.phase_one.roll_back(error))
            raise
        self._xa_run(work.phase_one.commit(current_xid()) if keep[0] else work.phase_one.roll_back())

    def _xa_run(self, flow: Flow[None]) -> None:
        run(flow, _Executor(self), self.xa.served)

    def xa_query(self, step: Query) -> Rows:
        """Run a query of a flow, past XA."""
        if step.sql == "ROLLBACK":
            super().rollback()
            return _NO_ROWS
        with psycopg.Cursor(self, row_factory=tuple_row) as cursor:
            sql, parameters = arguments_of(step)
            cursor.execute(sql, parameters, prepare=False)
            return rows_of(cursor)

    # --- the end of a global transaction (`troth.client.context.LocalWork`) ---

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        return None if self.info.transaction_status is _IDLE else self.xa.phase_one.unfinished(xid)

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`."""
        if not self.xa.abandon(xid):
            return
        try:
            with self.xa_turn():
                pass  # which has rolled it back
        except psycopg.Error as error:
            log.warning("a local transaction of %s on %s stays open: %s", xid, self.resource_id, error)

    # --- the local transaction ---

    def commit(self) -> None:
        """Commit the local transaction; inside a global one that prepares it (see `PostgresPhaseOne.commit`)."""
        with self.xa_turn() as work:
            if not work.concerns or self.info.transaction_status is _IDLE:
                super().commit()
                return
            self._refuse_in_block()
            self._xa_run(work.phase_one.commit(current_xid()))

    def rollback(self) -> None:
        """Roll the local transaction back; the global one may still commit."""
        with self.xa_turn() as work:
            super().rollback()
            work.phase_one.forget()

    def _refuse_in_block(self) -> None:
        if self._num_transactions:
            raise psycopg.ProgrammingError("commit() cannot be used within `with conn.transaction()`")

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """`psycopg.Connection.transaction`; the outermost one inside a global transaction is a branch."""
        with self.xa_turn() as work:
            outermost = work.concerns and self.info.transaction_status is _IDLE
        if not outermost:
            with super().transaction(savepoint_name, force_rollback) as block:
                yield block
            return
        with self.xa_block() as keep:
            keep[0] = False
            with super().transaction(savepoint_name, force_rollback) as block:
                yield block
                keep[0] = not force_rollback  # `psycopg.Rollback` does not come here

    # --- what would go past XA ---

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """`psycopg.Connection.pipeline`, outside of a global transaction only."""
        self.xa.refuse_inside("a pipeline", "Do it outside of the global transaction.")
        with super().pipeline() as pipeline:
            yield pipeline

    def tpc_begin(self, xid: Any) -> None:
        """`psycopg.Connection.tpc_begin`, outside of a global transaction only."""
        self.xa.refuse_inside("a two-phase transaction of your own", "Call commit(): that prepares.")
        super().tpc_begin(xid)


class _Executor:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def query(self, step: Query) -> Rows:
        return self._connection.xa_query(step)


class Cursor(psycopg.Cursor[Any]):
    """`psycopg.Cursor` under XA."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """`psycopg.Cursor.execute`."""
        with _connection(self).xa_statement(query, self):
            return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """`psycopg.Cursor.executemany`; inside a global transaction it is one local transaction."""
        with _connection(self).xa_statement(query, self):
            super().executemany(query, params_seq, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        """`psycopg.Cursor.stream`."""
        with _connection(self).xa_statement(query, self, alone=False):
            yield from super().stream(query, params, **options)

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[psycopg.Copy]:
        """`psycopg.Cursor.copy`."""
        with (
            _connection(self).xa_statement(statement, self),
            super().copy(statement, params, **options) as copy,
        ):
            yield copy


class ServerCursor(psycopg.ServerCursor[Any]):
    """`psycopg.ServerCursor` under XA."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """`psycopg.ServerCursor.execute`."""
        with _connection(self).xa_statement(query, self, alone=False):
            return super().execute(query, params, **options)


def _connection(cursor: Any) -> Connection:
    connection: Connection = cursor.connection
    return connection
