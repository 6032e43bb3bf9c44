"""The embedded store, synchronous: a batch is one row of the journal, folded into the tables a little later.

What is durable is the tables and, over them, the journal. What is in the journal is also in memory, in one or two
windows: `current` takes new batches; `frozen`, if there is one, is on its way into the tables, piece by piece. Each
piece is one SQLite transaction, and folding a second time what was folded before changes nothing; so a crash
anywhere leaves the tables and a journal that together say the same as before.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from troth.core.effects import OpenGlobal, Write
from troth.core.model import Outcome, Phase
from troth.stores import sqlite_journal, sqlite_reading, sqlite_statements
from troth.stores.cursors import Position
from troth.stores.sqlite_file import check_synchronous
from troth.stores.sqlite_statements import ManyRows, Row
from troth.stores.sqlite_window import Life, Operation, Window
from troth.stores.store import Batch, BatchRefused, EndedPage, Hot, StoreCorrupt, StoreError

PACE = 2.0
"""How much faster a frozen window is folded, and its rows are deleted, than the next one fills: by then it is gone."""

BYTES_A_PIECE = 256 * 1024
"""Of the journal's rows, which are deleted when their window is in the tables."""


@dataclass(frozen=True, slots=True)
class Folding:
    """When the journal is folded. A window is frozen once it has so many writes or bytes, or has waited so long.

    A piece has at least `piece` operations (about 3 ms), and so much more as the batches before it need.
    """

    writes: int = 65_536
    bytes: int = 8 * 1024 * 1024
    piece: int = 256
    after_s: float = 1.0


USUAL_FOLDING = Folding()

MOVE_COUNTERS = "UPDATE cell SET last_batch = ?, last_id = ? WHERE id = 1"


class _JournalRow(NamedTuple):
    number: int
    last_id: int
    size: int


class _Frozen:
    """A window on its way into the tables, and the rows of the journal that hold it until then."""

    def __init__(self, window: Window, rows: deque[_JournalRow]) -> None:
        self.window = window
        self.rows = rows
        self.operations: Iterator[Operation] | None = window.operations()
        self.size = window.count_operations()
        self.bytes = sum(row.size for row in rows)


