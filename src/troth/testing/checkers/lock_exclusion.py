"""A row has one holder: from the durable registration to the durable commit, or to the durable end of its undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, Write
from troth.core.model import Phase, RowKey
from troth.core.rowkeys import parse_lock_text
from troth.testing.checkers.checker import Checker
from troth.testing.coordinator import Coordinator
from troth.testing.database import BranchName, Database, UndoRow

if TYPE_CHECKING:
    from troth.testing.world import World


class LockExclusion(Checker):
    """Keeps a lock table of its own from what is written, and compares the real one with it after each start."""

    name = "lock exclusion"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._held: dict[RowKey, tuple[str, set[int]]] = {}

    def writes(self, write: Write) -> None:
        match write:
            case AddBranch():
                for key in parse_lock_text(write.resource_id, write.lock_text):
                    holder, branches = self._held.setdefault(key, (write.xid, set()))
                    self.check(holder == write.xid, f"{key} is given to {write.xid}, but {holder} holds it")
                    branches.add(write.branch_id)
            case MarkGlobal(phase=Phase.COMMITTING) | EndGlobal():
                for key in [key for key, (holder, _) in self._held.items() if holder == write.xid]:
                    del self._held[key]
            case DropBranch() | MarkBranch(left=True):
                for key, (_, branches) in list(self._held.items()):
                    branches.discard(write.branch_id)
                    if not branches:
                        del self._held[key]
            case _:
                pass

    def commits_locally(self, database: Database, branch: BranchName, undo: UndoRow) -> None:
        """Nobody else's undo row names the row, unless that one is committed: its undo row only waits to be deleted."""
        for change in undo.changes:
            for (xid, branch_id), other in database.undo.items():
                decided = self.world.ledger.phase(xid) in (Phase.COMMITTING, Phase.COMMITTED)
                clash = xid != branch[0] and not decided and any(c.key == change.key for c in other.changes)
                self.check(not clash, f"{branch} writes {database.name}.{change.key}, held by {xid} ({branch_id})")

    def starts(self, coordinator: Coordinator) -> None:
        held = {key: holder for key, (holder, _) in self._held.items()}
        loaded = dict(coordinator.engine.cell.locks.rows())
        self.check(loaded == held, f"locks after the start: {loaded}, written was {held}")
