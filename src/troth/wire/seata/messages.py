"""Every message of the Seata protocol: Seata's class names, fields in the order of the wire (PROTOCOL §3).

Frozen, built of text and numbers: they cannot form cycles, so the garbage collector need not look at them (`gc=False`).

Text is `str | None`. Over the wire null and the empty text are the same two (or four) zero bytes, and both come back
as `None`, except in `RegisterTMRequest`, where both come back as `""`.
"""

from typing import ClassVar

import msgspec

from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    GlobalStatus,
    ResultCode,
    TransactionExceptionCode,
    TypeCode,
)


class Message(msgspec.Struct, frozen=True):
    """What all messages are. `TYPE_CODE` names the type on the wire."""

    TYPE_CODE: ClassVar[TypeCode]


class HeartbeatMessage(Message, frozen=True):
    """Ping or pong; the frame's message type says which. Has no body in either version."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.HEARTBEAT_MSG


# --- registration -----------------------------------------------------------------------------------------------------


class RegisterTMRequest(Message, frozen=True, gc=False):
    """A TM introduces itself. `extra_data` is text lines `key=value` (PROTOCOL §4)."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.REG_CLT
    version: str | None
    application_id: str | None
    transaction_service_group: str | None
    extra_data: str | None = None


class RegisterRMRequest(Message, frozen=True, gc=False):
    """An RM introduces itself and its resources. `resource_ids` is comma separated."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.REG_RM
    version: str | None
    application_id: str | None
    transaction_service_group: str | None
    extra_data: str | None = None
    resource_ids: str | None = None


class RegisterResponse(Message, frozen=True, gc=False):
    """Answer to a registration. The last three fields exist in Seata's class but never travel (PROTOCOL §3)."""

    identified: bool = True
    version: str | None = None
    result_code: ResultCode | None = None
    msg: str | None = None
    extra_data: str | None = None


class RegisterTMResponse(RegisterResponse, frozen=True, gc=False):
    """Answer to `RegisterTMRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.REG_CLT_RESULT


class RegisterRMResponse(RegisterResponse, frozen=True, gc=False):
    """Answer to `RegisterRMRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.REG_RM_RESULT


# --- what all answers of a transaction share --------------------------------------------------------------------------


class TransactionResponse(Message, frozen=True, gc=False):
    """Start of every answer. `msg` travels only when `result_code` is Failed, cut to 32767 bytes."""

    result_code: ResultCode = ResultCode.Success
    msg: str | None = None
    transaction_exception_code: TransactionExceptionCode = TransactionExceptionCode.Unknown


# --- global transactions: TM to TC ------------------------------------------------------------------------------------


class GlobalBeginRequest(Message, frozen=True, gc=False):
    """Open a global transaction that is rolled back when it lives longer than `timeout_ms`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_BEGIN
    timeout_ms: int
    transaction_name: str | None = None


class GlobalBeginResponse(TransactionResponse, frozen=True, gc=False):
    """Answer to `GlobalBeginRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_BEGIN_RESULT
    xid: str | None = None
    extra_data: str | None = None


class GlobalEndRequest(Message, frozen=True, gc=False):
    """What names a global transaction in commit, rollback, status and report."""

    xid: str | None
    extra_data: str | None = None


class GlobalCommitRequest(GlobalEndRequest, frozen=True, gc=False):
    """Commit a global transaction."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_COMMIT


class GlobalRollbackRequest(GlobalEndRequest, frozen=True, gc=False):
    """Roll a global transaction back."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_ROLLBACK


class GlobalStatusRequest(GlobalEndRequest, frozen=True, gc=False):
    """Ask how a global transaction stands."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_STATUS


class GlobalReportRequest(GlobalEndRequest, frozen=True, gc=False):
    """A saga's TM tells how the saga stands; `None` goes as -1."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_REPORT
    global_status: GlobalStatus | None = None


class GlobalEndResponse(TransactionResponse, frozen=True, gc=False):
    """How a global transaction stands, or ended."""

    global_status: GlobalStatus = GlobalStatus.UnKnown


