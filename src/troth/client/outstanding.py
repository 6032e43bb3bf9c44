"""Which branches of this process still wait for phase two, so that a program that just ends can wait for it.

A script that leaves its `with troth.transaction()` and exits would otherwise leave undo rows behind, until another
process serves the same resource. Only transactions that *this* process has ended count: for the others nobody knows
how long their owners take.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from troth.client.links.link import Reply
from troth.client.outcome import Verdict, verdict
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode
from troth.wire.seata.messages import (
    BranchEndResponse,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    GlobalCommitRequest,
    GlobalEndResponse,
    GlobalRollbackRequest,
    Message,
)

_MOST_TRANSACTIONS = 10_000
"""Phase two of a branch may go to another process, unheard here: what is remembered is bounded, oldest out first."""

_TO_COME = frozenset({BranchStatus.PhaseTwo_CommitFailed_Retryable, BranchStatus.PhaseTwo_RollbackFailed_Retryable})
"""Answers after which the coordinator asks again."""


class Outstanding:
    """Branches by xid, and the transactions that are ended here. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._branches: OrderedDict[str, set[int]] = OrderedDict()
        self._ended: set[str] = set()
        self._compensations: dict[str, set[int]] = {}
        """Those of them that a commit does not ask for."""

    def told(self, request: Message, answer: Message) -> None:
        """Take note of a request of this process that was answered."""
        match request, answer:
            case BranchRegisterRequest(xid=str(xid)), BranchRegisterResponse(result_code=ResultCode.Success):
                self._add(xid, answer.branch_id)
                if request.branch_type is BranchType.SAGA:
                    self._compensations.setdefault(xid, set()).add(answer.branch_id)
            case BranchReportRequest(xid=str(xid), status=BranchStatus.PhaseOne_Failed), _:
                self._drop(xid, request.branch_id)
            case ((GlobalCommitRequest(xid=str(xid)) | GlobalRollbackRequest(xid=str(xid))), GlobalEndResponse()):
                if isinstance(request, GlobalCommitRequest) and verdict(answer.global_status) is Verdict.COMMITTED:
                    for branch_id in self._compensations.pop(xid, set()):
                        self._drop(xid, branch_id)
                self._end(xid)

    def noting(self, reply: Reply) -> Reply:
        """`reply`, which takes note of what is answered to a phase-two request."""

        def noted(answer: Message) -> None:
            reply(answer)
            if isinstance(answer, BranchEndResponse) and answer.branch_status not in _TO_COME:
                self._drop(answer.xid or "", answer.branch_id)

        return noted

    def wait(self, timeout_s: float) -> bool:
        """Wait until no branch is left of the transactions that are ended here. False: some still are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._ended, timeout_s)

    def _add(self, xid: str, branch_id: int) -> None:
        with self._changed:
            self._branches.setdefault(xid, set()).add(branch_id)
            if len(self._branches) > _MOST_TRANSACTIONS:
                oldest, _ = self._branches.popitem(last=False)
                self._compensations.pop(oldest, None)
                self._ended.discard(oldest)

    def _drop(self, xid: str, branch_id: int) -> None:
        with self._changed:
            branches = self._branches.get(xid, set())
            branches.discard(branch_id)
            if not branches:
                self._branches.pop(xid, None)
                self._compensations.pop(xid, None)
                self._ended.discard(xid)
                self._changed.notify_all()

    def _end(self, xid: str) -> None:
        with self._changed:
            if xid in self._branches:
                self._ended.add(xid)
