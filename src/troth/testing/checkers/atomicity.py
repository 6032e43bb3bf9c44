"""All or nothing: one decision, never changed, the right one, and every branch follows it."""

from __future__ import annotations

from troth.core.decision import Decision
from troth.core.effects import AddBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.events import Event
from troth.core.model import Cause, OnTimeout, Phase, PhaseOne
from troth.testing.checkers.checker import Checker
from troth.testing.database import BranchName, Database, Reservation, UndoRow
from troth.testing.ledger import Entry
from troth.wire.seata.messages import BranchCommitRequest, BranchEndRequest

_FOLLOWS = {Phase.COMMITTED: Phase.COMMITTING, Phase.ROLLED_BACK: Phase.ROLLING_BACK}.get


def _rolls_back_in_time(entry: Entry) -> bool:
    return entry.terms is None or entry.terms.on_timeout is OnTimeout.ROLL_BACK


class Atomicity(Checker):
    """Watches decisions as they become durable, calls as they arrive, and at the end every row and reservation."""

    name = "atomicity"

    def decides(self, event: Event, decision: Decision, now_ms: int) -> None:
        for write in decision.writes:
            if isinstance(write, MarkGlobal) and write.phase in (Phase.FORWARD, Phase.COMMITTING):
                entry = self.world.ledger.entries.get(write.xid)
                if entry is not None and (entry.phase is Phase.FORWARD or not _rolls_back_in_time(entry)):
                    continue
                in_time = entry is None or now_ms < entry.begin_ms + entry.timeout_ms
                self.check(in_time, f"{write.xid} is committed at {now_ms}, after its timeout")

    def writes(self, write: Write) -> None:
        entry = self.world.ledger.entries.get(write.xid)
        if isinstance(write, OpenGlobal):
            self.check(entry is None, f"{write.xid} is opened a second time")
        elif entry is None:
            self.check(False, f"{type(write).__name__} for {write.xid}, which was never opened")
        elif isinstance(write, MarkGlobal) and write.phase is not Phase.OPEN:
            undecided = entry.phase is Phase.OPEN or (entry.phase is Phase.FORWARD and write.phase is not Phase.FORWARD)
            by_a_person = write.cause is Cause.OPERATOR
            self.check(undecided or by_a_person, f"{write.xid} is decided a second time: {write}")
            if write.phase is Phase.COMMITTING:
                failed = [i for i, branch in entry.branches.items() if branch.phase_one is PhaseOne.FAILED]
                self.check(not failed, f"{write.xid} commits with failed branches {failed}")
                self.check(not entry.rollback_only, f"{write.xid} commits in spite of a vote")
        elif isinstance(write, EndGlobal):
            self.check(_FOLLOWS(write.phase) is entry.phase, f"{write.xid} ends {write.phase} after {entry.phase}")
        elif isinstance(write, AddBranch):
            self.check(entry.phase is Phase.OPEN, f"a branch joins {write.xid}, which is {entry.phase}")
        elif isinstance(write, MarkBranch):
            self.check(not entry.phase.ended, f"a branch of {write.xid} is marked, which has ended")

    def is_called(self, request: BranchEndRequest) -> None:
        phase = self.world.ledger.phase(request.xid or "")
        wanted = (
            (Phase.COMMITTING, Phase.COMMITTED)
            if isinstance(request, BranchCommitRequest)
            else (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        )
        self.check(phase in wanted, f"{type(request).__name__} for {request.xid}, which is durably {phase}")

    def commits_locally(self, database: Database, branch: BranchName, undo: UndoRow) -> None:
        entry = self.world.ledger.entries.get(branch[0])
        known = entry is not None and branch[1] in entry.branches_ever
        self.check(known, f"{branch} commits locally, but the branch was never durable")

    async def finish(self) -> None:
        records = self.world.records
        visible = {token for database in self.world.databases for row in database.rows.values() for token in row}
        for token in visible - records.tokens.keys():
            self.complain(f"{token} is in a row, but nobody wrote it")
        for token, (xid, applied) in sorted(records.tokens.items()):
            phase = self.world.ledger.phase(xid)
            if phase is Phase.COMMITTED and applied:
                self.check(token in visible, f"{xid} is committed, but its change {token} is not there")
            elif phase is Phase.ROLLED_BACK:
                self.check(token not in visible, f"{xid} is rolled back, but its change {token} is there")
        for branch, database in sorted(records.reserved.items(), key=lambda item: item[0]):
            phase = self.world.ledger.phase(branch[0])
            state = database.reservations[branch]
            wanted = Reservation.CONFIRMED if phase is Phase.COMMITTED else Reservation.CANCELLED
            self.check(state is wanted, f"TCC branch {branch} is {state.value} in a transaction that is {phase}")
