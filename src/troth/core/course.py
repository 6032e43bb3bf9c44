"""Whose turn waits for whom, where plans and not registrations say it; and what a course is made of again at a load.

Every branch that must wait counts those that hold it back (`Course.held`); who holds nobody back any more lets those
behind it go (`release`). So no answer walks through all branches of a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from troth.core.model import Branch, BranchType, Course, Global, Phase, PhaseOne, Verb
from troth.core.modes import PLANNED, mode_of
from troth.core.modes.mode import Order

_CHAINED = (Order.NEWEST_FIRST, Order.OLDEST_FIRST)


def course_of(tx: Global) -> Course:
    """The course of `tx`, made now if it had none."""
    if tx.course is None:
        tx.course = Course()
    return tx.course


def is_step(branch: Branch) -> bool:
    """True for a branch that the coordinator itself runs before it decides."""
    plan = branch.plan
    return plan is not None and bool(PLANNED[branch.branch_type, plan.by_url].forward)


def verb_now(tx: Global, branch: Branch) -> Verb | None:
    """What is asked of `branch` in this phase, if its turn comes; None: nothing."""
    mode = mode_of(branch)
    if tx.phase is Phase.COMMITTING:
        return mode.on_commit
    if tx.phase is Phase.ROLLING_BACK:
        return mode.on_rollback
    if tx.phase is Phase.FORWARD:
        return Verb.ACTION if mode.forward else None
    return Verb.ASK if tx.course is not None and tx.course.runner == branch.branch_id else None


def set_out(tx: Global) -> None:
    """The phase of `tx` has changed, or it was loaded: find out anew who holds back whom."""
    course = tx.course
    if course is None:
        return
    course.held, course.holds = {}, {}
    if tx.phase is Phase.OPEN:
        return
    if tx.phase is Phase.FORWARD:
        course.forward = True
        course.to_run = sum(
            is_step(branch) and branch.phase_one is not PhaseOne.DONE for branch in tx.branches.values()
        )
    for behind, ahead in _pairs(tx):
        course.held[behind] = course.held.get(behind, 0) + 1
        course.holds.setdefault(ahead, []).append(behind)


def release(tx: Global, done: Branch) -> list[Branch]:
    """`done` holds nobody back any more: the branches whose turn has come."""
    course = tx.course
    if course is None:
        return []
    freed = []
    for branch_id in course.holds.pop(done.branch_id, ()):
        course.held[branch_id] -= 1
        if not course.held[branch_id]:
            del course.held[branch_id]
            if branch_id in tx.branches:
                freed.append(tx.branches[branch_id])
    return freed


def take_up(tx: Global) -> None:
    """Make the memory-only part of the course of a loaded transaction."""
    branches = list(tx.branches.values())
    if tx.course is None and tx.terms is None and not any(needs_course(branch) for branch in branches):
        return
    course = course_of(tx)
    for branch in branches:
        if branch.branch_type is BranchType.RUNNER:
            course.runner, course.asked = branch.branch_id, branch.epoch
    for branch in sorted(course.finished.values(), key=lambda branch: branch.seq):
        if branch.branch_type is BranchType.RECORD:
            course.records.setdefault(branch.resource_id, branch.branch_id)
    set_out(tx)


def needs_course(branch: Branch) -> bool:
    """True for a branch whose life is not the usual one."""
    return branch.plan is not None or branch.branch_type in NEEDS_COURSE


NEEDS_COURSE = frozenset({BranchType.SAGA, BranchType.MESSAGE, BranchType.RUNNER, BranchType.RECORD})


def _pairs(tx: Global) -> Iterator[tuple[int, int]]:
    """(behind, ahead) of every two branches of which the first waits for the second."""
    live = tx.branches.values()
    if tx.phase is Phase.FORWARD:
        yield from _after([branch for branch in live if is_step(branch) and branch.phase_one is not PhaseOne.DONE])
        return
    rolls_back = tx.phase is Phase.ROLLING_BACK
    by_order: dict[tuple[Order, BranchType], list[Branch]] = {}
    for branch in live:
        if branch.plan is not None:
            mode = mode_of(branch)
            order = mode.rollback_order if rolls_back else mode.commit_order
            by_order.setdefault((order, branch.branch_type), []).append(branch)
    for (order, _), branches in by_order.items():
        if order is Order.PLANNED:
            pairs = _after(branches)
            yield from ((ahead, behind) for behind, ahead in pairs) if rolls_back else pairs
        elif order in _CHAINED:
            line = sorted(branches, key=lambda branch: branch.seq, reverse=order is Order.NEWEST_FIRST)
            yield from ((behind.branch_id, ahead.branch_id) for ahead, behind in pairwise(line))


def _after(branches: Iterable[Branch]) -> Iterator[tuple[int, int]]:
    """(a, b) of every two of which a's plan names b."""
    numbers = {branch.seq: branch.branch_id for branch in branches}
    for branch in branches:
        assert branch.plan is not None
        for seq in dict.fromkeys(branch.plan.after):
            if seq in numbers and seq != branch.seq:
                yield branch.branch_id, numbers[seq]
