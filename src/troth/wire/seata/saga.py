"""Messages of our own by which a saga's steps are kept at the coordinator, and its run passes from process to process.

Only who has negotiated them gets them. An RM says `troth=saga` in its registration's `extraData`, which Seata leaves
empty and does not read; a coordinator that knows them answers with `+saga` in its version, as build metadata. No Seata
client or server ever meets these type codes.
"""

from enum import IntEnum
from typing import ClassVar, Final

import msgspec

from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.errors import WireError
from troth.wire.seata.fields import (
    pack_int,
    pack_long,
    read_text2,
    read_text4,
    text2,
    text4,
    unpack_int,
    unpack_long,
)
from troth.wire.seata.layouts import Layout, read_result, write_result

ANNOUNCEMENT: Final = "troth=saga"
"""The line of an RM's `extraData` by which it asks for these messages."""
_SUFFIX: Final = "+saga"
NOBODY: Final = -1
"""No newer attempt has taken the run over."""
LARGEST_RECORDS_BYTES: Final = 1 << 20
"""An answer to a claim holds about this much; the rest is asked for again, from `first` on."""


class SagaTypeCode(IntEnum):
    """Type codes beyond all of Seata's."""

    SAGA_BEGIN = 1010
    SAGA_BEGIN_RESULT = 1011
    STEP_RECORD = 1012
    STEP_RECORD_RESULT = 1013
    RUN_CLAIM = 1014
    RUN_CLAIM_RESULT = 1015
    RUN_ASK = 1016


# --- what is said ----------------------------------------------------------------------------------------------------


class SagaBeginRequest(m.Message, frozen=True, gc=False):
    """Begin a saga that this channel runs, under the resource by which another process is found to go on with it.

    `application_data` is what such a process needs (the saga's arguments); `check_interval_ms`: how often the
    coordinator makes sure that somebody still runs it. `gid`: a name of the caller's choice; if there is one of that
    name, nothing is begun.
    """

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.SAGA_BEGIN  # type: ignore[assignment]
    timeout_ms: int
    transaction_name: str | None
    resource_id: str | None
    application_data: str | None
    check_interval_ms: int
    gid: str | None = None


class SagaBeginResponse(m.TransactionResponse, frozen=True, gc=False):
    """Answer to `SagaBeginRequest`: the saga's xid; its run is this client's, as attempt 0.

    `known`: there was one of that name already, this one; nothing was begun.
    """

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.SAGA_BEGIN_RESULT  # type: ignore[assignment]
    xid: str | None = None
    known: bool = False


class StepRecordRequest(m.Message, frozen=True, gc=False):
    """Keep how a step ended. `attempt` is that of the run; `key` names the step; said again, the first one stays."""

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.STEP_RECORD  # type: ignore[assignment]
    xid: str | None
    attempt: int
    key: str | None
    application_data: str | None
    failed: bool


class StepRecordResponse(m.TransactionResponse, frozen=True, gc=False):
    """Success: what is kept for the key. Failed: `superseded_by` is the attempt that has taken the run over, or -1."""

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.STEP_RECORD_RESULT  # type: ignore[assignment]
    branch_id: int = 0
    application_data: str | None = None
    superseded_by: int = NOBODY


class RunClaimRequest(m.Message, frozen=True, gc=False):
    """This client goes on with the run, as attempt `attempt` (the number it was asked with).

    `first`: how many records it has already, from an earlier answer to the same claim.
    """

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.RUN_CLAIM  # type: ignore[assignment]
    xid: str | None
    attempt: int
    first: int = 0


class RunClaimResponse(m.TransactionResponse, frozen=True, gc=False):
    """Success: the records from `first` on, as `records_text` writes them, of `total`. Failed: as for a record."""

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.RUN_CLAIM_RESULT  # type: ignore[assignment]
    records: str | None = None
    total: int = 0
    superseded_by: int = NOBODY


class RunAskRequest(m.BranchCommitRequest, frozen=True, gc=False):
    """The coordinator asks who serves the resource: does somebody run this saga? If not, take it over.

    Answered by a BranchCommitResponse. PhaseOne_Done: it is being run. PhaseTwo_CommitFailed_Retryable: not now.
    """

    TYPE_CODE: ClassVar[SagaTypeCode] = SagaTypeCode.RUN_ASK  # type: ignore[assignment]
    attempt: int = 0


NO_SAGAS: Final = "the coordinator keeps no sagas (a Seata server does not); @troth.saga needs `troth serve`"
NOT_NEGOTIATED_BEGIN: Final = SagaBeginResponse(
    ResultCode.Failed, NO_SAGAS, TransactionExceptionCode.BeginFailed, xid=None
)
"""What our own link answers in place of a coordinator that would not understand."""
NOT_NEGOTIATED_RECORD: Final = StepRecordResponse(ResultCode.Failed, NO_SAGAS, TransactionExceptionCode.Unknown)
NOT_NEGOTIATED_CLAIM: Final = RunClaimResponse(ResultCode.Failed, NO_SAGAS, TransactionExceptionCode.Unknown)
SAGA_REQUESTS: Final = (SagaBeginRequest, StepRecordRequest, RunClaimRequest)


def announces(extra_data: str | None) -> bool:
    """Whether a registration with this `extraData` asks for these messages."""
    return extra_data is not None and ANNOUNCEMENT in extra_data.splitlines()


def agreed(version: str) -> str:
    """A coordinator's version for an RM that has asked: it knows them too. Other suffixes go behind this one."""
    return version + _SUFFIX


def agrees(version: str | None) -> bool:
    """Whether the coordinator that answered with `version` knows these messages."""
    return version is not None and f"{_SUFFIX}+" in f"{version}+"


