"""Queries that wait for the next one, so that both go to the server in one round trip (psycopg's pipeline mode).

The local transaction stays AT's own: BEGIN and COMMIT go as statements, since psycopg's `commit()` would wait inside a
pipeline, and its BEGIN would be answered before anything else is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import psycopg
from psycopg._pipeline_base import BasePipeline
from psycopg.generators import fetch_many, send
from psycopg.rows import tuple_row

from troth.client.drivers.psycopg_place import arguments_of, prepare_of, rows_of
from troth.client.flow import Later, Query, Rows

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

NOTHING = Rows((), [], -1, None)

_IDLE = psycopg.pq.TransactionStatus.IDLE
_FAILED = psycopg.pq.TransactionStatus.INERROR
_BACK = "ROLLBACK TO "
_BAD = psycopg.pq.ConnStatus.BAD
_FATAL, _ABORTED = psycopg.pq.ExecStatus.FATAL_ERROR, psycopg.pq.ExecStatus.PIPELINE_ABORTED
_WORDS = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT ", "RELEASE ", "LOCK ")
_SPARE = 64
"""Cursors of our own that a connection keeps."""

PIPELINES = psycopg.Pipeline.is_supported()
"""Else (libpq before 14) each query has a round trip of its own."""

_NEEDED = ("_communicate_gen", "_enqueue_sync", "_process_results")
if not (all(hasattr(BasePipeline, name) for name in _NEEDED) and hasattr(psycopg.Cursor, "_execute_gen")):
    raise ImportError(f"AT does not know this psycopg ({psycopg.__version__})")

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
AnyCursor = psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]
Users: TypeAlias = tuple[AnyCursor, Mapping[str, Any]]
"""The user's own cursor, and the options of the call."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A query that is not sent yet, and where its answer goes."""

    step: Query
    answer: Later


