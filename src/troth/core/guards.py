"""The conditions in the transition table. Pure questions about one transaction, one event and the time."""

from __future__ import annotations

from troth.core.events import Answered, CallResult, Register, Report
from troth.core.model import Global, PhaseOne


def expired(tx: Global, event: object, now: int) -> bool:
    return now >= tx.begin_ms + tx.timeout_ms


def wants_no_rows(tx: Global, event: Register, now: int) -> bool:
    return not event.keys


def branch_unknown(tx: Global, event: Report, now: int) -> bool:
    return event.branch_id not in tx.branches


def voted_down(tx: Global, event: object, now: int) -> bool:
    return tx.rollback_only


def phase_one_failed(tx: Global, event: object, now: int) -> bool:
    return any(branch.phase_one is PhaseOne.FAILED for branch in tx.branches.values())


def stale(tx: Global, event: Answered, now: int) -> bool:
    """The branch is gone already, or the failure is of an attempt that nobody waits for any more.

    A late success or refusal is the truth whatever attempt it answers, because phase two is idempotent.
    """
    branch = tx.branches.get(event.branch_id)
    if branch is None:
        return True
    current = branch.called and event.attempt == branch.attempts + 1
    return not current and event.result in (CallResult.RETRY, CallResult.NO_CHANNEL)


def done(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.DONE


def refused(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.REFUSED


def no_channel(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.NO_CHANNEL


def round_running(tx: Global, event: object, now: int) -> bool:
    """A call is out: whoever asks now hears how this round ends."""
    return tx.calls_out > 0
