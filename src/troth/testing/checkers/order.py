"""Undo goes backwards: AT newest first within its resource, TCC only when nothing newer is left."""

from __future__ import annotations

from troth.core.model import BranchType
from troth.testing.checkers.checker import Checker
from troth.wire.seata.messages import BranchEndRequest, BranchRollbackRequest


class RollbackOrder(Checker):
    """Looks at every rollback call: which newer branches are not undone yet."""

    name = "rollback order"

    def is_called(self, request: BranchEndRequest) -> None:
        if not isinstance(request, BranchRollbackRequest):
            return
        entry = self.world.ledger.entries.get(request.xid or "")
        branch = None if entry is None else entry.branches.get(request.branch_id)
        if entry is None or branch is None:
            return  # it is undone already: a late or repeated call
        newer = [
            number
            for number, other in entry.branches.items()
            if other.seq > branch.seq
            and (branch.branch_type is BranchType.TCC or other.resource_id == branch.resource_id)
        ]
        self.check(not newer, f"{request.xid}: {request.branch_id} is rolled back before the newer {newer}")
