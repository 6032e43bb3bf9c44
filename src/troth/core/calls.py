"""Calls to branches: who is asked when, and what an answer, or silence, makes of a branch.

Phase two, forward steps and the questions to a runner are all called the same way.
"""

from __future__ import annotations

from collections.abc import Iterable

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.course import verb_now
from troth.core.decision import Decision, DenyWaiters, Drain, Free
from troth.core.due import followers, front, in_front, plan, take_due
from troth.core.listeners import answer_listeners
from troth.core.model import Branch, BranchType, Global, Phase, Verb
from troth.core.modes import MODES
from troth.core.retry import Backoff


def drain_if_empty(tx: Global, out: Decision) -> None:
    if not tx.branches:
        out.asks.append(Drain(tx.xid))


def call_ready(tx: Global, branches: Iterable[Branch], now: int, out: Decision) -> None:
    """Ask those of `branches`, all in front, whose time has come; the others are planned."""
    for branch in branches:
        if branch.called or branch.frozen:
            continue
        if branch.next_due_ms is None or branch.next_due_ms <= now:
            call(tx, branch, now, out)
        else:
            plan(tx, branch.next_due_ms, branch.branch_id)


def call(tx: Global, branch: Branch, now: int, out: Decision) -> None:
    terms = tx.terms
    branch.answer_due_ms = now + out.rules.answer_timeout_ms
    if terms is not None and terms.answer_timeout_ms is not None:
        branch.answer_due_ms = now + terms.answer_timeout_ms
    branch.next_due_ms = None
    tx.calls_out += 1
    plan(tx, branch.answer_due_ms, branch.branch_id)
    branch.last_attempt_ms = now
    if tx.course is not None:
        out.effects.append(_call_by_course(tx, branch))
        return
    mode = MODES[branch.branch_type]
    out.effects.append(
        fx.Call(
            tx.xid,
            branch.branch_id,
            branch.branch_type,
            branch.resource_id,
            branch.application_data,
            branch.client_id,
            mode.on_commit if tx.phase is Phase.COMMITTING else mode.on_rollback,  # type: ignore[arg-type]
            branch.attempts + 1,
            branch.lock_mode,
        )
    )


def _call_by_course(tx: Global, branch: Branch) -> fx.Call:
    terms, verb, attempt = tx.terms, verb_now(tx, branch), branch.attempts + 1
    assert verb is not None, f"branch {branch.branch_id} of {tx.xid} has nothing to do"
    if verb is Verb.ASK:
        assert tx.course is not None
        attempt = tx.course.asked = tx.course.asked + 1
    return fx.Call(
        tx.xid,
        branch.branch_id,
        branch.branch_type,
        branch.resource_id,
        branch.application_data,
        branch.client_id,
        verb,
        attempt,
        branch.lock_mode,
        branch.plan,
        tx.xid if terms is None else terms.gid or tx.xid,
        "" if terms is None else terms.kind,
        b"" if terms is None else terms.detail,
        None if terms is None else terms.answer_timeout_ms,
    )


# ---- a branch has nothing left to do ----


def leave(tx: Global, gone: Iterable[Branch], out: Decision, *, ended: bool) -> None:
    """They go; where they are to be shown they are kept. What goes last goes with the end, in this same turn."""
    writes: list[fx.Write] = []
    for branch in gone:
        call_ends(tx, branch)
        del tx.branches[branch.branch_id]
        if tx.course is None or tx.terms is None:
            writes.append(fx.DropBranch(tx.xid, branch.branch_id))
            continue
        branch.left, branch.ended, branch.next_due_ms = True, ended, None
        tx.course.finished[branch.branch_id] = branch
        writes.append(mark(tx, branch))
    if tx.branches:
        out.writes += writes


def drop_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    branch = tx.branches[event.branch_id]
    if tx.terms is not None:
        branch.last_error = None
        leave(tx, (branch,), out, ended=True)
    else:
        call_ends(tx, branch)
        del tx.branches[event.branch_id]
        if tx.branches:  # the last one goes with the end of the transaction, in this same turn
            out.writes.append(fx.DropBranch(tx.xid, event.branch_id))
    call_ready(tx, followers(tx, branch), now, out)
    after_answer(tx, out)


def undo_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    out.asks.append(Free(tx.xid, tx.branches[event.branch_id]))
    drop_branch(tx, event, now, out)


# ---- it has not been done ----


def freeze_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """A refusal after the decision: a person must look; until then the rows stay locked and nothing wakes it (C2)."""
    branch = tx.branches[event.branch_id]
    branch.frozen = True
    note_failure(tx, branch, event.detail or "refused without a reason", event.worker)
    out.writes.append(mark(tx, branch))
    if tx.phase is Phase.ROLLING_BACK:
        out.asks.append(DenyWaiters(tx.xid, branch, cold_too=True))
    after_answer(tx, out)


