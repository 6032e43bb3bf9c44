"""A SQLite connection under AT: PEP 249, as `sqlite3` has it.

Outside of a global transaction every call goes straight to the driver's own objects. Inside one, reads do too; writes
become flows (`troth.client.modes.at`), and what would write past AT is refused.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from troth.client.context import reads_committed, watch, work_xid
from troth.client.drivers.running import run
from troth.client.drivers.served import ServedResource
from troth.client.drivers.sqlite import SqliteExecutor, SqliteResource, SqliteUrl, check_version, parse_url
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, ResourceClient
from troth.client.modes.additive import additions_of
from troth.client.modes.at import LockRetry, PhaseOne, Situation
from troth.client.modes.at_write import Writer
from troth.client.sql.additive import Floor
from troth.client.sql.checked_reads import checked_read, only_set
from troth.client.sql.dialects.sqlite import SqliteDialect
from troth.client.sql.dialects.sqlite_reads import parse_locking
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb

R = TypeVar("R")

log = logging.getLogger(__name__)

_OWN = ("_raw", "_url", "_dialect", "_phase_one", "served", "_lock", "_abandoned")


def connect(
    url: str,
    client: ResourceClient | None = None,
    *,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Connection:
    """Open the file under AT. `url` as `parse_url` takes it; `driver_options` go to `sqlite3.connect`.

    `client` is None: the process's default one, at each use. The resource is registered now if there is a client, else
    when `troth.init` has connected one.
    """
    check_version()
    place = parse_url(url)
    options = {**place.options, **driver_options}
    if "autocommit" in options and options["autocommit"] != getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None):
        raise NotSupported("AT does not work with sqlite3's `autocommit` attribute.", "Use isolation_level.")
    connection = Connection(sqlite3.connect(place.path, **options), place, client, additive)
    connection.served.announce()
    return connection


class Connection:
    """`sqlite3.Connection` under AT. What is not defined here is the driver's own."""

    def __init__(
        self,
        raw: sqlite3.Connection,
        url: SqliteUrl,
        client: ResourceClient | None,
        additive: Mapping[str, Floor] | None = None,
    ) -> None:
        self._raw = raw
        self._url = url
        self._dialect = SqliteDialect()
        writer = Writer(self._dialect, additions=additions_of(self._dialect, additive))
        self._phase_one = PhaseOne(self._dialect, url.resource_id, writer, LockRetry())
        self.served = ServedResource(url.resource_id, SqliteResource(url.path), self._phase_one, client)
        # sqlite3 lets threads share a connection (check_same_thread=False), statement by statement; here each is many.
        self._lock = threading.RLock()
        self._abandoned = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
            return
        if name in ("isolation_level", "autocommit") and self._phase_one.local is not None:
            raise NotSupported(f"setting {name} would commit the open local transaction.", "Commit or roll back first.")
        setattr(self._raw, name, value)

    # --- statements ---

    def cursor(self, *arguments: Any, **options: Any) -> Cursor:
        """A cursor under AT; arguments as `sqlite3.Connection.cursor` takes them."""
        return Cursor(self, self._raw.cursor(*arguments, **options))

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        """A new cursor that has executed `sql`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        """A new cursor that has executed `sql` for each of `parameters`."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Cursor:
        """Outside of a global transaction only: a script commits as it pleases."""
        return self.cursor().executescript(sql_script)

    def statement(self, cursor: sqlite3.Cursor, sql: str, sets: Iterable[Any], *, many: bool) -> Outcome | None:
        """Execute on the driver's `cursor`; None where the driver has done it and has the result itself."""
        with self._lock:
            self._drop_abandoned()
            return self._statement(cursor, sql, sets, many=many)

    def passed(self, cursor: sqlite3.Cursor, sql: str, parameters: Any) -> bool:
        """Let the driver execute where AT has nothing to do: the shortest way. False: it has."""
        with self._lock:
            if work_xid() is not None or self._phase_one.local is not None or self._abandoned:
                return False
            cursor.execute(sql, parameters)
            return True

    def _statement(self, cursor: sqlite3.Cursor, sql: str, sets: Iterable[Any], *, many: bool) -> Outcome | None:
        if work_xid() is None and self._phase_one.local is None:
            return _passed(cursor, sql, sets, many=many)
        self._phase_one.notice(in_transaction=self._raw.in_transaction)
        statement = self._dialect.parse(sql)
        if reads_committed():
            statement = checked_read(statement, parse_locking)
        match statement.verb:
            case Verb.READ:
                return _passed(cursor, sql, sets, many=many)
            case Verb.REFUSED:
                raise statement.refusal()
            case Verb.INSERT | Verb.UPDATE | Verb.DELETE:
                return self._write(cursor, statement, list(sets))
            case Verb.LOCKING_READ:
                return self._checked_read(cursor, statement, only_set(sets))
            case Verb.COMMIT if self._raw.in_transaction:
                self.commit()
            case Verb.ROLLBACK if self._raw.in_transaction:
                self.rollback()
            case Verb.COMMIT | Verb.ROLLBACK:
                return _passed(cursor, sql, sets, many=many)
            case _:
                watch(self)
                self._run(self._phase_one.control(self._situation(), statement))
        return Outcome(-1)

    def _write(self, cursor: sqlite3.Cursor, statement: Statement, sets: list[Parameters]) -> Outcome:
        self.served.register()
        watch(self)
        with self._plain_text(statement):
            return self._run(self._phase_one.write(self._situation(), statement, sets), cursor)

    def _checked_read(self, cursor: sqlite3.Cursor, statement: Statement, given: Parameters) -> Outcome:
        self.served.register()
        watch(self)
        with self._plain_text(statement):
            return self._run(self._phase_one.read_locked(self._situation(), statement, given), cursor)

    @contextmanager
    def _plain_text(self, statement: Statement) -> Iterator[None]:
        """Images are read as str, whatever the user's text factory makes of text."""
        factory = self._raw.text_factory
        if factory is str:
            yield
            return
        if statement.returns:
            raise NotSupported("RETURNING with a text_factory of your own is refused.", "SELECT the rows instead.")
        self._raw.text_factory = str
        try:
            yield
        finally:
            self._raw.text_factory = factory

    def _situation(self) -> Situation:
        return Situation(work_xid(), self._raw.in_transaction, self._raw.isolation_level is not None)

    def _run(self, flow: Flow[R], cursor: sqlite3.Cursor | None = None) -> R:
        return run(flow, SqliteExecutor(self._raw, cursor), self.served)

    # --- the local transaction ---

    def commit(self) -> None:
        """Commit the local transaction; inside a global one that is a branch of it (see `PhaseOne.commit`)."""
        with self._lock:
            self._drop_abandoned()
            self._phase_one.notice(in_transaction=self._raw.in_transaction)
            if self._phase_one.local is None:
                self._raw.commit()
            else:
                self._run(self._phase_one.commit(work_xid()))

    def rollback(self) -> None:
        """Roll the local transaction back."""
        with self._lock:
            self._raw.rollback()
            self._forget()

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
        except sqlite3.Error as error:  # a connection of another thread (aiosqlite's, say)
            log.warning("a local transaction of %s on %s stays open until its next use: %s", xid, self._url.path, error)
        finally:
            self._lock.release()

    def _drop_abandoned(self) -> None:
        """Roll back what belongs to a global transaction that has ended: it can never be committed."""
        if self._abandoned:
            self._raw.rollback()
            self._forget()

    def _forget(self) -> None:
        self._phase_one.local = None
        self._abandoned = False

    def close(self) -> None:
        """Close the connection; an open local transaction is rolled back."""
        with self._lock:
            self._raw.close()
            self._forget()

    def __enter__(self) -> Self:
        self._raw.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    # --- the coordinator ---

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self._url.resource_id

    # --- what would write past AT ---

    def blobopen(self, *arguments: Any, readonly: bool = False, **options: Any) -> Any:
        """`sqlite3.Connection.blobopen`; inside a global transaction for reading only."""
        if not readonly:
            self.refuse_inside("blobopen for writing")
        return self._raw.blobopen(*arguments, readonly=readonly, **options)  # type: ignore[attr-defined,unused-ignore]

    def deserialize(self, *arguments: Any, **options: Any) -> None:
        """`sqlite3.Connection.deserialize`, outside of a global transaction only."""
        self.refuse_inside("deserialize")
        self._raw.deserialize(*arguments, **options)  # type: ignore[attr-defined,unused-ignore]

    def refuse_inside(self, what: str) -> None:
        """Raises NotSupported inside a global transaction, or where a local one still belongs to one."""
        if work_xid() is not None or self._phase_one.local is not None:
            raise NotSupported(f"{what} writes past AT.", "Do it outside of the global transaction, or use execute().")


