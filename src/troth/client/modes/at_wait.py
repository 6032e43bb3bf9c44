"""AT, waiting for row locks that another global transaction holds: outside of local transactions (coordinator §4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from troth.client.errors import BranchFailed, CoordinatorUnavailable, LockConflict
from troth.client.flow import Flow, Pause, tell
from troth.client.isolation import CHECK_ONLY
from troth.wire.seata.enums import BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.lock_wait import NOT_NEGOTIATED, LockWaitRequest, LockWaitResponse, RowLockMode

CONFLICTS = (TransactionExceptionCode.LockKeyConflict, TransactionExceptionCode.LockKeyConflictFailFast)
_HELD = re.compile(
    r"row (?P<row>.+) is held by xid = (?P<holder>\S+) for (?P<age_ms>\d+) ms(?:; (?P<deadlock>deadlock: .+))?"
)


@dataclass(frozen=True, slots=True)
class Denied:
    """The rows of one resource that could not be had, and how they were wanted."""

    resource_id: str
    locks: str
    mode: RowLockMode = RowLockMode.EXCLUSIVE


def wait_outside(xid: str, denied: Denied, conflict: LockConflict, pause_s: float) -> Flow[None]:
    """A cold wait: it ends when the rows are kept for `xid`, for as long as its statement needs to run again.

    A Seata server knows none, and without a global transaction nothing can be kept: then the next try comes after
    `pause_s`.

    Raises:
        LockConflict: the rows could not be had in time, or all would have waited for each other.
        BranchFailed: the coordinator refuses; the global transaction has ended, say.
    """
    if xid == CHECK_ONLY:
        yield Pause(pause_s)
        return
    request = LockWaitRequest(xid, BranchType.AT, denied.resource_id, denied.locks, None, denied.mode)
    try:
        answer = yield from tell(request, LockWaitResponse)
    except CoordinatorUnavailable:  # nothing hangs on the answer: the next try asks again, or tells why it cannot
        yield Pause(pause_s)
        return
    if answer.result_code is ResultCode.Success:
        return
    if answer == NOT_NEGOTIATED:
        yield Pause(pause_s)
    elif answer.transaction_exception_code in CONFLICTS:
        raise lock_conflict(denied.locks, answer.msg) from conflict
    else:
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"{xid} cannot wait for {denied.locks}: {answer.msg} ({code})") from conflict


def lock_conflict(locks: str, said: str | None, why: str | None = None) -> LockConflict:
    """The error for a refused lock; row, holder and age as far as the coordinator says them (Java does not)."""
    held = _HELD.search(said or "")
    if held is not None:
        age = timedelta(milliseconds=int(held["age_ms"]))
        return LockConflict(held["row"], held["holder"], age, detail=held["deadlock"] or why)
    single = locks if "," not in locks and ";" not in locks else None
    return LockConflict(single, detail=why or said)