def back_off(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    branch = tx.branches[event.branch_id]
    _fail_attempt(tx, branch, event.detail or "failed without a reason", event.worker, now, out)
    if branch.next_due_ms == now:  # a limited number of attempts, each at once
        call(tx, branch, now, out)
    after_answer(tx, out)


def ask_again_later(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """It is under way, and that is no failure: the interval does not grow, and no limit counts it."""
    branch = tx.branches[event.branch_id]
    call_ends(tx, branch)
    branch.next_due_ms = now + interval_ms(tx, branch, max(branch.attempts, 1), out)
    plan(tx, branch.next_due_ms, branch.branch_id)
    after_answer(tx, out)


def await_channel(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """Nobody serves the resource: that is no attempt. A Wake comes when somebody does; the slow retry is a net."""
    branch = tx.branches[event.branch_id]
    call_ends(tx, branch)
    branch.next_due_ms = now + out.rules.backoff.max_ms
    plan(tx, branch.next_due_ms, branch.branch_id)
    reason = event.detail or f"no client serves {branch.resource_id}"
    if branch.last_error != reason:
        branch.last_error = reason
        out.writes.append(mark(tx, branch))
    after_answer(tx, out)


def _fail_attempt(tx: Global, branch: Branch, reason: str, worker: str | None, now: int, out: Decision) -> None:
    note_failure(tx, branch, reason, worker)
    limited = tx.terms is not None and tx.terms.retry_limit and tx.phase is Phase.FORWARD
    branch.next_due_ms = now if limited else now + interval_ms(tx, branch, branch.attempts, out)
    plan(tx, branch.next_due_ms, branch.branch_id)
    out.writes.append(mark(tx, branch))


def interval_ms(tx: Global, branch: Branch, attempts: int, out: Decision) -> int:
    """How long to wait after so many attempts. What was agreed is kept to exactly."""
    terms, usual = tx.terms, out.rules.backoff
    if terms is not None and terms.retry_ms is not None:
        return Backoff(terms.retry_ms, max(usual.max_ms, terms.retry_ms)).delay_ms(attempts)
    return usual.delay_ms(attempts, branch.branch_id)


def note_failure(tx: Global, branch: Branch, reason: str, worker: str | None) -> None:
    call_ends(tx, branch)
    branch.attempts += 1
    branch.last_error = reason
    branch.last_worker = worker
    branch.next_due_ms = None


def call_ends(tx: Global, branch: Branch) -> None:
    if branch.called:
        branch.answer_due_ms = None
        tx.calls_out -= 1


def after_answer(tx: Global, out: Decision) -> None:
    if not tx.branches:
        out.asks.append(Drain(tx.xid))
    elif not tx.calls_out:
        answer_listeners(tx, out)


# ---- time, and people ----


def go_on(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    """First tries, retries, overdue answers and recovery after a restart are all this."""
    call_due(tx, [tx.branches[branch_id] for branch_id in take_due(tx, now)], now, out)
    after_answer(tx, out)
    answer_listeners(tx, out, overdue_at=now)


def call_due(tx: Global, due: list[Branch], now: int, out: Decision) -> None:
    """These branches are due: who was called has not answered in time, the others are called."""
    idle = [branch for branch in due if not branch.called]
    for branch in due:
        if branch.called:
            assert branch.last_attempt_ms is not None
            assert branch.answer_due_ms is not None
            silence = f"no answer within {branch.answer_due_ms - branch.last_attempt_ms} ms"
            _fail_attempt(tx, branch, silence, branch.last_worker, now, out)
    call_ready(tx, idle, now, out)


def wake_resource(tx: Global, event: ev.Wake, now: int, out: Decision) -> None:
    if now < starts_ms(tx):
        return
    for branch in tx.branches.values():
        if branch.resource_id == event.resource_id and branch.next_due_ms is not None:
            branch.next_due_ms = now
            if in_front(tx, branch):
                call(tx, branch, now, out)


def starts_ms(tx: Global) -> int:
    """What follows a submit is not called before, whoever comes back meanwhile."""
    if tx.terms is None or tx.phase not in (Phase.FORWARD, Phase.COMMITTING):
        return tx.begin_ms
    return tx.begin_ms + tx.terms.start_ms


def retry_now(tx: Global, event: ev.Retry, now: int, out: Decision) -> None:
    """An operator has looked: frozen branches too are asked again."""
    undecided = tx.phase is Phase.OPEN or tx.phase is Phase.FORWARD
    idle = [branch for branch in (front(tx) if undecided else tx.branches.values()) if not branch.called]
    for branch in idle:
        branch.next_due_ms = now
        if branch.frozen:
            branch.frozen = False
            out.writes.append(mark(tx, branch))
    call_ready(tx, front(tx), now, out)
    out.answer(event.reply_to, fx.Retrying(tx.xid, len(idle)))


def mark(tx: Global, branch: Branch) -> fx.MarkBranch:
    """The delta that stores every changeable fact of a branch."""
    runs = branch.branch_type is BranchType.RUNNER
    return fx.MarkBranch(
        tx.xid,
        branch.branch_id,
        branch.phase_one,
        branch.application_data,
        branch.attempts,
        branch.frozen,
        branch.last_error,
        branch.last_worker,
        branch.last_attempt_ms,
        branch.next_due_ms,
        branch.left,
        branch.ended,
        branch.epoch,
        branch.client_id if runs else None,
    )
