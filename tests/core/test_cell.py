"""The life of a transaction, one promise of design/coordinator.md a test."""

from __future__ import annotations

import time

import msgspec
import pytest
from world import MYSQL, RULES, SQLITE, Ask, World, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.due import due_ms
from troth.core.events import CallResult
from troth.core.machine import NoTransition, find_row
from troth.core.model import Cause, Outcome, Phase, PhaseOne, RowKey, Standing, Trouble, Verb


@pytest.fixture
def world() -> World:
    return World()


def stands(world: World, ask: Ask) -> Standing:
    result = world.answers[ask]
    assert isinstance(result, fx.Stands)
    return result.standing


def test_commit_of_at_is_answered_at_once_and_frees_the_rows(world: World) -> None:
    xid = world.begin()
    first = world.branch(xid, "stock:1")
    second = world.branch(xid, "stock:2;orders:9")
    ask = world.ask(ev.Commit, xid)
    assert world.answers[ask] == fx.Stands(
        Standing(xid, Phase.COMMITTING, Cause.ASKED, Trouble.NONE, asynchronous=True), commit_asked=True
    )
    assert verbs(world.calls.values()) == [(first, Verb.COMMIT), (second, Verb.COMMIT)]
    assert len(world.cell.locks) == 0
    world.answer_call(xid, first, CallResult.DONE)
    world.answer_call(xid, second, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.COMMITTED
    assert stands(world, world.ask(ev.Commit, xid)).phase is Phase.COMMITTED, "a repeated commit hears the truth"


def test_an_open_transaction_wants_no_channel_and_is_not_woken(world: World) -> None:
    xid = world.begin()
    branch = world.branch(xid, "t:1")
    world.send(ev.Answered(xid, branch, Verb.COMMIT, 1, CallResult.NO_CHANNEL))
    world.send(ev.Served(MYSQL))
    assert not world.calls


def test_commit_of_nothing_ends_in_one_turn(world: World) -> None:
    xid = world.begin()
    ask = world.ask(ev.Commit, xid)
    assert stands(world, ask).phase is Phase.COMMITTING
    assert xid in world.ledger.ended


def test_rollback_goes_newest_first_per_resource_and_resources_in_parallel(world: World) -> None:
    xid = world.begin()
    a1 = world.branch(xid, "t:1", resource="jdbc:a")
    b1 = world.branch(xid, "t:1", resource="jdbc:b")
    a2 = world.branch(xid, "t:1", resource="jdbc:a")
    ask = world.ask(ev.Rollback, xid)
    assert sorted(verbs(world.calls.values())) == sorted([(a2, Verb.ROLLBACK), (b1, Verb.ROLLBACK)])
    assert ask not in world.answers, "a rollback is answered after the first round"
    world.answer_call(xid, a2, CallResult.DONE)
    assert world.cell.locks.holder(RowKey("jdbc:a", "t", "1")) == xid, "the older branch still names the row"
    assert (xid, a1) in world.calls
    world.answer_call(xid, a1, CallResult.DONE)
    world.answer_call(xid, b1, CallResult.DONE)
    assert stands(world, ask) == Standing(xid, Phase.ROLLED_BACK, Cause.ASKED, asynchronous=True)
    assert len(world.cell.locks) == 0


def test_a_failing_branch_backs_off_within_bounds_and_stays_visible(world: World) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    ask = world.ask(ev.Rollback, xid)
    delays = []
    for attempt in range(1, 9):
        assert world.calls[xid, branch_id].attempt == attempt
        world.answer_call(xid, branch_id, CallResult.RETRY, "deadlock found")
        tx = world.cell.transactions[xid]
        due = due_ms(tx)
        assert due is not None
        delays.append(due - world.now)
        world.due(xid, after_ms=delays[-1])
    assert delays == sorted(delays)
    assert 75 <= delays[0] <= 100
    assert delays[-1] <= 1_000
    assert stands(world, ask).trouble is Trouble.RETRYING
    kept = world.ledger.open[xid].branches[branch_id]
    assert (kept.attempts, kept.last_error) == (8, "deadlock found")


def test_an_unretryable_refusal_freezes_the_branch_until_an_operator_asks(world: World) -> None:
    xid = world.begin()
    older = world.branch(xid, "t:1")
    branch_id = world.branch(xid, "t:1")
    ask = world.ask(ev.Rollback, xid)
    world.answer_call(xid, branch_id, CallResult.REFUSED, "row t:1 was changed by a stranger")
    assert stands(world, ask).trouble is Trouble.FROZEN
    assert due_ms(world.cell.transactions[xid]) is None, "nothing wakes a frozen branch by itself"
    assert (xid, older) not in world.calls, "an older branch of the same resource is held back"
    retry = world.ask(ev.Retry, xid)
    assert world.answers[retry] == fx.Retrying(xid, 2)
    world.answer_call(xid, branch_id, CallResult.DONE)
    world.answer_call(xid, older, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_timeout_rolls_back_and_a_late_commit_hears_it(world: World) -> None:
    xid = world.begin(timeout_ms=500)
    branch_id = world.branch(xid, "t:1")
    assert due_ms(world.cell.transactions[xid]) == world.now + 500
    world.due(xid, after_ms=500)
    assert world.ledger.open[xid].cause is Cause.TIMEOUT
    commit = world.ask(ev.Commit, xid)
    assert commit not in world.answers, "it joins the round that is running"
    world.answer_call(xid, branch_id, CallResult.DONE)
    assert world.answers[commit] == fx.Stands(
        Standing(xid, Phase.ROLLED_BACK, Cause.TIMEOUT, asynchronous=True), commit_asked=True
    )


def test_a_commit_past_its_timeout_decides_the_rollback_in_that_step(world: World) -> None:
    xid = world.begin(timeout_ms=500)
    branch_id = world.branch(xid, "t:1")
    world.now += 500
    commit = world.ask(ev.Commit, xid)
    assert verbs(world.calls.values()) == [(branch_id, Verb.ROLLBACK)]
    world.answer_call(xid, branch_id, CallResult.DONE)
    assert stands(world, commit).cause is Cause.TIMEOUT


def test_a_register_past_the_timeout_rolls_back_and_is_refused(world: World) -> None:
    xid = world.begin(timeout_ms=500)
    world.now += 501
    _, ask = world.register(xid, "t:1")
    assert isinstance(world.answers[ask], fx.NotActive)
    assert world.ledger.ended[xid].cause is Cause.TIMEOUT


@pytest.mark.parametrize("how", ["vote", "phase one failed"])
def test_a_commit_after_a_vote_or_a_failed_phase_one_is_a_rollback(world: World, how: str) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    if how == "vote":
        assert world.answers[world.ask(ev.Vote, xid)] == fx.Voted(xid)
        assert world.answers[world.ask(ev.Vote, xid)] == fx.Voted(xid)
    else:
        world.report(xid, branch_id)
    commit = world.ask(ev.Commit, xid)
    world.answer_call(xid, branch_id, CallResult.DONE)
    cause = Cause.VOTE if how == "vote" else Cause.PHASE_ONE_FAILED
    assert stands(world, commit).cause is cause
    assert verbs([]) == []
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_a_report_of_something_else_does_not_take_back_a_failure(world: World) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    world.report(xid, branch_id, PhaseOne.FAILED)
    world.report(xid, branch_id, None)
    world.ask(ev.Commit, xid)
    assert world.ledger.open[xid].cause is Cause.PHASE_ONE_FAILED


def test_rows_exclude_each_other_and_the_same_global_comes_in_again(world: World) -> None:
    one, two = world.begin(), world.begin()
    world.branch(one, "t:1,2")
    world.branch(one, "t:2,3")
    _, ask = world.register(two, "t:3", may_wait=False)
    conflict = world.answers[ask]
    assert isinstance(conflict, fx.Conflict)
    assert (conflict.key, conflict.holder, conflict.fail_fast) == (RowKey(MYSQL, "t", "3"), one, False)
    _, other = world.register(two, "t:3", resource="jdbc:elsewhere", may_wait=False)
    assert isinstance(world.answers[other], fx.Registered)


def test_a_grant_is_all_or_nothing(world: World) -> None:
    one, two = world.begin(), world.begin()
    world.branch(one, "t:2")
    world.register(two, "t:1,2", may_wait=False)
    assert world.cell.locks.holder(RowKey(MYSQL, "t", "1")) is None


def test_a_hot_wait_is_granted_in_the_turn_that_frees_the_row_first_come_first_served(world: World) -> None:
    one, two, three = world.begin(), world.begin(), world.begin()
    world.branch(one, "t:1")
    second, ask_two = world.register(two, "t:1")
    _, ask_three = world.register(three, "t:1")
    assert ask_two not in world.answers
    world.ask(ev.Commit, one)
    assert world.answers[ask_two] == fx.Registered(second)
    assert ask_three not in world.answers
    assert len(world.calls) == 1


def test_a_hot_wait_ends_after_its_bound_over_all_retries(world: World) -> None:
    one, two = world.begin(), world.begin()
    world.branch(one, "t:1")
    _, first = world.register(two, "t:1")
    world.due(two, after_ms=200)
    assert first not in world.answers
    world.due(two, after_ms=100)
    assert isinstance(world.answers[first], fx.Conflict)
    _, second = world.register(two, "t:1")
    assert isinstance(world.answers[second], fx.Conflict), "the 300 ms of this (xid, resource) are spent"


def test_a_waiting_transaction_is_still_due_at_its_timeout(world: World) -> None:
    one, two = world.begin(), world.begin(timeout_ms=100)
    world.branch(one, "t:1")
    _, ask = world.register(two, "t:1")
    assert due_ms(world.cell.transactions[two]) == world.now + 100
    world.due(two, after_ms=100)
    assert isinstance(world.answers[ask], fx.NotActive)


def test_sqlite_never_waits(world: World) -> None:
    one, two = world.begin(), world.begin()
    world.branch(one, "t:1", resource=SQLITE)
    _, ask = world.register(two, "t:1", resource=SQLITE)
    assert isinstance(world.answers[ask], fx.Conflict)


def test_the_step_that_decides_a_rollback_denies_every_waiter_of_its_rows(world: World) -> None:
    one, two = world.begin(), world.begin()
    branch_id = world.branch(one, "t:1")
    _, ask = world.register(two, "t:1", auto_commit=False)
    world.ask(ev.Rollback, one)
    conflict = world.answers[ask]
    assert isinstance(conflict, fx.Conflict)
    assert conflict.fail_fast
    assert not conflict.auto_commit
    _, late = world.register(two, "t:1")
    assert isinstance(world.answers[late], fx.Conflict), "while the holder rolls back the answer is immediate"
    world.answer_call(one, branch_id, CallResult.DONE)
    _, free = world.register(two, "t:1")
    assert isinstance(world.answers[free], fx.Registered)


def test_a_wait_ends_with_its_channel_and_with_its_own_transaction(world: World) -> None:
    one, two, three = world.begin(), world.begin(), world.begin()
    world.branch(one, "t:1")
    channel = object()
    _, gone = world.register(two, "t:1", channel=channel)
    _, late = world.register(three, "t:1")
    world.send(ev.ChannelClosed(channel))
    world.ask(ev.Commit, three)
    assert isinstance(world.answers[late], fx.NotActive)
    world.ask(ev.Commit, one)
    assert gone not in world.answers
    assert len(world.cell.locks) == 0
    assert world.cell.locks.queued == 0


def test_lock_query_locks_nothing(world: World) -> None:
    one, two = world.begin(), world.begin()
    world.branch(one, "t:1")
    mine, foreign = Ask("own"), Ask("foreign")
    world.send(ev.LockQuery(one, (RowKey(MYSQL, "t", "1"),), mine))
    world.send(ev.LockQuery(two, (RowKey(MYSQL, "t", "1"), RowKey(MYSQL, "t", "2")), foreign))
    assert world.answers[mine] == fx.Lockable(True)
    assert world.answers[foreign] == fx.Lockable(False)
    assert len(world.cell.locks) == 1


def test_no_channel_is_no_attempt_and_a_served_resource_wakes_it(world: World) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    ask = world.ask(ev.Rollback, xid)
    world.answer_call(xid, branch_id, CallResult.NO_CHANNEL)
    assert stands(world, ask).trouble is Trouble.RETRYING
    assert world.ledger.open[xid].branches[branch_id].attempts == 0
    world.send(ev.Served("jdbc:other"))
    assert (xid, branch_id) not in world.calls
    world.send(ev.Served(MYSQL))
    world.answer_call(xid, branch_id, CallResult.DONE)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_silence_is_a_failed_attempt_but_a_late_success_is_the_truth(world: World) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    world.ask(ev.Commit, xid)
    call = world.calls[xid, branch_id]
    world.due(xid, after_ms=5_000)
    assert world.ledger.open[xid].branches[branch_id].attempts == 1
    world.send(ev.Answered(xid, branch_id, call.verb, call.attempt, CallResult.RETRY, "late"))
    assert world.ledger.open[xid].branches[branch_id].attempts == 1, "a late failure counts once"
    world.send(ev.Answered(xid, branch_id, call.verb, call.attempt, CallResult.DONE))
    assert world.ledger.ended[xid].phase is Phase.COMMITTED


def test_a_rollback_without_an_answer_tells_its_tm_after_ten_seconds(world: World) -> None:
    xid = world.begin()
    world.branch(xid, "t:1")
    ask = world.ask(ev.Rollback, xid)
    world.due(xid, after_ms=world.rules.first_round_ms)
    assert stands(world, ask) == Standing(xid, Phase.ROLLING_BACK, Cause.ASKED, asynchronous=True)


def test_an_unknown_xid_is_told_so(world: World) -> None:
    for kind in (ev.Commit, ev.Rollback, ev.Status, ev.Vote, ev.Retry):
        assert world.answers[world.ask(kind, "nowhere:1:2")] == fx.Unknown("nowhere:1:2")
    _, ask = world.register("nowhere:1:2", "t:1")
    assert world.answers[ask] == fx.Unknown("nowhere:1:2")
    assert not world.send(ev.Due("nowhere:1:2")).effects


def test_a_restart_keeps_locks_and_drives_what_was_decided(world: World) -> None:
    open_, rolling, committing = world.begin(), world.begin(), world.begin()
    world.branch(open_, "t:1")
    undo = world.branch(rolling, "t:2")
    drop = world.branch(committing, "t:3")
    world.ask(ev.Rollback, rolling)
    world.ask(ev.Commit, committing)
    world.restart()
    assert {key.pk for key, _ in world.cell.locks.rows()} == {"1", "2"}
    for xid, tx in world.cell.transactions.items():
        due = due_ms(tx)
        assert due is not None
        if due <= world.now:
            world.due(xid)
    assert set(world.calls) == {(rolling, undo), (committing, drop)}


def test_an_outcome_that_left_memory_is_loaded_and_forgotten_again(world: World) -> None:
    xid = world.begin()
    world.ask(ev.Commit, xid)
    outcome = world.cell.outcome(xid)
    assert outcome is not None
    world.send(ev.Sweep(world.now))
    assert not world.cell.knows(xid)
    world.send(ev.Loaded(xid, outcome))
    assert stands(world, world.ask(ev.Status, xid)).phase is Phase.COMMITTED


def test_an_event_without_a_row_is_a_loud_bug(world: World) -> None:
    tx = world.cell.transactions[world.begin()]
    with pytest.raises(NoTransition, match="Drained"):
        find_row(Phase.OPEN, tx, ev.Drained(tx.xid), 0)


def test_reports_of_unknown_branches_and_after_the_decision(world: World) -> None:
    xid = world.begin()
    branch_id = world.branch(xid, "t:1")
    assert world.answers[world.report(xid, 4711)] == fx.NoBranch(xid, 4711)
    world.ask(ev.Rollback, xid)
    assert world.answers[world.report(xid, branch_id)] == fx.Reported(branch_id)
    world.answer_call(xid, branch_id, CallResult.DONE)
    assert isinstance(world.answers[world.report(xid, branch_id, PhaseOne.DONE)], fx.NotActive)


@pytest.mark.parametrize("how", [CallResult.DONE, CallResult.RETRY, CallResult.NO_CHANNEL])
@pytest.mark.parametrize("resources", [1, 5_000])
@pytest.mark.parametrize("kind", [ev.Commit, ev.Rollback])
def test_each_answer_to_thousands_of_branches_costs_the_same(
    world: World, kind: type[ev.Commit], resources: int, how: CallResult
) -> None:
    """With a walk through all branches at each answer this takes half a minute, and stops everybody else as long."""
    xid = world.begin()
    for n in range(5_000):
        world.branch(xid, "", resource=f"jdbc:{n % resources}")
    world.ask(kind, xid)
    started = time.process_time()
    for _ in range(5_000):
        if not world.calls:
            break
        _, branch_id = next(iter(world.calls))
        world.answer_call(xid, branch_id, how)
        if xid in world.cell.transactions:
            due_ms(world.cell.transactions[xid])
    assert time.process_time() - started < 5


def test_thousands_who_ask_for_one_outcome_are_answered_together(world: World) -> None:
    xid = world.begin()
    branch = world.branch(xid, "t:1")
    asks = [world.ask(ev.Rollback, xid) for _ in range(3)]
    world.now += 1_000
    asks.append(world.ask(ev.Rollback, xid))
    world.now += 1_000
    assert due_ms(world.cell.transactions[xid]) == world.now
    world.send(ev.Due(xid))
    assert [ask in world.answers for ask in asks] == [True, True, True, False]
    world.answer_call(xid, branch, CallResult.DONE)
    assert asks[-1] in world.answers


def test_after_a_restart_the_first_client_of_a_resource_wakes_what_had_none(world: World) -> None:
    xid = world.begin()
    branch = world.branch(xid, "t:1")
    world.ask(ev.Commit, xid)
    world.answer_call(xid, branch, CallResult.NO_CHANNEL)
    world.restart()
    world.due(xid)
    assert not world.calls, "nobody is there yet, and the slow retry is far"
    world.send(ev.Served(MYSQL))
    assert (xid, branch) in world.calls


def test_outcomes_that_are_looked_up_again_do_not_fill_the_memory() -> None:
    world = World(msgspec.structs.replace(RULES, outcome_memory_max=3))
    for number in range(10):
        xid = f"10.0.0.1:8091:{number}"
        outcome = Outcome(xid, "n", "a", "g", 1, 1, Phase.COMMITTED, Cause.ASKED, 2)
        world.send(ev.Loaded(xid, outcome))
        assert stands(world, world.ask(ev.Commit, xid)).phase is Phase.COMMITTED
    assert sum(world.cell.knows(f"10.0.0.1:8091:{number}") for number in range(10)) == 3
