"""Forward steps at the coordinator: it runs them itself before it decides, and undoes what ran if one says no."""

from __future__ import annotations

import sys

import pytest
from world import Ask, World, terms_of, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.model import BranchType, Cause, OnTimeout, Phase, PhaseOne, Plan, Standing, Trouble, Verb

DONE, REFUSED, RETRY, ONGOING = CallResult.DONE, CallResult.REFUSED, CallResult.RETRY, CallResult.ONGOING


@pytest.fixture
def world() -> World:
    return World()


def linear(world: World, count: int = 3, *, by_url: bool = True) -> list[ev.NewStep]:
    return [world.step(*([place] if place else []), by_url=by_url, url=f"http://s/{place}") for place in range(count)]


def ids(steps: list[ev.NewStep]) -> list[int]:
    return [step.branch_id for step in steps]


def called(world: World) -> list[tuple[int, Verb]]:
    return sorted(verbs(world.calls.values()))


def standing(world: World, xid: str) -> Standing:
    answer = world.answers[world.ask(ev.Status, xid)]
    assert isinstance(answer, fx.Stands)
    return answer.standing


def test_a_submitted_saga_runs_its_steps_in_order_and_is_committed(world: World) -> None:
    steps = linear(world)
    xid, ask = world.start(*steps, submit=True, wait=True)
    for step in steps:
        assert called(world) == [(step.branch_id, Verb.ACTION)]
        assert standing(world, xid).phase is Phase.FORWARD
        assert ask not in world.answers
        world.answer_call(xid, step.branch_id, DONE)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTED, Cause.ASKED, asynchronous=True), True)
    outcome = world.cell.outcome(xid)
    assert outcome is not None
    kept = [(b.branch_id, b.phase_one, b.ended) for b in outcome.branches]
    assert kept == [(branch_id, PhaseOne.DONE, False) for branch_id in ids(steps)]
    assert world.ledger.ended[xid].branches == outcome.branches


def test_begin_and_submit_are_one_batch_with_what_they_call(world: World) -> None:
    steps = linear(world)
    xid = "127.0.0.1:8091:99"
    event = ev.Begin(xid, "n", "a", "g", 60_000, None, terms_of("mine"), tuple(steps), True)
    decision = world.send(event)
    kinds = [type(write) for write in decision.writes]
    assert kinds == [fx.OpenGlobal, fx.AddBranch, fx.AddBranch, fx.AddBranch, fx.MarkGlobal]
    (call,) = [effect for effect in decision.effects if isinstance(effect, fx.Call)]
    assert (call.gid, call.kind, call.detail, call.plan) == ("mine", "saga", b"detail", Plan(True))
    assert (call.verb, call.attempt, call.application_data) == (Verb.ACTION, 1, "{}")


def test_who_does_not_wait_is_answered_at_once(world: World) -> None:
    xid, ask = world.start(*linear(world), submit=True)
    assert world.answers[ask] == fx.Begun(xid)
    again = Ask("commit")
    world.send(ev.Commit(xid, again, wait=False))
    assert world.answers[again] == fx.Stands(Standing(xid, Phase.FORWARD, asynchronous=True), True)


def test_a_refusal_undoes_what_ran_in_reverse_the_refused_step_first_and_leaves_the_rest(world: World) -> None:
    steps = linear(world, 4)
    first, second, third, fourth = ids(steps)
    xid, ask = world.start(*steps, submit=True, wait=True)
    world.answer_call(xid, first, DONE)
    world.answer_call(xid, second, DONE)
    world.answer_call(xid, third, REFUSED, "no funds")
    for branch_id in (third, second, first):
        assert called(world) == [(branch_id, Verb.ROLLBACK)]
        world.answer_call(xid, branch_id, DONE)
    answer = world.answers[ask]
    assert answer == fx.Stands(
        Standing(xid, Phase.ROLLED_BACK, Cause.REFUSED, reason="no funds", asynchronous=True), True
    )
    outcome = world.cell.outcome(xid)
    assert outcome is not None
    facts = {branch.branch_id: (branch.phase_one, branch.ended) for branch in outcome.branches}
    assert facts == {
        first: (PhaseOne.DONE, True),
        second: (PhaseOne.DONE, True),
        third: (PhaseOne.FAILED, True),
        fourth: (PhaseOne.REGISTERED, False),
    }
    assert outcome.reason == "no funds"


