"""What the rows of the transition table do to one transaction. Each is called after the phase has changed."""

from __future__ import annotations

from collections.abc import Iterable

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.decision import Decision, DenyWaiters, Drain, Free, GiveUp, Unqueue, Want
from troth.core.due import followers, front, in_front, line_up, plan, take_due
from troth.core.model import (
    Branch,
    Cause,
    Global,
    Listener,
    Outcome,
    Phase,
    Reservation,
    Standing,
    Trouble,
    Waiting,
)
from troth.core.modes import MODES

SQLITE_RESOURCE = "jdbc:sqlite:"


def standing(tx: Global | Outcome) -> Standing:
    """The facts from which doors derive their names for the state of `tx`."""
    if isinstance(tx, Outcome):
        return Standing(tx.xid, tx.phase, tx.cause)
    trouble = Trouble.NONE
    for branch in tx.branches.values():
        if branch.frozen:
            trouble = Trouble.FROZEN
            break
        if branch.last_error is not None:
            trouble = Trouble.RETRYING
    return Standing(tx.xid, tx.phase, tx.cause, trouble, _all_commit_later(tx))


def _all_commit_later(tx: Global) -> bool:
    return all(MODES[branch.branch_type].commit_is_asynchronous for branch in tx.branches.values())


def ignore(tx: Global | Outcome, event: ev.TransactionEvent, now: int, out: Decision) -> None:
    """A late echo: nothing follows from it."""


# ---- phase one ----


def open_global(tx: Global, event: ev.Begin, now: int, out: Decision) -> None:
    out.writes.append(fx.OpenGlobal(tx.xid, tx.name, tx.application, tx.group, tx.begin_ms, tx.timeout_ms))
    out.answer(event.reply_to, fx.Begun(tx.xid))


def want_rows(tx: Global, event: ev.Register, now: int, out: Decision) -> None:
    """Ask for the rows. A hot wait holds the asker's local row locks, so it is short, over all its retries.

    Never on SQLite: there the asker holds the whole file, and the holder's undo needs it (design/coordinator §4).
    """
    patience = 0
    if event.may_wait and MODES[event.branch_type].may_wait and not event.resource_id.startswith(SQLITE_RESOURCE):
        patience = out.rules.hot_wait_ms - tx.hot_wait_spent_ms.get(event.resource_id, 0)
    out.asks.append(Want(event, now + patience if patience > 0 else None))


def want_rows_kept(tx: Global, event: ev.LockWait, now: int, out: Decision) -> None:
    """A cold wait holds no local row locks, so it may be long. What was kept before for this statement is let go."""
    end_reservations(tx, event, out)
    until = min(now + out.rules.cold_wait_ms, tx.deadline_ms)
    out.asks.append(Want(event, until if event.may_wait else None))


def keep_rows(tx: Global, event: ev.Reserved, now: int, out: Decision) -> None:
    """The rows are kept until the statement has run again, and not for long: nobody else gets them meanwhile."""
    wait, keep_ms = event.wait, out.rules.hot_wait_ms
    tx.waiting.pop(wait.branch_id, None)
    tx.reservations[wait.branch_id] = Reservation(wait, now + keep_ms)
    plan(tx, now + keep_ms, wait.branch_id)
    out.answer(wait.reply_to, fx.RowsReserved(keep_ms))


def end_reservations(tx: Global, back: ev.Register | ev.LockWait, out: Decision) -> None:
    """The statement for which rows were kept has come back, perhaps with others."""
    for number, kept in list(tx.reservations.items()):
        if kept.wait.resource_id == back.resource_id and kept.wait.channel is back.channel:
            del tx.reservations[number]
            out.asks.append(Free(tx.xid, kept.wait))


def let_lapse(tx: Global, event: ev.Lapsed, now: int, out: Decision) -> None:
    kept = tx.reservations.pop(event.wait.branch_id, None)
    if kept is not None:
        out.asks.append(Free(tx.xid, kept.wait))


