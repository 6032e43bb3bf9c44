"""Phase two of one database, on connections of its own: what all databases share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from troth.client.drivers.running import Executor, run
from troth.client.errors import TrothError
from troth.client.flow import Parameters, Query, Rows
from troth.client.modes.at_phase_two import Frozen, commit_branches, delete_undo_logs, roll_back_branch, settle_branch
from troth.client.modes.at_resolution import answer_inquiry
from troth.client.sql.dialects.base import Dialect, Fault
from troth.wire.seata.enums import BranchStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    Message,
)
from troth.wire.seata.private import BranchReport, Inquiry

log = logging.getLogger(__name__)

_LONGEST_MESSAGE: Final = 4000


class DatabaseUnusable(TrothError):
    """The database could not be asked: it is not there, it refuses the user, … The text is the driver's."""


class NoCoordinator:
    """For flows that have nothing to tell."""

    def tell(self, message: Message) -> Message:
        """Raises TypeError."""
        raise TypeError(f"this flow has no coordinator to send {type(message).__name__} to")

    async def atell(self, message: Message) -> Message:
        """Raises TypeError."""
        return self.tell(message)


class Resource:
    """`ResourceHandler` of one database.

    `opened` gives a new connection on which each statement commits by itself, and which waits for locks only shortly:
    what is locked is tried again later.
    """

    def __init__(self, dialect: Callable[[], Dialect], opened: Callable[[], AbstractContextManager[Executor]]) -> None:
        self._dialect = dialect
        self._opened = opened

    def settle(self, xid: str, branch_id: int) -> bool:
        """Whether the branch has committed; if not, it never will. Raises the driver's errors."""
        with self._opened() as executor:
            return run(settle_branch(self._dialect(), xid, branch_id), executor, NoCoordinator())

    def ask(self, sql: str, parameters: Parameters) -> Rows:
        """What a query gives that sees all that is committed now. Raises the driver's errors."""
        with self._opened() as executor:
            return executor.query(Query(sql, parameters))

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Delete the undo rows of a batch of branches in one local transaction."""
        dialect = self._dialect()
        branches = [(request.xid or "", request.branch_id) for request in requests]
        try:
            with self._opened() as executor:
                run(commit_branches(dialect, branches), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it and asks again
            log.warning("undo rows of %d committed branches are not deleted yet: %s", len(requests), error)
            return [_not_committed(request, error) for request in requests]
        return [
            BranchCommitResponse(
                xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Committed
            )
            for request in requests
        ]

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Undo one branch. The response's `msg` says why, if it could not be."""
        dialect = self._dialect()
        try:
            with self._opened() as executor:
                run(roll_back_branch(dialect, request.xid or "", request.branch_id), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it
            log.warning("branch %d of %s is not undone: %s", request.branch_id, request.xid, error)
            return _not_rolled_back(request, error, frozen=_is_final(dialect, error))
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def inquire(self, xid: str, branch_id: int, inquiry: Inquiry) -> BranchReport:
        """Look at one branch, or end it as an operator has decided. What went wrong is in the report."""
        dialect = self._dialect()
        try:
            with self._opened() as executor:
                return run(answer_inquiry(dialect, xid, branch_id, inquiry), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator hears of it
            log.warning("branch %d of %s: %s failed: %s", branch_id, xid, inquiry.action, error)
            busy = "; it is busy, ask again" if dialect.fault(error) is Fault.BUSY else ""
            return BranchReport("unknown", problem=f"{_text(error)}{busy}")

    def delete_undo_logs(self, save_days: int) -> None:
        """Delete undo rows older than `save_days` days."""
        with self._opened() as executor:
            run(delete_undo_logs(self._dialect(), save_days), executor, NoCoordinator())


def _is_final(dialect: Dialect, error: Exception) -> bool:
    """Whether trying again can not help: a dirty or blocked row, a constraint, an undo row that cannot be read."""
    return isinstance(error, Frozen | ValueError) or dialect.fault(error) is Fault.CONSTRAINT


def _not_committed(request: BranchCommitRequest, error: Exception) -> BranchCommitResponse:
    return BranchCommitResponse(
        result_code=ResultCode.Failed,
        msg=_text(error),
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=BranchStatus.PhaseTwo_CommitFailed_Retryable,
    )


def _not_rolled_back(request: BranchRollbackRequest, error: Exception, *, frozen: bool) -> BranchRollbackResponse:
    # Only a Failed response carries its text over the wire; the branch status is what counts.
    codes = TransactionExceptionCode
    statuses = BranchStatus
    return BranchRollbackResponse(
        result_code=ResultCode.Failed,
        msg=_text(error),
        transaction_exception_code=(
            codes.BranchRollbackFailed_Unretriable if frozen else codes.BranchRollbackFailed_Retriable
        ),
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=(
            statuses.PhaseTwo_RollbackFailed_Unretryable if frozen else statuses.PhaseTwo_RollbackFailed_Retryable
        ),
    )


def _text(error: Exception) -> str:
    kind = "" if isinstance(error, Frozen) else f"{type(error).__name__}: "
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"{kind}{error}{notes}"[:_LONGEST_MESSAGE]
