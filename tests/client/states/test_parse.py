"""Definitions: what is read, and what is refused, with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from troth.client.states.definition import Fork, Recovery, ServiceTask, SubStateMachine
from troth.client.states.parse import DefinitionError, parse

TASK = {"Type": "ServiceTask", "ServiceName": "stock", "ServiceMethod": "deduct"}


def machine(start: str = "A", **states: Any) -> dict[str, Any]:
    return {"Name": "m", "StartState": start, "States": states}


def test_a_task_whole() -> None:
    found = parse(
        json.dumps(
            machine(
                A={
                    **TASK,
                    "CompensateState": "Undo",
                    "Input": [{"count": "$.[count]"}, "plain"],
                    "Output": {"left": "$.#root"},
                    "Status": {"#root == true": "SU", "$Exception{java.lang.Throwable}": "UN"},
                    "Retry": [{"Exceptions": ["Busy"], "IntervalSeconds": 1.5, "MaxAttempts": 3, "BackoffRate": 2}],
                    "Catch": [{"Exceptions": ["java.lang.Throwable"], "Next": "End"}],
                    "Loop": {"Parallel": 3, "Collection": "$.[list]", "CompletionCondition": "[nrOfInstances] == 1"},
                    "Next": "End",
                },
                Undo=TASK,
                End={"Type": "Succeed"},
            )
        )
    )
    task = found.states["A"]
    assert isinstance(task, ServiceTask)
    assert (task.service, task.method, task.compensate_state, task.next) == ("stock", "deduct", "Undo", "End")
    assert task.for_update
    assert task.loop is not None
    assert (task.loop.parallel, task.loop.element_name, task.loop.index_name) == (3, "loopElement", "loopCounter")
    assert task.retry[0].interval_s == 1.5
    assert found.recovery is Recovery.COMPENSATE


def test_a_sub_machine_changes_things_by_its_nature() -> None:
    task = parse(machine(A={"Type": "SubStateMachine", "StateMachineName": "other"})).states["A"]
    assert isinstance(task, SubStateMachine)
    assert task.for_update


def test_a_fork_finds_its_join() -> None:
    found = parse(
        machine(
            A={"Type": "Fork", "Branches": ["B", "C"]},
            B={**TASK, "Next": "J"},
            C={**TASK, "Next": "J"},
            J={"Type": "Join"},
        )
    )
    fork = found.states["A"]
    assert isinstance(fork, Fork)
    assert (fork.join, fork.parallel) == ("J", 2)


@pytest.mark.parametrize(
    ("definition", "place", "problem"),
    [
        ("{", "the definition", "not JSON"),
        ("[]", "the definition", "object"),
        ({"nodes": []}, "the definition", "designer"),
        ({"Name": "m", "States": {"A": {"Type": "Succeed"}}}, "the definition", "StartState"),
        (machine("B", A={"Type": "Succeed"}), "StartState", "'B'"),
        (machine(A={"Type": "Task"}), "States.A", "'Task' is not one of"),
        (machine(A={**TASK, "Next": "B"}), "States.A", "no state 'B'"),
        (machine(A={**TASK, "CompensateState": "B"}), "States.A", "no state 'B' to compensate"),
        (machine(A={**TASK, "CompensateState": "B"}, B={"Type": "Succeed"}), "States.A", "cannot compensate"),
        (machine(A={**TASK, "IsAsync": True}), "States.A", "IsAsync gives no guarantee"),
        (machine(A={**TASK, "Input": ["$.[a"]}), "States.A.Input", "missing"),
        (machine(A={**TASK, "Status": {"true": "OK"}}), "States.A.Status", "'OK' is not one of"),
        (machine(A={**TASK, "Loop": {"Collection": "$.[a]", "Parallel": 0}}), "States.A.Loop", "Parallel"),
        (machine(A={**TASK, "Retry": [{"MaxAttempts": "3"}]}), "States.A.Retry[0]", "MaxAttempts"),
        (machine(A={"Type": "Choice", "Choices": []}), "States.A", "empty"),
        (machine(A={"Type": "Fork", "Branches": ["B"]}, B=TASK), "States.A", "two different"),
        (machine(A={"Type": "Fork", "Branches": ["B", "C"]}, B=TASK, C=TASK), "States.A", "reaches no Join"),
        ({**machine(A={"Type": "Succeed"}), "RecoverStrategy": "Sideways"}, "the definition", "Forward"),
    ],
)
def test_refused_with_its_place(definition: Any, place: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        parse(definition)
    assert refused.value.place == place
    assert problem in refused.value.problem
