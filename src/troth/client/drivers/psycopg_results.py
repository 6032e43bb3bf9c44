"""A result that AT has made, shown by the user's own cursor as psycopg would show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.pq.misc import PGresAttDesc

from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb

if TYPE_CHECKING:
    from psycopg._cursor_base import BaseCursor

    _Base = BaseCursor[Any, Any]
else:
    _Base = object


_NEEDED = ("_tx", "_results", "_rowcount", "_statusmessage", "_pgconn", "_make_row_maker")
if not all(hasattr(psycopg.Cursor, name) for name in _NEEDED):
    # Without them a statement with RETURNING would show the columns of the image, too.
    raise ImportError(f"AT does not know this psycopg ({psycopg.__version__})")


class Shown(_Base):
    """Rows of a statement with RETURNING, cut to the columns that the user asked for (`_at_rows`); else psycopg's.

    The cursor's own result is replaced by one without rows that describes these columns, so that `description` and row
    factories are psycopg's own affair.
    """

    _at_rows: list[Any] | None
    _at_next: int

    def _forget_shown(self) -> None:
        self._at_rows = None
        self._at_next = 0

    def _show(self, statement: Statement, outcome: Outcome) -> None:
        """Show `outcome`; the full result is still the cursor's, if the statement returns something."""
        rows: list[Any] | None = None
        if outcome.columns is None:
            self.pgresult = self._pgconn.make_empty_result(pq.ExecStatus.COMMAND_OK)
        else:
            width = len(outcome.columns)
            full = self._tx.load_rows(0, self._ntuples(), tuple)
            self.pgresult = self._described(width)
            make_row = self._make_row_maker()
            rows = [make_row(full[int(str(place))][:width]) for (place,) in outcome.rows]
        self._results = [self.pgresult]
        self._at_rows = rows
        self._at_next = 0
        self._rowcount = outcome.rowcount
        self._statusmessage = _tag(statement.verb, outcome)

    def _ntuples(self) -> int:
        return 0 if self.pgresult is None else self.pgresult.ntuples

    def _described(self, width: int) -> Any:
        """A result without rows that has the first `width` columns of the present one."""
        full = self.pgresult
        shape = self._pgconn.make_empty_result(pq.ExecStatus.TUPLES_OK)
        if full is not None and width:
            shape.set_attributes(
                [
                    PGresAttDesc(
                        full.fname(place) or b"",
                        full.ftable(place),
                        full.ftablecol(place),
                        full.fformat(place),
                        full.ftype(place),
                        full.fsize(place),
                        full.fmod(place),
                    )
                    for place in range(width)
                ]
            )
        return shape

    def _take(self, count: int | None) -> list[Any]:
        """The next `count` rows (None: all that are left)."""
        rows = self._at_rows or []
        end = len(rows) if count is None else min(len(rows), self._at_next + count)
        taken = rows[self._at_next : end]
        self._at_next = end
        return taken

    def _move(self, value: int, mode: str) -> None:
        """`scroll`. Raises IndexError."""
        if mode not in ("relative", "absolute"):
            raise ValueError(f"bad mode: {mode}. It should be 'relative' or 'absolute'")
        place = self._at_next + value if mode == "relative" else value
        if not 0 <= place < len(self._at_rows or ()):
            raise IndexError("position out of bound")
        self._at_next = place


def _tag(verb: Verb, outcome: Outcome) -> bytes:
    """What the server says to a statement: its word, and how many rows it was (the last time)."""
    if not (verb.writes or verb is Verb.LOCKING_READ):
        return b"ROLLBACK" if verb is Verb.ROLLBACK_TO else verb.value.encode()
    name = {Verb.INSERT: "INSERT 0", Verb.LOCKING_READ: "SELECT"}.get(verb, verb.value)
    count = outcome.rowcount if outcome.last_rowcount < 0 else outcome.last_rowcount
    return f"{name} {count}".encode()
