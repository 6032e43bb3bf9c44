"""A store that forgets everything with its process: for tests and for `memory://`."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import Outcome, Phase
from troth.stores.cursors import Position, check_limit, decode_cursor, encode_cursor
from troth.stores.folding import merged
from troth.stores.hot import assemble
from troth.stores.keyvalues import KeyValues
from troth.stores.store import Batch, BatchRefused, EndedPage, Hot, KeyValue, StoreError

Undo = Callable[[], object]


@dataclass(slots=True)
class _OpenTransaction:
    """The newest delta of each kind. Deltas are frozen, so nothing that a caller holds can change them."""

    opened: OpenGlobal
    marked: MarkGlobal | None = None
    branches: dict[int, tuple[AddBranch, MarkBranch | None]] = field(default_factory=dict)


class MemoryStore:
    """Keeps the deltas themselves, unfolded; what it hands out is built anew each time.

    A closed store still remembers: opening the same object again is this store's restart. Of ended transactions it
    keeps the newest `max_outcomes`: at full speed those of a day would fill the memory that everything else needs.
    """

    def __init__(self, max_outcomes: int = 500_000) -> None:
        self._max_outcomes = max_outcomes
        self._open: dict[str, _OpenTransaction] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._gids: dict[str, str] = {}
        self._kv = KeyValues()
        self._ended: list[Position] = []
        self._last_batch = 0
        self._last_id = 0
        self._is_open = False

    @property
    def url(self) -> str:
        return "memory://"

    @property
    def durable(self) -> bool:
        return False

    async def open(self) -> None:
        if self._is_open:
            raise StoreError("memory:// is open already")
        self._is_open = True

    async def load_hot(self) -> Hot:
        self._check_open()
        transactions = tuple(assemble(tx.opened, tx.marked, tx.branches.values()) for tx in self._open.values())
        return Hot(transactions=transactions, last_batch=self._last_batch, last_id=self._last_id)

    async def append(self, batch: Batch) -> None:
        self._check_open()
        if batch.number != self._last_batch + 1:
            raise StoreError(f"batch {batch.number} is out of order: memory:// holds batch {self._last_batch}")
        undos: list[Undo] = []
        try:
            for write in batch.writes:
                undos.append(self._apply(write))
        except StoreError:
            for undo in reversed(undos):
                undo()
            raise
        self._last_batch, self._last_id = batch.number, batch.last_id
        if len(self._ended) > self._max_outcomes:
            self._forget(len(self._ended) - self._max_outcomes + self._max_outcomes // 10)

    async def outcome(self, xid: str) -> Outcome | None:
        self._check_open()
        return self._outcomes.get(xid)

    async def find_gid(self, gid: str) -> str | None:
        self._check_open()
        return self._gids.get(gid)

    async def kv_get(self, cat: str, key: str) -> KeyValue | None:
        self._check_open()
        return self._kv.get(cat, key)

    async def kv_put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        self._check_open()
        return self._kv.put(cat, key, value, expected_version, now_ms)

    async def kv_delete(self, cat: str, key: str) -> bool:
        self._check_open()
        return self._kv.delete(cat, key)

    async def kv_scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        self._check_open()
        check_limit(limit)
        return self._kv.scan(cat, after, limit)

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        self._check_open()
        check_limit(limit)
        stop = len(self._ended) if cursor is None else bisect.bisect_left(self._ended, decode_cursor(cursor))
        page: list[Outcome] = []
        for index in range(stop - 1, -1, -1):
            outcome = self._outcomes[self._ended[index].xid]
            if phase is not None and outcome.phase is not phase:
                continue
            if len(page) == limit:
                return EndedPage(page, encode_cursor(Position(page[-1].end_ms, page[-1].xid)))
            page.append(outcome)
        return EndedPage(page, None)

    async def purge(self, before_ms: int, limit: int) -> int:
        self._check_open()
        check_limit(limit)
        count = min(limit, bisect.bisect_left(self._ended, Position(before_ms, "")))
        self._forget(count)
        return count

    async def close(self) -> None:
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreError("memory:// is not open")

    def _forget(self, count: int) -> None:
        """The oldest `count` outcomes."""
        for position in self._ended[:count]:
            outcome = self._outcomes.pop(position.xid)
            if outcome.terms is not None:
                self._gids.pop(outcome.terms.gid, None)
        del self._ended[:count]

    # ---- deltas; each returns what takes it back ----

    def _apply(self, write: Write) -> Undo:
        match write:
            case OpenGlobal():
                return self._open_global(write)
            case MarkGlobal():
                tx = self._transaction(write)
                before, tx.marked = tx.marked, write
                return partial(setattr, tx, "marked", before)
            case EndGlobal():
                return self._end_global(write)
            case AddBranch():
                return self._add_branch(write)
            case MarkBranch():
                branches = self._branches_with(write)
                facts = branches[write.branch_id]
                branches[write.branch_id] = (facts[0], merged(facts[1], write))
                return partial(branches.__setitem__, write.branch_id, facts)
            case DropBranch():
                branches = self._branches_with(write)
                return partial(branches.__setitem__, write.branch_id, branches.pop(write.branch_id))

    def _open_global(self, write: OpenGlobal) -> Undo:
        if write.xid in self._open or write.xid in self._outcomes:
            raise BatchRefused(f"OpenGlobal is refused: transaction {write.xid} is known already")
        gid = "" if write.terms is None else write.terms.gid
        if gid in self._gids:
            raise BatchRefused(
                f"OpenGlobal is refused: transaction {self._gids[gid]} has the gid of {write.xid} already"
            )
        self._open[write.xid] = _OpenTransaction(write)
        if gid:
            self._gids[gid] = write.xid
        return partial(self._unopen, write.xid, gid)

    def _unopen(self, xid: str, gid: str) -> None:
        del self._open[xid]
        self._gids.pop(gid, None)

    def _end_global(self, write: EndGlobal) -> Undo:
        tx = self._transaction(write)
        del self._open[write.xid]
        self._outcomes[write.xid] = Outcome(
            xid=write.xid,
            name=tx.opened.name,
            application=tx.opened.application,
            group=tx.opened.group,
            begin_ms=tx.opened.begin_ms,
            timeout_ms=tx.opened.timeout_ms,
            phase=write.phase,
            cause=write.cause,
            end_ms=write.end_ms,
            reason=write.reason,
            terms=tx.opened.terms,
            branches=write.branches,
        )
        bisect.insort(self._ended, Position(write.end_ms, write.xid))
        return partial(self._reopen, tx, Position(write.end_ms, write.xid))

    def _reopen(self, tx: _OpenTransaction, position: Position) -> None:
        self._ended.remove(position)
        del self._outcomes[position.xid]
        self._open[position.xid] = tx

    def _add_branch(self, write: AddBranch) -> Undo:
        branches = self._transaction(write).branches
        if write.branch_id in branches:
            raise BatchRefused(f"AddBranch is refused: transaction {write.xid} has branch {write.branch_id} already")
        branches[write.branch_id] = (write, None)
        return partial(branches.pop, write.branch_id)

    def _transaction(self, write: Write) -> _OpenTransaction:
        tx = self._open.get(write.xid)
        if tx is None:
            raise BatchRefused(f"{type(write).__name__} is refused: transaction {write.xid} is not open")
        return tx

    def _branches_with(self, write: MarkBranch | DropBranch) -> dict[int, tuple[AddBranch, MarkBranch | None]]:
        branches = self._transaction(write).branches
        if write.branch_id not in branches:
            raise BatchRefused(
                f"{type(write).__name__} is refused: transaction {write.xid} has no branch {write.branch_id}"
            )
        return branches
