"""Sagas in one process, on a real coordinator: what is run, tried again, compensated, and what the caller hears."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import troth
from fixtures_coordinator import until
from troth.client.saga_run import in_utc
from troth.wire.seata.enums import GlobalStatus
from troth.wire.seata.saga import RunClaimRequest, RunClaimResponse

NewStep = Callable[..., Any]


def test_steps_run_in_order_and_the_result_is_the_bodys(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_step("flight"), new_step("hotel")

    @troth.saga(name="trip")
    def trip(who: str) -> list[str]:
        return [flight(), hotel(), who]

    assert trip("ann") == ["flight", "hotel", "ann"]
    assert diary == ["do flight", "do hotel"]


def test_what_ran_is_compensated_in_reverse_and_the_cause_goes_on(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_step("flight"), new_step("hotel")

    @troth.saga(name="trip")
    def trip() -> None:
        flight()
        hotel()
        raise KeyError("changed my mind")

    with pytest.raises(KeyError, match="changed my mind") as caught:
        trip()
    assert diary == ["do flight", "do hotel", "undo hotel", "undo flight"]
    assert any("is compensated" in note for note in caught.value.__notes__)


def test_a_step_whose_outcome_is_unknown_is_compensated_too(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_step("flight"), new_step("hotel", *[OSError("cut")] * 3)

    @troth.saga(name="trip")
    def trip() -> None:
        flight()
        hotel()

    with pytest.raises(troth.StepFailed) as caught:
        trip()
    assert diary == ["do flight", "do hotel", "do hotel", "do hotel", "undo hotel?", "undo flight"]
    assert (caught.value.error_type, caught.value.refused, caught.value.attempts) == ("OSError", False, 3)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [troth.StepRefused("no room"), LookupError("no room")], ids=["refused", "final"])
def test_a_step_that_refused_is_neither_tried_again_nor_compensated(
    error: Exception, new_step: NewStep, diary: list[Any]
) -> None:
    flight, hotel = new_step("flight"), new_step("hotel", error, final=(LookupError,))

    @troth.saga(name="trip")
    def trip() -> None:
        flight()
        hotel()

    with pytest.raises(troth.StepFailed, match="no room") as caught:
        trip()
    assert caught.value.refused
    assert diary == ["do flight", "do hotel", "undo flight"]


def test_a_step_that_fails_for_a_while_succeeds(new_step: NewStep, diary: list[Any]) -> None:
    flight = new_step("flight", OSError("cut"), OSError("cut"))

    @troth.saga(name="trip")
    def trip() -> Any:
        return flight()

    assert trip() == "flight"
    assert diary == ["do flight"] * 3


def test_the_idempotency_key_is_the_same_at_each_attempt_and_another_for_each_call(saga_client: troth.Client) -> None:
    keys: list[tuple[str, int]] = []

    @troth.step(name="keyed-step", pause=timedelta(milliseconds=1))
    def keyed() -> None:
        here = troth.current_step()
        keys.append((here.idempotency_key, here.attempt))
        if len(keys) == 1:
            raise OSError("once")

    @troth.saga(name="keys")
    def twice() -> None:
        keyed()
        keyed()

    twice()
    (first, one), (again, two), (other, _) = keys
    assert (first, one, two) == (again, 1, 2)
    assert first != other
    with pytest.raises(LookupError):
        troth.current_step()


def test_loops_have_a_record_for_each_iteration(new_step: NewStep, diary: list[Any]) -> None:
    """C24: the compensation sees the element that its own step had."""
    undone = []

    @troth.step(name="each", compensate=lambda ctx: undone.append((ctx["item"], ctx.result)))
    def each(item: str) -> str:
        return item.upper()

    @troth.saga(name="loop")
    def loop(items: list[str]) -> None:
        for item in items:
            each(item)
        each.keyed("named")("z")
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        loop(["a", "b", "c"])
    assert undone == [("z", "Z"), ("c", "C"), ("b", "B"), ("a", "A")]


@dataclass
class Room:
    number: int
    since: datetime


def test_the_first_run_sees_what_a_later_one_reads(saga_client: troth.Client) -> None:
    """Arguments and results pass through JSON in the first run, too, and come back as the annotations say."""
    seen: list[Any] = []

    @troth.step(name="typed-room")
    def room(number: int) -> Room:
        return Room(number, datetime(2026, 1, 2, tzinfo=UTC))

    @troth.step(name="untyped-room")
    def untyped():
        return (1, 2)

    @troth.saga(name="typed")
    def typed(wanted: Room, others) -> None:
        seen.extend([wanted, others, room(wanted.number), untyped()])

    wanted = Room(7, datetime(2026, 1, 2, 3, tzinfo=UTC))
    typed(wanted, (1, 2))
    assert seen == [wanted, [1, 2], Room(7, datetime(2026, 1, 2, tzinfo=UTC)), [1, 2]]
    assert seen[0] is not wanted


def test_what_does_not_serialise_is_refused_before_anything_is_done(new_step: NewStep, diary: list[Any]) -> None:
    flight = new_step("flight")

    @troth.saga(name="odd")
    def odd(what: object) -> None:
        flight(what)

    with pytest.raises(troth.NotSupported, match="an argument of the saga odd cannot be kept"):
        odd(threading.Lock())
    assert diary == []


def test_a_result_that_does_not_serialise_is_compensated(new_step: NewStep, diary: list[Any]) -> None:
    lock = threading.Lock()

    @troth.step(name="lock", compensate=lambda _: diary.append("undo lock"))
    def make() -> Any:
        diary.append("do lock")
        return lock

    @troth.saga(name="odd result")
    def odd() -> None:
        make()

    with pytest.raises(troth.StepFailed, match="what lock returned cannot be kept"):
        odd()
    assert diary == ["do lock", "undo lock"]


# --- side by side ----------------------------------------------------------------------------------------------------


def test_parallel_branches_are_threads_and_all_have_ended_before_one_is_compensated(
    new_step: NewStep, diary: list[Any]
) -> None:
    both = threading.Barrier(2, timeout=5)
    flight = new_step("flight", troth.StepRefused("full"))
    slow = new_step("slow")

    def second() -> Any:
        both.wait()
        return slow()

    def first() -> Any:
        both.wait()
        return flight()

    @troth.saga(name="pair")
    def pair() -> Any:
        return troth.parallel(first, second)

    with pytest.raises(troth.StepFailed, match="full"):
        pair()
    assert sorted(diary) == ["do flight", "do slow", "undo slow"]
    assert diary[-1] == "undo slow"


async def test_async_steps_gathered_and_their_siblings_waited_for(new_async_step: NewStep, diary: list[Any]) -> None:
    may_end = asyncio.Event()

    async def fail_soon() -> None:
        asyncio.get_running_loop().call_later(0.05, may_end.set)

    first = new_async_step("first", troth.StepRefused("no"), before=fail_soon)
    slow, never = new_async_step("slow", before=may_end.wait), new_async_step("never")

    async def two() -> None:
        await slow()
        await never()

    @troth.saga(name="gathered")
    async def gathered() -> None:
        await asyncio.gather(first(), two())

    with pytest.raises(troth.StepFailed, match="no"):
        await gathered()
    await asyncio.sleep(0)
    assert diary == ["do first", "do slow", "undo slow"], (
        "what ran in the background was waited for, and went no further"
    )


def test_a_graph_runs_each_step_after_those_whose_results_it_wants(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel, pay = new_step("flight"), new_step("hotel"), new_step("pay")

    @troth.saga(name="graph")
    def book() -> dict[str, Any]:
        graph = troth.Graph()
        graph.add("money", pay, {"for": [troth.Ref("room"), troth.Ref("seat")]})
        graph.add("seat", flight)
        graph.add("room", hotel, after=("seat",))
        return graph.run()

    assert book() == {"seat": "flight", "room": "hotel", "money": {"for": ["hotel", "flight"]}}
    assert diary == ["do flight", "do hotel", "do pay"]


async def test_an_async_graph_stops_at_a_failure(new_async_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_async_step("flight"), new_async_step("hotel", troth.StepRefused("no"))
    pay = new_async_step("pay")

    @troth.saga(name="agraph")
    async def book() -> dict[str, Any]:
        graph = troth.Graph()
        graph.add("seat", flight)
        graph.add("room", hotel, after=("seat",))
        graph.add("money", pay, after=("room",))
        return await graph.arun()

    with pytest.raises(troth.StepFailed):
        await book()
    assert diary == ["do flight", "do hotel", "undo flight"]


def test_a_graph_with_a_cycle_is_refused_by_its_nodes(new_step: NewStep) -> None:
    graph = troth.Graph()
    graph.add("a", new_step("a"), after=("b",))
    graph.add("b", new_step("b"), troth.Ref("a"))
    with pytest.raises(ValueError, match="a cycle: a after b after a"):
        graph.run()
    lost = troth.Graph()
    lost.add("a", new_step("c"), after=("x",))
    with pytest.raises(ValueError, match="a comes after x, which is no node"):
        lost.run()


async def test_a_step_that_is_cut_short_may_have_run_and_is_compensated(
    new_async_step: NewStep, diary: list[Any]
) -> None:
    """A task group cancels the others when one fails; what they had begun has left no record."""
    reached = asyncio.Event()

    async def hang() -> None:
        diary.append("begin slow")
        reached.set()
        await asyncio.Event().wait()

    slow, quick = (
        new_async_step("slow", before=hang),
        new_async_step("quick", troth.StepRefused("no"), before=reached.wait),
    )

    @troth.saga(name="grouped")
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow())
            group.create_task(quick())

    with pytest.raises(ExceptionGroup):
        await grouped()
    assert diary == ["begin slow", "do quick", "undo slow?"]


async def test_a_step_that_the_body_has_given_up_is_compensated_before_the_commit(
    saga_client: troth.Client, new_async_step: NewStep, diary: list[Any]
) -> None:
    async def hang() -> None:
        diary.append("begin slow")
        await asyncio.Event().wait()

    slow, other = new_async_step("slow", before=hang), new_async_step("other")

    @troth.saga(name="impatient")
    async def impatient() -> str:
        try:
            await asyncio.wait_for(slow(), 0.05)
        except TimeoutError:
            return str(await other())
        return "slow"

    assert await impatient() == "other"
    assert diary == ["begin slow", "do other", "undo slow?"]


# --- sagas in sagas --------------------------------------------------------------------------------------------------


def test_a_saga_inside_is_compensated_alone_where_its_failure_is_caught(new_step: NewStep, diary: list[Any]) -> None:
    train, ferry, bus = new_step("train"), new_step("ferry", troth.StepRefused("storm")), new_step("bus")

    @troth.saga(name="by-sea")
    def by_sea() -> None:
        train()
        ferry()

    @troth.saga(name="journey")
    def journey() -> str:
        try:
            by_sea()
        except troth.StepFailed as error:
            diary.append(f"{error.step} failed")
            return bus()
        return "sea"

    assert journey() == "bus"
    assert diary == ["do train", "do ferry", "undo train", "by-sea failed", "do bus"]


def test_what_a_saga_inside_did_is_compensated_with_the_whole(new_step: NewStep, diary: list[Any]) -> None:
    train, bus = new_step("train"), new_step("bus", troth.StepRefused("no"))

    @troth.saga(name="inner")
    def inner() -> None:
        train()

    @troth.saga(name="outer")
    def outer() -> None:
        inner()
        bus()

    with pytest.raises(troth.StepFailed):
        outer()
    assert diary == ["do train", "do bus", "undo train"]


def test_a_saga_in_a_global_transaction_is_a_part_of_it(new_step: NewStep, diary: list[Any]) -> None:
    flight = new_step("flight")

    @troth.saga(name="part")
    def part() -> None:
        flight()

    with troth.transaction(name="whole"):
        part()
    assert diary == ["do flight"]

    def failing() -> None:
        with troth.transaction(name="whole"):
            part()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    until(lambda: diary == ["do flight", "do flight", "undo flight"], what=str(diary))


def test_who_swallows_the_failure_of_a_part_cannot_commit_the_rest(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_step("flight"), new_step("hotel", troth.StepRefused("full"))

    @troth.saga(name="part2")
    def part() -> None:
        flight()
        hotel()

    def swallowing() -> None:
        with troth.transaction(name="whole"), pytest.raises(troth.StepFailed):
            part()

    with pytest.raises(troth.TransactionRolledBack):
        swallowing()
    until(lambda: diary == ["do flight", "do hotel", "undo flight"], what=str(diary))


def test_a_step_outside_of_both_is_refused(new_step: NewStep, diary: list[Any]) -> None:
    flight = new_step("flight")
    with pytest.raises(troth.NoTransaction):
        flight()
    assert diary == []
    assert flight.function() == "flight", "the plain function is there for tests"


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_deadline_needs_a_zone_and_is_kept_in_utc(new_step: NewStep) -> None:
    @troth.saga(name="late")
    def late() -> None:
        """Nothing."""

    with pytest.raises(ValueError, match="has no time zone"):
        late.until(datetime(2026, 1, 1))
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    assert in_utc(datetime(2026, 3, 1, 5, 45, tzinfo=kathmandu)) == datetime(2026, 3, 1, tzinfo=UTC)
    assert in_utc(datetime(2026, 3, 1, 5, 45, tzinfo=kathmandu)).tzinfo is UTC


def test_what_has_run_when_the_deadline_passes_is_compensated(new_step: NewStep, diary: list[Any]) -> None:
    flight, hotel = new_step("flight"), new_step("hotel")

    @troth.saga(name="late")
    def late() -> None:
        flight()
        until(lambda: datetime.now(UTC) >= deadline)
        hotel()

    deadline = datetime.now(timezone(timedelta(hours=-3))) + timedelta(seconds=0.4)
    with pytest.raises(troth.SagaDeadlinePassed):
        late.until(deadline)()
    assert diary == ["do flight", "undo flight"]


# --- names of the caller's --------------------------------------------------------------------------------------------


def test_a_saga_of_a_name_is_begun_once(saga_client: troth.Client, new_step: NewStep, diary: list[Any]) -> None:
    flight = new_step("flight")

    @troth.saga(name="named trip")
    def trip(who: str) -> Any:
        return flight(who)

    assert trip.named("order 7")("ann") == "ann"
    with pytest.raises(troth.SagaKnown, match="order 7") as caught:
        trip.until(datetime.now(UTC) + timedelta(seconds=60)).named("order 7")("ann")
    assert saga_client.status(caught.value.xid) is GlobalStatus.Committed
    assert trip.named("order 8")("bob") == "bob"
    assert diary == ["do flight"] * 2
    with pytest.raises(ValueError, match="not empty"):
        trip.named("")


def test_a_name_is_taken_while_the_saga_runs_too(new_step: NewStep, diary: list[Any]) -> None:
    inner: list[BaseException] = []

    @troth.step(name="again", compensate=None)
    def again() -> None:
        with pytest.raises(troth.SagaKnown) as caught:
            twice.named("x")()
        inner.append(caught.value)

    @troth.saga(name="twice")
    def twice() -> None:
        again()

    twice.named("x")()
    assert len(inner) == 1


# --- taken over, put off ---------------------------------------------------------------------------------------------


def test_a_run_that_was_taken_over_stops_loudly_even_if_its_body_swallows_that(
    saga_client: troth.Client, new_step: NewStep, diary: list[Any]
) -> None:
    hotel = new_step("hotel")
    xids: list[str] = []

    @troth.step(name="stolen", compensate=lambda _: diary.append("undo stolen"))
    def stolen() -> None:
        xids.append(troth.current_step().xid)
        answer = saga_client.tell(RunClaimRequest(xids[0], 5))
        assert isinstance(answer, RunClaimResponse)

    @troth.saga(name="robbed", check_every=timedelta(hours=1))
    def robbed() -> str:
        try:
            stolen()
        except Exception:  # noqa: BLE001 - as careless code does
            diary.append("swallowed")
        try:
            hotel()
        except troth.SagaSuperseded:
            diary.append("again")
        return "fine"

    with pytest.raises(troth.SagaSuperseded, match="attempt 5"):
        robbed()
    assert diary == ["swallowed", "again"], "nothing runs, and nothing is compensated, in who was superseded"
    assert saga_client.status(xids[0]) is GlobalStatus.Begin


def test_forward_recovery_goes_on_later_until_the_step_succeeds(
    saga_client: troth.Client, new_step: NewStep, diary: list[Any]
) -> None:
    flight = new_step("flight")
    hotel = new_step("hotel", *[OSError("cut")] * 5)
    ended: list[str] = []

    @troth.saga(name="stubborn", recovery="forward", check_every=timedelta(milliseconds=100))
    def stubborn() -> None:
        flight()
        ended.append(hotel())

    with pytest.raises(troth.TrothError, match=r"hotel failed 3 times .*it goes on later"):
        stubborn()
    until(lambda: ended, what="another run ends it")
    assert diary == ["do flight", *["do hotel"] * 6], "flight is not run again: its record is there"


async def test_a_run_that_is_cancelled_is_not_compensated_but_gone_on_with(
    saga_client: troth.Client, new_async_step: NewStep, diary: list[Any]
) -> None:
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await may_go_on.wait()

    first, second = new_async_step("first"), new_async_step("second", before=wait)

    @troth.saga(name="cancelled", check_every=timedelta(milliseconds=100))
    async def cancelled() -> None:
        await first()
        await second()
        diary.append("end")

    task = asyncio.ensure_future(cancelled())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert diary == ["do first"]
    may_go_on.set()
    async with asyncio.timeout(10):
        while "end" not in diary:
            await asyncio.sleep(0.01)
    assert diary == ["do first", "do second", "end"]
