"""A plain reading of what became durable, batch by batch: the judge's own book, untouched by store and core."""

from __future__ import annotations

from dataclasses import dataclass, field

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import BranchType, Cause, Phase, PhaseOne, RowKey, Terms
from troth.core.rowkeys import parse_lock_text


@dataclass(slots=True)
class LedgerBranch:
    """One branch as written."""

    seq: int
    branch_type: BranchType
    resource_id: str
    keys: tuple[RowKey, ...]
    phase_one: PhaseOne = PhaseOne.REGISTERED
    frozen: bool = False
    planned: bool = False
    after: tuple[int, ...] = ()
    epoch: int = 0
    client_id: str = ""


@dataclass(slots=True)
class Entry:
    """One transaction as written; an ended one keeps no branch."""

    xid: str
    begin_ms: int
    timeout_ms: int
    phase: Phase = Phase.OPEN
    cause: Cause | None = None
    rollback_only: bool = False
    branches: dict[int, LedgerBranch] = field(default_factory=dict)
    branches_ever: dict[int, BranchType] = field(default_factory=dict)
    ever: dict[int, LedgerBranch] = field(default_factory=dict)
    """Every branch, also those that are gone."""
    failed_ever: bool = False
    terms: Terms | None = None


class Ledger:
    """Every transaction that ever became durable."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def phase(self, xid: str) -> Phase | None:
        """Where `xid` stands, durably."""
        entry = self.entries.get(xid)
        return None if entry is None else entry.phase

    def open(self) -> list[Entry]:
        """Those that have not ended."""
        return [entry for entry in self.entries.values() if not entry.phase.ended]

    def apply(self, write: Write) -> None:
        """Take note of one delta. Raises KeyError for one about something that was never written."""
        if isinstance(write, OpenGlobal):
            self.entries[write.xid] = Entry(write.xid, write.begin_ms, write.timeout_ms, terms=write.terms)
            return
        entry = self.entries[write.xid]
        match write:
            case MarkGlobal():
                entry.phase, entry.cause, entry.rollback_only = write.phase, write.cause, write.rollback_only
            case AddBranch():
                keys = parse_lock_text(write.resource_id, write.lock_text)
                branch = LedgerBranch(write.seq, write.branch_type, write.resource_id, keys)
                branch.client_id = write.client_id
                if write.plan is not None:
                    branch.planned, branch.after = True, write.plan.after
                entry.branches[write.branch_id] = entry.ever[write.branch_id] = branch
                entry.branches_ever[write.branch_id] = write.branch_type
            case MarkBranch():
                branch = entry.branches[write.branch_id]
                branch.phase_one, branch.frozen, branch.epoch = write.phase_one, write.frozen, write.epoch
                branch.client_id = branch.client_id if write.client_id is None else write.client_id
                if write.left:
                    del entry.branches[write.branch_id]
                entry.failed_ever |= write.phase_one is PhaseOne.FAILED
            case DropBranch():
                del entry.branches[write.branch_id]
            case EndGlobal():
                entry.phase, entry.cause = write.phase, write.cause
                entry.branches.clear()