def refusal(message: m.Message) -> m.Message:
    """The answer to one of `SAGA_REQUESTS` where there is no such coordinator."""
    if isinstance(message, SagaBeginRequest):
        return NOT_NEGOTIATED_BEGIN
    return NOT_NEGOTIATED_RECORD if isinstance(message, StepRecordRequest) else NOT_NEGOTIATED_CLAIM


Kept = tuple[str, str | None, bool]
"""A record: its key, its application data, and whether the step failed."""


def records_text(records: tuple[Kept, ...], first: int) -> str:
    """As many of `records`, from number `first` on, as an answer holds; at least one if there is one."""
    parts: list[bytes] = []
    room = LARGEST_RECORDS_BYTES
    for record in records[max(first, 0) :]:
        part = msgspec.json.encode(record)
        room -= len(part)
        if parts and room < 0:
            break
        parts.append(part)
    return (b"[" + b",".join(parts) + b"]").decode()


def records_in(text: str | None) -> list[Kept]:
    """The reverse. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(text or "[]", type=list[Kept])


# --- the layouts -----------------------------------------------------------------------------------------------------


def _read_begin(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    (timeout_ms,) = unpack_int(buf, pos)
    name, pos = read_text2(buf, pos + 4, end)
    resource, pos = read_text2(buf, pos, end)
    data, pos = read_text4(buf, pos, end)
    (check_ms,) = unpack_int(buf, pos)
    gid, pos = read_text2(buf, pos + 4, end)
    return SagaBeginRequest(timeout_ms, name, resource, data, check_ms, gid), pos


def _write_begin(message: SagaBeginRequest) -> bytes:
    return b"".join(
        (
            pack_int(message.timeout_ms),
            text2(message.transaction_name),
            text2(message.resource_id),
            text4(message.application_data),
            pack_int(message.check_interval_ms),
            text2(message.gid),
        )
    )


def _read_begun(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    xid, pos = read_text2(buf, pos, end)
    return SagaBeginResponse(code, msg, exception, xid, _truth(buf, pos)), pos + 1


def _write_begun(message: SagaBeginResponse) -> bytes:
    return write_result(message) + text2(message.xid) + bytes((message.known,))


def _truth(buf: bytes, pos: int) -> bool:
    if buf[pos] > 1:
        raise WireError(f"a truth value of {buf[pos]}", pos)
    return buf[pos] == 1


def _read_record(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    xid, pos = read_text2(buf, pos, end)
    (attempt,) = unpack_int(buf, pos)
    key, pos = read_text2(buf, pos + 4, end)
    data, pos = read_text4(buf, pos, end)
    return StepRecordRequest(xid, attempt, key, data, _truth(buf, pos)), pos + 1


def _write_record(message: StepRecordRequest) -> bytes:
    return b"".join(
        (
            text2(message.xid),
            pack_int(message.attempt),
            text2(message.key),
            text4(message.application_data),
            bytes((message.failed,)),
        )
    )


def _read_recorded(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    (branch_id,) = unpack_long(buf, pos)
    data, pos = read_text4(buf, pos + 8, end)
    (newer,) = unpack_int(buf, pos)
    return StepRecordResponse(code, msg, exception, branch_id, data, newer), pos + 4


def _write_recorded(message: StepRecordResponse) -> bytes:
    head = write_result(message) + pack_long(message.branch_id)
    return head + text4(message.application_data) + pack_int(message.superseded_by)


def _read_claim(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    xid, pos = read_text2(buf, pos, end)
    (attempt,) = unpack_int(buf, pos)
    (first,) = unpack_int(buf, pos + 4)
    return RunClaimRequest(xid, attempt, first), pos + 8


def _write_claim(message: RunClaimRequest) -> bytes:
    return text2(message.xid) + pack_int(message.attempt) + pack_int(message.first)


def _read_claimed(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    records, pos = read_text4(buf, pos, end)
    (total,) = unpack_int(buf, pos)
    (newer,) = unpack_int(buf, pos + 4)
    return RunClaimResponse(code, msg, exception, records, total, newer), pos + 8


def _write_claimed(message: RunClaimResponse) -> bytes:
    return b"".join(
        (write_result(message), text4(message.records), pack_int(message.total), pack_int(message.superseded_by))
    )


_BRANCH_TYPES: Final = tuple(BranchType)


def _read_ask(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    xid, pos = read_text2(buf, pos, end)
    (branch_id,) = unpack_long(buf, pos)
    kind = buf[pos + 8]
    if kind >= len(_BRANCH_TYPES):
        raise WireError(f"branch type {kind}", pos + 8)
    resource, pos = read_text2(buf, pos + 9, end)
    data, pos = read_text4(buf, pos, end)
    (attempt,) = unpack_int(buf, pos)
    return RunAskRequest(xid, branch_id, _BRANCH_TYPES[kind], resource, data, attempt), pos + 4


def _write_ask(message: RunAskRequest) -> bytes:
    return b"".join(
        (
            text2(message.xid),
            pack_long(message.branch_id),
            bytes((message.branch_type,)),
            text2(message.resource_id),
            text4(message.application_data),
            pack_int(message.attempt),
        )
    )


SAGA_LAYOUTS: Final = (
    Layout(SagaBeginRequest, _read_begin, _write_begin),
    Layout(SagaBeginResponse, _read_begun, _write_begun),
    Layout(StepRecordRequest, _read_record, _write_record),
    Layout(StepRecordResponse, _read_recorded, _write_recorded),
    Layout(RunClaimRequest, _read_claim, _write_claim),
    Layout(RunClaimResponse, _read_claimed, _write_claimed),
    Layout(RunAskRequest, _read_ask, _write_ask),
)
