"""Undoable calls in a plain global transaction: registered before they run, compensated at most once on rollback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import troth
from fixtures_coordinator import until

NewStep = Callable[..., Any]


def failing(body: Callable[[], None]) -> Callable[[], None]:
    """`body` in a global transaction that is rolled back after it."""

    def run() -> None:
        with troth.transaction(name="agent"):
            body()
            raise ZeroDivisionError

    return run


def test_a_rollback_takes_calls_back_newest_first_and_a_commit_does_not(new_step: NewStep, diary: list[Any]) -> None:
    mail, order = new_step("mail"), new_step("order")

    def body() -> None:
        assert mail() == "mail"
        assert order(5) == 5

    with troth.transaction(name="agent"):
        body()
    assert diary == ["do mail", "do order"]
    diary.clear()
    with pytest.raises(ZeroDivisionError):
        failing(body)()
    until(lambda: len(diary) == 4, what=str(diary))
    assert diary == ["do mail", "do order", "undo order", "undo mail"]


def test_an_error_takes_back_its_own_call_and_nothing_else(new_step: NewStep, diary: list[Any]) -> None:
    """The caller decides what an error means; and what was compensated is not compensated again by a rollback."""
    mail = new_step("mail")
    flaky = new_step("flaky", OSError("timeout"), attempts=1)
    picky = new_step("picky", troth.StepRefused("no such customer"), attempts=1)

    def body() -> None:
        mail()
        with pytest.raises(troth.StepFailed) as recoverable:
            flaky()
        assert not recoverable.value.refused
        with pytest.raises(troth.StepFailed) as final:
            picky()
        assert final.value.refused
        flaky()

    with troth.transaction(name="agent"):
        body()
    assert diary == ["do mail", "do flaky", "undo flaky?", "do picky", "do flaky"]


def test_nothing_is_compensated_twice(new_step: NewStep, diary: list[Any]) -> None:
    flaky = new_step("flaky", OSError("timeout"), attempts=1)

    def body() -> None:
        with pytest.raises(troth.StepFailed):
            flaky()
        flaky()

    with pytest.raises(ZeroDivisionError):
        failing(body)()
    until(lambda: len(diary) == 4, what=str(diary))
    assert diary == ["do flaky", "undo flaky?", "do flaky", "undo flaky"]


def test_a_call_that_can_neither_be_done_nor_undone_lets_nobody_commit(new_step: NewStep, diary: list[Any]) -> None:
    broken = new_step("broken", OSError("cut"), attempts=1, undo_errors=(OSError("down"),) * 3)

    def body() -> None:
        with troth.transaction(name="agent"), pytest.raises(troth.BranchFailed, match="so did its compensation"):
            broken()

    with pytest.raises(troth.TransactionRolledBack):
        body()
    until(lambda: len(diary) == 5, what=str(diary))
    assert diary == ["do broken", *["undo broken?"] * 4], "the coordinator has asked for it again"


def test_what_was_done_under_a_key_is_not_done_again(new_step: NewStep, diary: list[Any]) -> None:
    order = new_step("order")
    with troth.transaction(name="agent"):
        assert order.keyed("call-1")(7) == 7
        assert order.keyed("call-1")(7) == 7
        assert order.keyed("call-2")(8) == 8
    with troth.transaction(name="another"):
        assert order.keyed("call-1")(9) == 9
    assert diary == ["do order"] * 3


def test_calls_without_a_key_have_each_their_own_idempotency_key(saga_client: troth.Client) -> None:
    keys = []

    @troth.undoable(name="noting", compensate=lambda _: None)
    def noting() -> None:
        keys.append(troth.current_step().idempotency_key)

    with troth.transaction(name="agent"):
        noting()
        noting()
    assert len(set(keys)) == 2


@pytest.mark.parametrize("says", [True, False])
def test_the_gate_is_asked_with_the_arguments(says: bool, diary: list[Any], saga_client: troth.Client) -> None:
    asked: list[Any] = []

    def approve(request: troth.ApprovalRequest) -> bool:
        asked.append((request.context.step, request.arguments))
        return says

    @troth.undoable(name=f"pay-{says}", compensate=lambda _: diary.append("undo"), approve=approve)
    def pay(amount: int) -> int:
        diary.append(amount)
        return amount

    with troth.transaction(name="agent"):
        if says:
            assert pay(5) == 5
        else:
            with pytest.raises(troth.StepFailed, match="not approved") as caught:
                pay(5)
            assert caught.value.refused
            assert isinstance(caught.value.__cause__, troth.ApprovalDenied)
    assert asked == [(f"pay-{says}", {"amount": 5})]
    assert diary == ([5] if says else [])


async def test_async_calls_and_an_async_gate(new_async_step: NewStep, diary: list[Any]) -> None:
    async def approve(request: troth.ApprovalRequest) -> bool:
        await asyncio.sleep(0)
        return request.arguments["value"] != "bad"

    mail = new_async_step("amail", approve=approve)

    async def body() -> None:
        async with troth.transaction(name="agent"):
            assert await mail("good") == "good"
            with pytest.raises(troth.StepFailed, match="not approved"):
                await mail("bad")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    while len(diary) < 2:
        await asyncio.sleep(0.01)
    assert diary == ["do amail", "undo amail"]


def test_two_steps_of_one_name_are_refused(new_step: NewStep) -> None:
    new_step("same")

    def other() -> None:
        """Another function."""

    with pytest.raises(ValueError, match="two steps are named 'same'"):
        troth.step(name="same")(other)


@pytest.mark.parametrize("name", ["", "a/b", "~a", "!a", "a,b", "x" * 201])
def test_names_that_records_cannot_bear_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a step"):
        troth.step(name=name)(print)


def test_an_async_compensation_of_a_blocking_step_is_refused() -> None:
    async def undo(ctx: troth.UndoContext) -> None:
        """Nothing."""

    with pytest.raises(TypeError, match="a compensation is as its step"):
        troth.step(name="odd-pair", compensate=undo)(print)


@pytest.mark.parametrize("decorate", [troth.step(compensate=None), troth.saga()])
def test_methods_are_refused(decorate: Any) -> None:
    def method(self: object) -> None:
        """Its object could not be kept."""

    with pytest.raises(TypeError, match="is a method"):
        decorate(method)
