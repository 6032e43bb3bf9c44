"""A plain reading of the deltas: what a store that kept every write would hold. The reference for what is durable."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from troth.core import effects as fx
from troth.core.course import course_of
from troth.core.model import Branch, BranchType, Cause, Course, Global, Phase
from troth.core.rowkeys import parse_lock_text

COMPLETING = {Phase.COMMITTED: Phase.COMMITTING, Phase.ROLLED_BACK: Phase.ROLLING_BACK}


class Ledger:
    def __init__(self) -> None:
        self.open: dict[str, Global] = {}
        self.ended: dict[str, fx.EndGlobal] = {}

    def apply(self, writes: Iterable[fx.Write]) -> None:
        for write in writes:
            self._apply(write)

    def _apply(self, write: fx.Write) -> None:
        match write:
            case fx.OpenGlobal():
                assert write.xid not in self.open
                assert write.xid not in self.ended
                self.open[write.xid] = Global(
                    *(write.xid, write.name, write.application, write.group, write.begin_ms, write.timeout_ms),
                    terms=write.terms,
                )
            case fx.MarkGlobal():
                tx = self.open[write.xid]
                undecided = tx.phase in (Phase.OPEN, Phase.FORWARD)
                assert undecided or write.cause is Cause.OPERATOR, "a decision is never taken twice"
                tx.phase, tx.cause, tx.rollback_only = write.phase, write.cause, write.rollback_only
                tx.reason = write.reason
            case fx.AddBranch():
                tx = self.open[write.xid]
                assert tx.phase is Phase.OPEN
                assert write.seq == tx.next_seq
                tx.next_seq += 1
                tx.branches[write.branch_id] = Branch(
                    write.branch_id,
                    write.seq,
                    write.branch_type,
                    write.resource_id,
                    write.lock_text,
                    parse_lock_text(write.resource_id, write.lock_text),
                    write.application_data,
                    write.auto_commit,
                    write.client_id,
                    lock_mode=write.lock_mode,
                    plan=write.plan,
                )
            case fx.MarkBranch():
                tx = self.open[write.xid]
                branch = tx.branches[write.branch_id]
                for name in write.__struct_fields__[2:]:
                    if name != "client_id" or write.client_id is not None:
                        setattr(branch, name, getattr(write, name))
                if write.left:
                    assert tx.terms is not None or branch.branch_type is BranchType.RECORD
                    course_of(tx).finished[write.branch_id] = tx.branches.pop(write.branch_id)
            case fx.DropBranch():
                del self.open[write.xid].branches[write.branch_id]
            case fx.EndGlobal():
                tx = self.open.pop(write.xid)
                assert (
                    tx.phase is {Phase.COMMITTED: Phase.COMMITTING, Phase.ROLLED_BACK: Phase.ROLLING_BACK}[write.phase]
                )
                assert bool(write.branches) <= (tx.terms is not None)
                self.ended[write.xid] = write

    def load(self) -> list[Global]:
        """Copies, as a store would return them after a restart."""
        return [self._copy(tx) for tx in self.open.values()]

    def _copy(self, tx: Global) -> Global:
        branches = {key: msgspec.structs.replace(branch) for key, branch in tx.branches.items()}
        finished = {key: msgspec.structs.replace(branch) for key, branch in tx.finished.items()}
        course = Course(finished) if finished else None
        return msgspec.structs.replace(
            tx, branches=branches, course=course, waiting={}, reservations={}, listeners=[], hot_wait_spent_ms={}
        )


def durable(tx: Global) -> tuple[object, ...]:
    """The facts of `tx` that must survive a restart."""
    kept = sorted([*tx.branches.values(), *tx.finished.values()], key=lambda b: b.seq)
    branches = tuple(
        (b.branch_id, b.seq, b.branch_type, b.resource_id, b.keys, b.application_data, b.client_id, b.lock_mode, b.plan)
        for b in kept
    )
    fates = {
        b.branch_id: (b.phase_one, b.auto_commit, b.attempts, b.frozen, b.last_error, b.left, b.ended, b.epoch)
        for b in kept
    }
    whole = (tx.xid, tx.name, tx.begin_ms, tx.timeout_ms, tx.phase, tx.cause, tx.rollback_only, tx.terms, tx.reason)
    return (*whole, branches, fates)
