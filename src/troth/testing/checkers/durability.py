"""What was answered is durable: at the moment a client hears something, it is already written, and stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.client.outcome import Verdict, verdict
from troth.core.model import Cause, Phase
from troth.stores.store import StoreError
from troth.testing.checkers.checker import Checker
from troth.testing.coordinator import Coordinator
from troth.wire.seata.enums import BranchStatus, GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    GlobalBeginResponse,
    GlobalEndRequest,
    GlobalEndResponse,
    GlobalReportResponse,
    Message,
    TransactionResponse,
)

if TYPE_CHECKING:
    from troth.testing.world import World

COMMITTED = (Phase.COMMITTING, Phase.COMMITTED)
ROLLED_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


class Durability(Checker):
    """Compares every answer with the ledger when it is heard, and the store with what was answered at the end."""

    name = "durability"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._told: dict[str, bool] = {}

    def hears(self, request: Message, answer: Message, note: object) -> None:
        if isinstance(answer, TransactionResponse) and answer.result_code is ResultCode.Failed:
            return
        ledger = self.world.ledger
        if isinstance(answer, GlobalBeginResponse):
            self.check((answer.xid or "") in ledger.entries, f"{answer.xid} was answered, but is not durable")
        elif isinstance(answer, BranchRegisterResponse) and isinstance(request, BranchRegisterRequest):
            entry = ledger.entries.get(request.xid or "")
            durable = entry is not None and answer.branch_id in entry.branches_ever
            self.check(durable, f"branch {answer.branch_id} of {request.xid} was answered, but is not durable")
        elif isinstance(answer, BranchReportResponse) and isinstance(request, BranchReportRequest):
            if request.status is BranchStatus.PhaseOne_Failed:
                entry = ledger.entries.get(request.xid or "")
                durable = entry is not None and (entry.failed_ever or entry.phase is not Phase.OPEN)
                self.check(durable, f"the failure of {request.branch_id} was acknowledged, but is not durable")
        elif isinstance(answer, GlobalReportResponse) and isinstance(request, GlobalEndRequest):
            self._hears_vote(request, answer)
        elif isinstance(answer, GlobalEndResponse) and isinstance(request, GlobalEndRequest):
            self._hears_status(request.xid or "", answer.global_status)

    def _hears_vote(self, request: GlobalEndRequest, answer: GlobalEndResponse) -> None:
        entry = self.world.ledger.entries.get(request.xid or "")
        if answer.global_status is GlobalStatus.Rollbacking and entry is not None:
            durable = entry.rollback_only or entry.phase in ROLLED_BACK
            self.check(durable, f"the vote on {request.xid} was taken, but is not durable")

    def _hears_status(self, xid: str, status: GlobalStatus) -> None:
        phase = self.world.ledger.phase(xid)
        match verdict(status):
            case Verdict.COMMITTED | Verdict.COMMIT_FAILED:
                self._told.setdefault(xid, True)
                self.check(phase in COMMITTED, f"{xid} was told {status.name}, but is durably {phase}")
            case Verdict.ROLLED_BACK | Verdict.ROLLBACK_FAILED:
                self._told.setdefault(xid, False)
                self.check(phase in ROLLED_BACK, f"{xid} was told {status.name}, but is durably {phase}")
            case _:
                pass

    def starts(self, coordinator: Coordinator) -> None:
        """What it has taken up is what was written."""
        held = {tx.xid: (tx.phase, sorted(tx.branches)) for tx in coordinator.engine.transactions().values()}
        written = {entry.xid: (entry.phase, sorted(entry.branches)) for entry in self.world.ledger.open()}
        self.check(held == written, f"loaded {held}, written was {written}")

    async def finish(self) -> None:
        content = self.world.disk.content
        for xid, committed in sorted(self._told.items()):
            if self.world.ledger.entries[xid].cause is Cause.OPERATOR:
                continue
            try:
                outcome = await content.outcome(xid)
            except StoreError as error:
                self.complain(str(error))
                return
            wanted = Phase.COMMITTED if committed else Phase.ROLLED_BACK
            found = None if outcome is None else outcome.phase
            self.check(found is wanted, f"{xid} was told {wanted.value}, the store says {found}")
