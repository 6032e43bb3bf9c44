"""Messages and runners at the coordinator: who is asked how a transaction stands, and who may tell of its steps."""

from __future__ import annotations

import msgspec
import pytest
from world import Ask, World, terms_of, verbs

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.due import due_ms
from troth.core.events import CallResult
from troth.core.model import BranchType, Cause, OnTimeout, Phase, PhaseOne, Verb

DONE, REFUSED, RETRY, ONGOING = CallResult.DONE, CallResult.REFUSED, CallResult.RETRY, CallResult.ONGOING
ASKED_BACK = terms_of(on_timeout=OnTimeout.ASK, retry_ms=400)
HEALTH = terms_of(retry_ms=900)


@pytest.fixture
def world() -> World:
    return World()


def called(world: World) -> list[tuple[int, Verb]]:
    return sorted(verbs(world.calls.values()))


def message(world: World, count: int = 2) -> tuple[str, int, list[int]]:
    """A prepared one with a check-back: its xid, the runner, the messages."""
    runner = world.step(kind=BranchType.RUNNER, url="http://shop/query")
    steps = [world.step(kind=BranchType.MESSAGE) for _ in range(count)]
    xid, _ = world.start(runner, *steps, terms=ASKED_BACK, timeout_ms=5_000)
    return xid, runner.branch_id, [step.branch_id for step in steps]


def run(world: World, channel: object = "channel-1") -> tuple[str, int]:
    runner = world.step(kind=BranchType.RUNNER, by_url=False, url="saga:shop:trip")
    xid, _ = world.start(runner, terms=HEALTH, channel=channel)
    return xid, runner.branch_id


def ask_number(world: World, xid: str, runner: int) -> int:
    return world.calls[xid, runner].attempt


# ---- messages ----


def test_a_message_is_delivered_when_its_transaction_commits(world: World) -> None:
    xid, _, messages = message(world)
    assert not world.calls
    ask = world.ask(ev.Commit, xid)
    assert called(world) == [(branch_id, Verb.ACTION) for branch_id in messages]
    world.answer_call(xid, messages[0], DONE)
    world.answer_call(xid, messages[1], RETRY)
    assert isinstance(world.answers[ask], fx.Stands)
    world.due(xid, after_ms=400)
    world.answer_call(xid, messages[1], DONE)
    outcome = world.cell.outcome(xid)
    assert outcome is not None
    assert [(b.branch_type, b.ended) for b in outcome.branches] == [
        (BranchType.RUNNER, False),
        (BranchType.MESSAGE, True),
        (BranchType.MESSAGE, True),
    ]


def test_messages_with_an_order_are_delivered_one_after_the_other(world: World) -> None:
    steps = [world.step(kind=BranchType.MESSAGE), world.step(1, kind=BranchType.MESSAGE)]
    xid, _ = world.start(*steps, submit=True)
    assert called(world) == [(steps[0].branch_id, Verb.ACTION)]
    world.answer_call(xid, steps[0].branch_id, DONE)
    assert called(world) == [(steps[1].branch_id, Verb.ACTION)]


def test_a_message_is_dropped_when_its_transaction_rolls_back(world: World) -> None:
    xid, _, _ = message(world)
    world.ask(ev.Rollback, xid)
    assert not world.calls
    assert world.ledger.ended[xid].phase is Phase.ROLLED_BACK


@pytest.mark.parametrize(("answer", "phase"), [(DONE, Phase.COMMITTING), (REFUSED, Phase.ROLLED_BACK)])
def test_a_silent_sender_is_asked_at_the_timeout_and_his_answer_decides(
    world: World, answer: CallResult, phase: Phase
) -> None:
    xid, runner, messages = message(world)
    world.due(xid, after_ms=4_999)
    assert not world.calls
    world.due(xid, after_ms=1)
    assert called(world) == [(runner, Verb.ASK)]
    world.answer_call(xid, runner, answer, "no such order")
    if phase is Phase.COMMITTING:
        assert called(world) == [(branch_id, Verb.ACTION) for branch_id in messages]
    else:
        assert (world.ledger.ended[xid].cause, world.ledger.ended[xid].reason) == (Cause.REFUSED, "no such order")