class Queue:
    """What waits for the next query of one connection."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._trips = Trips()

    def put(self, step: Query) -> Later:
        """Let `step` wait."""
        waiting = Waiting(step, Later())
        self._waiting.append(waiting)
        return waiting.answer

    def take(self, sql: str, connection: AnyConnection) -> list[Waiting]:
        """All that is to be sent before `sql`; it waits no more.

        In a local transaction that has failed that is nothing: whatever brings it back drops what was put off. (COMMIT
        cannot, and has to say so.)
        """
        taken, self._waiting = self._waiting, []
        failed = connection.pgconn.transaction_status == _FAILED
        return [] if failed and sql != "COMMIT" else taken

    def clear(self) -> None:
        """Forget all that waits."""
        self._waiting.clear()

    def close(self) -> None:
        """Let go of the cursors that were kept."""
        self._waiting.clear()
        self._trips = Trips()

    def trip(
        self, connection: AnyConnection, before: Sequence[Waiting], last: Query, users: Users | None
    ) -> PQGen[Rows]:
        """What was taken and the query that took it, for `connection.wait`."""
        if before and PIPELINES:
            return self._trips.together(connection, before, last, users)
        return self._trips.one_by_one(connection, [*before, Waiting(last, Later())], users)

    def passes(self, sql: str, connection: AnyConnection) -> bool:
        """Whether there is nothing to send.

        psycopg begins by itself, what is not open need not be ended, and what waits need not be sent to be undone: it
        stands behind every savepoint that the server knows.
        """
        if sql == "BEGIN":
            return not connection.autocommit
        if sql.startswith(_BACK):
            return self._back_to(sql.removeprefix(_BACK))
        if sql not in ("COMMIT", "ROLLBACK"):
            return False
        idle = connection.pgconn.transaction_status == _IDLE
        if idle or sql == "ROLLBACK":
            self.clear()
        return idle

    def _back_to(self, savepoint: str) -> bool:
        for place, waiting in enumerate(self._waiting):
            if waiting.step.sql == savepoint:
                del self._waiting[place + 1 :]
                return True
        self.clear()
        return False


def begins(connection: AnyConnection) -> str | None:
    """The BEGIN that psycopg would send before a statement now, with its isolation level."""
    if not PIPELINES or connection.autocommit or connection.pgconn.transaction_status != _IDLE:
        return None
    return connection._get_tx_start_command().decode()


class Trips:
    """One connection's round trips. What it gives are psycopg's generators: `wait` of either colour runs them."""

    def __init__(self) -> None:
        self._spare: dict[str, psycopg.Cursor[Any]] = {}

    def together(
        self, connection: AnyConnection, before: Sequence[Waiting], last: Query, users: Users | None
    ) -> PQGen[Rows]:
        """`before` and `last` in one round trip; the server runs nothing behind the first error.

        `users` runs the user's own statement on the user's own cursor.
        """
        connection._check_connection_ok()
        waiting = [*before, Waiting(last, Later())]
        batch = _Batch(connection)
        try:
            for one in waiting:
                yield from self._queue(batch, one, users)
        except psycopg.Error as error:  # of psycopg itself: what stands before it is run all the same
            batch.errors.append(error)
        finally:
            yield from batch.run()
        batch.raise_first()
        return waiting[-1].answer.answer

    def one_by_one(self, connection: AnyConnection, waiting: Sequence[Waiting], users: Users | None) -> PQGen[Rows]:
        """A query for which nothing waits, or where libpq knows no pipelines: each has a trip of its own."""
        rows = NOTHING
        for one in waiting:
            if one.step.as_user and users is not None:
                cursor, options = users
                yield from cursor._execute_gen(*arguments_of(one.step), **options)
            else:
                cursor = _own_cursor(connection)
                yield from cursor._execute_gen(*arguments_of(one.step), prepare=prepare_of(one.step))
            rows = one.answer.rows = rows_of(cursor)
        return rows

    def _queue(self, batch: _Batch, one: Waiting, users: Users | None) -> PQGen[None]:
        step = one.step
        if step.as_user and users is not None:
            cursor, options = users
            yield from cursor._execute_gen(*arguments_of(step), **options)
            batch.answers.append((one.answer, cursor))
        elif not step.parameters and step.sql.startswith(_WORDS):
            batch.word(step.sql.replace("%%", "%"), one.answer)
        else:
            own = self._cursor(batch, step.sql)
            yield from own._execute_gen(*arguments_of(step), prepare=prepare_of(step))
            batch.answers.append((one.answer, own))

    def _cursor(self, batch: _Batch, sql: str) -> psycopg.Cursor[Any]:
        """A cursor of our own that runs nothing else in this trip. One that knows the text has less to do."""
        known = self._spare.get(sql)
        if known is not None and all(known is not cursor for _, cursor in batch.answers):
            return known
        made = _own_cursor(batch.connection)
        if len(self._spare) >= _SPARE:
            self._spare.clear()
        self._spare[sql] = made
        return made


def _own_cursor(connection: AnyConnection) -> psycopg.Cursor[Any]:
    """Either kind of cursor will do: only generators of it are run."""
    return psycopg.Cursor(cast("psycopg.Connection[Any]", connection), row_factory=tuple_row)


class _Batch(BasePipeline):
    """A pipeline that sends nothing before its end: else the server is woken by each query for itself.

    In it psycopg begins nothing by itself: it would wait for the answer.
    """

    def __init__(self, connection: AnyConnection) -> None:
        super().__init__(connection)
        self.connection = connection
        self.answers: list[tuple[Later, AnyCursor]] = []
        self.errors: list[psycopg.Error] = []
        self._encoding = connection.info.encoding
        connection._pipeline = self  # type: ignore[assignment]
        connection._start_query = _nothing  # type: ignore[method-assign]

    def _communicate_gen(self) -> PQGen[None]:
        return _nothing()

    def word(self, sql: str, answer: Later) -> None:
        """Send a command without parameters and rows: nothing to convert, to prepare or to load."""
        text = sql.encode(self._encoding)
        self.command_queue.append(partial(self.pgconn.send_query_params, text, None))
        self.result_queue.append((_Word(answer, self.connection), None))  # type: ignore[arg-type]

    def run(self) -> PQGen[None]:
        """Send all, fetch all, and leave; the errors are in `errors`."""
        try:
            if self.command_queue:
                self.pgconn.enter_pipeline_mode()
                self._enqueue_sync()
                while self.command_queue:
                    self.command_queue.popleft()()
                yield from send(self.pgconn)
                yield from self._fetch_all()
        except psycopg.Error as error:
            self.errors.append(error)
        finally:
            self.connection._pipeline = None
            del self.connection._start_query
            self._leave()
        for answer, cursor in self.answers:
            if cursor.pgresult is not None:
                answer.rows = rows_of(cursor)

    def _fetch_all(self) -> PQGen[None]:
        while self.result_queue:
            results = yield from fetch_many(self.pgconn)
            if not results:
                break
            try:
                self._process_results(self.result_queue.popleft(), results)
            except psycopg.Error as error:
                self.errors.append(error)

    def _leave(self) -> None:
        if self.pgconn.status is _BAD:
            return
        try:
            self.pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:  # an interrupt has left answers behind: nobody can use it any more
            self.pgconn.finish()

    def raise_first(self) -> None:
        """Raise the error that ended it, if one did: what stood behind it says only that it was not run."""
        for error in self.errors:
            if not isinstance(error, psycopg.errors.PipelineAborted):
                raise error
        if self.errors:
            raise self.errors[0]


def _nothing() -> PQGen[None]:
    yield from ()


class _Word:
    """Takes the result of a command as a cursor would."""

    __slots__ = ("_answer", "_connection")

    def __init__(self, answer: Later, connection: AnyConnection) -> None:
        self._answer = answer
        self._connection = connection

    def _check_results(self, results: Sequence[PGresult]) -> None:
        for result in results:
            if result.status == _FATAL:
                raise psycopg.errors.error_from_result(result, encoding=self._connection.info.encoding)
            if result.status == _ABORTED:
                raise psycopg.errors.PipelineAborted("pipeline aborted")

    def _set_results(self, results: Sequence[PGresult]) -> None:
        status = results[0].command_status if results else None
        self._answer.rows = Rows((), [], -1, None, None if status is None else status.decode())