def test_over_a_channel_a_step_that_refused_at_once_has_surely_done_nothing(world: World) -> None:
    steps = linear(world, 2, by_url=False)
    first, second = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, first, DONE)
    world.answer_call(xid, second, REFUSED)
    assert called(world) == [(first, Verb.ROLLBACK)]


def test_over_a_channel_a_step_that_refused_after_an_unknown_attempt_is_undone(world: World) -> None:
    (step,) = linear(world, 1, by_url=False)
    xid, _ = world.start(step, submit=True)
    world.answer_call(xid, step.branch_id, RETRY)
    world.due(xid, after_ms=1_000)
    world.answer_call(xid, step.branch_id, REFUSED)
    assert called(world) == [(step.branch_id, Verb.ROLLBACK)]


def test_steps_without_an_order_run_at_once_and_those_that_may_have_run_are_undone(world: World) -> None:
    steps = [world.step(), world.step(), world.step(1, 2)]
    one, two, three = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    assert called(world) == [(one, Verb.ACTION), (two, Verb.ACTION)]
    world.answer_call(xid, one, REFUSED)
    assert (xid, two) in world.calls
    assert called(world) == [(one, Verb.ROLLBACK), (two, Verb.ROLLBACK)]
    assert xid in world.cell.transactions
    assert three in world.cell.transactions[xid].finished


def test_a_dag_goes_forward_and_back_along_its_edges(world: World) -> None:
    steps = [world.step(), world.step(1), world.step(1), world.step(2, 3), world.step(4)]
    one, two, three, four, five = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, one, DONE)
    assert called(world) == [(two, Verb.ACTION), (three, Verb.ACTION)]
    world.answer_call(xid, three, DONE)
    assert called(world) == [(two, Verb.ACTION)]
    world.answer_call(xid, two, DONE)
    world.answer_call(xid, four, DONE)
    world.answer_call(xid, five, REFUSED)
    world.answer_call(xid, five, DONE)
    world.answer_call(xid, four, DONE)
    assert called(world) == [(two, Verb.ROLLBACK), (three, Verb.ROLLBACK)]
    world.answer_call(xid, two, DONE)
    assert called(world) == [(three, Verb.ROLLBACK)]
    world.answer_call(xid, three, DONE)
    assert called(world) == [(one, Verb.ROLLBACK)]


def test_a_late_answer_to_the_action_is_none_to_the_compensation(world: World) -> None:
    steps = [world.step(), world.step()]
    one, two = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, one, REFUSED)
    for result in (DONE, REFUSED, RETRY):
        world.send(ev.Answered(xid, two, Verb.ACTION, 1, result))
    assert called(world) == [(one, Verb.ROLLBACK), (two, Verb.ROLLBACK)]
    assert standing(world, xid).trouble is Trouble.NONE


def test_a_step_that_has_run_does_not_run_twice_nor_refuse_any_more(world: World) -> None:
    steps = linear(world, 2)
    first, second = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, first, DONE)
    for result in (DONE, REFUSED):
        assert not world.send(ev.Answered(xid, first, Verb.ACTION, 1, result)).writes
    assert called(world) == [(second, Verb.ACTION)]


def test_a_failed_attempt_is_repeated_in_the_agreed_interval_which_doubles(world: World) -> None:
    (step,) = linear(world, 1)
    xid, _ = world.start(step, submit=True, terms=terms_of(retry_ms=700))
    for wait_ms in (700, 1_400, 1_000):  # the ceiling is that of the rules
        world.answer_call(xid, step.branch_id, RETRY)
        world.due(xid, after_ms=min(wait_ms, 1_000) - 1)
        assert not world.calls
        world.due(xid, after_ms=1)
        assert called(world) == [(step.branch_id, Verb.ACTION)]
    assert world.calls[xid, step.branch_id].attempt == 4


def test_what_is_under_way_is_asked_again_in_the_same_interval_and_no_limit_counts_it(world: World) -> None:
    (step,) = linear(world, 1)
    xid, ask = world.start(step, submit=True, wait=True, terms=terms_of(retry_ms=700, retry_limit=1))
    for _ in range(5):
        world.answer_call(xid, step.branch_id, ONGOING)
        assert standing(world, xid).trouble is Trouble.NONE
        world.due(xid, after_ms=699)
        assert not world.calls
        world.due(xid, after_ms=1)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.FORWARD, asynchronous=True), True)
    world.answer_call(xid, step.branch_id, DONE)
    assert world.ledger.ended[xid].phase is Phase.COMMITTED


