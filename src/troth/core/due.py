"""When a transaction wants to be looked at next, and which of its branches may be asked then.

Derived from its facts, never stored (design/coordinator §1). A transaction may have thousands of branches, so no answer
walks through all of them: `agenda` is a heap of (time, branch id), `newest` and `newest_of` are the branches as a
rollback takes them off. An entry that no longer holds is dropped when it comes to the top.
"""

from __future__ import annotations

import heapq

from troth.core.course import is_step, release, set_out
from troth.core.model import Branch, Global, OnTimeout, Phase, PhaseOne
from troth.core.modes import mode_of
from troth.core.modes.mode import Order


def due_ms(tx: Global) -> int | None:
    """The next moment at which `tx` wants a Due event: its timeout, a retry, an overdue answer, the end of a wait."""
    planned = _planned_ms(tx) if tx.agenda else None
    if tx.phase is Phase.OPEN:
        if tx.terms is not None and not rolls_back_in_time(tx):
            return planned
        return tx.deadline_ms if planned is None else min(planned, tx.deadline_ms)
    if not tx.branches:
        return tx.begin_ms
    if tx.phase is Phase.FORWARD and rolls_back_in_time(tx):
        planned = tx.deadline_ms if planned is None else min(planned, tx.deadline_ms)
    if not tx.listeners:
        return planned
    patience = tx.listeners[0].until_ms  # the longest wait ends first
    return patience if planned is None else min(planned, patience)


def rolls_back_in_time(tx: Global) -> bool:
    """True if the timeout means a rollback: usually, and where nobody is there to be asked instead."""
    terms = tx.terms
    if terms is None or terms.on_timeout is OnTimeout.ROLL_BACK:
        return True
    return terms.on_timeout is OnTimeout.ASK and (tx.course is None or tx.course.runner is None)


def plan(tx: Global, at_ms: int, branch_id: int) -> None:
    """A branch, or a registration that waits, wants to be looked at then."""
    heapq.heappush(tx.agenda, (at_ms, branch_id))


def take_due(tx: Global, now: int) -> list[int]:
    """The ids planned for `now` or earlier, earliest first; they are off the agenda."""
    found: dict[int, None] = {}
    agenda = tx.agenda
    while agenda and agenda[0][0] <= now:
        at_ms, branch_id = heapq.heappop(agenda)
        if _holds(tx, at_ms, branch_id):
            found[branch_id] = None
    return list(found)


def plan_anew(tx: Global) -> None:
    """Make the agenda of a transaction out of its stored facts."""
    tx.calls_out = 0
    tx.agenda = [
        (branch.next_due_ms, branch.branch_id) for branch in tx.branches.values() if branch.next_due_ms is not None
    ]
    heapq.heapify(tx.agenda)
    if tx.phase is Phase.ROLLING_BACK:
        line_up(tx)


def line_up(tx: Global) -> None:
    """The rollback has been decided: from now on the newest goes first."""
    set_out(tx)
    tx.newest = list(tx.branches)
    tx.newest_of = {}
    for branch in tx.branches.values():
        tx.newest_of.setdefault(branch.resource_id, []).append(branch.branch_id)


def front(tx: Global) -> list[Branch]:
    """The branches that may be asked now: all on commit; on rollback the newest of each resource, and all of XA.

    Those with a plan only when nobody holds them back (`core/course.py`). While it is open only the runner, in FORWARD
    only steps that have not run.

    A retrying or frozen branch holds back only the older ones of its resource (design/at.md §4), and those whose
    mode goes strictly in reverse: they are asked when no newer branch is left, of whatever mode.
    """
    if tx.phase is Phase.COMMITTING and tx.course is None:
        return list(tx.branches.values())
    return [branch for branch in tx.branches.values() if in_front(tx, branch)]


def in_front(tx: Global, branch: Branch) -> bool:
    """True if `branch` is one of the `front`."""
    course = tx.course
    if course is not None:
        if branch.branch_id in course.held:
            return False
        if tx.phase is Phase.OPEN:
            return branch.branch_id == course.runner
        if tx.phase is Phase.FORWARD:
            return branch.phase_one is not PhaseOne.DONE and is_step(branch)
    if tx.phase is Phase.COMMITTING:
        return True
    order = mode_of(branch).rollback_order
    if order in _FREE:
        return True
    if _top(tx, tx.newest_of[branch.resource_id]) is not branch:
        return False
    return order is not Order.STRICT_REVERSE or _top(tx, tx.newest) is branch


def followers(tx: Global, gone: Branch) -> list[Branch]:
    """The branches in front that `gone` may have held back."""
    freed = [] if tx.course is None else release(tx, gone)
    if tx.phase is not Phase.ROLLING_BACK:
        return freed
    of_resource, of_all = _top(tx, tx.newest_of[gone.resource_id]), _top(tx, tx.newest)
    rivals = [of_resource] if of_resource is of_all else [of_resource, of_all]
    return freed + [branch for branch in rivals if branch is not None and in_front(tx, branch)]


_FREE = frozenset({Order.ANY, Order.PLANNED, Order.OLDEST_FIRST})
"""Held back by nobody but by those whom the course knows."""


def _planned_ms(tx: Global) -> int | None:
    agenda = tx.agenda
    while agenda and not _holds(tx, *agenda[0]):
        heapq.heappop(agenda)
    return agenda[0][0] if agenda else None


def _holds(tx: Global, at_ms: int, branch_id: int) -> bool:
    """A branch that is not in front is planned when it gets there."""
    if tx.phase is Phase.OPEN:
        waiting = tx.waiting.get(branch_id) or tx.reservations.get(branch_id)
        if waiting is not None:
            return waiting.until_ms == at_ms
        if tx.course is None:
            return False
    branch = tx.branches.get(branch_id)
    if branch is None:
        return False
    if branch.answer_due_ms is not None:
        return branch.answer_due_ms == at_ms
    return branch.next_due_ms == at_ms and in_front(tx, branch)


def _top(tx: Global, stack: list[int]) -> Branch | None:
    while stack:
        branch = tx.branches.get(stack[-1])
        if branch is not None:
            return branch
        stack.pop()
    return None
