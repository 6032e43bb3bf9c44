"""Seata's enums with Seata's own member names and wire codes (PROTOCOL §3; checked against Seata 2.6.0's table)."""

from enum import IntEnum


class GlobalStatus(IntEnum):
    """State of a global transaction; goes over the wire by code (PROTOCOL §3)."""

    UnKnown = 0
    Begin = 1
    Committing = 2
    CommitRetrying = 3
    Rollbacking = 4
    RollbackRetrying = 5
    TimeoutRollbacking = 6
    TimeoutRollbackRetrying = 7
    AsyncCommitting = 8
    Committed = 9
    CommitFailed = 10
    Rollbacked = 11
    RollbackFailed = 12
    TimeoutRollbacked = 13
    TimeoutRollbackFailed = 14
    Finished = 15
    CommitRetryTimeout = 16
    RollbackRetryTimeout = 17
    Deleting = 18
    StopCommitOrCommitRetry = 19
    StopRollbackOrRollbackRetry = 20


class BranchStatus(IntEnum):
    """State of a branch; goes over the wire by code (PROTOCOL §3)."""

    __hash__ = int.__hash__  # Enum's own is a call into Python, and every answer of a branch is looked up

    Unknown = 0
    Registered = 1
    PhaseOne_Done = 2
    PhaseOne_Failed = 3
    PhaseOne_Timeout = 4
    PhaseTwo_Committed = 5
    PhaseTwo_CommitFailed_Retryable = 6
    PhaseTwo_CommitFailed_Unretryable = 7
    PhaseTwo_Rollbacked = 8
    PhaseTwo_RollbackFailed_Retryable = 9
    PhaseTwo_RollbackFailed_Unretryable = 10
    PhaseTwo_CommitFailed_XAER_NOTA_Retryable = 11
    PhaseTwo_RollbackFailed_XAER_NOTA_Retryable = 12
    PhaseOne_RDONLY = 13
    STOP_RETRY = 14


class BranchType(IntEnum):
    """How a branch is committed and rolled back; by ordinal."""

    __hash__ = int.__hash__  # looked up at every registration

    AT = 0
    TCC = 1
    SAGA = 2
    XA = 3
    SAGA_ANNOTATION = 4


class TransactionExceptionCode(IntEnum):
    """Why the coordinator refused; by ordinal."""

    Unknown = 0
    BeginFailed = 1
    LockKeyConflict = 2
    IO = 3
    BranchRollbackFailed_Retriable = 4
    BranchRollbackFailed_Unretriable = 5
    BranchRegisterFailed = 6
    BranchReportFailed = 7
    LockableCheckFailed = 8
    BranchTransactionNotExist = 9
    GlobalTransactionNotExist = 10
    GlobalTransactionNotActive = 11
    GlobalTransactionStatusInvalid = 12
    FailedToSendBranchCommitRequest = 13
    FailedToSendBranchRollbackRequest = 14
    FailedToAddBranch = 15
    FailedLockGlobalTransaction = 16
    FailedWriteSession = 17
    FailedStore = 18
    NotRaftLeader = 19
    LockKeyConflictFailFast = 20
    TransactionTimeout = 21
    CommitHeuristic = 22
    Broken = 23


class ResultCode(IntEnum):
    """Whether a request was carried out; by ordinal. Only a failure carries a text."""

    Failed = 0
    Success = 1


class SerializerType(IntEnum):
    """Codec byte of a version 1 frame. This package speaks SEATA and refuses the others by their names."""

    SEATA = 1
    PROTOBUF = 2
    KRYO = 4
    FST = 8
    HESSIAN = 22
    JACKSON = 50
    FASTJSON2 = 100
    GRPC = 40
    FURY = 86
    FORY = 87


class CompressorType(IntEnum):
    """Compressor byte of a version 1 frame: applies to the body with its type code."""

    NONE = 0
    GZIP = 1
    ZIP = 2
    SEVENZ = 3
    BZIP2 = 4
    LZ4 = 5
    DEFLATER = 6
    ZSTD = 7


class TypeCode(IntEnum):
    """Type code of a message: the first two bytes of a version 1 body, in the head of a version 0 frame."""

    VERSION_NOT_SUPPORT = -1
    TYPE_NOT_EXIST = 0
    GLOBAL_BEGIN = 1
    GLOBAL_BEGIN_RESULT = 2
    BRANCH_COMMIT = 3
    BRANCH_COMMIT_RESULT = 4
    BRANCH_ROLLBACK = 5
    BRANCH_ROLLBACK_RESULT = 6
    GLOBAL_COMMIT = 7
    GLOBAL_COMMIT_RESULT = 8
    GLOBAL_ROLLBACK = 9
    GLOBAL_ROLLBACK_RESULT = 10
    BRANCH_REGISTER = 11
    BRANCH_REGISTER_RESULT = 12
    BRANCH_STATUS_REPORT = 13
    BRANCH_STATUS_REPORT_RESULT = 14
    GLOBAL_STATUS = 15
    GLOBAL_STATUS_RESULT = 16
    GLOBAL_REPORT = 17
    GLOBAL_REPORT_RESULT = 18
    GLOBAL_LOCK_QUERY = 21
    GLOBAL_LOCK_QUERY_RESULT = 22
    SEATA_MERGE = 59
    SEATA_MERGE_RESULT = 60
    REG_CLT = 101
    REG_CLT_RESULT = 102
    REG_RM = 103
    REG_RM_RESULT = 104
    RM_DELETE_UNDOLOG = 111
    HEARTBEAT_MSG = 120
    BATCH_RESULT_MSG = 121


class MessageType(IntEnum):
    """Kind of a frame. A ONEWAY may still be answered: re-registrations and merged requests are (PROTOCOL §1)."""

    REQUEST = 0
    RESPONSE = 1
    ONEWAY = 2
    HEARTBEAT_PING = 3
    HEARTBEAT_PONG = 4
