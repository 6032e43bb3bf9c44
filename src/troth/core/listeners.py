"""Who is told how a transaction stands, and when."""

from __future__ import annotations

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.decision import Decision
from troth.core.model import Global, Listener, Outcome, Standing, Trouble
from troth.core.modes import MODES, PLANNED


def standing(tx: Global | Outcome) -> Standing:
    """The facts from which doors derive their names for the state of `tx`."""
    if isinstance(tx, Outcome):
        return Standing(tx.xid, tx.phase, tx.cause, reason=tx.reason)
    trouble = Trouble.NONE
    for branch in tx.branches.values():
        if branch.frozen:
            trouble = Trouble.FROZEN
            break
        if branch.last_error is not None:
            trouble = Trouble.RETRYING
    return Standing(tx.xid, tx.phase, tx.cause, trouble, all_commit_later(tx), tx.reason)


def all_commit_later(tx: Global) -> bool:
    """True if nobody need wait for what is left after the commit decision."""
    for branch in tx.branches.values():  # not all(): this is asked at every commit, and a generator is a call a branch
        plan = branch.plan
        mode = MODES[branch.branch_type] if plan is None else PLANNED[branch.branch_type, plan.by_url]
        if not mode.commit_is_asynchronous:
            return False
    return True


def add_listener(tx: Global, reply_to: object, now: int, out: Decision, *, commit_asked: bool) -> None:
    """Whoever asked hears of the first round, or of what there is after a while. None: nobody asked."""
    if reply_to is not None:
        tx.listeners.append(Listener(reply_to, now + out.rules.first_round_ms, commit_asked))


def answer_listeners(tx: Global, out: Decision, overdue_at: int | None = None) -> None:
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


def listen(tx: Global, event: ev.Commit | ev.Rollback, now: int, out: Decision) -> None:
    add_listener(tx, event.reply_to, now, out, commit_asked=isinstance(event, ev.Commit))


def tell(tx: Global | Outcome, event: ev.Rollback | ev.Status | ev.Vote, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.Stands(standing(tx)))


def tell_commit_asker(tx: Global | Outcome, event: ev.Commit, now: int, out: Decision) -> None:
    out.answer(event.reply_to, fx.Stands(standing(tx), commit_asked=True))


def refuse_not_active(
    tx: Global | Outcome,
    event: ev.Register | ev.LockWait | ev.Report | ev.Retry | ev.Record | ev.Claim | ev.Stop,
    now: int,
    out: Decision,
) -> None:
    out.answer(event.reply_to, fx.NotActive(standing(tx)))
