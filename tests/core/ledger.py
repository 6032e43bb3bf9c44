"""A plain reading of the deltas: what a store that kept every write would hold. The reference for what is durable."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from troth.core import effects as fx
from troth.core.model import Branch, Global, Phase
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
                    write.xid, write.name, write.application, write.group, write.begin_ms, write.timeout_ms
                )
            case fx.MarkGlobal():
                tx = self.open[write.xid]
                assert tx.phase is Phase.OPEN, "a decision is never taken twice"
                tx.phase, tx.cause, tx.rollback_only = write.phase, write.cause, write.rollback_only
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
                )
            case fx.MarkBranch():
                branch = self.open[write.xid].branches[write.branch_id]
                for name in write.__struct_fields__[2:]:
                    setattr(branch, name, getattr(write, name))
            case fx.DropBranch():
                del self.open[write.xid].branches[write.branch_id]
            case fx.EndGlobal():
                tx = self.open.pop(write.xid)
                assert (
                    tx.phase is {Phase.COMMITTED: Phase.COMMITTING, Phase.ROLLED_BACK: Phase.ROLLING_BACK}[write.phase]
                )
                self.ended[write.xid] = write

    def load(self) -> list[Global]:
        """Copies, as a store would return them after a restart."""
        return [self._copy(tx) for tx in self.open.values()]

    def _copy(self, tx: Global) -> Global:
        branches = {key: msgspec.structs.replace(branch) for key, branch in tx.branches.items()}
        return msgspec.structs.replace(
            tx, branches=branches, waiting={}, reservations={}, listeners=[], hot_wait_spent_ms={}
        )


def durable(tx: Global) -> tuple[object, ...]:
    """The facts of `tx` that must survive a restart."""
    branches = tuple(
        (b.branch_id, b.seq, b.branch_type, b.resource_id, b.keys, b.application_data, b.client_id, b.lock_mode)
        for b in sorted(tx.branches.values(), key=lambda b: b.seq)
    )
    fates = {
        b.branch_id: (b.phase_one, b.auto_commit, b.attempts, b.frozen, b.last_error) for b in tx.branches.values()
    }
    return (tx.xid, tx.name, tx.begin_ms, tx.timeout_ms, tx.phase, tx.cause, tx.rollback_only, branches, fates)