def admit(tx: Global, event: ev.Register, now: int, out: Decision) -> None:
    branch = Branch(
        event.branch_id,
        tx.next_seq,
        event.branch_type,
        event.resource_id,
        event.lock_text,
        event.keys,
        event.application_data,
        event.auto_commit,
        event.client_id,
        lock_mode=event.lock_mode,
    )
    tx.next_seq += 1
    tx.branches[branch.branch_id] = branch
    out.writes.append(
        fx.AddBranch(
            tx.xid,
            branch.branch_id,
            branch.seq,
            branch.branch_type,
            branch.resource_id,
            branch.lock_text,
            branch.application_data,
            branch.auto_commit,
            branch.client_id,
            branch.lock_mode,
        )
    )
    out.answer(event.reply_to, fx.Registered(branch.branch_id))


def admit_granted(tx: Global, event: ev.Granted, now: int, out: Decision) -> None:
    _stop_waiting(tx, event.register, now)
    admit(tx, event.register, now, out)
    if tx.reservations:
        end_reservations(tx, event.register, out)


def refuse_for_conflict(tx: Global, event: ev.Denied, now: int, out: Decision) -> None:
    register = event.register
    _stop_waiting(tx, register, now)
    out.answer(
        register.reply_to,
        fx.Conflict(
            tx.xid,
            register.branch_id,
            event.key,
            event.holder,
            event.held_ms,
            event.fail_fast,
            register.auto_commit,
            event.cycle,
        ),
    )
    if tx.reservations:
        end_reservations(tx, register, out)


def forget_waiting(tx: Global, event: ev.Cancelled, now: int, out: Decision) -> None:
    _stop_waiting(tx, event.register, now)


def _stop_waiting(tx: Global, register: ev.Register | ev.LockWait, now: int) -> None:
    waiting: Waiting | None = tx.waiting.pop(register.branch_id, None)
    if waiting is not None and isinstance(register, ev.Register):
        spent = tx.hot_wait_spent_ms.get(register.resource_id, 0) + now - waiting.since_ms
        tx.hot_wait_spent_ms[register.resource_id] = spent


def end_overdue_waits(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    for branch_id in take_due(tx, now):
        kept = tx.reservations.pop(branch_id, None)
        out.asks.append(GiveUp(tx.waiting[branch_id].register) if kept is None else Free(tx.xid, kept.wait))


def answer_no_branch(tx: Global, event: ev.Report, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.NoBranch(tx.xid, event.branch_id))


def note_report(tx: Global, event: ev.Report, now: int, out: Decision) -> None:
    branch = tx.branches[event.branch_id]
    if event.phase_one is not None:
        branch.phase_one = event.phase_one
    branch.application_data = event.application_data
    out.writes.append(mark(tx, branch))
    out.answer(event.reply_to, fx.Reported(branch.branch_id))


def acknowledge_report(tx: Global, event: ev.Report, now: int, out: Decision) -> None:
    """After the decision a report changes nothing: at rollback every branch is asked, failed or not."""
    out.answer(event.reply_to, fx.Reported(event.branch_id))


def note_vote(tx: Global, event: ev.Vote, now: int, out: Decision) -> None:
    if not tx.rollback_only:
        tx.rollback_only = True
        out.writes.append(fx.MarkGlobal(tx.xid, tx.phase, None, True))
    out.answer(event.reply_to, fx.Voted(tx.xid))


# ---- the decision ----


def commit(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    """Rows are free from here on: what they are granted for next leaves in this batch or a later one."""
    _decide(tx, Cause.ASKED, out)
    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())
    if _all_commit_later(tx):
        out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked=True))
    else:
        _listen(tx, event.reply_to, now, out, commit_asked=True)
    _call_ready(tx, front(tx), now, out)
    _drain_if_empty(tx, out)


def roll_back(tx: Global, event: ev.Rollback, now: int, out: Decision) -> None:
    _listen(tx, event.reply_to, now, out, commit_asked=False)
    _start_rollback(tx, Cause.ASKED, now, out)