def test_a_sender_who_does_not_know_yet_is_asked_again(world: World) -> None:
    xid, runner, _ = message(world)
    world.due(xid, after_ms=5_000)
    numbers = []
    for answer, wait_ms in ((ONGOING, 400), (RETRY, 400), (RETRY, 800), (ONGOING, 400)):
        numbers.append(ask_number(world, xid, runner))
        world.answer_call(xid, runner, answer)
        world.due(xid, after_ms=wait_ms - 1)
        assert not world.calls
        world.due(xid, after_ms=1)
        assert called(world) == [(runner, Verb.ASK)]
    assert numbers == [1, 2, 3, 4]


def test_the_submit_of_a_message_that_comes_after_its_timeout_counts(world: World) -> None:
    xid, _, messages = message(world)
    world.now += 6_000
    world.ask(ev.Commit, xid)
    assert called(world) == [(branch_id, Verb.ACTION) for branch_id in messages]


def test_a_late_answer_of_an_older_question_is_the_truth_too(world: World) -> None:
    xid, runner, messages = message(world)
    world.due(xid, after_ms=5_000)
    world.answer_call(xid, runner, RETRY)
    world.due(xid, after_ms=400)
    world.send(ev.Answered(xid, runner, Verb.ASK, 1, RETRY))
    assert called(world) == [(runner, Verb.ASK)], "the failure of an old question is none of the new one"
    world.send(ev.Answered(xid, runner, Verb.ASK, 1, DONE))
    assert {(xid, branch_id) for branch_id in messages} <= set(world.calls)


def test_without_anybody_to_ask_the_timeout_rolls_back(world: World) -> None:
    step = world.step(kind=BranchType.MESSAGE)
    xid, _ = world.start(step, terms=ASKED_BACK, timeout_ms=5_000)
    world.due(xid, after_ms=5_000)
    assert world.ledger.ended[xid].cause is Cause.TIMEOUT


@pytest.mark.parametrize("by_url", [True, False])
def test_a_runner_is_asked_in_intervals_once_the_timeout_has_passed(world: World, by_url: bool) -> None:
    runner = world.step(kind=BranchType.RUNNER, by_url=by_url)
    xid, _ = world.start(runner, terms=ASKED_BACK, timeout_ms=0)
    world.due(xid, after_ms=400)
    assert called(world) == [(runner.branch_id, Verb.ASK)]
    world.answer_call(xid, runner.branch_id, ONGOING)
    world.record(xid, "a", None)
    world.due(xid, after_ms=400)
    assert called(world) == [(runner.branch_id, Verb.ASK)]


def test_a_check_back_is_due_after_a_restart(world: World) -> None:
    xid, runner, _ = message(world)
    world.restart()
    world.due(xid, after_ms=4_999)
    assert not world.calls
    world.due(xid, after_ms=1)
    assert called(world) == [(runner, Verb.ASK)]


def test_an_answer_that_commits_meets_a_vote(world: World) -> None:
    xid, runner, _ = message(world)
    world.ask(ev.Vote, xid)
    world.due(xid, after_ms=5_000)
    world.answer_call(xid, runner, DONE)
    assert world.ledger.ended[xid].cause is Cause.VOTE


# ---- runs ----


def test_a_process_that_runs_is_asked_for_its_health_unless_it_shows_it(world: World) -> None:
    xid, runner = run(world)
    world.due(xid, after_ms=800)
    world.record(xid, "book", "room 7")
    world.due(xid, after_ms=899)
    assert not world.calls
    world.due(xid, after_ms=1)
    assert called(world) == [(runner, Verb.ASK)]
    world.answer_call(xid, runner, ONGOING)
    world.due(xid, after_ms=899)
    assert not world.calls


def test_a_process_at_work_under_a_question_has_time_as_long_as_it_records(world: World) -> None:
    xid, runner = run(world)
    world.due(xid, after_ms=900)
    for number in range(4):
        world.due(xid, after_ms=4_000)
        world.record(xid, f"step {number}", None)
    assert world.cell.transactions[xid].branches[runner].attempts == 0
    world.due(xid, after_ms=5_000)
    assert world.cell.transactions[xid].branches[runner].attempts == 1


