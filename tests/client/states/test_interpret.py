"""State machines run to their ends, in memory: what is called, in which order, and what is undone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from troth.client.states.definition import ExecutionStatus
from troth.client.states.interpret import Execution
from troth.client.states.parse import parse
from troth.client.states.steps import Compensate, Ended, Invoke, Parallel, Run, TaskFailed
from troth.client.states.values import Raised

SU, FA, UN = ExecutionStatus.SUCCEEDED, ExecutionStatus.FAILED, ExecutionStatus.UNKNOWN
ANY = ["java.lang.Throwable"]


class Shop:
    """Services that note what was asked of them; `results` by method: a value, an exception, or a list of both."""

    def __init__(self, **results: Any) -> None:
        self.results = results
        self.calls: list[tuple[str, list[Any]]] = []
        self.keys: list[str] = []
        self.waits: list[float] = []
        self.recorded: dict[str, Any] = {}

    def drive(self, flow: Run) -> Any:
        """Answer what the flow yields. What was recorded under a key is not done again."""
        answer: Any = None
        while True:
            try:
                step = flow.throw(answer) if isinstance(answer, TaskFailed) else flow.send(answer)
            except StopIteration as ended:
                return ended.value
            answer = self._answer(step)

    def _answer(self, step: object) -> Any:
        match step:
            case Compensate(tasks):
                return all(not isinstance(self._answer(one), TaskFailed) for one in tasks)
            case Parallel(flows):
                for one in reversed(flows):  # whatever the order
                    self.drive(one)
            case Invoke(key):
                if key not in self.recorded:
                    self.recorded[key] = self._call(step)
                return self.recorded[key]
        return None

    def _call(self, step: Invoke) -> Any:
        method = getattr(step.task, "method", None) or "script"
        self.calls.append((method, list(step.arguments)))
        self.keys.append(step.key)
        assert re.fullmatch(r"[\w.<>-]{1,160}", step.key)
        if step.delay_s:
            self.waits.append(step.delay_s)
        result = self.results.get(method, True)
        if isinstance(result, Callable):
            result = result(*step.arguments)
        if isinstance(result, list):
            result = result.pop(0)
        if isinstance(result, Exception):
            return TaskFailed(Raised((type(result).__name__,), str(result)))
        return result

    @property
    def methods(self) -> list[str]:
        """What was called, in order."""
        return [method for method, _ in self.calls]


def task(method: str, following: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"Type": "ServiceTask", "ServiceName": "shop", "ServiceMethod": method, **more}
    return found if following is None else {**found, "Next": following}


def run(shop: Shop, states: dict[str, Any], given: dict[str, Any] | None = None, **machine: Any) -> Ended:
    subs = machine.pop("subs", {})
    definition = parse({"Name": "m", "StartState": next(iter(states)), "States": states, **machine})
    known = {name: parse({"Name": name, "StartState": next(iter(sub)), "States": sub}) for name, sub in subs.items()}
    return shop.drive(Execution(known.__getitem__, definition, given or {}, "order-7").run())


END = {"Succeed": {"Type": "Succeed"}, "Fail": {"Type": "Fail", "ErrorCode": "NO", "Message": "not today"}}
TRIGGER = {"Undo": {"Type": "CompensationTrigger", "Next": "Fail"}, **END}
PURCHASE = {
    "Reduce": task(
        "reduce",
        "Enough",
        CompensateState="Unreduce",
        Input=[{"key": "$Sequence.BUSINESS_KEY|SIMPLE", "count": "$.[count]"}],
        Output={"reduced": "$.#root"},
        Status={"#root == true": "SU", "#root == false": "FA", "$Exception{java.lang.Throwable}": "UN"},
        Catch=[{"Exceptions": ANY, "Next": "Undo"}],
    ),
    "Enough": {"Type": "Choice", "Choices": [{"Expression": "[reduced] == true", "Next": "Pay"}], "Default": "Fail"},
    "Pay": task("pay", "Succeed", CompensateState="Unpay", Catch=[{"Exceptions": ANY, "Next": "Undo"}]),
    "Unreduce": task("unreduce", Input=[{"count": "$.[count]"}]),
    "Unpay": task("unpay"),
    **TRIGGER,
}


class TestPurchase:
    def test_done(self) -> None:
        shop = Shop()
        ended = run(shop, PURCHASE, {"count": 2})
        assert (ended.status, ended.compensation, ended.needs_human) == (SU, None, False)
        assert shop.calls == [("reduce", [{"key": "order-7", "count": 2}]), ("pay", [])]
        assert ended.variables["reduced"] is True

    def test_refused_without_an_exception_goes_on_by_the_choice(self) -> None:
        shop = Shop(reduce=False)
        ended = run(shop, PURCHASE, {"count": 2})
        assert (ended.status, ended.error_code, ended.message) == (FA, "NO", "not today")
        assert shop.methods == ["reduce"]
        assert not ended.needs_human

    def test_an_exception_undoes_newest_first_and_what_may_have_run(self) -> None:
        shop = Shop(pay=RuntimeError("no money"))
        ended = run(shop, PURCHASE, {"count": 2})
        assert shop.methods == ["reduce", "pay", "unpay", "unreduce"]
        assert shop.calls[-1] == ("unreduce", [{"count": 2}])
        assert (ended.status, ended.compensation, ended.needs_human) == (UN, SU, False)

    def test_a_compensation_that_fails_needs_a_person(self) -> None:
        shop = Shop(pay=RuntimeError("no money"), unpay=RuntimeError("gone"))
        ended = run(shop, PURCHASE, {"count": 2})
        assert shop.methods == ["reduce", "pay", "unpay"]
        assert ended.compensation is UN
        assert ended.needs_human

    def test_a_run_that_finds_its_results_recorded_does_nothing_twice(self) -> None:
        first = Shop(pay=RuntimeError("no money"))
        run(first, PURCHASE, {"count": 2})
        for kept in range(5):
            second = Shop(pay=RuntimeError("no money"))
            second.recorded = dict(list(first.recorded.items())[:kept])
            ended = run(second, PURCHASE, {"count": 2})
            assert second.methods == first.methods[kept:]
            assert ended.compensation is SU
        assert len(set(first.keys)) == 4


class TestEnds:
    def test_uncaught_with_nothing_changed(self) -> None:
        ended = run(Shop(look=ValueError("x")), {"A": task("look")})
        assert (ended.status, ended.compensation, ended.message) == (FA, None, "x")

    def test_uncaught_after_a_change_is_compensated_by_itself(self) -> None:
        shop = Shop(look=ValueError("x"))
        states = {"A": task("change", "B", CompensateState="C"), "B": task("look"), "C": task("unchange")}
        ended = run(shop, states)
        assert shop.methods == ["change", "look", "unchange"]
        assert (ended.status, ended.compensation) == (UN, SU)

    def test_a_change_without_a_compensation_is_left_to_a_person_and_nothing_is_undone(self) -> None:
        shop = Shop(look=ValueError("x"))
        states = {
            "A": task("change", "B", CompensateState="D"),
            "B": task("other", "C", IsForUpdate=True),
            "C": task("look"),
            "D": task("unchange"),
        }
        assert run(shop, states).needs_human
        assert "unchange" not in shop.methods

    def test_a_fail_state_after_a_change_is_compensated_too(self) -> None:
        shop = Shop()
        ended = run(shop, {"A": task("change", "Fail", CompensateState="B"), "B": task("unchange"), **END})
        assert shop.methods == ["change", "unchange"]
        assert (ended.compensation, ended.error_code) == (SU, "NO")

    def test_forward_recovery_tries_the_failed_state_again_ever_more_slowly(self) -> None:
        shop = Shop(change=[TimeoutError(), TimeoutError(), True])
        states = {
            "A": task("first", "B", CompensateState="U"),
            "B": task("change", CompensateState="U"),
            "U": task("u"),
        }
        ended = run(shop, states, RecoverStrategy="Forward")
        assert shop.methods == ["first", "change", "change", "change"]
        assert ended.status is SU
        assert shop.waits == [1.0, 2.0]
        assert len(set(shop.keys)) == 4

    def test_forward_recovery_gives_up_for_a_person(self) -> None:
        shop = Shop(change=TimeoutError("late"))
        ended = run(shop, {"A": task("change", CompensateState="U"), "U": task("u")}, RecoverStrategy="Forward")
        assert shop.methods == ["change"] * 10
        assert ended.needs_human

    def test_a_choice_without_a_match(self) -> None:
        choice = {"Type": "Choice", "Choices": [{"Expression": "[a] == 1", "Next": "Succeed"}]}
        ended = run(Shop(), {"A": choice, **END}, {"a": 2})
        assert (ended.status, ended.raised and ended.raised.names) == (FA, ("StateMachineNoChoiceMatched",))

    def test_a_result_that_no_status_fits(self) -> None:
        ended = run(Shop(look="odd"), {"A": task("look", Status={"#root == true": "SU"})})
        assert ended.raised is not None
        assert ended.raised.names == ("NoMatchedStatus",)

    def test_a_circle_ends(self) -> None:
        choice = {"Type": "Choice", "Choices": [{"Expression": "true", "Next": "A"}]}
        ended = run(Shop(), {"A": task("look", "B"), "B": choice})
        assert ended.raised is not None
        assert ended.raised.names == ("EndlessStateMachine",)


class TestRetry:
    def test_the_first_rule_that_fits_counts(self) -> None:
        rules = [
            {"Exceptions": ["RuntimeError"], "IntervalSeconds": 1.5, "MaxAttempts": 3, "BackoffRate": 2},
            {"IntervalSeconds": 0.5, "MaxAttempts": 1},
        ]
        shop = Shop(look=[RuntimeError(), KeyError(), RuntimeError(), True])
        ended = run(shop, {"A": task("look", Retry=rules)})
        assert ended.status is SU
        assert shop.waits == [1.5, 0.5, 3.0]
        assert len(set(shop.keys)) == 4

    def test_and_then_it_is_caught(self) -> None:
        retry, catch = [{"MaxAttempts": 2}], [{"Exceptions": ["a.b.KeyError"], "Next": "Fail"}]
        shop = Shop(look=KeyError("k"))
        ended = run(shop, {"A": task("look", Retry=retry, Catch=catch), **END})
        assert shop.methods == ["look"] * 3
        assert ended.error_code == "NO"


class TestLoops:
    LOOP = {"Collection": "$.[list]", "Parallel": 2, "ElementVariableName": "one", "ElementIndexName": "at"}  # noqa: RUF012

    def states(self, **loop: Any) -> dict[str, Any]:
        return {
            "A": task(
                "work",
                "B",
                Loop={**self.LOOP, **loop},
                CompensateState="U",
                Input=[{"one": "$.[one]", "at": "$.[at]"}],
                Output={"made": "$.#root"},
            ),
            "B": task("after", Input=["$.[loopResult].![made]"]),
            "U": task("unwork", Input=["$.[one]", "$.[made]"]),
        }

    def test_each_element(self) -> None:
        shop = Shop(work=lambda given: given["one"] * 10)
        ended = run(shop, self.states(), {"list": [3, 4, 5]})
        assert ended.status is SU
        assert shop.calls[-1] == ("after", [[30, 40, 50]])
        assert {call[1][0]["at"] for call in shop.calls[:-1]} == {0, 1, 2}

    def test_until_the_condition_holds(self) -> None:
        shop = Shop()
        run(shop, self.states(CompletionCondition="[nrOfCompletedInstances] >= 3"), {"list": [1, 2, 3, 4, 5, 6]})
        assert shop.methods == ["work"] * 4 + ["after"]  # waves of two

    def test_the_compensation_sees_its_own_element(self) -> None:
        """C24: each iteration is undone with its element and with what came out of it."""
        shop = Shop(work=lambda given: RuntimeError("x") if given["one"] == 5 else given["one"] * 10)
        ended = run(shop, self.states(), {"list": [3, 4, 5, 6]})
        undone = [arguments for method, arguments in shop.calls if method == "unwork"]
        assert undone == [[6, 60], [5, None], [4, 40], [3, 30]]
        assert ended.compensation is SU

    def test_what_is_no_list(self) -> None:
        ended = run(Shop(), self.states(), {"list": 7})
        assert ended.message.endswith("is no list: 7")


class TestForks:
    STATES = {  # noqa: RUF012
        "F": {"Type": "Fork", "Branches": ["A", "C"]},
        "A": task("a", "B", Output={"x": "$.#root"}, CompensateState="Ua"),
        "B": task("b", "J", Input=["$.[x]"]),
        "C": task("c", "J", Output={"y": "$.#root"}, CompensateState="Uc"),
        "J": {"Type": "Join", "Next": "D"},
        "D": task("d", Input=["$.[x]", "$.[y]"]),
        "Ua": task("ua"),
        "Uc": task("uc"),
    }

    def test_both_chains_and_then_the_join(self) -> None:
        shop = Shop(a=1, c=2)
        assert run(shop, self.STATES).status is SU
        assert shop.calls[-1] == ("d", [1, 2])
        assert sorted(shop.methods) == ["a", "b", "c", "d"]

    def test_one_chain_fails_and_both_are_undone(self) -> None:
        shop = Shop(c=RuntimeError("x"))
        ended = run(shop, self.STATES)
        assert shop.methods[-2:] == ["uc", "ua"]
        assert (ended.status, ended.compensation) == (UN, SU)


class TestSubMachines:
    SUBS = {"inner": {"I": task("inner", "K", CompensateState="Ui", Output={"got": "$.#root"}), "K": task("more"),  # noqa: RUF012
                      "Ui": task("uninner", Input=["$.[why]"])}}  # fmt: skip

    def test_its_variables_are_its_result(self) -> None:
        shop = Shop(inner=5)
        sub = {
            "Type": "SubStateMachine",
            "StateMachineName": "inner",
            "Input": [{"a": "$.[a]"}],
            "Output": {"r": "$.got"},
        }
        ended = run(shop, {"A": sub}, {"a": 1}, subs=self.SUBS)
        assert ended.variables["r"] == 5

    def test_one_that_is_done_is_compensated_as_a_whole(self) -> None:
        shop = Shop(after=RuntimeError("x"))
        states = {"A": {"Type": "SubStateMachine", "StateMachineName": "inner", "Next": "B"}, "B": task("after")}
        ended = run(shop, states, subs=self.SUBS)
        assert shop.methods == ["inner", "more", "after", "uninner"]
        assert ended.compensation is SU

    def test_with_parameters_of_its_own(self) -> None:
        shop = Shop(after=RuntimeError("x"))
        sub = {"Type": "SubStateMachine", "StateMachineName": "inner", "CompensateState": "C", "Next": "B"}
        states = {
            "A": sub,
            "B": task("after"),
            "C": {"Type": "CompensateSubMachine", "Input": [{"why": "$.[reason]"}]},
        }
        run(shop, states, {"reason": "late"}, subs=self.SUBS)
        assert shop.calls[-1] == ("uninner", ["late"])

    def test_one_that_undid_itself_has_done_nothing(self) -> None:
        shop = Shop(more=RuntimeError("x"))
        states = {
            "A": {
                "Type": "SubStateMachine",
                "StateMachineName": "inner",
                "Catch": [{"Exceptions": ["RuntimeError"], "Next": "Undo"}],
            },
            **TRIGGER,
        }
        ended = run(shop, states, subs=self.SUBS)
        assert shop.methods == ["inner", "more", "uninner"]
        assert ended.status is FA
        assert not ended.needs_human


def test_a_script_is_a_task() -> None:
    shop = Shop(script="hello x")
    script = {"Type": "ScriptTask", "ScriptType": "mine", "ScriptContent": "'hello ' + a", "Output": {"out": "$.#root"}}
    assert run(shop, {"A": script}).variables["out"] == "hello x"


@pytest.mark.parametrize("missing", [{"Input": ["$.[a].b"]}, {"Output": {"x": "$.#root.y"}}])
def test_an_expression_without_a_value_fails_its_state(missing: dict[str, Any]) -> None:
    ended = run(Shop(), {"A": task("look", **missing)})
    assert ended.raised is not None
    assert ended.raised.names[0] == "ExpressionError"
