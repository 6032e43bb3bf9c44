"""Cursors of asyncmy under AT."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from asyncmy.cursors import DictCursorMixin

from troth.client.sql.dialects.mysql_images import MySqlOutcome
from troth.client.sql.image import Outcome

if TYPE_CHECKING:
    from troth.client.drivers.asyncmy import Connection


class Cursor:
    """A cursor of asyncmy's under AT. `_outcome` is the result of a statement that AT executed, if it was one."""

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

    async def execute(self, query: Any, args: Any = None) -> int:
        """Execute one statement; gives the number of rows."""
        self._set_outcome(None)
        sets = None if args is None else [args]
        self._set_outcome(await self.connection.statement(self._raw, query, sets, many=False))
        return self.rowcount

    async def executemany(self, query: Any, args: Iterable[Any]) -> int | None:
        """Execute one statement for each of `args`. Inside a global transaction that is one local transaction."""
        self._set_outcome(None)
        sets = list(args)
        if not sets:
            return None
        outcome = await self.connection.statement(self._raw, query, sets, many=True)
        self._set_outcome(None if outcome is None else MySqlOutcome(outcome.rowcount, lastrowid=_lastrowid(outcome)))
        return self.rowcount

    async def callproc(self, procname: str, args: Any = ()) -> Any:
        """`asyncmy.cursors.Cursor.callproc`, outside of a global transaction only."""
        connection = self.connection
        async with connection.turn():
            connection.refuse_inside("a stored procedure")
            connection._dialect.forget_session()
            self._set_outcome(None)
            async with connection.as_given(procname):
                return await self._raw.callproc(procname, args)

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

    async def fetchone(self) -> Any:
        """The next row, or None."""
        return await self._raw.fetchone() if self._rows is None else next(self._rows, None)

    async def fetchmany(self, size: int | None = None) -> Any:
        """The next `size` (`arraysize`) rows."""
        wanted = self._raw.arraysize if size is None else size
        return await self._raw.fetchmany(wanted) if self._rows is None else tuple(islice(self._rows, wanted))

    async def fetchall(self) -> Any:
        """All rows that are left."""
        return await self._raw.fetchall() if self._rows is None else tuple(self._rows)

    async def nextset(self) -> Any:
        """Go to the next result; a statement that AT executed has one only."""
        return await self._raw.nextset() if self._rows is None else None

    async def close(self) -> None:
        """Close the cursor. What it counted can still be asked for."""
        await self._raw.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    def _shaped(self, outcome: Outcome) -> list[Any]:
        """The rows as the user's kind of cursor gives them."""
        if outcome.columns is not None and isinstance(self._raw, DictCursorMixin):
            return [self._raw.dict_type(zip(outcome.columns, row, strict=True)) for row in outcome.rows]
        return list(outcome.rows)


def _lastrowid(outcome: Outcome) -> int | None:
    return outcome.lastrowid if isinstance(outcome, MySqlOutcome) else None
