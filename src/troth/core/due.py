"""When a transaction wants to be looked at next, and which of its branches may be asked then.

Derived from its facts, never stored (design/coordinator §1). A transaction may have thousands of branches, so no answer
walks through all of them: `agenda` is a heap of (time, branch id), `newest` and `newest_of` are the branches as a
rollback takes them off. An entry that no longer holds is dropped when it comes to the top.
"""

from __future__ import annotations

import heapq

from troth.core.model import Branch, Global, Phase
from troth.core.modes import MODES
from troth.core.modes.mode import Order


def due_ms(tx: Global) -> int | None:
    """The next moment at which `tx` wants a Due event: its timeout, a retry, an overdue answer, the end of a wait."""
    planned = _planned_ms(tx) if tx.agenda else None
    if tx.phase is Phase.OPEN:
        return tx.deadline_ms if planned is None else min(planned, tx.deadline_ms)
    if not tx.branches:
        return tx.begin_ms
    if not tx.listeners:
        return planned
    patience = tx.listeners[0].until_ms  # the longest wait ends first
    return patience if planned is None else min(planned, patience)


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
    """Make the agenda of a decided transaction out of its stored facts."""
    tx.calls_out = 0
    tx.agenda = [
        (branch.next_due_ms, branch.branch_id) for branch in tx.branches.values() if branch.next_due_ms is not None
    ]
    heapq.heapify(tx.agenda)
    if tx.phase is Phase.ROLLING_BACK:
        line_up(tx)


def line_up(tx: Global) -> None:
    """The rollback has been decided: from now on the newest goes first."""
    tx.newest = list(tx.branches)
    tx.newest_of = {}
    for branch in tx.branches.values():
        tx.newest_of.setdefault(branch.resource_id, []).append(branch.branch_id)


def front(tx: Global) -> list[Branch]:
    """The branches that may be asked now: all on commit; on rollback the newest of each resource, and all of XA.

    A retrying or frozen branch holds back only the older ones of its resource (design/at.md §4), and those whose
    mode goes strictly in reverse: they are asked when no newer branch is left, of whatever mode.
    """
    if tx.phase is Phase.COMMITTING:
        return list(tx.branches.values())
    return [branch for branch in tx.branches.values() if in_front(tx, branch)]


def in_front(tx: Global, branch: Branch) -> bool:
    """True if `branch` is one of the `front`."""
    if tx.phase is Phase.COMMITTING:
        return True
    order = MODES[branch.branch_type].rollback_order
    if order is Order.ANY:
        return True
    if _top(tx, tx.newest_of[branch.resource_id]) is not branch:
        return False
    return order is not Order.STRICT_REVERSE or _top(tx, tx.newest) is branch


def followers(tx: Global, gone: Branch) -> list[Branch]:
    """The branches in front that `gone` may have held back."""
    if tx.phase is Phase.COMMITTING:
        return []
    of_resource, of_all = _top(tx, tx.newest_of[gone.resource_id]), _top(tx, tx.newest)
    rivals = [of_resource] if of_resource is of_all else [of_resource, of_all]
    return [branch for branch in rivals if branch is not None and in_front(tx, branch)]


def _planned_ms(tx: Global) -> int | None:
    agenda = tx.agenda
    while agenda and not _holds(tx, *agenda[0]):
        heapq.heappop(agenda)
    return agenda[0][0] if agenda else None


def _holds(tx: Global, at_ms: int, branch_id: int) -> bool:
    """A branch that is not in front is planned when it gets there."""
    if tx.phase is Phase.OPEN:
        waiting = tx.waiting.get(branch_id) or tx.reservations.get(branch_id)
        return waiting is not None and waiting.until_ms == at_ms
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