def test_when_its_connection_is_gone_somebody_else_is_asked(world: World) -> None:
    xid, runner = run(world)
    world.send(ev.ChannelClosed("channel-2"))
    assert not world.calls
    world.send(ev.ChannelClosed("channel-1"))
    assert called(world) == [(runner, Verb.ASK)]
    world.answer_call(xid, runner, CallResult.NO_CHANNEL)
    world.send(ev.Served("saga:shop:trip"))
    assert called(world) == [(runner, Verb.ASK)]


def test_a_run_that_is_decided_does_not_follow_its_channel_any_more(world: World) -> None:
    xid, _ = run(world)
    world.ask(ev.Commit, xid)
    world.send(ev.ChannelClosed("channel-1"))
    assert not world.calls
    assert not world.cell._runs


def test_after_a_restart_somebody_is_asked_at_once(world: World) -> None:
    xid, runner = run(world)
    world.restart()
    world.due(xid)
    assert called(world) == [(runner, Verb.ASK)]


def test_who_takes_over_hears_what_is_recorded_and_the_old_one_records_nothing_more(world: World) -> None:
    xid, runner = run(world)
    world.record(xid, "book", "room 7")
    world.record(xid, "pay", "no funds", failed=True)
    world.send(ev.ChannelClosed("channel-1"))
    number = ask_number(world, xid, runner)
    claim = world.claim(xid, number, channel="channel-2")
    assert world.answers[claim] == fx.Claimed(xid, (("book", "room 7", False), ("pay", "no funds", True)))
    late = world.record(xid, "fly", "seat 1", attempt=0)
    assert world.answers[late] == fx.Superseded(xid, number)
    for kind in (ev.Commit, ev.Rollback):
        ask = Ask("late")
        world.send(kind(xid, ask, attempt=0))
        assert world.answers[ask] == fx.Superseded(xid, number)
    new = world.answers[world.record(xid, "fly", "seat 2", attempt=number)]
    assert isinstance(new, fx.Recorded)
    assert [step.application_data for step in world.cell.transactions[xid].finished.values()][-1] == "seat 2"


def test_the_answer_of_one_who_was_superseded_decides_nothing(world: World) -> None:
    xid, runner = run(world)
    world.send(ev.ChannelClosed("channel-1"))
    world.answer_call(xid, runner, RETRY)
    world.due(xid, after_ms=900)
    world.claim(xid, 2)
    for result in CallResult:
        world.send(ev.Answered(xid, runner, Verb.ASK, 1, result))
    assert world.cell.transactions[xid].phase is Phase.OPEN
    world.send(ev.Answered(xid, runner, Verb.ASK, 2, DONE))
    assert world.ledger.ended[xid].phase is Phase.COMMITTED


def test_numbers_are_given_again_after_a_restart_and_the_first_who_claims_one_has_it(world: World) -> None:
    xid, runner = run(world)
    world.send(ev.ChannelClosed("channel-1"))
    assert ask_number(world, xid, runner) == 1
    world.restart()
    world.due(xid)
    assert ask_number(world, xid, runner) == 1
    assert isinstance(world.answers[world.claim(xid, 1, client="b")], fx.Claimed)
    assert world.answers[world.claim(xid, 1, client="a")] == fx.Superseded(xid, 1)
    assert isinstance(world.answers[world.claim(xid, 1, client="b")], fx.Claimed), "asked again after a lost answer"
    world.restart()
    world.due(xid)
    assert ask_number(world, xid, runner) == 2
    assert world.calls[xid, runner].client_id == "b"


def test_what_is_stored_under_a_key_stays(world: World) -> None:
    xid, _ = run(world)
    first = world.answers[world.record(xid, "book", "room 7")]
    assert isinstance(first, fx.Recorded)
    assert world.answers[world.record(xid, "book", "room 8", failed=True)] == first
    world.restart()
    assert world.answers[world.record(xid, "book", "room 9")] == first
    world.ask(ev.Commit, xid)
    (step,) = [b for b in world.ledger.ended[xid].branches if b.branch_type is BranchType.RECORD]
    assert (step.resource_id, step.application_data, step.phase_one) == ("book", "room 7", PhaseOne.DONE)


