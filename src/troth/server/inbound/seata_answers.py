"""The coordinator's results in Seata's words: one table for states, one function for each request's answer."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from troth.core.effects import (
    Begun,
    Conflict,
    Lockable,
    NoBranch,
    NotActive,
    Registered,
    Reported,
    Result,
    RowsReserved,
    Stands,
    Unknown,
    Voted,
)
from troth.core.model import Cause, Phase, Standing, Trouble
from troth.wire.seata.enums import GlobalStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.lock_wait import LockWaitResponse
from troth.wire.seata.messages import (
    BranchRegisterResponse,
    BranchReportResponse,
    GlobalBeginResponse,
    GlobalCommitResponse,
    GlobalLockQueryResponse,
    GlobalReportResponse,
    GlobalRollbackResponse,
    GlobalStatusResponse,
    Message,
)

Translate = Callable[[Result], Message]

_NONE, _RETRYING, _FROZEN = Trouble.NONE, Trouble.RETRYING, Trouble.FROZEN
_Key = tuple[Phase, bool, Trouble]

STATUS: MappingProxyType[_Key, GlobalStatus] = MappingProxyType(
    {
        # phase, decided by timeout, trouble
        (Phase.OPEN, False, _NONE): GlobalStatus.Begin,
        (Phase.COMMITTING, False, _NONE): GlobalStatus.Committing,
        (Phase.COMMITTING, False, _RETRYING): GlobalStatus.CommitRetrying,
        (Phase.COMMITTING, False, _FROZEN): GlobalStatus.CommitFailed,
        (Phase.COMMITTED, False, _NONE): GlobalStatus.Committed,
        (Phase.FORWARD, False, _NONE): GlobalStatus.Begin,  # undecided: Committing is taken for a promise
        (Phase.ROLLING_BACK, False, _NONE): GlobalStatus.Rollbacking,
        (Phase.ROLLING_BACK, False, _RETRYING): GlobalStatus.RollbackRetrying,
        (Phase.ROLLING_BACK, False, _FROZEN): GlobalStatus.RollbackFailed,
        (Phase.ROLLED_BACK, False, _NONE): GlobalStatus.Rollbacked,
        (Phase.ROLLING_BACK, True, _NONE): GlobalStatus.TimeoutRollbacking,
        (Phase.ROLLING_BACK, True, _RETRYING): GlobalStatus.TimeoutRollbackRetrying,
        (Phase.ROLLING_BACK, True, _FROZEN): GlobalStatus.TimeoutRollbackFailed,
        (Phase.ROLLED_BACK, True, _NONE): GlobalStatus.TimeoutRollbacked,
    }
)
"""PROTOCOL §8. An asynchronous commit has two more names, see `status_of`."""


def status_of(standing: Standing, commit_asked: bool = False) -> GlobalStatus:
    """Seata's name for a state.

    Whoever asked for the commit hears Committed once the decision stands and the rest may be done later; and of
    anything rolling or rolled back, whatever the cause, only the names with Timeout: a Java TM ignores the result
    code and takes 4, 5, 11 and 12 for success (design/coordinator §2).
    """
    phase, trouble = standing.phase, standing.trouble
    if phase is Phase.COMMITTING and standing.asynchronous:
        if commit_asked:
            return GlobalStatus.Committed
        if trouble is _NONE:
            return GlobalStatus.AsyncCommitting
    rolls = phase is Phase.ROLLING_BACK or phase is Phase.ROLLED_BACK
    by_timeout = rolls and (commit_asked or standing.cause is Cause.TIMEOUT)
    return STATUS[phase, by_timeout, trouble if phase in _TROUBLED else _NONE]


_TROUBLED = frozenset({Phase.COMMITTING, Phase.ROLLING_BACK})


# ---- what a failure says ----


def thrown(text: str) -> str:
    """As a Java server words it: clients and people search for it."""
    return f"TransactionException[{text}]"


def not_found_text(xid: str) -> str:
    """What is said of an xid that nobody knows."""
    return thrown(f"Could not found global transaction xid = {xid[:200]}, may be has finished.")


def failure(result: Result) -> tuple[str, TransactionExceptionCode]:
    """Text and code of a result that is no success."""
    match result:
        case Unknown():
            return not_found_text(result.xid), TransactionExceptionCode.GlobalTransactionNotExist
        case NotActive():
            status = status_of(result.standing)
            text = f"Global transaction xid = {result.standing.xid} takes no branches any more, status = {status.name}"
            return thrown(text), TransactionExceptionCode.GlobalTransactionNotActive
        case NoBranch():
            text = f"Could not found branch xid = {result.xid} branchId = {result.branch_id}"
            return thrown(text), TransactionExceptionCode.BranchTransactionNotExist
        case Conflict():
            return _conflict_text(result), _conflict_code(result)
        case _:
            raise AssertionError(f"{type(result).__name__} is no failure")


def _conflict_text(conflict: Conflict) -> str:
    key = conflict.key
    return (
        thrown(f"Global lock acquire failed xid = {conflict.xid} branchId = {conflict.branch_id}")
        + f" row {key.table[:200]}:{key.pk[:200]} is held by xid = {conflict.holder} for {conflict.held_ms} ms"
        + _cycle_text(conflict.cycle)
    )


def _cycle_text(cycle: tuple[str, ...]) -> str:
    """Who waits for whom; of a long ring the beginning."""
    if not cycle:
        return ""
    shown = [*cycle[:_CYCLE_SHOWN], *(["…"] if len(cycle) > _CYCLE_SHOWN else []), cycle[0]]
    return f"; deadlock: {' waits for '.join(shown)}, and the youngest gives up"


def _conflict_code(conflict: Conflict) -> TransactionExceptionCode:
    """FailFast is for clients inside a local transaction: the others have freed their rows and may try again."""
    if conflict.fail_fast and not conflict.auto_commit:
        return TransactionExceptionCode.LockKeyConflictFailFast
    return TransactionExceptionCode.LockKeyConflict


_CYCLE_SHOWN = 8


# ---- one function for each request ----


def begin_answer(result: Result) -> Message:
    """To GlobalBegin."""
    assert isinstance(result, Begun)
    return GlobalBeginResponse(xid=result.xid)


def begin_refusal(reason: str) -> GlobalBeginResponse:
    """No transaction was opened."""
    return GlobalBeginResponse(
        result_code=ResultCode.Failed,
        msg=thrown(reason),
        transaction_exception_code=TransactionExceptionCode.BeginFailed,
    )


def end_status(result: Result) -> GlobalStatus:
    """What commit, rollback and status answer: Finished for an xid that is really unknown."""
    match result:
        case Stands():
            return status_of(result.standing, result.commit_asked)
        case NotActive():
            return status_of(result.standing)
        case Unknown():
            return GlobalStatus.Finished
        case _:
            raise AssertionError(f"{type(result).__name__} tells no state")


def commit_answer(result: Result) -> Message:
    """To GlobalCommit."""
    return GlobalCommitResponse(global_status=end_status(result))


def rollback_answer(result: Result) -> Message:
    """To GlobalRollback."""
    return GlobalRollbackResponse(global_status=end_status(result))


def status_answer(result: Result) -> Message:
    """To GlobalStatus."""
    return GlobalStatusResponse(global_status=end_status(result))


def report_answer(claimed: GlobalStatus) -> Translate:
    """To GlobalReport that claimed `claimed`: the vote, the current state, or of an unknown xid the claim itself."""

    def translate(result: Result) -> Message:
        if isinstance(result, Voted):
            return GlobalReportResponse(global_status=GlobalStatus.Rollbacking)
        if isinstance(result, Unknown):
            return GlobalReportResponse(global_status=claimed)
        return GlobalReportResponse(global_status=end_status(result))

    return translate


def register_answer(result: Result) -> Message:
    """To BranchRegister."""
    if isinstance(result, Registered):
        return BranchRegisterResponse(branch_id=result.branch_id)
    text, code = failure(result)
    return BranchRegisterResponse(result_code=ResultCode.Failed, msg=text, transaction_exception_code=code)


def register_refusal(
    reason: str, code: TransactionExceptionCode = TransactionExceptionCode.BranchRegisterFailed
) -> BranchRegisterResponse:
    """The registration was refused at the door."""
    return BranchRegisterResponse(result_code=ResultCode.Failed, msg=thrown(reason), transaction_exception_code=code)


def lock_wait_answer(result: Result) -> Message:
    """To LockWait."""
    if isinstance(result, RowsReserved):
        return LockWaitResponse(keep_ms=result.keep_ms)
    text, code = failure(result)
    return LockWaitResponse(result_code=ResultCode.Failed, msg=text, transaction_exception_code=code)


def lock_wait_refusal(reason: str) -> LockWaitResponse:
    """The wait was refused at the door."""
    return LockWaitResponse(
        result_code=ResultCode.Failed,
        msg=thrown(reason),
        transaction_exception_code=TransactionExceptionCode.LockableCheckFailed,
    )


def branch_report_answer(result: Result) -> Message:
    """To BranchReport."""
    if isinstance(result, Reported):
        return BranchReportResponse()
    text, code = failure(result)
    return BranchReportResponse(result_code=ResultCode.Failed, msg=text, transaction_exception_code=code)


def branch_report_refusal(reason: str) -> BranchReportResponse:
    """The report was refused at the door."""
    return BranchReportResponse(
        result_code=ResultCode.Failed,
        msg=thrown(reason),
        transaction_exception_code=TransactionExceptionCode.BranchReportFailed,
    )


def lock_query_answer(result: Result) -> Message:
    """To GlobalLockQuery; an unknown xid may ask as well."""
    assert isinstance(result, Lockable)
    return GlobalLockQueryResponse(lockable=result.lockable)


def lock_query_refusal(reason: str) -> GlobalLockQueryResponse:
    """The query was refused at the door."""
    return GlobalLockQueryResponse(
        result_code=ResultCode.Failed,
        msg=thrown(reason),
        transaction_exception_code=TransactionExceptionCode.LockableCheckFailed,
    )