def test_with_a_limit_attempts_follow_at_once_and_then_it_is_rolled_back(world: World) -> None:
    (step,) = linear(world, 1)
    xid, ask = world.start(step, submit=True, wait=True, terms=terms_of(retry_limit=3))
    for attempt in (1, 2, 3):
        assert world.calls[xid, step.branch_id].attempt == attempt
        world.answer_call(xid, step.branch_id, RETRY, "500")
    assert called(world) == [(step.branch_id, Verb.ROLLBACK)]
    assert ask not in world.answers
    world.answer_call(xid, step.branch_id, DONE)
    answer = world.answers[ask]
    assert isinstance(answer, fx.Stands)
    assert answer.standing.cause is Cause.RETRIES
    assert answer.standing.reason == "no success in 3 attempts: 500"


def test_silence_counts_as_an_attempt(world: World) -> None:
    (step,) = linear(world, 1)
    xid, _ = world.start(step, submit=True, terms=terms_of(retry_limit=2, answer_timeout_ms=50))
    world.due(xid, after_ms=50)
    assert world.calls[xid, step.branch_id].attempt == 1
    world.due(xid)
    assert world.calls[xid, step.branch_id].attempt == 2
    world.due(xid, after_ms=50)
    assert called(world) == [(step.branch_id, Verb.ROLLBACK)]
    world.answer_call(xid, step.branch_id, DONE)
    assert world.ledger.ended[xid].cause is Cause.RETRIES


@pytest.mark.parametrize("on_timeout", OnTimeout)
def test_the_timeout_rolls_back_unless_it_is_to_go_on(world: World, on_timeout: OnTimeout) -> None:
    (step,) = linear(world, 1)
    xid, _ = world.start(step, submit=True, terms=terms_of(on_timeout=on_timeout), timeout_ms=1_000)
    world.due(xid, after_ms=1_000)
    goes_on = on_timeout is OnTimeout.GO_ON
    assert called(world) == [(step.branch_id, Verb.ACTION if goes_on else Verb.ROLLBACK)]
    if not goes_on:
        world.answer_call(xid, step.branch_id, DONE)
        assert world.ledger.ended[xid].cause is Cause.TIMEOUT


def test_a_start_that_is_put_off_is_put_off_over_a_restart(world: World) -> None:
    (step,) = linear(world, 1)
    xid, _ = world.start(step, submit=True, terms=terms_of(start_ms=5_000))
    assert not world.calls
    world.due(xid, after_ms=3_000)
    world.restart()
    world.due(xid, after_ms=1_999)
    assert not world.calls
    world.due(xid, after_ms=1)
    assert called(world) == [(step.branch_id, Verb.ACTION)]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rollback_is_not_put_off(world: World, restarts: bool) -> None:
    steps = linear(world, 2)
    xid, _ = world.start(*steps, submit=True, terms=terms_of(start_ms=5_000))
    if restarts:
        world.restart()
    ask = world.ask(ev.Rollback, xid)
    assert called(world) == [(steps[0].branch_id, Verb.ROLLBACK)]
    world.answer_call(xid, steps[0].branch_id, DONE)
    assert isinstance(world.answers[ask], fx.Stands)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


def test_a_step_that_is_under_way_is_undone_at_once(world: World) -> None:
    (step,) = linear(world, 1)
    xid, _ = world.start(step, submit=True, terms=terms_of(retry_ms=5_000))
    world.answer_call(xid, step.branch_id, ONGOING)
    world.ask(ev.Rollback, xid)
    assert called(world) == [(step.branch_id, Verb.ROLLBACK)]


@pytest.mark.parametrize("kind", [BranchType.SAGA, BranchType.MESSAGE])
def test_a_client_that_comes_back_does_not_bring_the_start_forward(world: World, kind: BranchType) -> None:
    step = world.step(kind=kind, by_url=False, url="trips")
    xid, _ = world.start(step, submit=True, terms=terms_of(start_ms=5_000))
    world.restart()
    world.send(ev.Served("trips"))
    assert not world.calls
    world.due(xid, after_ms=5_000)
    assert called(world) == [(step.branch_id, Verb.ACTION)]


def test_whoever_begun_may_roll_back_while_steps_run(world: World) -> None:
    steps = linear(world, 2)
    first, second = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, first, DONE)
    world.ask(ev.Rollback, xid)
    assert called(world) == [(second, Verb.ROLLBACK)]


