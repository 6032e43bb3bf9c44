"""XA at the coordinator: asked until it is done, all branches at once, also on one resource."""

from __future__ import annotations

import pytest
from world import Ask, World, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.model import BranchType, Cause, Phase, PhaseOne, Plan, Standing, Verb

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


# ---- the vote ----

PROMISED = '{"txid": "735", "reports": true}'
JAVAS = (None, "null", "", "not json", "[1]", '{"autoCommit": false}', '{"reports": "yes"}', '{"reports": false}')


def registered(world: World, xid: str, data: str | None) -> int:
    branch_id = world.next_id()
    ask = Ask(f"register {branch_id}")
    world.send(ev.Register(xid, branch_id, XA, "jdbc:a", "", (), data, True, "shop:127.0.0.1:5000", None, True, ask))
    assert world.answers[ask] == fx.Registered(branch_id)
    return branch_id


@pytest.mark.parametrize("restarts", [False, True])
def test_a_promised_report_that_never_came_makes_the_commit_a_rollback(world: World, restarts: bool) -> None:
    xid = world.begin()
    silent, other = registered(world, xid, PROMISED), world.branch(xid, "", resource="jdbc:b", mode=XA)
    if restarts:
        world.restart()
    ask = world.ask(ev.Commit, xid)
    assert sorted(verbs(world.calls.values())) == [(silent, Verb.ROLLBACK), (other, Verb.ROLLBACK)]
    for branch in (silent, other):
        world.answer_call(xid, branch, CallResult.DONE)
    told = world.answers[ask]
    assert isinstance(told, fx.Stands)
    assert (told.standing.phase, told.standing.cause) == (Phase.ROLLED_BACK, Cause.PHASE_ONE_FAILED)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_promise_that_was_kept_is_a_vote(world: World, restarts: bool) -> None:
    xid = world.begin()
    branch = registered(world, xid, PROMISED)
    ask = Ask("report")
    world.send(ev.Report(xid, branch, PhaseOne.DONE, '{"txid": "735", "prepared": true}', ask))
    assert world.answers[ask] == fx.Reported(branch)
    if restarts:
        world.restart()
    world.ask(ev.Commit, xid)
    assert verbs(world.calls.values()) == [(branch, Verb.COMMIT)]


NESTED = '{"a":' + "[" * 100_000
HALF_A_CHARACTER = '{"a":"\ud800"}'


@pytest.mark.parametrize("data", [*JAVAS, NESTED, HALF_A_CHARACTER], ids=range(len(JAVAS) + 2))
def test_who_promised_nothing_owes_nothing(world: World, data: str | None) -> None:
    """Java's XA branches report failures only."""
    xid = world.begin()
    branch = registered(world, xid, data)
    world.ask(ev.Commit, xid)
    assert verbs(world.calls.values()) == [(branch, Verb.COMMIT)]


@pytest.mark.parametrize(("mode", "plan"), [(BranchType.TCC, None), (XA, Plan(by_url=True))])
def test_the_same_words_of_somebody_else_are_no_promise(world: World, mode: BranchType, plan: Plan | None) -> None:
    """Of a branch that is reached by a URL they are the user's own."""
    xid = world.begin()
    ask = Ask("register")
    world.send(ev.Register(xid, 7, mode, "seat", "", (), PROMISED, True, "c", None, True, ask, plan=plan))
    world.ask(ev.Commit, xid)
    assert verbs(world.calls.values()) == [(7, Verb.COMMIT)]


def read_only(world: World, xid: str, branch_id: int) -> fx.Result:
    ask = Ask("report")
    world.send(ev.Report(xid, branch_id, None, '{"guard": "g", "ended": true}', ask, read_only=True))
    return world.answers[ask]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_branch_that_has_only_read_has_no_phase_two(world: World, restarts: bool) -> None:
    xid = world.begin()
    reader, writer = registered(world, xid, PROMISED), world.branch(xid, "", resource="jdbc:b", mode=XA)
    assert read_only(world, xid, reader) == fx.Reported(reader)
    if restarts:
        world.restart()
    world.ask(ev.Commit, xid)
    assert verbs(world.calls.values()) == [(writer, Verb.COMMIT)]
    world.answer_call(xid, writer, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.COMMITTED


@pytest.mark.parametrize("end", [ev.Commit, ev.Rollback])
def test_where_all_have_only_read_the_end_is_at_once(world: World, end: type[ev.Commit | ev.Rollback]) -> None:
    xid = world.begin()
    read_only(world, xid, registered(world, xid, PROMISED))
    ask = world.ask(end, xid)
    assert world.calls == {}
    assert isinstance(world.answers[ask], fx.Stands)
    assert xid in world.ledger.ended


def test_what_a_reader_had_locked_is_free(world: World) -> None:
    xid, other = world.begin(), world.begin()
    reader = world.branch(xid, "t:1", resource="jdbc:a", mode=XA)
    read_only(world, xid, reader)
    world.branch(other, "t:1", resource="jdbc:a")
    ask = world.report(xid, reader, PhaseOne.DONE)
    assert world.answers[ask] == fx.NoBranch(xid, reader)


def test_only_an_xa_branch_can_say_so(world: World) -> None:
    """An AT branch has committed locally: whatever it says, it may have to be undone."""
    xid = world.begin()
    branch = world.branch(xid, "t:1")
    read_only(world, xid, branch)
    world.ask(ev.Rollback, xid)
    assert verbs(world.calls.values()) == [(branch, Verb.ROLLBACK)]
