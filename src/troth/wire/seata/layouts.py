"""How each single message looks in the SEATA codec: `SINGLES`, one row of class, reader and writer per message.

A reader takes `(buf, pos, end)` behind the type code and gives `(message, next pos)`; a writer gives the bytes behind
the type code. Where Seata's own decoder reads something else than was written, the reader here does the same, and its
comment says so.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from troth.wire.seata import messages as m
from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    GlobalStatus,
    ResultCode,
    TransactionExceptionCode,
)
from troth.wire.seata.fields import (
    cut_text2,
    pack_int,
    pack_long,
    pack_short,
    read_code,
    read_text2,
    read_text4,
    text2,
    text4,
    unpack_int,
    unpack_long,
    unpack_short,
)

SEATA_VERSION: Final = "2.6.0"
"""What an empty version reads as, because Seata's classes start with their own (here: that of the vectors)."""

DEFAULT_SAVE_DAYS: Final = 7

_BRANCH_STATUSES = tuple(BranchStatus)
_BRANCH_TYPES = tuple(BranchType)
_EXCEPTION_CODES = tuple(TransactionExceptionCode)
_GLOBAL_STATUSES = tuple(GlobalStatus)
_RESULT_CODES = tuple(ResultCode)
_SUCCESS = ResultCode.Success
_FAILED = ResultCode.Failed
_SUCCESS_CODE = int(_SUCCESS)
_NO_EXCEPTION = TransactionExceptionCode.Unknown
_NULL_STATUS = 0xFF

_pack_success = Struct(">BB").pack
_pack_registered = Struct(">BBq").pack
_pack_id_and_byte = Struct(">qB").pack

# What a reader and a writer are. The messages differ per row of the table, so a row's two functions agree on a class
# that the type of the table cannot name.
Reader = Callable[[bytes, int, int], tuple[m.Message, int]]
Writer = Callable[[Any], bytes]


class Layout(NamedTuple):
    """One row of the table: how messages of one type code look."""

    message: type[m.Message]
    read: Reader
    write: Writer


# --- results ----------------------------------------------------------------------------------------------------------

ResultHead = tuple[ResultCode, str | None, TransactionExceptionCode, int]


def read_result(buf: bytes, pos: int, end: int) -> ResultHead:
    """The start of every answer."""
    if buf[pos] == _SUCCESS_CODE and not buf[pos + 1]:  # what nearly all results are
        return _SUCCESS, None, _NO_EXCEPTION, pos + 2
    code = read_code(_RESULT_CODES, buf, pos)
    pos += 1
    msg = None
    if code is _FAILED:
        msg, pos = read_text2(buf, pos, end)
    return code, msg, read_code(_EXCEPTION_CODES, buf, pos), pos + 1


def write_result(message: m.TransactionResponse) -> bytes:
    """The start of every answer."""
    if message.result_code == _SUCCESS:
        return _pack_success(_SUCCESS, message.transaction_exception_code)
    return b"\0" + cut_text2(message.msg) + bytes((message.transaction_exception_code,))


# --- registration -----------------------------------------------------------------------------------------------------


