"""A PyMySQL connection under AT.

Outside of a global transaction every call goes straight to the driver's own objects. Inside one, reads do too; writes
become flows (`troth.client.modes.at`), and what would write past AT is refused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

try:
    import pymysql
except ImportError as error:
    raise ImportError("AT on MySQL and MariaDB needs PyMySQL: pip install 'troth[mysql]'") from error

from troth.client.context import reads_committed, watch, work_xid
from troth.client.drivers.pymysql_places import (
    MySqlExecutor,
    MySqlPlace,
    MySqlResource,
    arguments_like,
    opened,
    parse_url,
)
from troth.client.drivers.resource import DatabaseUnusable, NoCoordinator
from troth.client.drivers.running import run
from troth.client.drivers.served import ServedResource
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, ResourceClient, query
from troth.client.modes.additive import additions_of
from troth.client.modes.at import LockRetry, PhaseOne, Situation
from troth.client.modes.at_write import Writer
from troth.client.sql.additive import Floor
from troth.client.sql.checked_reads import checked_read, only_set
from troth.client.sql.dialects.mysql import CREATE_UNDO_TABLE, check_undo_table
from troth.client.sql.dialects.mysql_additive import MYSQL_HOT_ROWS
from troth.client.sql.dialects.mysql_images import MySqlOutcome
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb

R = TypeVar("R")

log = logging.getLogger(__name__)


def connect(
    url: str,
    client: ResourceClient | None = None,
    *,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Connection:
    """Open the database under AT. `url` as `parse_url` takes it; `driver_options` go to `pymysql.connect`.

    `client` is None: the process's default one, at each use. The resource is registered now if there is a client, else
    when `troth.init` has connected one.
    """
    place = parse_url(url)
    arguments = place.arguments(driver_options)
    arguments["client_flag"] = arguments.get("client_flag", 0) | pymysql.constants.CLIENT.MULTI_STATEMENTS
    connection = Connection(pymysql.connect(**arguments), place, driver_options, client, additive)
    connection.served.announce()
    return connection


def init(url: str) -> None:
    """Make the undo table in the database, if it is not there. Raises DatabaseUnusable."""
    _run_on(url, query(CREATE_UNDO_TABLE))


def init_hot_rows(url: str) -> None:
    """Make the table of open increments, if it is not there. Raises DatabaseUnusable."""
    _run_on(url, query(MYSQL_HOT_ROWS.create[0]))


def check(url: str) -> list[str]:
    """What is wrong with the undo table, in sentences; empty if nothing is. Raises DatabaseUnusable."""
    return _run_on(url, check_undo_table(parse_url(url).database))


def _run_on(url: str, flow: Flow[R]) -> R:
    try:
        with opened(parse_url(url).arguments({})) as executor:
            return run(flow, executor, NoCoordinator())
    except pymysql.Error as error:
        raise DatabaseUnusable(str(error)) from error


class Connection:
    """`pymysql.connections.Connection` under AT. What is not defined here is the driver's own."""

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
        found_rows = bool(raw.client_flag & pymysql.constants.CLIENT.FOUND_ROWS)
        self._dialect = place.dialect(counts_found=found_rows)
        self._resource = MySqlResource(place, arguments_like(place, given, raw))
        additions = additions_of(self._dialect, additive, self._resource.ask)
        writer = Writer(self._dialect, expects=self._dialect, additions=additions)
        self._phase_one = PhaseOne(self._dialect, place.resource_id, writer, LockRetry(), settle=self._resource.settle)
        self.served = ServedResource(place.resource_id, self._resource, self._phase_one, client)
        self._executor = MySqlExecutor(raw)
        # AT sends several statements in one text; the user only if the user has asked for that, too.
        self._user_sends_several = bool(given.get("client_flag", 0) & pymysql.constants.CLIENT.MULTI_STATEMENTS)
        # A connection is for one thread at a time; another one may abandon its local transaction, though.
        self._lock = threading.RLock()
        self._abandoned = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    # --- statements ---

    def cursor(self, cursor: Any = None) -> Cursor:
        """A cursor under AT; `cursor` is a class of PyMySQL's (default: the connection's)."""
        return Cursor(self, self._raw.cursor(cursor))

    def statement(self, cursor: Any, sql: Any, sets: Iterable[Any] | None, *, many: bool) -> Outcome | None:
        """Execute on the driver's `cursor`; None where the driver has done it and has the result itself.

        `sets` are the parameters, once for each execution; None: the text is run as it stands, without parameters.
        """
        with self._lock:
            self._drop_abandoned()
            inside = work_xid() is not None or self._phase_one.local is not None
            statement = self._dialect.parse(_text(sql), parameterised=sets is not None)
            if not inside:
                return self._passed(cursor, statement, sql, sets, many=many)
            return self._inside(cursor, statement, sql, sets, many=many)

    def _inside(
        self, cursor: Any, statement: Statement, sql: Any, sets: Iterable[Any] | None, *, many: bool
    ) -> Outcome | None:
        self._phase_one.notice(in_transaction=self._executor.in_transaction)
        if reads_committed():
            statement = checked_read(statement, lambda sql: self._locking(sql, parameterised=sets is not None))
        match statement.verb:
            case Verb.READ:
                return self._passed(cursor, statement, sql, sets, many=many)
            case Verb.REFUSED:
                raise statement.refusal()
            case Verb.INSERT | Verb.UPDATE | Verb.DELETE:
                return self._write(statement, [()] if sets is None else [_parameters(one) for one in sets])
            case Verb.LOCKING_READ:
                return self._locking_read(statement, () if sets is None else _parameters(only_set(sets)))
            case Verb.COMMIT if self._executor.in_transaction:
                self.commit()
            case Verb.ROLLBACK if self._executor.in_transaction:
                self.rollback()
            case Verb.COMMIT | Verb.ROLLBACK:
                return self._passed(cursor, statement, sql, sets, many=many)
            case Verb.BEGIN if self._executor.in_transaction:
                raise NotSupported("BEGIN would commit the open local transaction.", "Commit or roll it back first.")
            case _:
                watch(self)
                self._run(self._phase_one.control(self._situation(), statement))
        return Outcome(0)

    def _passed(
        self, cursor: Any, statement: Statement, sql: Any, sets: Iterable[Any] | None, *, many: bool
    ) -> Outcome | None:
        """Let the driver execute it; the driver's cursor then has the result."""
        if statement.verb is Verb.REFUSED or statement.sql.lstrip()[:3].upper() == "SET":
            self._dialect.forget_session()
        if statement.verb not in (Verb.READ, Verb.LOCKING_READ):
            self._dialect.has_written = True
        self._executor.flush()
        try:
            if not many and ";" not in statement.sql:
                cursor.execute(sql, *(sets or ()))
            else:
                with self._as_given(statement.sql):
                    if many:
                        cursor.executemany(sql, sets)
                    else:
                        cursor.execute(sql, *(sets or ()))
        except Exception as error:
            self._executor.note_error(error)
            raise
        self._executor.note(gave_rows=cursor.description is not None)
        self._dialect.has_written = self._dialect.has_written and self._executor.in_transaction
        return None

    @contextmanager
    def _as_given(self, sql: str) -> Iterator[None]:
        """Inside, the server takes several statements in one text only if the user has opened the connection so."""
        if self._user_sends_several or ";" not in sql.rstrip("; \t\r\n"):
            yield
            return
        with self._executor.one_by_one():
            yield

    def _locking(self, sql: str, *, parameterised: bool) -> Statement:
        return self._dialect.parse(f"{sql}\nLOCK IN SHARE MODE", parameterised=parameterised)

    def _write(self, statement: Statement, sets: list[Parameters]) -> Outcome:
        self.served.register()
        watch(self)
        return self._run(self._phase_one.write(self._situation(), statement, sets))

    def _locking_read(self, statement: Statement, given: Parameters) -> Outcome:
        self.served.register()
        watch(self)
        return self._run(self._phase_one.read_locked(self._situation(), statement, given))

    def _situation(self) -> Situation:
        return Situation(work_xid(), self._executor.in_transaction, not self._executor.is_autocommit)

    def _run(self, flow: Flow[R]) -> R:
        return run(flow, self._executor, self.served)

    # --- the local transaction ---

    def begin(self) -> None:
        """Begin a local transaction."""
        with self._raw.cursor(pymysql.cursors.Cursor) as cursor:
            self.statement(cursor, "BEGIN", None, many=False)

    def commit(self) -> None:
        """Commit the local transaction; inside a global one that is a branch of it (see `PhaseOne.commit`)."""
        with self._lock:
            self._drop_abandoned()
            self._phase_one.notice(in_transaction=self._executor.in_transaction)
            if self._phase_one.local is None:
                self._raw.commit()
                self._ended()
            else:
                self._run(self._phase_one.commit(work_xid()))
                self._dialect.has_written = False

    def rollback(self) -> None:
        """Roll the local transaction back."""
        with self._lock:
            self._forget()
            self._raw.rollback()
            self._ended()

    def autocommit(self, value: bool) -> None:
        """Let the server commit each statement by itself from now on, or no more; not inside of a local transaction."""
        with self._lock:
            if self._phase_one.local is not None:
                raise NotSupported(
                    "autocommit() would commit the open local transaction.", "Commit or roll back first."
                )
            self._raw.autocommit(value)
            self._executor.note(gave_rows=False)

    def _ended(self) -> None:
        self._executor.note(gave_rows=False)
        self._dialect.has_written = False

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        local = self._phase_one.local
        if local is None or local.xid != xid or not local.changes:
            return None
        return f"its local transaction on {self.resource_id} was not committed"

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`."""
        local = self._phase_one.local
        if local is None or local.xid != xid:
            return
        self._abandoned = True
        if not self._lock.acquire(blocking=False):
            return  # in use by another thread; its next call sees the mark
        try:
            self._drop_abandoned()
        except pymysql.Error as error:
            log.warning("a local transaction of %s on %s is gone with its connection: %s", xid, self.resource_id, error)
        finally:
            self._lock.release()

    def _drop_abandoned(self) -> None:
        """Roll back what belongs to a global transaction that has ended: it can never be committed."""
        if self._abandoned:
            self.rollback()

    def _forget(self) -> None:
        self._executor.drop_postponed()
        self._phase_one.local = None
        self._abandoned = False

    def close(self) -> None:
        """Close the connection; the server rolls an open local transaction back."""
        with self._lock:
            self._forget()
            self._raw.close()
            self._executor.in_transaction = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the coordinator ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self._place.resource_id

    # --- what would write past AT ---

    def query(self, *arguments: Any, **options: Any) -> Any:
        """`pymysql.connections.Connection.query`, outside of a global transaction only."""
        self.refuse_inside("Connection.query")
        self._dialect.forget_session()
        with self._as_given(_text(arguments[0] if arguments else options.get("sql", ""))):
            return self._raw.query(*arguments, **options)

    def select_db(self, db: str) -> None:
        """Use another database, outside of a global transaction only. (AT works on the one of the URL.)"""
        self.refuse_inside("select_db")
        self._dialect.forget_session()
        self._raw.select_db(db)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Use another character set, outside of a global transaction only. (AT needs utf8mb4.)"""
        self.refuse_inside("set_character_set")
        self._dialect.forget_session()
        self._raw.set_character_set(charset, collation)

    def ping(self, reconnect: bool = False) -> None:
        """Whether the server is there; a new connection would lose the local transaction, so none is made inside."""
        self._raw.ping(reconnect and self._phase_one.local is None)
        if reconnect:
            self._dialect.forget_session()

    def refuse_inside(self, what: str) -> None:
        """Raises NotSupported inside a global transaction, or where a local one still belongs to one."""
        if work_xid() is not None or self._phase_one.local is not None:
            raise NotSupported(
                f"{what} may write past AT.", "Do it outside of the global transaction, or use execute()."
            )


def _text(sql: Any) -> str:
    return sql.decode("utf-8", "surrogateescape") if isinstance(sql, bytes | bytearray) else str(sql)


def _parameters(given: Any) -> Parameters:
    """The parameters of one execution, as PyMySQL takes them: a value alone is one, too."""
    if isinstance(given, Mapping | tuple | list):
        return given
    return (given,)


class Cursor:
    """A cursor of PyMySQL's under AT. `_outcome` is the result of a statement that AT executed, if it was one."""

    def __init__(self, connection: Connection, raw: Any) -> None:
        object.__setattr__(self, "connection", connection)
        object.__setattr__(self, "_raw", raw)
        self._set_outcome(None)

    def _set_outcome(self, outcome: Outcome | None) -> None:
        object.__setattr__(self, "_outcome", outcome)
        object.__setattr__(self, "_rows", iter(self._shaped(outcome)) if outcome is not None else None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._raw, name, value)

    def execute(self, query: Any, args: Any = None) -> int:
        """Execute one statement; gives the number of rows."""
        self._set_outcome(None)
        sets = None if args is None else [args]
        self._set_outcome(self.connection.statement(self._raw, query, sets, many=False))
        return self.rowcount

    def executemany(self, query: Any, args: Iterable[Any]) -> int | None:
        """Execute one statement for each of `args`. Inside a global transaction that is one local transaction."""
        self._set_outcome(None)
        sets = list(args)
        if not sets:
            return None
        outcome = self.connection.statement(self._raw, query, sets, many=True)
        self._set_outcome(None if outcome is None else MySqlOutcome(outcome.rowcount, lastrowid=_lastrowid(outcome)))
        return self.rowcount

    def callproc(self, *arguments: Any, **options: Any) -> Any:
        """`pymysql.cursors.Cursor.callproc`, outside of a global transaction only."""
        self.connection.refuse_inside("a stored procedure")
        self.connection._dialect.forget_session()
        self._set_outcome(None)
        with self.connection._as_given(_text(arguments[0] if arguments else options.get("procname", ""))):
            return self._raw.callproc(*arguments, **options)

    @property
    def rowcount(self) -> int:
        """Rows of the last result, or changed by the last statement."""
        outcome: Outcome | None = self._outcome
        return int(self._raw.rowcount) if outcome is None else outcome.rowcount

    @property
    def lastrowid(self) -> Any:
        """What the server's counter gave to the last row."""
        outcome: Outcome | None = self._outcome
        return self._raw.lastrowid if outcome is None else _lastrowid(outcome)

    @property
    def description(self) -> Any:
        """Names of the last result's columns."""
        outcome: Outcome | None = self._outcome
        if outcome is None:
            return self._raw.description
        return None if outcome.columns is None else tuple((name, *[None] * 6) for name in outcome.columns)

    def fetchone(self) -> Any:
        """The next row, or None."""
        return self._raw.fetchone() if self._rows is None else next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> Any:
        """The next `size` (`arraysize`) rows."""
        wanted = self._raw.arraysize if size is None else size
        return self._raw.fetchmany(wanted) if self._rows is None else tuple(islice(self._rows, wanted))

    def fetchall(self) -> Any:
        """All rows that are left."""
        return self._raw.fetchall() if self._rows is None else tuple(self._rows)

    def nextset(self) -> Any:
        """Go to the next result; a statement that AT executed has one only."""
        return self._raw.nextset() if self._rows is None else None

    def close(self) -> None:
        """Close the cursor."""
        self._set_outcome(None)
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._rows is not None:
            return next(self._rows)
        row = self._raw.fetchone()
        if row is None:
            raise StopIteration
        return row

    def _shaped(self, outcome: Outcome) -> list[Any]:
        """The rows as the user's kind of cursor gives them."""
        if outcome.columns is not None and isinstance(self._raw, pymysql.cursors.DictCursorMixin):
            return [self._raw.dict_type(zip(outcome.columns, row, strict=True)) for row in outcome.rows]
        return list(outcome.rows)


def _lastrowid(outcome: Outcome) -> int | None:
    return outcome.lastrowid if isinstance(outcome, MySqlOutcome) else None
