"""The conditions in the transition table. Pure questions about one transaction, one event and the time."""

from __future__ import annotations

from troth.core.course import is_step, verb_now
from troth.core.due import rolls_back_in_time
from troth.core.events import Answered, CallResult, Claim, Commit, Record, Register, Report, Rollback
from troth.core.model import Branch, BranchType, Global, Phase, PhaseOne, Verb
from troth.core.votes import owes_vote


def expired(tx: Global, event: object, now: int) -> bool:
    return now >= tx.begin_ms + tx.timeout_ms and (tx.terms is None or rolls_back_in_time(tx))


def wants_no_rows(tx: Global, event: Register, now: int) -> bool:
    return not event.keys


def branch_unknown(tx: Global, event: Report, now: int) -> bool:
    return event.branch_id not in tx.branches


def voted_down(tx: Global, event: object, now: int) -> bool:
    return tx.rollback_only


def phase_one_failed(tx: Global, event: object, now: int) -> bool:
    """A branch has failed, or has not said what it promised to say before a commit."""
    for branch in tx.branches.values():  # not any(): asked at every commit, and a generator is a call a branch
        if branch.phase_one is PhaseOne.FAILED or (branch.branch_type is BranchType.XA and owes_vote(branch)):
            return True
    return False


def has_steps_to_run(tx: Global, event: object, now: int) -> bool:
    return tx.course is not None and any(
        is_step(branch) and branch.phase_one is not PhaseOne.DONE for branch in tx.branches.values()
    )


def has_no_runner(tx: Global, event: object, now: int) -> bool:
    return tx.course is None or tx.course.runner is None


def has_a_runner(tx: Global, event: object, now: int) -> bool:
    return not has_no_runner(tx, event, now)


def superseded(tx: Global, event: Record | Commit | Rollback, now: int) -> bool:
    """Whoever asks says which attempt of the runner he is, and it is another that has the run."""
    if event.attempt is None or tx.course is None or tx.course.runner is None:
        return False
    return event.attempt != tx.branches[tx.course.runner].epoch


def claimed_already(tx: Global, event: Claim, now: int) -> bool:
    """A later attempt has the run, or somebody else of the same number: numbers are given again after a restart."""
    assert tx.course is not None
    assert tx.course.runner is not None
    runner = tx.branches[tx.course.runner]
    return event.attempt < runner.epoch or (event.attempt == runner.epoch and event.client_id != runner.client_id)


def stale(tx: Global, event: Answered, now: int) -> bool:
    """The branch is gone already, or the failure is of an attempt that nobody waits for any more.

    A late success or refusal is the truth whatever attempt it answers, because what is asked is idempotent; but only of
    what is asked now, and not of a run that another has taken over.
    """
    branch = tx.branches.get(event.branch_id)
    if branch is None:
        return True
    if tx.course is None:
        if tx.phase is Phase.OPEN:
            return True
    else:
        asked = verb_now(tx, branch)
        if asked is None or event.verb is not asked or (asked is Verb.ACTION and branch.phase_one is PhaseOne.DONE):
            return True
        if asked is Verb.ASK:
            late = event.attempt != tx.course.asked or not branch.called
            return event.attempt < branch.epoch or (late and event.result in _FAILURES)
    current = branch.called and event.attempt == branch.attempts + 1
    return not current and event.result in _FAILURES


def done(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.DONE


def refused(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.REFUSED


def no_channel(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.NO_CHANNEL


def ongoing(tx: Global, event: Answered, now: int) -> bool:
    return event.result is CallResult.ONGOING


def out_of_attempts(tx: Global, event: Answered, now: int) -> bool:
    """This was the last attempt that a forward step may have."""
    return _has_no_more(tx, tx.branches[event.branch_id])


def out_of_attempts_by_silence(tx: Global, event: object, now: int) -> bool:
    """A forward step has not answered its last attempt in time."""
    if tx.terms is None or not tx.terms.retry_limit:
        return False
    called = (branch for branch in tx.branches.values() if branch.answer_due_ms is not None)
    return any(branch.answer_due_ms <= now and _has_no_more(tx, branch) for branch in called)  # type: ignore[operator]


def round_running(tx: Global, event: Commit | Rollback, now: int) -> bool:
    """A call is out: whoever asks now, and waits, hears how this round ends."""
    return tx.calls_out > 0 and event.wait


_FAILURES = frozenset({CallResult.RETRY, CallResult.NO_CHANNEL, CallResult.ONGOING})


def _has_no_more(tx: Global, branch: Branch) -> bool:
    limit = 0 if tx.terms is None else tx.terms.retry_limit
    return 0 < limit <= branch.attempts + 1