def _read_register_tm(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    version, pos = read_text2(buf, pos, end)
    application, pos = read_text2(buf, pos, end)
    group, pos = read_text2(buf, pos, end)
    extra, pos = read_text2(buf, pos, end)
    # Seata's decoder of this one message gives "" for what every other gives null.
    return m.RegisterTMRequest(version or "", application or "", group or "", extra or ""), pos


def _read_register_rm(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    version, pos = read_text2(buf, pos, end)
    application, pos = read_text2(buf, pos, end)
    group, pos = read_text2(buf, pos, end)
    extra, pos = read_text2(buf, pos, end)
    resources, pos = read_text4(buf, pos, end)
    if version is None:
        # Seata's decoder stops at an empty version and loses everything behind it (PROTOCOL §3).
        return m.RegisterRMRequest(SEATA_VERSION, None, None), pos
    return m.RegisterRMRequest(version, application, group, extra, resources), pos


def _write_register_tm(message: m.RegisterTMRequest | m.RegisterRMRequest) -> bytes:
    return (
        text2(message.version)
        + text2(message.application_id)
        + text2(message.transaction_service_group)
        + text2(message.extra_data)
    )


def _write_register_rm(message: m.RegisterRMRequest) -> bytes:
    return _write_register_tm(message) + text4(message.resource_ids)


def _register_response(message: type[m.RegisterResponse]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        version, stop = read_text2(buf, pos + 1, end)
        return message(buf[pos] == 1, version or SEATA_VERSION), stop

    return Layout(message, read, _write_register_response)


def _write_register_response(message: m.RegisterResponse) -> bytes:
    return (b"\1" if message.identified else b"\0") + text2(message.version)


# --- global transactions ----------------------------------------------------------------------------------------------


def _read_global_begin(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    (timeout_ms,) = unpack_int(buf, pos)
    name, pos = read_text2(buf, pos + 4, end)
    return m.GlobalBeginRequest(timeout_ms, name), pos


def _write_global_begin(message: m.GlobalBeginRequest) -> bytes:
    return pack_int(message.timeout_ms) + text2(message.transaction_name)


def _read_global_begin_response(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    xid, pos = read_text2(buf, pos, end)
    extra, pos = read_text2(buf, pos, end)
    return m.GlobalBeginResponse(code, msg, exception, xid, extra), pos


def _write_global_begin_response(message: m.GlobalBeginResponse) -> bytes:
    return write_result(message) + text2(message.xid) + text2(message.extra_data)


def _global_end(message: type[m.GlobalEndRequest]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        xid, pos = read_text2(buf, pos, end)
        extra, pos = read_text2(buf, pos, end)
        return message(xid, extra), pos

    return Layout(message, read, _write_global_end)


def _write_global_end(message: m.GlobalEndRequest) -> bytes:
    return text2(message.xid) + text2(message.extra_data)


def _read_global_report(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    xid, pos = read_text2(buf, pos, end)
    extra, pos = read_text2(buf, pos, end)
    # Any negative byte is null to Seata, though it writes only -1.
    status = None if buf[pos] > 0x7F else read_code(_GLOBAL_STATUSES, buf, pos)
    return m.GlobalReportRequest(xid, extra, status), pos + 1


def _write_global_report(message: m.GlobalReportRequest) -> bytes:
    status = message.global_status
    return _write_global_end(message) + bytes((_NULL_STATUS if status is None else status,))


def _global_end_response(message: type[m.GlobalEndResponse]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        code, msg, exception, pos = read_result(buf, pos, end)
        return message(code, msg, exception, read_code(_GLOBAL_STATUSES, buf, pos)), pos + 1

    return Layout(message, read, _write_global_end_response)


def _write_global_end_response(message: m.GlobalEndResponse) -> bytes:
    return write_result(message) + bytes((message.global_status,))


# --- branches: RM to TC -----------------------------------------------------------------------------------------------


def _branch_register(message: type[m.BranchRegisterRequest]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        xid, pos = read_text2(buf, pos, end)
        branch_type = read_code(_BRANCH_TYPES, buf, pos)
        resource, pos = read_text2(buf, pos + 1, end)
        lock_key, pos = read_text4(buf, pos, end)
        data, pos = read_text4(buf, pos, end)
        return message(xid, branch_type, resource, lock_key, data), pos

    return Layout(message, read, _write_branch_register)


def _write_branch_register(message: m.BranchRegisterRequest) -> bytes:
    return (
        text2(message.xid)
        + bytes((message.branch_type,))
        + text2(message.resource_id)
        + text4(message.lock_key)
        + text4(message.application_data)
    )


def _read_branch_register_response(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    (branch_id,) = unpack_long(buf, pos)
    return m.BranchRegisterResponse(code, msg, exception, branch_id), pos + 8


def _write_branch_register_response(message: m.BranchRegisterResponse) -> bytes:
    if message.result_code == _SUCCESS:
        return _pack_registered(_SUCCESS, message.transaction_exception_code, message.branch_id)
    return write_result(message) + pack_long(message.branch_id)


def _read_branch_report(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    xid, pos = read_text2(buf, pos, end)
    (branch_id,) = unpack_long(buf, pos)
    status = read_code(_BRANCH_STATUSES, buf, pos + 8)
    resource, pos = read_text2(buf, pos + 9, end)
    data, pos = read_text4(buf, pos, end)
    branch_type = read_code(_BRANCH_TYPES, buf, pos)
    return m.BranchReportRequest(xid, branch_id, status, resource, data, branch_type), pos + 1


def _write_branch_report(message: m.BranchReportRequest) -> bytes:
    return (
        text2(message.xid)
        + _pack_id_and_byte(message.branch_id, message.status)
        + text2(message.resource_id)
        + text4(message.application_data)
        + bytes((message.branch_type,))
    )


def _read_branch_report_response(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    return m.BranchReportResponse(code, msg, exception), pos


def _read_lock_query_response(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    (lockable,) = unpack_short(buf, pos)
    return m.GlobalLockQueryResponse(code, msg, exception, lockable == 1), pos + 2


def _write_lock_query_response(message: m.GlobalLockQueryResponse) -> bytes:
    return write_result(message) + (b"\0\1" if message.lockable else b"\0\0")


# --- phase two: TC to RM ----------------------------------------------------------------------------------------------


def branch_end(message: type[m.BranchEndRequest]) -> Layout:
    """The layout of a request that names a branch in phase two."""

    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        xid, pos = read_text2(buf, pos, end)
        (branch_id,) = unpack_long(buf, pos)
        branch_type = read_code(_BRANCH_TYPES, buf, pos + 8)
        resource, pos = read_text2(buf, pos + 9, end)
        data, pos = read_text4(buf, pos, end)
        return message(xid, branch_id, branch_type, resource, data), pos

    return Layout(message, read, _write_branch_end)


def _write_branch_end(message: m.BranchEndRequest) -> bytes:
    return (
        text2(message.xid)
        + _pack_id_and_byte(message.branch_id, message.branch_type)
        + text2(message.resource_id)
        + text4(message.application_data)
    )


def _branch_end_response(message: type[m.BranchEndResponse]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        code, msg, exception, pos = read_result(buf, pos, end)
        xid, pos = read_text2(buf, pos, end)
        (branch_id,) = unpack_long(buf, pos)
        status = read_code(_BRANCH_STATUSES, buf, pos + 8)
        return message(code, msg, exception, xid, branch_id, status), pos + 9

    return Layout(message, read, _write_branch_end_response)


def _write_branch_end_response(message: m.BranchEndResponse) -> bytes:
    return write_result(message) + text2(message.xid) + _pack_id_and_byte(message.branch_id, message.branch_status)


def _read_undo_log_delete(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    branch_type = read_code(_BRANCH_TYPES, buf, pos)
    resource, pos = read_text2(buf, pos + 1, end)
    (save_days,) = unpack_short(buf, pos)
    if resource is None:
        # Seata's decoder stops at an empty resource and keeps the default.
        save_days = DEFAULT_SAVE_DAYS
    return m.UndoLogDeleteRequest(branch_type, resource, save_days), pos + 2


def _write_undo_log_delete(message: m.UndoLogDeleteRequest) -> bytes:
    return bytes((message.branch_type,)) + text2(message.resource_id) + pack_short(message.save_days)


# --- the table --------------------------------------------------------------------------------------------------------

SINGLES: Final = (
    Layout(m.RegisterTMRequest, _read_register_tm, _write_register_tm),
    _register_response(m.RegisterTMResponse),
    Layout(m.RegisterRMRequest, _read_register_rm, _write_register_rm),
    _register_response(m.RegisterRMResponse),
    Layout(m.GlobalBeginRequest, _read_global_begin, _write_global_begin),
    Layout(m.GlobalBeginResponse, _read_global_begin_response, _write_global_begin_response),
    _global_end(m.GlobalCommitRequest),
    _global_end_response(m.GlobalCommitResponse),
    _global_end(m.GlobalRollbackRequest),
    _global_end_response(m.GlobalRollbackResponse),
    _global_end(m.GlobalStatusRequest),
    _global_end_response(m.GlobalStatusResponse),
    Layout(m.GlobalReportRequest, _read_global_report, _write_global_report),
    _global_end_response(m.GlobalReportResponse),
    _branch_register(m.BranchRegisterRequest),
    Layout(m.BranchRegisterResponse, _read_branch_register_response, _write_branch_register_response),
    Layout(m.BranchReportRequest, _read_branch_report, _write_branch_report),
    Layout(m.BranchReportResponse, _read_branch_report_response, write_result),
    _branch_register(m.GlobalLockQueryRequest),
    Layout(m.GlobalLockQueryResponse, _read_lock_query_response, _write_lock_query_response),
    branch_end(m.BranchCommitRequest),
    _branch_end_response(m.BranchCommitResponse),
    branch_end(m.BranchRollbackRequest),
    _branch_end_response(m.BranchRollbackResponse),
    Layout(m.UndoLogDeleteRequest, _read_undo_log_delete, _write_undo_log_delete),
)