def roll_back_for_timeout(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    """Seata answers TimeoutRollbacking here and changes nothing; we decide in this same step."""
    _listen(tx, event.reply_to, now, out, commit_asked=True)
    _start_rollback(tx, Cause.TIMEOUT, now, out)


def roll_back_for_vote(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    _listen(tx, event.reply_to, now, out, commit_asked=True)
    _start_rollback(tx, Cause.VOTE, now, out)


def roll_back_for_failed_branch(tx: Global, event: ev.Commit, now: int, out: Decision) -> None:
    _listen(tx, event.reply_to, now, out, commit_asked=True)
    _start_rollback(tx, Cause.PHASE_ONE_FAILED, now, out)


def time_out(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    _start_rollback(tx, Cause.TIMEOUT, now, out)


def time_out_and_refuse(tx: Global, event: ev.Register | ev.LockWait, now: int, out: Decision) -> None:
    _start_rollback(tx, Cause.TIMEOUT, now, out)
    refuse_not_active(tx, event, now, out)


def _decide(tx: Global, cause: Cause, out: Decision) -> None:
    tx.cause = cause
    out.writes.append(fx.MarkGlobal(tx.xid, tx.phase, cause, tx.rollback_only))
    for waiting in tx.waiting.values():
        out.asks.append(Unqueue(waiting.register))
        out.answer(waiting.register.reply_to, fx.NotActive(standing(tx)))
    tx.waiting.clear()
    if tx.reservations:
        out.asks.extend(Free(tx.xid, kept.wait) for kept in tx.reservations.values())
        tx.reservations.clear()


def _start_rollback(tx: Global, cause: Cause, now: int, out: Decision) -> None:
    _decide(tx, cause, out)
    out.asks.extend(DenyWaiters(tx.xid, branch) for branch in tx.branches.values())
    line_up(tx)
    _call_ready(tx, front(tx), now, out)
    _drain_if_empty(tx, out)


def _drain_if_empty(tx: Global, out: Decision) -> None:
    if not tx.branches:
        out.asks.append(Drain(tx.xid))


# ---- phase two ----


def _call_ready(tx: Global, branches: Iterable[Branch], now: int, out: Decision) -> None:
    """Ask those of `branches`, all in front, whose time has come; the others are planned."""
    for branch in branches:
        if branch.called or branch.frozen:
            continue
        if branch.next_due_ms is None or branch.next_due_ms <= now:
            _call(tx, branch, now, out)
        else:
            plan(tx, branch.next_due_ms, branch.branch_id)


def _call(tx: Global, branch: Branch, now: int, out: Decision) -> None:
    mode = MODES[branch.branch_type]
    branch.answer_due_ms = now + out.rules.answer_timeout_ms
    branch.next_due_ms = None
    tx.calls_out += 1
    plan(tx, branch.answer_due_ms, branch.branch_id)
    branch.last_attempt_ms = now
    out.effects.append(
        fx.Call(
            tx.xid,
            branch.branch_id,
            branch.branch_type,
            branch.resource_id,
            branch.application_data,
            branch.client_id,
            mode.on_commit if tx.phase is Phase.COMMITTING else mode.on_rollback,
            branch.attempts + 1,
            branch.lock_mode,
        )
    )


def drop_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    branch = tx.branches.pop(event.branch_id)
    _call_ends(tx, branch)
    if tx.branches:  # the last one goes with the end of the transaction, in this same turn
        out.writes.append(fx.DropBranch(tx.xid, event.branch_id))
    _call_ready(tx, followers(tx, branch), now, out)
    _after_answer(tx, out)


def undo_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    out.asks.append(Free(tx.xid, tx.branches[event.branch_id]))
    drop_branch(tx, event, now, out)


def freeze_branch(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """A refusal after the decision: a person must look; until then the rows stay locked and nothing wakes it (C2)."""
    branch = tx.branches[event.branch_id]
    branch.frozen = True
    _note_failure(tx, branch, event.detail or "refused without a reason", event.worker)
    out.writes.append(mark(tx, branch))
    if tx.phase is Phase.ROLLING_BACK:
        out.asks.append(DenyWaiters(tx.xid, branch, cold_too=True))
    _after_answer(tx, out)


def back_off(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    _fail_attempt(tx, tx.branches[event.branch_id], event.detail or "failed without a reason", event.worker, now, out)
    _after_answer(tx, out)


def await_channel(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """Nobody serves the resource: that is no attempt. A Wake comes when somebody does; the slow retry is a net."""
    branch = tx.branches[event.branch_id]
    _call_ends(tx, branch)
    branch.next_due_ms = now + out.rules.backoff.max_ms
    plan(tx, branch.next_due_ms, branch.branch_id)
    reason = event.detail or f"no client serves {branch.resource_id}"
    if branch.last_error != reason:
        branch.last_error = reason
        out.writes.append(mark(tx, branch))
    _after_answer(tx, out)


def _fail_attempt(tx: Global, branch: Branch, reason: str, worker: str | None, now: int, out: Decision) -> None:
    _note_failure(tx, branch, reason, worker)
    branch.next_due_ms = now + out.rules.backoff.delay_ms(branch.attempts, branch.branch_id)
    plan(tx, branch.next_due_ms, branch.branch_id)
    out.writes.append(mark(tx, branch))


def _note_failure(tx: Global, branch: Branch, reason: str, worker: str | None) -> None:
    _call_ends(tx, branch)
    branch.attempts += 1
    branch.last_error = reason
    branch.last_worker = worker
    branch.next_due_ms = None


def _call_ends(tx: Global, branch: Branch) -> None:
    if branch.called:
        branch.answer_due_ms = None
        tx.calls_out -= 1


def _after_answer(tx: Global, out: Decision) -> None:
    if not tx.branches:
        out.asks.append(Drain(tx.xid))
    elif not tx.calls_out:
        _answer_listeners(tx, out)


def go_on(tx: Global, event: ev.Due, now: int, out: Decision) -> None:
    """First tries, retries, overdue answers and recovery after a restart are all this."""
    due = [tx.branches[branch_id] for branch_id in take_due(tx, now)]
    idle = [branch for branch in due if not branch.called]
    silence = f"no answer within {out.rules.answer_timeout_ms} ms"
    for branch in due:
        if branch.called:
            _fail_attempt(tx, branch, silence, branch.last_worker, now, out)
    _call_ready(tx, idle, now, out)
    _after_answer(tx, out)
    _answer_listeners(tx, out, overdue_at=now)


def wake_resource(tx: Global, event: ev.Wake, now: int, out: Decision) -> None:
    for branch in tx.branches.values():
        if branch.resource_id == event.resource_id and branch.next_due_ms is not None:
            branch.next_due_ms = now
            if in_front(tx, branch):
                _call(tx, branch, now, out)


def retry_now(tx: Global, event: ev.Retry, now: int, out: Decision) -> None:
    """An operator has looked: frozen branches too are asked again."""
    idle = [branch for branch in tx.branches.values() if not branch.called]
    for branch in idle:
        branch.next_due_ms = now
        if branch.frozen:
            branch.frozen = False
            out.writes.append(mark(tx, branch))
    _call_ready(tx, front(tx), now, out)
    out.answer(event.reply_to, fx.Retrying(tx.xid, len(idle)))


def end(tx: Global, event: ev.Drained, now: int, out: Decision) -> None:
    cause = tx.cause or Cause.ASKED
    out.writes.append(fx.EndGlobal(tx.xid, tx.phase, cause, now))
    _answer_listeners(tx, out)
    out.effects.append(fx.Settled(tx.xid, tx.phase, cause, now - tx.begin_ms))


# ---- questions ----


def listen(tx: Global, event: ev.Commit | ev.Rollback, now: int, out: Decision) -> None:
    _listen(tx, event.reply_to, now, out, commit_asked=isinstance(event, ev.Commit))


def _listen(tx: Global, reply_to: object, now: int, out: Decision, *, commit_asked: bool) -> None:
    tx.listeners.append(Listener(reply_to, now + out.rules.first_round_ms, commit_asked))


def _answer_listeners(tx: Global, out: Decision, overdue_at: int | None = None) -> None:
    """Answer those who wait for the first round; with `overdue_at`, only those who have waited long enough."""
    count = len(tx.listeners)
    if overdue_at is not None:  # they stand in the order in which they came, so the longest wait ends first
        count = next((n for n, waiter in enumerate(tx.listeners) if waiter.until_ms > overdue_at), count)
    if not count:
        return
    ready, tx.listeners = tx.listeners[:count], tx.listeners[count:]
    how = standing(tx)
    for listener in ready:
        out.answer(listener.reply_to, fx.Stands(how, listener.commit_asked))


def tell(tx: Global | Outcome, event: ev.Rollback | ev.Status | ev.Vote, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.Stands(standing(tx)))


def tell_commit_asker(tx: Global | Outcome, event: ev.Commit, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked=True))


def refuse_not_active(
    tx: Global | Outcome, event: ev.Register | ev.LockWait | ev.Report | ev.Retry, now: int, out: Decision
) -> None:
    out.answer(event.reply_to, fx.NotActive(standing(tx)))


def mark(tx: Global, branch: Branch) -> fx.MarkBranch:
    """The delta that stores every changeable fact of a branch."""
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
    )