def test_a_prepared_saga_that_is_rolled_back_has_nothing_to_undo(world: World) -> None:
    xid, ask = world.start(*linear(world))
    assert world.answers[ask] == fx.Begun(xid)
    assert not world.calls
    world.ask(ev.Rollback, xid)
    assert not world.calls
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK
    assert [branch.ended for branch in world.ledger.ended[xid].branches] == [False] * 3


def test_after_a_restart_the_steps_that_have_not_run_are_run(world: World) -> None:
    steps = linear(world)
    first, second, third = ids(steps)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, first, DONE)
    world.restart()
    world.due(xid)
    assert called(world) == [(second, Verb.ACTION)]
    world.answer_call(xid, second, DONE)
    world.answer_call(xid, third, REFUSED)
    world.answer_call(xid, third, DONE)
    world.restart()
    world.due(xid)
    assert called(world) == [(second, Verb.ROLLBACK)]
    world.answer_call(xid, second, DONE)
    world.answer_call(xid, first, DONE)
    ended = {branch.branch_id: branch.ended for branch in world.ledger.ended[xid].branches}
    assert ended == {first: True, second: True, third: True}


def test_rows_of_an_at_branch_stay_locked_while_steps_run_and_are_undone_if_one_refuses(world: World) -> None:
    xid = world.begin()
    row = world.branch(xid, "t:1")
    step = world.branch(xid, "", resource="http://x", mode=BranchType.SAGA, plan=Plan(by_url=True))
    ask = world.ask(ev.Commit, xid)
    assert called(world) == [(step, Verb.ACTION)]
    other = world.begin()
    _, conflict = world.register(other, "t:1", may_wait=False)
    assert isinstance(world.answers[conflict], fx.Conflict)
    world.answer_call(xid, step, REFUSED)
    assert called(world) == [(row, Verb.ROLLBACK), (step, Verb.ROLLBACK)]
    world.answer_call(xid, step, DONE)
    world.answer_call(xid, row, DONE)
    assert len(world.cell.locks) == 0
    answer = world.answers[ask]
    assert isinstance(answer, fx.Stands)
    assert answer.standing.phase is Phase.ROLLED_BACK


def test_a_mix_is_committed_when_its_steps_have_run(world: World) -> None:
    step, message = world.step(), world.step(kind=BranchType.MESSAGE)
    xid, _ = world.start(step, message)
    row = world.branch(xid, "t:1")
    reserve = world.branch(xid, "", resource="reserve", mode=BranchType.TCC)
    ask = world.ask(ev.Commit, xid)
    assert called(world) == [(step.branch_id, Verb.ACTION)]
    world.answer_call(xid, step.branch_id, DONE)
    assert len(world.cell.locks) == 0
    assert called(world) == [(message.branch_id, Verb.ACTION), (row, Verb.COMMIT), (reserve, Verb.COMMIT)]
    for branch_id in (row, reserve, message.branch_id):
        assert ask not in world.answers
        world.answer_call(xid, branch_id, DONE)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTED, Cause.ASKED, asynchronous=True), True)


def test_no_service_no_attempt_and_it_runs_when_somebody_serves_it(world: World) -> None:
    (step,) = linear(world, 1, by_url=False)
    xid, _ = world.start(step, submit=True, terms=terms_of(retry_limit=1))
    world.answer_call(xid, step.branch_id, CallResult.NO_CHANNEL)
    world.send(ev.Served(step.resource_id))
    assert world.calls[xid, step.branch_id].attempt == 1


def test_an_operator_may_have_it_tried_at_once(world: World) -> None:
    steps = linear(world, 2)
    xid, _ = world.start(*steps, submit=True)
    world.answer_call(xid, steps[0].branch_id, RETRY)
    assert world.answers[world.ask(ev.Retry, xid)] == fx.Retrying(xid, 1)
    assert called(world) == [(steps[0].branch_id, Verb.ACTION)]


# ---- by URL: one at a time ----


def by_url(world: World, mode: BranchType, count: int = 3) -> tuple[str, list[int]]:
    xid, _ = world.start()
    plan = Plan(by_url=True)
    return xid, [world.branch(xid, "", resource=f"http://s/{n}", mode=mode, plan=plan) for n in range(count)]