def test_who_does_not_say_which_attempt_he_is_may_always_record(world: World) -> None:
    xid, _ = run(world)
    world.claim(xid, 3)
    assert isinstance(world.answers[world.record(xid, "a", None, attempt=None)], fx.Recorded)
    usual = world.begin()
    assert isinstance(world.answers[world.record(usual, "a", None, attempt=None)], fx.Recorded)
    world.restart()
    world.ask(ev.Commit, usual)
    assert world.ledger.ended[usual].branches == ()


def test_after_the_decision_nothing_is_recorded_or_claimed(world: World) -> None:
    xid, _ = run(world)
    world.ask(ev.Rollback, xid)
    assert isinstance(world.answers[world.record(xid, "a", None)], fx.NotActive)
    assert isinstance(world.answers[world.claim(xid, 1)], fx.NotActive)


def test_a_run_has_a_timeout_if_it_is_agreed(world: World) -> None:
    runner = world.step(kind=BranchType.RUNNER, by_url=False)
    xid, _ = world.start(runner, terms=terms_of(on_timeout=OnTimeout.ROLL_BACK), timeout_ms=1_000)
    world.now += 1_000
    assert isinstance(world.answers[world.record(xid, "a", None)], fx.NotActive)
    assert world.ledger.ended[xid].cause is Cause.TIMEOUT


def test_nothing_is_due_of_what_goes_on_for_ever(world: World) -> None:
    xid, _ = world.start(terms=terms_of())
    assert due_ms(world.cell.transactions[xid]) is None


# ---- names ----


def begin_named(world: World, gid: str) -> tuple[str, fx.Result]:
    xid, ask = world.start(terms=terms_of(gid))
    return xid, world.answers[ask]


def test_a_name_begins_once(world: World) -> None:
    xid, answer = begin_named(world, "order 7")
    assert answer == fx.Begun(xid)
    other, answer = begin_named(world, "order 7")
    assert isinstance(answer, fx.Known)
    assert (answer.xid, answer.standing.phase) == (xid, Phase.OPEN)
    assert other not in world.cell.transactions
    assert world.cell.find("order 7") == xid
    world.ask(ev.Rollback, xid)
    _, answer = begin_named(world, "order 7")
    assert isinstance(answer, fx.Known)
    assert answer.standing.phase is Phase.ROLLED_BACK


def test_a_name_is_remembered_as_long_as_its_outcome_and_over_a_restart(world: World) -> None:
    xid, _ = begin_named(world, "a")
    world.restart()
    assert world.cell.find("a") == xid
    world.ask(ev.Commit, xid)
    world.send(ev.Sweep(world.now))
    assert world.cell.find("a") is None
    end = world.ledger.ended[xid]
    assert isinstance(end, fx.EndGlobal)


def test_terms_without_a_name_may_be_many(world: World) -> None:
    assert [isinstance(begin_named(world, "")[1], fx.Begun) for _ in range(3)] == [True] * 3


def test_outcomes_with_many_branches_count_for_many() -> None:
    world = World()
    world.cell.rules = world.rules = world.rules.__class__(outcome_memory_max=6)
    for number in range(4):
        xid, _ = world.start(*(world.step() for _ in range(2)), terms=terms_of(str(number)))
        world.ask(ev.Rollback, xid)
    assert [world.cell.find(str(number)) is not None for number in range(4)] == [False, False, True, True]


def test_outcomes_with_large_branches_count_for_many() -> None:
    world = World()
    world.cell.rules = world.rules = world.rules.__class__(outcome_memory_max=200)
    for number in range(4):
        step = msgspec.structs.replace(world.step(), application_data="x" * 80_000)
        xid, _ = world.start(step, terms=terms_of(str(number)))
        world.ask(ev.Rollback, xid)
    assert [world.cell.find(str(number)) is not None for number in range(4)] == [False, False, True, True]
