"""Queries that wait for the next one, so that both go to the server in one round trip (psycopg's pipeline mode).

The local transaction stays AT's own: BEGIN and COMMIT go as statements, since psycopg's `commit()` would wait inside a
pipeline, and its BEGIN would be answered before anything else is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from troth.client.drivers.psycopg_place import rows_of
from troth.client.flow import Later, Query, Rows

if TYPE_CHECKING:
    from psycopg.abc import PQGen

NOTHING = Rows((), [], -1, None)

_IDLE = psycopg.pq.TransactionStatus.IDLE
_FAILED = psycopg.pq.TransactionStatus.INERROR
_BACK = "ROLLBACK TO "

PIPELINES = psycopg.Pipeline.is_supported()
"""Else (libpq before 14) each query has a round trip of its own."""

if not hasattr(psycopg.Pipeline, "_communicate_gen"):
    raise ImportError(f"AT does not know this psycopg ({psycopg.__version__})")

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
AnyCursor = psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A query that is not sent yet, and where its answer goes."""

    step: Query
    answer: Later


class Queue:
    """What waits for the next query of one connection."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

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
        failed = connection.info.transaction_status is _FAILED
        return [] if failed and sql != "COMMIT" else taken

    def clear(self) -> None:
        """Forget all that waits."""
        self._waiting.clear()

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
        idle = connection.info.transaction_status is _IDLE
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
    if not PIPELINES or connection.autocommit or connection.info.transaction_status is not _IDLE:
        return None
    return connection._get_tx_start_command().decode()


@contextmanager
def held_back(pipeline: Any) -> Iterator[None]:
    """What is executed inside goes out in one piece: else the server is woken by each query for itself."""
    pipeline._communicate_gen = _nothing
    try:
        yield
    finally:
        del pipeline._communicate_gen


def _nothing() -> PQGen[None]:
    yield from ()


def fill(answers: Sequence[tuple[Later, AnyCursor]]) -> None:
    """Give the answers that have come, also if a query behind them has failed."""
    for answer, cursor in answers:
        if cursor.pgresult is not None:
            answer.rows = rows_of(cursor)


def raise_first(errors: Sequence[psycopg.Error]) -> None:
    """Raise the error that ended a pipeline, if one did: what stood behind it says only that it was not run."""
    for error in errors:
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        for cause in reversed(chain):
            if isinstance(cause, psycopg.Error) and not isinstance(cause, psycopg.errors.PipelineAborted):
                raise cause
    if errors:
        raise errors[0]
