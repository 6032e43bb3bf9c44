"""Who has asked what when memory is read anew from the store, and steps that were taken in memory are lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.decision import Decision
from troth.server.outside import Waiter

Turn = tuple[ev.Event | None, Decision]
"""What happened, and what was decided on it. None: only a mark in the history."""


def askers(events: Iterable[ev.Event | None]) -> set[int]:
    """Who has asked with one of these events, by identity."""
    return {id(asker) for event in events if (asker := getattr(event, "reply_to", None)) is not None}


def requests_in_memory(cell: Cell, turns: Sequence[Turn]) -> list[ev.Event]:
    """What is asked and lives in memory only, so that it can be asked again: who queues, longest wait first, and who
    wants to hear the end, also if one of the lost `turns` told him. Without the requests that `turns` began with.
    """
    queued = [waiting for tx in cell.transactions.values() for waiting in tx.waiting.values()]
    asked: list[ev.Event] = [waiting.register for waiting in sorted(queued, key=lambda waiting: waiting.since_ms)]
    for tx in cell.transactions.values():
        asked += [_asked_for_the_end(tx.xid, one.reply_to, one.commit_asked) for one in tx.listeners]
    for answer in _late_answers(turns):
        if isinstance(answer.result, fx.Stands):
            asked.append(_asked_for_the_end(answer.result.standing.xid, answer.reply_to, answer.result.commit_asked))
    known = askers(event for event, _ in turns)
    return [event for event in asked if id(getattr(event, "reply_to", None)) not in known]


def granted_in_vain(turns: Sequence[Turn]) -> list[Waiter]:
    """Who had queued, and was answered in one of the lost `turns`: what he asked is not known any more."""
    return [answer.reply_to for answer in _late_answers(turns) if not isinstance(answer.result, fx.Stands)]  # type: ignore[misc]  # the core keeps it opaque


def _late_answers(turns: Sequence[Turn]) -> list[fx.Answer]:
    """Answers to who had asked before `turns`."""
    known = askers(event for event, _ in turns)
    effects = [effect for event, decision in turns if event is not None for effect in decision.effects]
    return [effect for effect in effects if isinstance(effect, fx.Answer) and id(effect.reply_to) not in known]


def _asked_for_the_end(xid: str, reply_to: object, commit_asked: bool) -> ev.Event:
    return ev.Commit(xid, reply_to) if commit_asked else ev.Rollback(xid, reply_to)


def tell_refused(event: ev.Event | None, reason: str) -> bool:
    """Tell whoever asked with `event` that it has not happened; False if nobody has asked."""
    asker: Waiter | None = getattr(event, "reply_to", None)
    if asker is None:
        return False
    asker.refuse(reason)
    return True
