"""XA at the coordinator: asked until it is done, all branches at once, also on one resource."""

from __future__ import annotations

import pytest
from world import World, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.model import BranchType, Cause, Phase, Standing, Verb

XA = BranchType.XA


@pytest.fixture
def world() -> World:
    return World()


def test_a_commit_is_answered_after_the_branches(world: World) -> None:
    xid = world.begin()
    branch = world.branch(xid, "", resource="jdbc:a", mode=XA)
    ask = world.ask(ev.Commit, xid)
    assert ask not in world.answers
    world.answer_call(xid, branch, CallResult.DONE)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTED, Cause.ASKED, asynchronous=True), True)


def test_a_branch_that_waits_for_rows_of_an_older_one_does_not_hold_back_its_rollback(world: World) -> None:
    xid = world.begin()
    older = world.branch(xid, "", resource="jdbc:a", mode=XA)
    newer = world.branch(xid, "", resource="jdbc:a", mode=XA)
    world.ask(ev.Rollback, xid)
    assert sorted(verbs(world.calls.values())) == [(older, Verb.ROLLBACK), (newer, Verb.ROLLBACK)]
    world.answer_call(xid, newer, CallResult.RETRY)
    world.answer_call(xid, older, CallResult.DONE)
    world.due(xid, after_ms=100)
    assert verbs(world.calls.values()) == [(newer, Verb.ROLLBACK)]
    world.answer_call(xid, newer, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_lock_keys_of_an_xa_branch_keep_at_away(world: World) -> None:
    xa, at = world.begin(), world.begin()
    world.branch(xa, "t:1", resource="jdbc:a", mode=XA)
    _, ask = world.register(at, "t:1", resource="jdbc:a", may_wait=False)
    answer = world.answers[ask]
    assert isinstance(answer, fx.Conflict)
    assert answer.holder == xa