class GlobalCommitResponse(GlobalEndResponse, frozen=True, gc=False):
    """Answer to `GlobalCommitRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_COMMIT_RESULT


class GlobalRollbackResponse(GlobalEndResponse, frozen=True, gc=False):
    """Answer to `GlobalRollbackRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_ROLLBACK_RESULT


class GlobalStatusResponse(GlobalEndResponse, frozen=True, gc=False):
    """Answer to `GlobalStatusRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_STATUS_RESULT


class GlobalReportResponse(GlobalEndResponse, frozen=True, gc=False):
    """Answer to `GlobalReportRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_REPORT_RESULT


# --- branches: RM to TC -----------------------------------------------------------------------------------------------


class BranchRegisterRequest(Message, frozen=True, gc=False):
    """Join a global transaction. `lock_key` is `table:pk,pk;table:pk` (PROTOCOL §9)."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_REGISTER
    xid: str | None
    branch_type: BranchType
    resource_id: str | None
    lock_key: str | None = None
    application_data: str | None = None


class BranchRegisterResponse(TransactionResponse, frozen=True, gc=False):
    """Answer to `BranchRegisterRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_REGISTER_RESULT
    branch_id: int = 0


class BranchReportRequest(Message, frozen=True, gc=False):
    """How phase one of a branch went. `application_data` replaces that of the registration, null included."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_STATUS_REPORT
    xid: str | None
    branch_id: int
    status: BranchStatus
    resource_id: str | None = None
    application_data: str | None = None
    branch_type: BranchType = BranchType.AT


class BranchReportResponse(TransactionResponse, frozen=True, gc=False):
    """Answer to `BranchReportRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_STATUS_REPORT_RESULT


class GlobalLockQueryRequest(BranchRegisterRequest, frozen=True, gc=False):
    """Ask whether the rows of `lock_key` are free for `xid`. Locks nothing."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_LOCK_QUERY


class GlobalLockQueryResponse(TransactionResponse, frozen=True, gc=False):
    """Answer to `GlobalLockQueryRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.GLOBAL_LOCK_QUERY_RESULT
    lockable: bool = False


# --- phase two: TC to RM ----------------------------------------------------------------------------------------------


class BranchEndRequest(Message, frozen=True, gc=False):
    """What names a branch in phase two. Seata reads nothing behind a null `xid` or `resource_id`: always send both."""

    xid: str | None
    branch_id: int
    branch_type: BranchType
    resource_id: str | None
    application_data: str | None = None


class BranchCommitRequest(BranchEndRequest, frozen=True, gc=False):
    """Commit a branch."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_COMMIT


class BranchRollbackRequest(BranchEndRequest, frozen=True, gc=False):
    """Roll a branch back."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_ROLLBACK


class BranchEndResponse(TransactionResponse, frozen=True, gc=False):
    """How phase two of a branch went."""

    xid: str | None = None
    branch_id: int = 0
    branch_status: BranchStatus = BranchStatus.Unknown


class BranchCommitResponse(BranchEndResponse, frozen=True, gc=False):
    """Answer to `BranchCommitRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_COMMIT_RESULT


class BranchRollbackResponse(BranchEndResponse, frozen=True, gc=False):
    """Answer to `BranchRollbackRequest`."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BRANCH_ROLLBACK_RESULT


class UndoLogDeleteRequest(Message, frozen=True, gc=False):
    """Delete undo log rows older than `save_days` days. Never answered."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.RM_DELETE_UNDOLOG
    branch_type: BranchType
    resource_id: str | None
    save_days: int = 7


# --- several in one frame ---------------------------------------------------------------------------------------------


class MergedWarpMessage(Message, frozen=True, gc=False):
    """Requests in one frame. `msg_ids[i]` is the request id of `msgs[i]`; the frame has an id of its own."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.SEATA_MERGE
    msgs: tuple[Message, ...]
    msg_ids: tuple[int, ...]


class MergeResultMessage(Message, frozen=True, gc=False):
    """Answers to a `MergedWarpMessage`, in the order of its requests: there are no ids, order is everything."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.SEATA_MERGE_RESULT
    msgs: tuple[Message, ...]


class BatchResultMessage(Message, frozen=True, gc=False):
    """Some answers to a `MergedWarpMessage`, each with the request id it had there (clients from 1.5.0 on)."""

    TYPE_CODE: ClassVar[TypeCode] = TypeCode.BATCH_RESULT_MSG
    result_messages: tuple[Message, ...]
    msg_ids: tuple[int, ...]
