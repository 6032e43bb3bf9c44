"""What the newest batches amount to, before it is in the tables: the net state of every transaction they touch.

A window is filled batch by batch, then frozen and folded into the tables, while the next one is being filled. Of a
transaction that begins and ends inside a window only the outcome is left, of several marks only the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import Outcome
from troth.stores import sqlite_statements as sql
from troth.stores.folding import merged
from troth.stores.store import BatchRefused

BranchFacts = tuple[AddBranch | None, MarkBranch | None]
"""What a window has heard of a live branch; nothing of what was added before it."""

Operation = tuple[sql.ManyRows, sql.Row]

UNTOUCHED: BranchFacts = (None, None)
LEAST, MOST = -(2**63), 2**63 - 1


class Life:
    """A transaction as it stands at the end of the window. `stored`: the tables may have rows of it already."""

    __slots__ = ("branches", "dropped", "ended", "marked", "opened", "stored")

    def __init__(self, opened: OpenGlobal, *, stored: bool) -> None:
        self.opened = opened
        self.stored = stored
        self.marked: MarkGlobal | None = None
        self.ended: EndGlobal | None = None
        self.branches: dict[int, BranchFacts] = {}
        self.dropped: set[int] | None = None

    def carried_over(self) -> Life:
        """The same transaction at the start of the next window."""
        life = Life(self.opened, stored=True)
        life.marked, life.ended = self.marked, self.ended
        life.branches = dict.fromkeys(self.branches, UNTOUCHED)
        return life

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or None."""
        ended, opened = self.ended, self.opened
        if ended is None:
            return None
        return Outcome(
            xid=opened.xid,
            name=opened.name,
            application=opened.application,
            group=opened.group,
            begin_ms=opened.begin_ms,
            timeout_ms=opened.timeout_ms,
            phase=ended.phase,
            cause=ended.cause,
            end_ms=ended.end_ms,
            reason=ended.reason,
            terms=opened.terms,
            branches=ended.branches,
        )

    def operations(self) -> Iterator[Operation]:
        """What brings the tables to this state, from any state on the way here. Their order does not matter."""
        yield sql.PUT_GLOBALS, sql.global_row(self.opened, self.marked, self.ended)
        xid = sql.encode(self.opened.xid)
        if self.ended is not None:
            if self.stored:
                yield sql.DROP_BRANCHES_OF_ENDED, (xid,)
            return
        for branch_id in self.dropped or ():
            if branch_id not in self.branches:
                yield sql.DROP_BRANCHES, (xid, branch_id)
        for added, marked in self.branches.values():
            if added is not None:
                yield sql.PUT_BRANCHES, sql.branch_row(added, marked)
            elif marked is not None:
                yield sql.MARK_BRANCHES, sql.branch_mark_row(marked)

    def count_operations(self) -> int:
        """About how many these are."""
        return 1 + len(self.branches) + len(self.dropped or ())


class Window:
    """The lives that consecutive batches have touched.

    `replaying`: the batches were checked before they were written, and the tables may hold part of what they say, so
    nothing is a contradiction any more.
    """

    def __init__(self, *, replaying: bool = False) -> None:
        self.lives: dict[str, Life] = {}
        self.gids: dict[str, str] = {}
        """Name that a user chose → xid, of those that were opened in the window."""
        self._replaying = replaying

    def take(self, writes: Iterable[Write]) -> None:
        """Raises StoreError for the first write that contradicts what is known; the window is then spoiled."""
        for write in writes:
            TAKERS[type(write)](self, write)

    def operations(self) -> Iterator[Operation]:
        """What brings the tables to the end of the window."""
        for life in self.lives.values():
            yield from life.operations()

    def count_operations(self) -> int:
        """About how many these are."""
        return sum(life.count_operations() for life in self.lives.values())

    def outcomes(self) -> Iterator[Outcome]:
        """Of all that have ended by the end of the window."""
        for life in self.lives.values():
            outcome = life.outcome
            if outcome is not None:
                yield outcome

    # ---- one write ----

    def _open(self, write: OpenGlobal) -> None:
        xid = write.xid
        if xid in self.lives:
            self._contradiction(write, "is known already")
        if not (LEAST <= write.begin_ms <= MOST and LEAST <= write.timeout_ms <= MOST):
            raise _too_large(write)
        if write.terms is not None and write.terms.gid:
            if write.terms.gid in self.gids:
                self._contradiction(write, "has a gid that is known already")
            self.gids[write.terms.gid] = xid
        self.lives[xid] = Life(write, stored=self._replaying)

    def _mark(self, write: MarkGlobal) -> None:
        self._life(write).marked = write

    def _end(self, write: EndGlobal) -> None:
        life = self._life(write)
        if not LEAST <= write.end_ms <= MOST:
            raise _too_large(write)
        life.ended = write
        life.branches = {}
        life.dropped = None

    def _add_branch(self, write: AddBranch) -> None:
        branches = self._life(write).branches
        branch_id = write.branch_id
        if branch_id in branches:
            self._contradiction(write, f"has branch {branch_id} already")
        if not (LEAST <= branch_id <= MOST and LEAST <= write.seq <= MOST):
            raise _too_large(write)
        branches[branch_id] = (write, None)

    def _mark_branch(self, write: MarkBranch) -> None:
        branches = self._life(write).branches
        facts = branches.get(write.branch_id)
        if facts is None:
            self._contradiction(write, f"has no branch {write.branch_id}")
            facts = UNTOUCHED
        for value in (write.attempts, write.last_attempt_ms, write.next_due_ms, write.epoch):
            if value is not None and not LEAST <= value <= MOST:
                raise _too_large(write)
        branches[write.branch_id] = (facts[0], merged(facts[1], write))

    def _drop_branch(self, write: DropBranch) -> None:
        life = self._life(write)
        if life.branches.pop(write.branch_id, None) is None:
            self._contradiction(write, f"has no branch {write.branch_id}")
        if life.stored:
            if life.dropped is None:
                life.dropped = set()
            life.dropped.add(write.branch_id)

    def _life(self, write: Write) -> Life:
        life = self.lives.get(write.xid)
        if life is None:
            raise _refused(write, "is not open")
        if life.ended is not None:
            self._contradiction(write, "has ended")
        return life

    def _contradiction(self, write: Write, reason: str) -> None:
        if not self._replaying:
            raise _refused(write, reason)


# The key guarantees the type.
TAKERS: Mapping[type[Write], Callable[..., None]] = MappingProxyType(
    {
        OpenGlobal: Window._open,
        MarkGlobal: Window._mark,
        EndGlobal: Window._end,
        AddBranch: Window._add_branch,
        MarkBranch: Window._mark_branch,
        DropBranch: Window._drop_branch,
    }
)


def _refused(write: Write, reason: str) -> BatchRefused:
    return BatchRefused(f"{type(write).__name__} is refused: transaction {write.xid} {reason}")


def _too_large(write: Write) -> BatchRefused:
    return BatchRefused(
        f"{type(write).__name__} of transaction {write.xid} is refused for its contents: a number has more than 64 bits"
    )
