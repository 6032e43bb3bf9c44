"""A database of an RM that is a real one: SQLite in memory, with AT's undo table. What judges read is read by SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from troth.client.drivers.sqlite import SqliteExecutor
from troth.client.sql.dialects.sqlite import CREATE_UNDO_TABLE
from troth.client.sql.undo import NORMAL
from troth.testing.database import BranchName, Change, Database, UndoRow, Value

_SEPARATOR = ","


class SqlDatabase(Database):
    """A table of rows to append to. Its local transactions are SQLite's own: one writer at a time.

    `rows` and `undo` are what the tables hold after the last COMMIT, whoever made it. The fake's own local row locks
    are not used; TCC reservations are kept as in the fake.
    """

    def __init__(self, name: str, keys: tuple[str, ...], committed: Callable[[Database, BranchName, UndoRow], None]):
        super().__init__(name, keys, committed)
        self._uri = f"file:/troth-{id(self)}?vfs=memdb"
        self._anchor = self.connect()  # a database in memory lives as long as somebody has it open
        self._left_by: dict[BranchName, UndoRow] = {}
        for sql in CREATE_UNDO_TABLE:
            self._anchor.execute(sql)
        self._anchor.execute("CREATE TABLE item (id TEXT PRIMARY KEY, v TEXT NOT NULL)")
        self._anchor.executemany("INSERT INTO item VALUES (?, '')", [(key,) for key in keys])

    def connect(self) -> sqlite3.Connection:
        """A new connection; each statement commits by itself, and a lock is not waited for."""
        return sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=0)

    @contextmanager
    def opened(self) -> Iterator[SqliteExecutor]:
        """What phase two works on; `rows` and `undo` follow it."""
        with closing(self.connect()) as raw:
            yield SqliteExecutor(raw)
        self.refresh()

    def changes(self, raw: sqlite3.Connection) -> UndoRow:
        """What the local transaction on `raw` is about to commit."""
        now = _rows(raw)
        return UndoRow(tuple(Change(key, self.rows[key], now[key]) for key in now if now[key] != self.rows[key]))

    def committed_locally(self, branch: BranchName, changes: UndoRow) -> None:
        """COMMIT of phase one has happened."""
        self._left_by[branch] = changes
        self._committed(self, branch, changes)
        self.refresh()

    def refresh(self) -> None:
        """Read the tables. Only where no local transaction can be open: behind a COMMIT, at the end of phase two."""
        try:
            self.rows = _rows(self._anchor)
            rows = self._anchor.execute("SELECT xid, branch_id, log_status FROM undo_log ORDER BY xid, branch_id")
            found = rows.fetchall()
        except sqlite3.OperationalError:
            return  # somebody writes, so phase two could not have changed anything either
        self.undo = {
            (xid, branch_id): self._left_by.get((xid, branch_id), UndoRow(())) if status == NORMAL else UndoRow(())
            for xid, branch_id, status in found
        }

    def close(self) -> None:
        """Forget it."""
        self._anchor.close()


def appended(token: str) -> str:
    """The text that puts `token` at the end of a row."""
    return _SEPARATOR + token


def _rows(raw: sqlite3.Connection) -> dict[str, Value]:
    found = raw.execute("SELECT id, v FROM item ORDER BY id").fetchall()
    return {key: tuple(text.split(_SEPARATOR)[1:]) for key, text in found}
