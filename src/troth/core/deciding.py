"""The decision, and the end: what the rows do that take a transaction from open to committed or rolled back."""

from __future__ import annotations

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.calls import call_ends, call_ready, drain_if_empty, leave, mark, note_failure
from troth.core.course import is_step, set_out, verb_now
from troth.core.decision import Decision, DenyWaiters, Free, Unqueue, Unwatch
from troth.core.due import front, line_up, take_due
from troth.core.listeners import add_listener, all_commit_later, answer_listeners, standing
from troth.core.model import Branch, BranchType, Cause, EndedBranch, Global, Phase, PhaseOne


def commit(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    """Rows are free from here on: what they are granted for next leaves in this batch or a later one."""
    _decide(tx, Cause.ASKED, out, event.reason)
    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())
    if (all_commit_later(tx) and tx.course is None) or not event.wait:
        out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked=True))
    else:
        add_listener(tx, event.reply_to, now, out, commit_asked=True)
    _deliver(tx, now, out)


def commit_forward(tx: Global, event: ev.Ran, now: int, out: Decision) -> None:
    """Every step has run: nothing can say no any more."""
    _decide(tx, Cause.ASKED, out)
    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())
    _deliver(tx, now, out)


def _deliver(tx: Global, now: int, out: Decision) -> None:
    if tx.course is not None:
        set_out(tx)
        _start_later(tx, now)
        if tx.branches and all_commit_later(tx):
            answer_listeners(tx, out)
    call_ready(tx, front(tx), now, out)
    drain_if_empty(tx, out)


def go_forward(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    """The submit is durable with this: steps run, each when its turn comes. Rows stay locked, nothing new is taken."""
    _decide(tx, None, out, event.reason)
    if event.wait:
        add_listener(tx, event.reply_to, now, out, commit_asked=True)
    else:
        out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked=True))
    set_out(tx)
    _start_later(tx, now)
    call_ready(tx, front(tx), now, out)


def _start_later(tx: Global, now: int) -> None:
    """What follows a submit may have been put off."""
    if tx.terms is not None and tx.begin_ms + tx.terms.start_ms > now:
        for branch in tx.branches.values():
            branch.next_due_ms = tx.begin_ms + tx.terms.start_ms


def roll_back(tx: Global, event: ev.Rollback, now: int, out: Decision) -> None:
    start_rollback(tx, Cause.ASKED, now, out, event.reason)
    _hear(tx, event, now, out)


