"""Three messages of our own: a cold wait for row locks, its answer, and a registration that says how it locks.

Only who has negotiated them gets them. An RM says `troth=lock-wait` in its registration's `extraData`, which Seata
leaves empty and does not read; a coordinator that knows them answers that RM with `+lock-wait` behind its version, as
build metadata. No Seata client or server ever meets these type codes.
"""

from enum import IntEnum
from typing import ClassVar, Final

from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.errors import WireError
from troth.wire.seata.fields import pack_int, read_text2, read_text4, text2, text4, unpack_int
from troth.wire.seata.layouts import Layout, read_result, write_result

ANNOUNCEMENT: Final = "troth=lock-wait"
"""The line of an RM's `extraData` by which it asks for these messages."""
_SUFFIX: Final = "+lock-wait"


class LockWaitTypeCode(IntEnum):
    """Type codes beyond all of Seata's."""

    LOCK_WAIT = 1003
    LOCK_WAIT_RESULT = 1004
    MODE_REGISTER = 1005


class RowLockMode(IntEnum):
    """How rows are to be locked. Additions bear each other, and nothing else."""

    EXCLUSIVE = 0
    ADD = 1


class ModeRegisterRequest(m.BranchRegisterRequest, frozen=True, gc=False):
    """`BranchRegisterRequest` with a lock mode; answered as that is."""

    TYPE_CODE: ClassVar[LockWaitTypeCode] = LockWaitTypeCode.MODE_REGISTER  # type: ignore[assignment]
    lock_mode: RowLockMode = RowLockMode.EXCLUSIVE


class LockWaitRequest(m.BranchRegisterRequest, frozen=True, gc=False):
    """Queue for the rows of `lock_key` without holding any local lock, and keep them for `xid` once they are free."""

    TYPE_CODE: ClassVar[LockWaitTypeCode] = LockWaitTypeCode.LOCK_WAIT  # type: ignore[assignment]
    lock_mode: RowLockMode = RowLockMode.EXCLUSIVE


class LockWaitResponse(m.TransactionResponse, frozen=True, gc=False):
    """Success: the rows are kept for `keep_ms`. Failed: they could not be had, `msg` says why."""

    TYPE_CODE: ClassVar[LockWaitTypeCode] = LockWaitTypeCode.LOCK_WAIT_RESULT  # type: ignore[assignment]
    keep_ms: int = 0


MODE_NOT_KNOWN: Final = m.BranchRegisterResponse(
    ResultCode.Failed, "the coordinator knows no lock modes", TransactionExceptionCode.BranchRegisterFailed, -1
)
"""The same for a `ModeRegisterRequest`: who asked has to ask for the rows alone, and to write another undo log."""
NOT_NEGOTIATED: Final = LockWaitResponse(
    result_code=ResultCode.Failed, msg="the coordinator knows no cold waits", keep_ms=-1
)
"""What our own link answers in place of a coordinator that would not understand the question."""


def announces(extra_data: str | None) -> bool:
    """Whether a registration with this `extraData` asks for these messages."""
    return extra_data is not None and ANNOUNCEMENT in extra_data.splitlines()


def agreed(version: str) -> str:
    """A coordinator's version for an RM that has asked: it knows them too."""
    return version + _SUFFIX


def agrees(version: str | None) -> bool:
    """Whether the coordinator that answered with `version` knows these messages."""
    return version is not None and version.endswith(_SUFFIX)


_MODES = tuple(RowLockMode)


def _moded(message: type[ModeRegisterRequest] | type[LockWaitRequest]) -> Layout:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        xid, pos = read_text2(buf, pos, end)
        kind = buf[pos]
        resource, pos = read_text2(buf, pos + 1, end)
        lock_key, pos = read_text4(buf, pos, end)
        data, pos = read_text4(buf, pos, end)
        if kind >= len(BranchType) or buf[pos] >= len(_MODES):
            raise WireError(f"branch type {kind} with lock mode {buf[pos]}", pos)
        return message(xid, BranchType(kind), resource, lock_key, data, _MODES[buf[pos]]), pos + 1

    return Layout(message, read, _write_moded)


def _write_moded(message: ModeRegisterRequest | LockWaitRequest) -> bytes:
    return b"".join(
        (
            text2(message.xid),
            bytes((message.branch_type,)),
            text2(message.resource_id),
            text4(message.lock_key),
            text4(message.application_data),
            bytes((message.lock_mode,)),
        )
    )


def _read_answer(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    code, msg, exception, pos = read_result(buf, pos, end)
    (keep_ms,) = unpack_int(buf, pos)
    return LockWaitResponse(code, msg, exception, keep_ms), pos + 4


def _write_answer(message: LockWaitResponse) -> bytes:
    return write_result(message) + pack_int(message.keep_ms)


LOCK_LAYOUTS: Final = (
    _moded(LockWaitRequest),
    Layout(LockWaitResponse, _read_answer, _write_answer),
    _moded(ModeRegisterRequest),
)