def _passed(cursor: sqlite3.Cursor, sql: str, sets: Iterable[Any], *, many: bool) -> Outcome | None:
    """Let the driver execute it; the driver's cursor then has the result."""
    if many:
        cursor.executemany(sql, sets)
    else:
        cursor.execute(sql, *sets)
    return None


class Cursor:
    """`sqlite3.Cursor` under AT. `_outcome` is the result of a statement that AT executed; else the driver has it."""

    def __init__(self, connection: Connection, raw: sqlite3.Cursor) -> None:
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

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """Execute one statement."""
        if self._outcome is not None:
            self._set_outcome(None)
        if self.connection.passed(self._raw, sql, parameters):
            return self
        self._set_outcome(self.connection.statement(self._raw, sql, [parameters], many=False))
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Self:
        """Execute one statement for each of `parameters`. Inside a global transaction that is one local transaction."""
        self._set_outcome(None)
        outcome = self.connection.statement(self._raw, sql, parameters, many=True)
        self._set_outcome(None if outcome is None else Outcome(outcome.rowcount))
        return self

    def executescript(self, sql_script: str, /) -> Self:
        """Outside of a global transaction only: a script commits as it pleases."""
        self.connection.refuse_inside("executescript")
        self._set_outcome(None)
        self._raw.executescript(sql_script)
        return self

    @property
    def rowcount(self) -> int:
        """Rows changed by the last statement."""
        outcome: Outcome | None = self._outcome
        return int(self._raw.rowcount) if outcome is None else outcome.rowcount

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

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next `size` (`arraysize`) rows."""
        wanted = self._raw.arraysize if size is None else size
        if self._rows is None:
            return list(self._raw.fetchmany(wanted))
        return list(islice(self._rows, wanted))

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return list(self._raw.fetchall() if self._rows is None else self._rows)

    def close(self) -> None:
        """Close the cursor."""
        self._set_outcome(None)
        self._raw.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._raw if self._rows is None else self._rows)

    def _shaped(self, outcome: Outcome) -> list[Any]:
        """The rows as the user's row factory makes them. It wants a cursor that shows the names of the columns."""
        factory = self._raw.row_factory
        if factory is None or not outcome.rows or outcome.columns is None:
            return outcome.rows
        names = ", ".join("NULL AS " + '"' + name.replace('"', '""') + '"' for name in outcome.columns)
        shape = self._raw.connection.cursor()
        shape.row_factory = None
        shape.execute(f"SELECT {names}")
        return [factory(shape, row) for row in outcome.rows]