class Ledger:
    """What a store remembers, on a connection of which it is the only user.

    A batch that is refused leaves what is durable as it was; what is in memory is then read again (`recover`).
    After an sqlite3.Error nothing here can be trusted any more.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, folding: Folding = USUAL_FOLDING) -> None:
        self.connection = connection
        self._path = path
        self._limits = folding
        self.recover()

    def recover(self) -> None:
        """Fold whatever the journal holds. Raises StoreCorrupt for a row that is damaged or missing."""
        connection = self.connection
        self.last_batch, self.last_id = sqlite_reading.read_counters(connection)
        self._highest = sqlite_reading.read_highest(connection)
        self._current = Window(replaying=True)
        self._rows: deque[_JournalRow] = deque()
        self._fill = self._unpaced = 0.0
        self._frozen: _Frozen | None = None
        for entry in sqlite_journal.read(connection):
            if entry.number != self.last_batch + 1:
                raise StoreCorrupt(
                    f"{self._path} lacks row {self.last_batch + 1} of its journal: restore it from a copy"
                )
            self._take(sqlite_journal.unpack(entry))
            self._keep(_JournalRow(entry.number, entry.last_id, len(entry.deltas)))
        self.fold_all()
        self._current = Window()

    # ---- writing ----

    def append(self, batch: Batch) -> None:
        """Durable on return. Raises StoreError, OverflowError for contents; then `recover` before anything else."""
        if batch.number != self.last_batch + 1:
            raise StoreError(f"batch {batch.number} is out of order: {self._path} holds batch {self.last_batch}")
        self._take(batch.writes)
        entry = sqlite_journal.pack(batch)
        sqlite_journal.insert(self.connection, entry)
        self._keep(_JournalRow(entry.number, entry.last_id, len(entry.deltas)))
        fill = max(len(batch.writes) / self._limits.writes, len(entry.deltas) / self._limits.bytes)
        self._fill += fill
        self._unpaced += fill
        if self._fill >= 1 and self._frozen is None:
            self.freeze()

    def purge(self, before_ms: int, limit: int) -> int:
        """Forget at most `limit` outcomes of the tables; returns how many went."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        xids = sqlite_reading.read_oldest(connection, before_ms, limit)
        sqlite_statements.FORGET_OUTCOMES.run(connection, [(xid,) for xid in xids])
        connection.execute("COMMIT")
        return len(xids)

    def _take(self, writes: Sequence[Write]) -> None:
        current = self._current
        lives = current.lives
        for write in writes:
            if type(write) is OpenGlobal and write.terms is not None and write.terms.gid:
                self._check_gid(write, write.terms.gid)
        # ids rise, so what is new is hardly ever asked for
        unsure = {write.xid for write in writes if write.xid not in lives and write.xid <= self._highest}
        if unsure:
            lives.update(self._known(unsure))
        current.take(writes)

    def _check_gid(self, write: OpenGlobal, gid: str) -> None:
        found = self.find_gid(gid)
        if found is not None and found != write.xid:
            raise BatchRefused(f"OpenGlobal is refused: transaction {found} has the gid of {write.xid} already")

    def _known(self, xids: set[str]) -> dict[str, Life]:
        """What stands of them before this window."""
        found: dict[str, Life] = {}
        if self._frozen is not None:
            lives = self._frozen.window.lives
            found = {xid: lives[xid].carried_over() for xid in xids if xid in lives}
        stored = [xid for xid in xids if xid not in found]
        if stored:
            found.update(sqlite_reading.read_lives(self.connection, stored))
        return found

    def _keep(self, row: _JournalRow) -> None:
        self._rows.append(row)
        self.last_batch, self.last_id = row.number, row.last_id

    # ---- folding ----

    @property
    def is_folding(self) -> bool:
        """True while a frozen window waits for its next piece."""
        return self._frozen is not None

    @property
    def folded_batch(self) -> int:
        """The newest batch of which the tables have everything."""
        rows = self._rows if self._frozen is None else self._frozen.rows
        return rows[0].number - 1 if rows else self.last_batch

    def freeze(self) -> None:
        """Begin to fold what is in the journal; does nothing while another window is being folded."""
        if self._frozen is not None or not self._rows:
            return
        if self._current.lives:
            self._highest = max(self._highest, max(self._current.lives))
        self._frozen = _Frozen(self._current, self._rows)
        self._current, self._rows, self._fill, self._unpaced = Window(), deque(), 0.0, 0.0

    def fold_piece(self, *, whole: bool = False) -> None:
        """Fold as much of the frozen window as is due now, or the whole of it.

        This is not durable of itself, and need not be: what may be lost with the power is still in the journal.
        """
        frozen = self._frozen
        if frozen is None:
            return
        share, self._unpaced = 1.0 if whole else PACE * self._unpaced, 0.0
        with self._lazily():
            if frozen.operations is not None:
                count = max(self._limits.piece, math.ceil(frozen.size * share) + 1)
                if self._fold(frozen.operations, count) < count:
                    frozen.operations = None
            if frozen.operations is None:
                self._forget_rows(frozen, max(BYTES_A_PIECE, math.ceil(frozen.bytes * share)))
        if not frozen.rows:
            self._frozen = None

    def fold_all(self) -> None:
        """Leave nothing in the journal."""
        while self._rows or self._frozen is not None:
            self.freeze()
            self.fold_piece(whole=True)

    def _fold(self, operations: Iterator[Operation], count: int) -> int:
        """The next `count` of them; returns how many there were."""
        rows: defaultdict[ManyRows, list[Row]] = defaultdict(list)
        for statement, row in islice(operations, count):
            rows[statement].append(row)
        for statement, of_statement in rows.items():
            statement.run(self.connection, of_statement)
        return sum(map(len, rows.values()))

    def _forget_rows(self, frozen: _Frozen, size: int) -> None:
        """Delete about `size` bytes of the journal, oldest rows first, all of which is in the tables."""
        last = None
        while frozen.rows and size > 0:
            last = frozen.rows.popleft()
            size -= last.size
        if last is not None:
            self.connection.execute(sqlite_journal.DELETE, (last.number,))
            self.connection.execute(MOVE_COUNTERS, (last.number, last.last_id))

    @contextmanager
    def _lazily(self) -> Iterator[None]:
        """A transaction that is not flushed to the disk when it commits; the next batch flushes it with itself.

        What is in the log is in order, so no power loss can keep a later batch without it.
        """
        connection = self.connection
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = FULL")
        check_synchronous(connection, self._path)

    # ---- reading ----

    def hot(self) -> Hot:
        """Everything that has not ended; folds all, so it is for the start."""
        self.fold_all()
        return sqlite_reading.read_hot(self.connection)

    def outcome(self, xid: str) -> Outcome | None:
        """How `xid` ended, or None."""
        for window in self._windows():
            life = window.lives.get(xid)
            if life is not None:
                return life.outcome
        return sqlite_reading.read_outcome(self.connection, xid)

    def find_gid(self, gid: str) -> str | None:
        """The xid of the transaction of this name, or None."""
        for window in self._windows():
            xid = window.gids.get(gid)
            if xid is not None:
                return xid
        return sqlite_reading.read_gid(self.connection, gid)

    def ended(self, phase: Phase | None, limit: int, position: Position | None) -> EndedPage:
        """A page of outcomes, newest end first, from just behind `position`."""
        return sqlite_reading.read_ended(self.connection, phase, limit, position, self._outcomes())

    def has_unfolded_ended_before(self, before_ms: int) -> bool:
        """Whether an outcome so old is not yet (all) in the tables."""
        return any(outcome.end_ms < before_ms for outcome in self._outcomes())

    def _outcomes(self) -> Iterable[Outcome]:
        return chain.from_iterable(window.outcomes() for window in self._windows())

    def _windows(self) -> Sequence[Window]:
        """Newest first."""
        return (self._current,) if self._frozen is None else (self._current, self._frozen.window)