def roll_back_for_timeout(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    """Seata answers TimeoutRollbacking here and changes nothing; we decide in this same step."""
    start_rollback(tx, Cause.TIMEOUT, now, out)
    _hear(tx, event, now, out)


def roll_back_for_vote(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    start_rollback(tx, Cause.VOTE, now, out)
    _hear(tx, event, now, out)


def roll_back_for_failed_branch(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    start_rollback(tx, Cause.PHASE_ONE_FAILED, now, out)
    _hear(tx, event, now, out)


def roll_back_for_refusal(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """A step, or the runner, said no. What surely was not done is not undone.

    By URL nothing is sure: the compensation of the very step is asked for too; a barrier makes an empty one harmless.
    """
    branch, reason = tx.branches[event.branch_id], event.detail or "refused without a reason"
    untouched = None
    if branch.branch_type is not BranchType.RUNNER:
        first = branch.called and not branch.attempts and event.attempt == 1
        untouched = branch if first and branch.plan is not None and not branch.plan.by_url else None
        branch.phase_one = PhaseOne.FAILED
    note_failure(tx, branch, reason, event.worker)
    start_rollback(tx, Cause.REFUSED, now, out, reason, untouched)


def roll_back_for_retries(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    branch = tx.branches[event.branch_id]
    note_failure(tx, branch, event.detail or "failed without a reason", event.worker)
    start_rollback(tx, Cause.RETRIES, now, out, _given_up(branch))


def roll_back_for_silence(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    """The last attempt that a step may have was not answered in time."""
    limit = tx.terms.retry_limit if tx.terms is not None else 0
    reason = None
    for branch in [tx.branches[branch_id] for branch_id in take_due(tx, now)]:
        if branch.called:
            note_failure(tx, branch, "no answer in time", branch.last_worker)
            if branch.attempts >= limit:
                reason = reason or _given_up(branch)
    start_rollback(tx, Cause.RETRIES, now, out, reason)


def _given_up(branch: Branch) -> str:
    return f"no success in {branch.attempts} attempts: {branch.last_error}"


def time_out(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    start_rollback(tx, Cause.TIMEOUT, now, out)


def stop(tx: Global, event: ev.Stop, now: int, out: Decision) -> None:
    """A person ends it as it is."""
    add_listener(tx, event.reply_to, now, out, commit_asked=False)
    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())
    leave(tx, list(tx.branches.values()), out, ended=False)
    _decide(tx, Cause.OPERATOR, out)
    drain_if_empty(tx, out)


def end(tx: Global, event: ev.Drained, now: int, out: Decision) -> None:
    cause = tx.cause or Cause.ASKED
    out.writes.append(fx.EndGlobal(tx.xid, tx.phase, cause, now, tx.reason, ended_branches(tx)))
    answer_listeners(tx, out)
    kind = "" if tx.terms is None else tx.terms.kind
    out.effects.append(fx.Settled(tx.xid, tx.phase, cause, now - tx.begin_ms, kind))


def ended_branches(tx: Global) -> tuple[EndedBranch, ...]:
    """What is kept of the branches of `tx`, which has none left; nothing without terms."""
    if tx.terms is None:
        return ()
    return tuple(
        EndedBranch(
            branch.branch_id,
            branch.seq,
            branch.branch_type,
            branch.resource_id,
            branch.application_data,
            branch.phase_one,
            branch.ended,
            branch.attempts,
            branch.last_error,
        )
        for branch in sorted(tx.finished.values(), key=lambda branch: branch.seq)
    )


# ---- what all decisions share ----


def start_rollback(
    tx: Global, cause: Cause, now: int, out: Decision, reason: str | None = None, untouched: Branch | None = None
) -> None:
    _decide(tx, cause, out, reason, untouched)
    out.asks.extend(DenyWaiters(tx.xid, branch) for branch in tx.branches.values())
    line_up(tx)
    call_ready(tx, front(tx), now, out)
    drain_if_empty(tx, out)


def _hear(tx: Global, event: ev.Commit | ev.Rollback, now: int, out: Decision) -> None:
    """Whoever asked is told after the first round, or at once if he does not wait for it."""
    commit_asked = isinstance(event, ev.Commit)
    if event.wait:
        add_listener(tx, event.reply_to, now, out, commit_asked=commit_asked)
    else:
        out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked))


def _decide(
    tx: Global, cause: Cause | None, out: Decision, reason: str | None = None, untouched: Branch | None = None
) -> None:
    tx.cause = cause
    tx.reason = reason if reason is not None else tx.reason
    out.writes.append(fx.MarkGlobal(tx.xid, tx.phase, cause, tx.rollback_only, tx.reason))
    for waiting in tx.waiting.values():
        out.asks.append(Unqueue(waiting.register))
        out.answer(waiting.register.reply_to, fx.NotActive(standing(tx)))
    tx.waiting.clear()
    if tx.reservations:
        out.asks.extend(Free(tx.xid, kept.wait) for kept in tx.reservations.values())
        tx.reservations.clear()
    if tx.course is not None:
        _part(tx, out, untouched)


def _part(tx: Global, out: Decision, untouched: Branch | None) -> None:
    """Branches for which the decision leaves nothing to do go; the others begin anew."""
    assert tx.course is not None
    if tx.course.channel is not None:
        out.asks.append(Unwatch(tx.xid, tx.course.channel))
    tx.course.channel = tx.course.runner = None
    gone = [branch for branch in tx.branches.values() if branch is untouched or _has_nothing_to_do(tx, branch)]
    out.asks.extend(Free(tx.xid, branch) for branch in gone if branch.keys)
    leave(tx, gone, out, ended=False)
    if tx.phase is Phase.FORWARD:
        return
    for branch in tx.branches.values():
        branch.next_due_ms = None  # it was when to go on forward; that is not written before an attempt has failed
        if branch.called or branch.attempts or branch.last_error or branch.phase_one is PhaseOne.FAILED:
            call_ends(tx, branch)
            branch.attempts, branch.last_error = 0, None
            out.writes.append(mark(tx, branch))


def _has_nothing_to_do(tx: Global, branch: Branch) -> bool:
    """A step whose turn never came has not run, and neither has one that its client reported as failed."""
    assert tx.course is not None
    if tx.phase is Phase.FORWARD:
        return branch.branch_type in (BranchType.RUNNER, BranchType.RECORD)
    if verb_now(tx, branch) is None:
        return True
    if tx.phase is not Phase.ROLLING_BACK or branch.branch_type is not BranchType.SAGA:
        return False
    if branch.plan is None:
        return branch.phase_one is PhaseOne.FAILED
    never_came = not tx.course.forward or branch.branch_id in tx.course.held
    return is_step(branch) and branch.phase_one is PhaseOne.REGISTERED and never_came