@pytest.mark.parametrize(
    ("mode", "kind", "newest_first"),
    [
        (BranchType.TCC, ev.Commit, True),
        (BranchType.TCC, ev.Rollback, True),
        (BranchType.XA, ev.Commit, False),
        (BranchType.XA, ev.Rollback, False),
    ],
)
def test_tcc_by_url_goes_newest_first_and_xa_oldest_first(
    world: World, mode: BranchType, kind: type[ev.Commit], newest_first: bool
) -> None:
    xid, branches = by_url(world, mode)
    ask = world.ask(kind, xid)
    verb = Verb.COMMIT if kind is ev.Commit else Verb.ROLLBACK
    for count, branch_id in enumerate(reversed(branches) if newest_first else branches):
        assert called(world) == [(branch_id, verb)]
        if count == 1:  # a retry does not let the others past
            world.answer_call(xid, branch_id, RETRY)
            assert not world.calls
            world.restart()
            world.due(xid, after_ms=1_000)
        world.answer_call(xid, branch_id, DONE)
    assert xid in world.ledger.ended
    assert [branch.ended for branch in world.ledger.ended[xid].branches] == [True] * 3
    assert ask in world.answers


# ---- stopped by a person ----


@pytest.mark.parametrize("moment", ["open", "forward", "committing", "rolling back"])
def test_a_stop_ends_it_at_once_and_undoes_nothing(world: World, moment: str) -> None:
    step, message = world.step(), world.step(kind=BranchType.MESSAGE)
    xid, _ = world.start(step, message)
    world.branch(xid, "t:1")
    if moment != "open":
        world.send(ev.Commit(xid, None))
    if moment in ("committing", "rolling back"):
        world.answer_call(xid, step.branch_id, DONE if moment == "committing" else REFUSED)
    waiter = world.begin()
    _, wants = world.register(waiter, "t:1")
    world.calls.clear()
    ask = world.ask(ev.Stop, xid)
    answer = world.answers[ask]
    assert isinstance(answer, fx.Stands)
    assert (answer.standing.phase, answer.standing.cause) == (Phase.ROLLED_BACK, Cause.OPERATOR)
    assert not world.calls
    assert world.ledger.ended[xid].cause is Cause.OPERATOR
    assert isinstance(world.answers[wants], fx.Registered if moment != "rolling back" else fx.Conflict)
    refused = world.answers[world.ask(ev.Stop, xid)]
    assert isinstance(refused, fx.NotActive)


def test_a_usual_transaction_may_be_stopped_too(world: World) -> None:
    xid = world.begin()
    world.branch(xid, "t:1")
    world.ask(ev.Rollback, xid)
    world.ask(ev.Stop, xid)
    assert world.ledger.ended[xid] == fx.EndGlobal(xid, Phase.ROLLED_BACK, Cause.OPERATOR, world.now)
    assert len(world.cell.locks) == 0


# ---- a client's own saga steps ----


def test_steps_that_a_client_ran_are_compensated_newest_first_but_not_what_it_reported_as_failed(world: World) -> None:
    xid = world.begin()
    first, second, third = (world.branch(xid, "", resource=f"saga:{n}", mode=BranchType.SAGA) for n in range(3))
    world.report(xid, third, PhaseOne.FAILED)
    world.ask(ev.Commit, xid)
    assert called(world) == [(second, Verb.ROLLBACK)]
    world.answer_call(xid, second, DONE)
    assert called(world) == [(first, Verb.ROLLBACK)]
    world.answer_call(xid, first, REFUSED)
    assert standing(world, xid).trouble is Trouble.FROZEN


def test_steps_that_a_client_ran_need_nothing_at_the_commit(world: World) -> None:
    xid = world.begin()
    world.branch(xid, "", resource="saga:1", mode=BranchType.SAGA)
    ask = world.ask(ev.Commit, xid)
    assert world.answers[ask] == fx.Stands(Standing(xid, Phase.COMMITTED, Cause.ASKED, asynchronous=True), True)


def calls_a_step(count: int) -> float:
    """Functions called for each step of a saga in a line that runs and is then undone."""
    world, calls = World(), 0

    def profile(frame: object, kind: str, argument: object) -> None:
        nonlocal calls
        calls += kind in {"call", "c_call"}

    steps = [world.step(*([place] if place else [])) for place in range(count)]
    xid, _ = world.start(*steps, submit=True)
    sys.setprofile(profile)
    try:
        for step in steps[:-1]:
            world.answer_call(xid, step.branch_id, DONE)
        world.answer_call(xid, steps[-1].branch_id, REFUSED)
        for step in reversed(steps):
            world.answer_call(xid, step.branch_id, DONE)
    finally:
        sys.setprofile(None)
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK
    return calls / count


def test_a_step_costs_the_same_among_ten_and_among_hundreds() -> None:
    assert calls_a_step(400) <= 1.1 * calls_a_step(10)
