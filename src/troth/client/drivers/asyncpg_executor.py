"""Runs the queries of a flow on an asyncpg connection.

What gives no rows and needs no answer of its own (`BEGIN`, `LOCK TABLE`, the undo row) waits for the next query: such
texts go together in one trip of the simple protocol, where the server runs nothing behind the first error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from troth.client.drivers.asyncpg_records import whole
from troth.client.drivers.asyncpg_texts import from_dialect, with_literals
from troth.client.flow import Later, Parameters, Query, Rows

NOTHING = Rows((), [], -1, None)
_ROWS_FIRST_WORDS = ("SELECT", "WITH")
_BACK = "ROLLBACK TO "
_CONNECTION_FAILURE = "08006"


class Bare(Protocol):
    """What the executor needs of a connection: asyncpg's own ways, past AT."""

    def at_is_open(self) -> bool:
        """Whether a local transaction is open, or has failed."""
        ...

    async def at_simple(self, sql: str) -> str:
        """Run a text by the simple protocol; the command tag of its last statement."""
        ...

    async def at_fetch(
        self, sql: str, arguments: tuple[object, ...], *, cached: bool, as_user: bool, **options: Any
    ) -> tuple[Any, list[Any]]:
        """Run one statement by the extended protocol; its prepared statement and its records.

        `cached`: the same text will come again. `as_user`: the records are the user's.
        """
        ...


class Executor:
    """`troth.client.drivers.running.AsyncExecutor` and `Postponing`. `options` are for the user's own statement."""

    def __init__(self, connection: Bare, waiting: list[tuple[str, Later]], options: Mapping[str, Any]) -> None:
        self._connection = connection
        self._waiting = waiting
        self._options = options

    def postpone(self, step: Query) -> Later:
        """Let it wait for the next query."""
        later = Later()
        self._waiting.append((step.sql if _gives_rows(step.sql) else _text(step), later))
        if _gives_rows(step.sql) and step.parameters:
            raise TypeError("a postponed query that gives rows has no parameters")
        return later

    async def query(self, step: Query) -> Rows:
        """Run what waits for it, then itself."""
        if step.sql == "ROLLBACK":
            self._waiting.clear()
            if not self._connection.at_is_open():
                return NOTHING
        if step.sql.startswith(_BACK) and self._go_back(step.sql.removeprefix(_BACK)):
            return NOTHING
        if step.as_user or _gives_rows(step.sql):
            await self._run_waiting()
            return await self._rows(step)
        return await self._simple([*self._take(), (_text(step), Later())])

    def _go_back(self, savepoint: str) -> bool:
        """Forget what waits behind `savepoint`; whether that waits itself, so that the server need not hear of it."""
        for place, (sql, _) in enumerate(self._waiting):
            if sql == savepoint:
                del self._waiting[place + 1 :]
                return True
        self._waiting.clear()
        return False

    def _take(self) -> list[tuple[str, Later]]:
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    async def _run_waiting(self) -> None:
        taken = self._take()
        if taken:
            await self._simple(taken)

    async def _simple(self, texts: list[tuple[str, Later]]) -> Rows:
        """Run the texts, as many together as can be."""
        together: list[str] = []
        done = NOTHING
        for sql, later in texts:
            if not _gives_rows(sql):
                together.append(sql)
                later.rows = NOTHING
                continue
            if together:
                await self._at_once(together)
                together = []
            later.rows = done = await self._rows(Query(sql))
        if together:
            done = await self._at_once(together)
        return done

    async def _at_once(self, texts: list[str]) -> Rows:
        try:
            # A line of its own for each `;`: a comment of the user's may end the line before.
            status = await self._connection.at_simple("\n;\n".join(texts))
        except OSError as error:
            raise _lost(error) from error
        return Rows((), [], count_of(status), None, status)

    async def _rows(self, step: Query) -> Rows:
        options = self._options if step.as_user else {}
        sql, arguments = _for_asyncpg(step)
        try:
            statement, records = await self._connection.at_fetch(
                sql, arguments, cached=step.as_user or not step.parameters, as_user=step.as_user, **options
            )
        except OSError as error:
            raise _lost(error) from error
        columns = tuple(attribute.name for attribute in statement.get_attributes())
        status = statement.get_statusmsg()
        rows = [whole(record) for record in records]
        return Rows(columns, rows, count_of(status), None, status, records if step.as_user else None)


def _gives_rows(sql: str) -> bool:
    return sql.lstrip()[:6].upper().startswith(_ROWS_FIRST_WORDS)


def _text(step: Query) -> str:
    values = step.parameters
    if isinstance(values, Mapping):
        raise TypeError("AT's own queries have no named parameters")
    return with_literals(step.sql, values)


def _for_asyncpg(step: Query) -> tuple[str, tuple[object, ...]]:
    if not step.as_user:
        return _text(step), ()
    sql, names = from_dialect(step.sql)
    return sql, tuple(_value(step.parameters, name) for name in names)


def _value(given: Parameters, name: str) -> object:
    return given[name] if isinstance(given, Mapping) else given[int(name) - 1]


def _lost(error: OSError) -> OSError:
    """A connection that ended, or a time limit, says nothing of what the server has done."""
    error.sqlstate = _CONNECTION_FAILURE  # type: ignore[attr-defined]
    return error


def count_of(status: str | None) -> int:
    """The number of rows in a command tag; -1: it has none."""
    last = (status or "").rpartition(" ")[2]
    return int(last) if last.isdigit() else -1
