"""TCC at the coordinator: confirm and cancel until they succeed, cancels strictly in reverse (design/modes.md)."""

from __future__ import annotations

import pytest
from world import World, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.model import BranchType, Cause, Phase, Standing, Trouble, Verb

TCC = BranchType.TCC


@pytest.fixture
def world() -> World:
    return World()


def test_a_commit_is_answered_after_the_confirms(world: World) -> None:
    xid = world.begin()
    first = world.branch(xid, "", resource="reserve", mode=TCC)
    second = world.branch(xid, "", resource="pay", mode=TCC)
    ask = world.ask(ev.Commit, xid)
    assert ask not in world.answers
    assert verbs(world.calls.values()) == [(first, Verb.COMMIT), (second, Verb.COMMIT)]
    world.answer_call(xid, second, CallResult.DONE)
    assert ask not in world.answers
    world.answer_call(xid, first, CallResult.DONE)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTED, Cause.ASKED, asynchronous=True), True)


def test_a_confirm_that_fails_is_asked_again_and_the_caller_hears_that_it_is_being_retried(world: World) -> None:
    xid = world.begin()
    branch = world.branch(xid, "", resource="reserve", mode=TCC)
    ask = world.ask(ev.Commit, xid)
    world.answer_call(xid, branch, CallResult.RETRY)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTING, Cause.ASKED, Trouble.RETRYING), True)
    world.due(xid, after_ms=100)
    world.answer_call(xid, branch, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.COMMITTED


def test_cancels_go_strictly_in_reverse_whatever_the_resource(world: World) -> None:
    xid = world.begin()
    branches = [world.branch(xid, "", resource=f"action{n}", mode=TCC) for n in range(3)]
    ask = world.ask(ev.Rollback, xid)
    for branch in reversed(branches):
        assert verbs(world.calls.values()) == [(branch, Verb.ROLLBACK)]
        assert ask not in world.answers
        world.answer_call(xid, branch, CallResult.DONE)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.ROLLED_BACK, Cause.ASKED, asynchronous=True))


def test_a_cancel_that_fails_holds_back_the_older_ones(world: World) -> None:
    xid = world.begin()
    older = world.branch(xid, "", resource="reserve", mode=TCC)
    newer = world.branch(xid, "", resource="pay", mode=TCC)
    world.ask(ev.Rollback, xid)
    world.answer_call(xid, newer, CallResult.RETRY)
    assert not world.calls
    world.due(xid, after_ms=100)
    world.answer_call(xid, newer, CallResult.DONE)
    assert verbs(world.calls.values()) == [(older, Verb.ROLLBACK)]


def test_a_cancel_waits_for_newer_undos_and_no_undo_waits_for_a_cancel_of_another_resource(world: World) -> None:
    xid = world.begin()
    old_row = world.branch(xid, "t:1", resource="jdbc:a")
    reserve = world.branch(xid, "", resource="reserve", mode=TCC)
    new_row = world.branch(xid, "t:1", resource="jdbc:b")
    world.ask(ev.Rollback, xid)
    assert sorted(verbs(world.calls.values())) == sorted([(old_row, Verb.ROLLBACK), (new_row, Verb.ROLLBACK)])
    world.answer_call(xid, new_row, CallResult.DONE)
    assert (xid, reserve) in world.calls
    world.answer_call(xid, old_row, CallResult.DONE)
    world.answer_call(xid, reserve, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_a_mixed_commit_is_answered_after_the_confirms_and_frees_rows_at_the_decision(world: World) -> None:
    xid = world.begin()
    row = world.branch(xid, "t:1")
    reserve = world.branch(xid, "", resource="reserve", mode=TCC)
    ask = world.ask(ev.Commit, xid)
    assert len(world.cell.locks) == 0
    world.answer_call(xid, row, CallResult.DONE)
    assert ask not in world.answers
    world.answer_call(xid, reserve, CallResult.DONE)
    assert world.answers[ask].standing.phase is Phase.COMMITTED  # type: ignore[union-attr]


def test_a_timeout_cancels(world: World) -> None:
    xid = world.begin(timeout_ms=1_000)
    branch = world.branch(xid, "", resource="reserve", mode=TCC)
    world.due(xid, after_ms=1_000)
    assert verbs(world.calls.values()) == [(branch, Verb.ROLLBACK)]


def test_after_a_restart_the_newest_cancel_is_asked_again_first(world: World) -> None:
    xid = world.begin()
    older = world.branch(xid, "", resource="reserve", mode=TCC)
    newer = world.branch(xid, "", resource="pay", mode=TCC)
    world.ask(ev.Rollback, xid)
    world.restart()
    world.due(xid)
    assert verbs(world.calls.values()) == [(newer, Verb.ROLLBACK)]
    world.answer_call(xid, newer, CallResult.DONE)
    assert verbs(world.calls.values()) == [(older, Verb.ROLLBACK)]
