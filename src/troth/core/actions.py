"""What the rows of the transition table do to one transaction. Each is called after the phase has changed.

Here is phase one; the decision is in `deciding`, calls and their answers in `calls`, runners in `runs`, and who is told
in `listeners`.
"""

from __future__ import annotations

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.calls import call_due, mark
from troth.core.course import NEEDS_COURSE, course_of
from troth.core.deciding import start_rollback
from troth.core.decision import Decision, Free, GiveUp, Submit, Want
from troth.core.due import plan, take_due
from troth.core.listeners import refuse_not_active
from troth.core.model import Branch, BranchType, Cause, Global, Outcome, Reservation, Waiting
from troth.core.modes import MODES
from troth.core.runs import take_runner

SQLITE_RESOURCE = "jdbc:sqlite:"


def ignore(tx: Global | Outcome, event: ev.TransactionEvent, now: int, out: Decision) -> None:
    """A late echo: nothing follows from it."""


# ---- phase one ----


def open_global(tx: Global, event: ev.Begin, now: int, out: Decision) -> None:
    out.writes.append(fx.OpenGlobal(tx.xid, tx.name, tx.application, tx.group, tx.begin_ms, tx.timeout_ms, tx.terms))
    if tx.terms is not None or event.steps:
        _set_out_with(tx, event, now, out)
    if event.submit:
        out.asks.append(Submit(tx.xid, event.reply_to if event.wait else None))
    if not (event.submit and event.wait):
        out.answer(event.reply_to, fx.Begun(tx.xid))


def _set_out_with(tx: Global, event: ev.Begin, now: int, out: Decision) -> None:
    course_of(tx)
    for step in event.steps:
        _add(
            tx,
            Branch(
                step.branch_id,
                tx.next_seq,
                step.branch_type,
                step.resource_id,
                "",
                (),
                step.application_data,
                False,
                event.client_id,
                plan=step.plan,
            ),
            out,
        )
        if step.branch_type is BranchType.RUNNER:
            take_runner(tx, tx.branches[step.branch_id], event.channel, now, out)


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
        plan=event.plan,
    )
    _add(tx, branch, out)
    if event.plan is not None or event.branch_type in NEEDS_COURSE:
        course_of(tx)
        if event.branch_type is BranchType.RUNNER:
            take_runner(tx, branch, event.channel, now, out)
    out.answer(event.reply_to, fx.Registered(branch.branch_id))


def _add(tx: Global, branch: Branch, out: Decision) -> None:
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
            branch.plan,
        )
    )


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
    """Waits have been long enough, reservations have not been used, or it is time to ask the runner."""
    for branch_id in take_due(tx, now):
        if branch_id in tx.branches:  # the runner: nobody else is called while nothing is decided
            call_due(tx, [tx.branches[branch_id]], now, out)
            continue
        kept = tx.reservations.pop(branch_id, None)
        out.asks.append(GiveUp(tx.waiting[branch_id].register) if kept is None else Free(tx.xid, kept.wait))


def answer_no_branch(tx: Global, event: ev.Report, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.NoBranch(tx.xid, event.branch_id))


def note_report(tx: Global, event: ev.Report, now: int, out: Decision) -> None:
    branch = tx.branches[event.branch_id]
    if event.read_only and branch.branch_type is BranchType.XA:
        del tx.branches[branch.branch_id]
        out.asks.append(Free(tx.xid, branch))
        out.writes.append(fx.DropBranch(tx.xid, branch.branch_id))
        out.answer(event.reply_to, fx.Reported(branch.branch_id))
        return
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


def time_out_and_refuse(
    tx: Global, event: ev.Register | ev.LockWait | ev.Record | ev.Claim, now: int, out: Decision
) -> None:
    start_rollback(tx, Cause.TIMEOUT, now, out)
    refuse_not_active(tx, event, now, out)
