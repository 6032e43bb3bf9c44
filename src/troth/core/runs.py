"""Runners: who runs a transaction from outside, or knows how it stands, and the steps of which he tells.

At most one process has the run: whoever took it over last (`Branch.epoch`). What an older one tells is refused; it may
still be inside a side effect, which is why steps have keys (design/modes.md).
"""

from __future__ import annotations

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.calls import after_answer, ask_again_later, call, call_ends, interval_ms, mark
from troth.core.course import course_of
from troth.core.decision import Decision, Submit, Unwatch, Watch
from troth.core.due import plan
from troth.core.model import Branch, BranchType, Global, OnTimeout, PhaseOne


def take_runner(tx: Global, branch: Branch, channel: object, now: int, out: Decision) -> None:
    """`branch` is the runner from now on; over `channel` the process runs that began."""
    course_of(tx).runner = branch.branch_id
    _watch(tx, channel, out)
    branch.next_due_ms = _next_question_ms(tx, branch, now, out)
    if branch.next_due_ms is not None:
        plan(tx, branch.next_due_ms, branch.branch_id)


def _next_question_ms(tx: Global, branch: Branch, now: int, out: Decision) -> int | None:
    """When the runner is asked if all goes well: at the timeout; a process, in intervals, whether it lives."""
    if tx.terms is None:
        return None
    times = []
    if tx.terms.on_timeout is OnTimeout.ASK:
        times.append(tx.deadline_ms if tx.deadline_ms > now else now + interval_ms(tx, branch, 1, out))
    if tx.terms.retry_ms is not None and not _by_url(branch):
        times.append(now + tx.terms.retry_ms)
    return min(times, default=None)


def _by_url(branch: Branch) -> bool:
    return branch.plan is not None and branch.plan.by_url


def _watch(tx: Global, channel: object, out: Decision) -> None:
    course = course_of(tx)
    if course.channel is channel:
        return
    if course.channel is not None:
        out.asks.append(Unwatch(tx.xid, course.channel))
    if channel is not None:
        out.asks.append(Watch(tx.xid, channel))
    course.channel = channel


def _runner(tx: Global) -> Branch:
    assert tx.course is not None
    assert tx.course.runner is not None
    return tx.branches[tx.course.runner]


def record(tx: Global, event: ev.Record, now: int, out: Decision) -> None:
    """A step has ended. What is stored under its key stays, so that a run that is repeated hears the same again."""
    course = course_of(tx)
    known = course.records.get(event.key)
    if known is None:
        known = course.records[event.key] = event.branch_id
        course.finished[known] = _store_record(tx, event, out)
    if course.runner is not None and event.attempt is not None:
        _put_off_question(tx, _runner(tx), now, out)
    step = course.finished[known]
    out.answer(event.reply_to, fx.Recorded(known, step.application_data, step.phase_one is PhaseOne.FAILED))


def _store_record(tx: Global, event: ev.Record, out: Decision) -> Branch:
    step = Branch(
        event.branch_id,
        tx.next_seq,
        BranchType.RECORD,
        event.key,
        "",
        (),
        event.application_data,
        False,
        "",
        phase_one=PhaseOne.FAILED if event.failed else PhaseOne.DONE,
        left=True,
    )
    tx.next_seq += 1
    out.writes.append(
        fx.AddBranch(
            tx.xid,
            step.branch_id,
            step.seq,
            step.branch_type,
            step.resource_id,
            step.lock_text,
            step.application_data,
            step.auto_commit,
            step.client_id,
        )
    )
    out.writes.append(mark(tx, step))
    return step


def claim(tx: Global, event: ev.Claim, now: int, out: Decision) -> None:
    """Another process has the run from now on, and is told what is done already."""
    course, branch = course_of(tx), _runner(tx)
    if (branch.epoch, branch.client_id, branch.attempts) != (event.attempt, event.client_id, 0):
        branch.epoch, branch.client_id = event.attempt, event.client_id
        branch.attempts, branch.last_error = 0, None
        out.writes.append(mark(tx, branch))
    course.asked = max(course.asked, event.attempt)
    _watch(tx, event.channel, out)
    _put_off_question(tx, branch, now, out)
    steps = (course.finished[branch_id] for branch_id in course.records.values())
    records = tuple((step.resource_id, step.application_data, step.phase_one is PhaseOne.FAILED) for step in steps)
    out.answer(event.reply_to, fx.Claimed(tx.xid, records))


def _put_off_question(tx: Global, branch: Branch, now: int, out: Decision) -> None:
    """The runner has shown that it lives."""
    if _by_url(branch):
        return
    if branch.called:
        assert branch.answer_due_ms is not None
        terms = tx.terms
        patience_ms = None if terms is None else terms.answer_timeout_ms
        branch.answer_due_ms = now + (out.rules.answer_timeout_ms if patience_ms is None else patience_ms)
        plan(tx, branch.answer_due_ms, branch.branch_id)
    else:
        branch.next_due_ms = _next_question_ms(tx, branch, now, out)
        if branch.next_due_ms is not None:
            plan(tx, branch.next_due_ms, branch.branch_id)


def answer_superseded(
    tx: Global, event: ev.Record | ev.Claim | ev.Commit | ev.Rollback, now: int, out: Decision
) -> None:
    out.answer(event.reply_to, fx.Superseded(tx.xid, _runner(tx).epoch))


def answer_no_runner(tx: Global, event: ev.Claim, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.NoBranch(tx.xid, 0))


def ask_for_the_lost(tx: Global, event: ev.Lost, now: int, out: Decision) -> None:
    """The connection of the process that ran it is gone: whoever else serves the resource may take it over."""
    branch = _runner(tx)
    course_of(tx).channel = None
    if not branch.called and not branch.frozen:
        call(tx, branch, now, out)


def submit_for_runner(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """The runner says: done. That is what a commit says."""
    branch = _runner(tx)
    call_ends(tx, branch)
    branch.next_due_ms = None
    out.asks.append(Submit(tx.xid, None))


def wait_for_runner(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """It is still at work, and well."""
    branch = _runner(tx)
    if branch.attempts or branch.last_error is not None:
        branch.attempts, branch.last_error = 0, None
        out.writes.append(mark(tx, branch))
    if tx.terms is not None and tx.terms.retry_ms is not None:
        ask_again_later(tx, event, now, out)
        return
    call_ends(tx, branch)
    branch.next_due_ms = now + out.rules.backoff.max_ms
    plan(tx, branch.next_due_ms, branch.branch_id)
    after_answer(tx, out)
