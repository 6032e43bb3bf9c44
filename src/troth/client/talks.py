"""How a global transaction is begun and ended, written once for sync and async: generators, no I/O and no clock.

The pact, as in psycopg's generators: a talk yields `Ask(message)` and is sent the answer, or gets the `TrothError`
thrown in; it yields `Pause(seconds)` and is sent None. `run` and `arun` (drive.py) answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from troth.client.errors import (
    ClientClosed,
    CommitFailed,
    CoordinatorRefused,
    CoordinatorUnavailable,
    OutcomeUnknown,
    TransactionRolledBack,
    TrothError,
)
from troth.client.outcome import Verdict, cause_of_rollback, verdict
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalEndRequest,
    GlobalEndResponse,
    GlobalRollbackRequest,
    GlobalStatusRequest,
    Message,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a message to the coordinator; the answer comes back."""

    message: Message


@dataclass(frozen=True, slots=True)
class Pause:
    """Let some time pass."""

    seconds: float


T = TypeVar("T")
Talk = Generator[Ask | Pause, Message | None, T]
Now = Callable[[], float]
"""A monotonic clock, in seconds."""


def begin(name: str, timeout_ms: int, settings: ClientSettings, now: Now) -> Talk[str]:
    """Begin a global transaction and return its xid.

    It is asked again when the answer is lost: an orphan that this leaves has no branches and ends by its timeout.

    Raises:
        CoordinatorUnavailable: no answer within `begin_retry_timeout_s`.
        CoordinatorRefused: the coordinator said no.
    """
    deadline = now() + settings.begin_retry_timeout_s
    request = GlobalBeginRequest(timeout_ms=timeout_ms, transaction_name=name)
    while True:
        try:
            answer = yield Ask(request)
        except CoordinatorUnavailable:
            if now() + settings.retry_pause_s >= deadline:
                raise
        else:
            return _xid_in(answer)
        yield Pause(settings.retry_pause_s)


def commit(xid: str, settings: ClientSettings, now: Now) -> Talk[GlobalStatus]:
    """Commit, and return how it stands: decided to commit. Anything else is raised, never assumed.

    It is asked again when the answer is lost: a coordinator keeps outcomes, so the repeated commit hears the truth.

    Raises:
        TransactionRolledBack: it is rolled back.
        CommitFailed: the coordinator has given up committing a branch.
        OutcomeUnknown: no truthful answer within `commit_retry_timeout_s`.
    """
    status = yield from _end(GlobalCommitRequest(xid=xid), xid, settings.commit_retry_timeout_s, settings, now)
    match verdict(status):
        case Verdict.COMMITTED:
            return status
        case Verdict.COMMIT_FAILED:
            raise CommitFailed(xid, status, "a branch can not be committed; see `troth inspect` for the reason")
        case Verdict.FORGOTTEN:
            raise OutcomeUnknown(
                xid, "the coordinator does not know it: it ended long ago, or the coordinator has lost its memory"
            )
        case _:
            told = yield from _told_status(xid, status)
            raise TransactionRolledBack(xid, told, cause_of_rollback(told))


def _told_status(xid: str, status: GlobalStatus) -> Talk[GlobalStatus]:
    """What a status query says of a rolled-back transaction.

    The answer to a *commit* may be a timeout status whatever the cause: a Java TM takes others for success.
    """
    try:
        told = status_in((yield Ask(GlobalStatusRequest(xid=xid))))
    except TrothError:
        return status
    return told if verdict(told) in (Verdict.ROLLED_BACK, Verdict.ROLLBACK_FAILED) else status


def rollback(xid: str, settings: ClientSettings, now: Now) -> Talk[GlobalStatus]:
    """Roll back, and return how it stands (also when that is something else: the caller judges).

    Raises:
        OutcomeUnknown: no answer within `rollback_retry_timeout_s`; the transaction's timeout will roll it back.
    """
    return (yield from _end(GlobalRollbackRequest(xid=xid), xid, settings.rollback_retry_timeout_s, settings, now))


def _end(
    request: GlobalEndRequest, xid: str, patience_s: float, settings: ClientSettings, now: Now
) -> Talk[GlobalStatus]:
    """Ask until an answer carries a decision (or says that there is nothing to decide)."""
    deadline = now() + patience_s
    while True:
        try:
            answer = yield Ask(request)
        except CoordinatorUnavailable as error:
            reason = str(error)
        except ClientClosed as error:
            raise OutcomeUnknown(xid, str(error)) from error
        else:
            status, reason = _end_status_in(answer)
            if verdict(status) is not Verdict.UNDECIDED:
                return status
        if now() + settings.retry_pause_s >= deadline:
            raise OutcomeUnknown(xid, reason)
        yield Pause(settings.retry_pause_s)


def status_in(answer: Message | None) -> GlobalStatus:
    """The status in an answer.

    Raises:
        CoordinatorRefused: the answer is a refusal.
    """
    if not isinstance(answer, GlobalEndResponse):
        raise CoordinatorRefused(f"an answer of the wrong kind: {answer!r}")
    if answer.result_code is ResultCode.Failed:
        raise CoordinatorRefused(answer.msg or "no reason given", answer.transaction_exception_code)
    return answer.global_status


def _end_status_in(answer: Message | None) -> tuple[GlobalStatus, str]:
    """The status and why it may be undecided. A refusal that names no decision is no outcome: it is asked again."""
    if not isinstance(answer, GlobalEndResponse):
        raise CoordinatorRefused(f"an answer of the wrong kind: {answer!r}")
    if answer.result_code is ResultCode.Failed:
        return answer.global_status, f"the coordinator could not do it: {answer.msg or 'no reason given'}"
    return answer.global_status, f"the coordinator answered {answer.global_status.name}"


def _xid_in(answer: Message | None) -> str:
    if not isinstance(answer, GlobalBeginResponse):
        raise CoordinatorRefused(f"an answer of the wrong kind: {answer!r}")
    if answer.result_code is ResultCode.Failed or not answer.xid:
        raise CoordinatorRefused(answer.msg or "begin was refused without a reason", answer.transaction_exception_code)
    return answer.xid
