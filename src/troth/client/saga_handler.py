"""Phase two of an undoable branch: the coordinator's rollback becomes a call of the compensation."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from troth.client.modes.saga_records import Undo, UndoContext, reason_of
from troth.client.modes.saga_undo import unnamed
from troth.client.participant import later
from troth.client.saga_loop import LoopBlocked, LoopDoor
from troth.wire.seata.enums import BranchStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
)

if TYPE_CHECKING:
    from troth.client.saga_step import Step

log = logging.getLogger(__name__)

_KEPT: Final = 10_000
"""So many compensations that failed, or are done, are remembered in a process."""


class UndoHandler:
    """`troth.client.flow.ResourceHandler` of one step's compensation."""

    def __init__(self, step: Step[Any, Any]) -> None:
        self._step = step
        self.loop = LoopDoor()
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Nothing is left to do: the effect is there already."""
        return [
            BranchCommitResponse(xid=one.xid, branch_id=one.branch_id, branch_status=BranchStatus.PhaseTwo_Committed)
            for one in requests
        ]

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Compensate. What fails as often as it may is frozen: it needs a human."""
        data = msgspec.json.decode(request.application_data or "{}", type=Undo)
        data = data if data.key else msgspec.structs.replace(data, key=unnamed(data.step, request.branch_id))
        name = (request.xid or "", data.key)
        if data.settled or name in self._done:
            return _undone(request)
        context = UndoContext(request.xid or "", data.step, data.key, data.arguments, data.result, known=data.known)
        try:
            if self._compensate(context) is False:
                return self._failed(request, data, "it returned False")
        except LoopBlocked as error:
            answer = later(request, str(error))
            assert isinstance(answer, BranchRollbackResponse)
            return answer
        except Exception as error:
            log.warning("compensating %s of %s failed", data.key, request.xid, exc_info=error)
            return self._failed(request, data, f"{type(error).__name__}: {reason_of(error)}")
        self._note(self._done, name, None)
        return _undone(request)

    def delete_undo_logs(self, save_days: int) -> None:
        """There are none."""

    def _compensate(self, context: UndoContext) -> Any:
        answer = self._step.undo(context)
        if not inspect.isawaitable(answer):
            return answer

        async def work() -> Any:
            return await answer

        return self.loop.run(work)

    def _failed(self, request: BranchRollbackRequest, data: Undo, reason: str) -> BranchRollbackResponse:
        limit = self._step.policy.undo_attempts
        name = (request.xid or "", data.key)
        failures = self._failures.get(name, limit - 1 if data.needs_human else 0) + 1
        self._note(self._failures, name, failures)
        if failures < limit:
            answer = later(request, f"compensation of {data.step}: {reason} (attempt {failures} of {limit})")
            assert isinstance(answer, BranchRollbackResponse)
            return answer
        return BranchRollbackResponse(
            result_code=ResultCode.Failed,
            msg=f"needs-human: the compensation of {data.step} failed {failures} times: {reason}",
            transaction_exception_code=TransactionExceptionCode.BranchRollbackFailed_Unretriable,
            xid=request.xid,
            branch_id=request.branch_id,
            branch_status=BranchStatus.PhaseTwo_RollbackFailed_Unretryable,
        )

    def _note(self, book: OrderedDict[tuple[str, str], Any], name: tuple[str, str], value: object) -> None:
        with self._lock:
            book[name] = value
            if len(book) > _KEPT:
                book.popitem(last=False)


def _undone(request: BranchRollbackRequest) -> BranchRollbackResponse:
    return BranchRollbackResponse(
        xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
    )
