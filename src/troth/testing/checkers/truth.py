"""Whoever asks hears the truth, however often: of an ended transaction exactly its recorded outcome."""

from __future__ import annotations

from troth.core.model import Cause, Phase
from troth.testing.checkers.checker import Checker
from troth.testing.checkers.durability import COMMITTED, ROLLED_BACK
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    GlobalCommitRequest,
    GlobalEndRequest,
    GlobalEndResponse,
    GlobalReportRequest,
    Message,
)

_TAKEN_FOR_SUCCESS = frozenset(
    {GlobalStatus.Rollbacking, GlobalStatus.RollbackRetrying, GlobalStatus.Rollbacked, GlobalStatus.RollbackFailed}
)
"""A Java TM that asked for the commit takes these for success (design/coordinator §2)."""


class Truth(Checker):
    """Notes where a transaction durably stood when the question was asked; judges the answer by it."""

    name = "truth on repeats"

    def asks(self, request: Message) -> tuple[Phase | None, Cause | None] | None:
        if not isinstance(request, GlobalEndRequest):
            return None
        entry = self.world.ledger.entries.get(request.xid or "")
        return (None, None) if entry is None else (entry.phase, entry.cause)

    def hears(self, request: Message, answer: Message, note: object) -> None:
        if not isinstance(request, GlobalEndRequest) or not isinstance(answer, GlobalEndResponse):
            return
        if answer.result_code is ResultCode.Failed or not isinstance(note, tuple):
            return
        status = answer.global_status
        if isinstance(request, GlobalCommitRequest):
            good = status not in _TAKEN_FOR_SUCCESS
            self.check(good, f"who asked for the commit of {request.xid} heard {status.name}")
        phase, cause = note
        if phase is None:
            if not isinstance(request, GlobalReportRequest):
                self.check(status is GlobalStatus.Finished, f"{request.xid} is unknown, but told {status.name}")
        else:
            self.check(status is not GlobalStatus.Finished, f"{request.xid} is known, but told Finished")
        if isinstance(phase, Phase) and phase.ended:
            wanted = _outcome(phase, cause, isinstance(request, GlobalCommitRequest))
            self.check(status is wanted, f"{request.xid} has ended as {wanted.name}, but told {status.name}")

    def concludes(self, xid: str, committed: bool) -> None:
        phase = self.world.ledger.phase(xid)
        wanted = COMMITTED if committed else ROLLED_BACK
        self.check(phase in wanted, f"a program believes {xid} {wanted[1].value}, it is durably {phase}")


def _outcome(phase: Phase, cause: object, commit_asked: bool) -> GlobalStatus:
    if phase is Phase.COMMITTED:
        return GlobalStatus.Committed
    by_timeout = commit_asked or cause is Cause.TIMEOUT
    return GlobalStatus.TimeoutRollbacked if by_timeout else GlobalStatus.Rollbacked
