"""Reads a definition in Seata's state language (JSON) and checks it whole: what it says is what runs, or is refused.

>>> machine = parse('{"Name": "one", "StartState": "A", "States": {"A": {"Type": "Succeed"}}}')
>>> machine.start
'A'
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from troth.client.states.definition import (
    Catch,
    Choice,
    CompensateSubMachine,
    CompensationTrigger,
    ExecutionStatus,
    Fail,
    Fork,
    Join,
    Loop,
    Recovery,
    Retry,
    ScriptTask,
    ServiceTask,
    State,
    StateMachine,
    SubStateMachine,
    Succeed,
    Task,
)
from troth.client.states.spel import ExpressionError
from troth.client.states.values import Template, Test

T = TypeVar("T")
_NAME: Final = re.compile(r"[\w.-]{1,60}")
_STATUSES: Final = MappingProxyType({status.value: status for status in ExecutionStatus})


class DefinitionError(ValueError):
    """A definition that cannot run; `place` says where, the text what to do."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem


class _Fields:
    """The fields of one JSON object, each read once, with its place for errors."""

    def __init__(self, place: str, source: Any) -> None:
        if not isinstance(source, Mapping):
            raise DefinitionError(place, f"an object is expected, not {source!r}")
        self.place = place
        self.source = source

    def text(self, name: str, default: str | None = None) -> str:
        """A text; without `default` it must be there, and not be empty."""
        found = self.source.get(name, default)
        if not isinstance(found, str) or (default is None and not found):
            raise DefinitionError(self.place, f"{name} must be a text, not {found!r}")
        return found

    def optional(self, name: str) -> str | None:
        """A text, or None where it is absent or empty."""
        return self.text(name, "") or None

    def truth(self, name: str, default: bool = False) -> bool:
        """true or false."""
        found = self.source.get(name, default)
        if not isinstance(found, bool):
            raise DefinitionError(self.place, f"{name} must be true or false, not {found!r}")
        return found

    def number(self, name: str, default: float, least: float) -> float:
        """A number of at least `least`."""
        found = self.source.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or found < least:
            raise DefinitionError(self.place, f"{name} must be a number of at least {least:g}, not {found!r}")
        return found

    def items(self, name: str, kind: type[T]) -> list[T]:
        """A list, empty where it is absent."""
        found = self.source.get(name)
        found = [] if found is None else found
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            raise DefinitionError(self.place, f"{name} must be a list of {kind.__name__}, not {found!r}")
        return found

    def objects(self, name: str) -> list[_Fields]:
        """A list of objects."""
        found = enumerate(self.items(name, dict))
        return [_Fields(f"{self.place}.{name}[{number}]", item) for number, item in found]

    def evaluated(self, make: Callable[[], T], name: str) -> T:
        """What `make` parses; its errors get this place."""
        try:
            return make()
        except ExpressionError as error:
            raise DefinitionError(f"{self.place}.{name}", str(error)) from None


def parse(text: str | bytes | Mapping[str, Any]) -> StateMachine:
    """A checked state machine.

    Raises:
        DefinitionError: not JSON, not a state machine, a name that leads nowhere, or something that does not run here.
    """
    try:
        source = text if isinstance(text, Mapping) else json.loads(text)
    except ValueError as error:
        raise DefinitionError("the definition", f"is not JSON: {error}") from None
    machine = _Fields("the definition", source)
    if "nodes" in machine.source and "States" not in machine.source:
        raise DefinitionError("the definition", "is a drawing of Seata's designer: export it as a state machine first")
    states = _Fields("States", machine.source.get("States"))
    parsed = {name: _state(_Fields(f"States.{name}", source), name) for name, source in states.source.items()}
    found = StateMachine(
        name=machine.text("Name"),
        version=machine.text("Version", "0.0.1"),
        comment=machine.text("Comment", ""),
        start=machine.text("StartState"),
        states=MappingProxyType(_with_joins(parsed)),
        recovery=_recovery(machine),
        source=MappingProxyType(dict(machine.source)),
    )
    _check_names(found)
    return found


def _recovery(machine: _Fields) -> Recovery:
    text = machine.text("RecoverStrategy", Recovery.COMPENSATE.value)
    try:
        return Recovery(text)
    except ValueError:
        raise DefinitionError(machine.place, f"RecoverStrategy must be Compensate or Forward, not {text!r}") from None


# --- one state -------------------------------------------------------------------------------------------------------


def _state(fields: _Fields, name: str) -> State:
    if not _NAME.fullmatch(name):
        raise DefinitionError(fields.place, "a state's name is made of letters, digits and . _ - only, at most 60")
    kind = fields.text("Type")
    reader = _READERS.get(kind)
    if reader is None:
        raise DefinitionError(fields.place, f"Type {kind!r} is not one of {', '.join(_READERS)}")
    if fields.truth("IsAsync"):
        raise DefinitionError(fields.place, "IsAsync gives no guarantee, so it does not run: take it out, or use Fork")
    return reader(fields, name)


def _task(fields: _Fields, name: str) -> dict[str, Any]:
    compensate = fields.optional("CompensateState")
    return {
        "name": name,
        "input": _templates(fields),
        "output": _output(fields),
        "status": tuple(_statuses(fields)),
        "retry": tuple(_retry(one) for one in fields.objects("Retry")),
        "catch": tuple(Catch(tuple(one.items("Exceptions", str)), one.text("Next")) for one in fields.objects("Catch")),
        "loop": _loop(fields),
        "compensate_state": compensate,
        "for_update": fields.truth("IsForUpdate", compensate is not None),
        "next": fields.optional("Next"),
    }


def _templates(fields: _Fields) -> tuple[Template, ...]:
    given = fields.items("Input", object)
    return tuple(fields.evaluated(lambda value=value: Template(value), "Input") for value in given)  # type: ignore[misc]


def _output(fields: _Fields) -> Mapping[str, Template]:
    given = _Fields(f"{fields.place}.Output", fields.source.get("Output", {})).source
    return MappingProxyType(
        {name: fields.evaluated(lambda value=value: Template(value), "Output") for name, value in given.items()}  # type: ignore[misc]
    )


def _statuses(fields: _Fields) -> list[tuple[Test, ExecutionStatus]]:
    found = []
    for source, name in _Fields(f"{fields.place}.Status", fields.source.get("Status", {})).source.items():
        if name not in _STATUSES:
            raise DefinitionError(f"{fields.place}.Status", f"{name!r} is not one of {', '.join(_STATUSES)}")
        found.append((fields.evaluated(lambda source=source: Test(source), "Status"), _STATUSES[name]))  # type: ignore[misc]
    return found


def _retry(fields: _Fields) -> Retry:
    return Retry(
        exceptions=tuple(fields.items("Exceptions", str)),
        interval_s=fields.number("IntervalSeconds", 1, 0),
        backoff_rate=fields.number("BackoffRate", 1, 1),
        max_attempts=int(fields.number("MaxAttempts", 1, 0)),
    )


def _loop(fields: _Fields) -> Loop | None:
    if fields.source.get("Loop") is None:
        return None
    loop = _Fields(f"{fields.place}.Loop", fields.source["Loop"])
    condition = loop.optional("CompletionCondition")
    return Loop(
        collection=loop.evaluated(lambda: Template(loop.text("Collection")), "Collection"),
        parallel=int(loop.number("Parallel", 1, 1)),
        element_name=loop.text("ElementVariableName", "loopElement"),
        index_name=loop.text("ElementIndexName", "loopCounter"),
        completion=None if condition is None else loop.evaluated(lambda: Test(condition), "CompletionCondition"),
    )


def _service(fields: _Fields, name: str) -> State:
    service, method = fields.text("ServiceName"), fields.text("ServiceMethod")
    return ServiceTask(**_task(fields, name), service=service, method=method)


def _script(fields: _Fields, name: str) -> State:
    kind, content = fields.text("ScriptType", "groovy"), fields.text("ScriptContent")
    return ScriptTask(**_task(fields, name), script_type=kind, content=content)


def _sub_machine(fields: _Fields, name: str) -> State:
    machine = fields.text("StateMachineName")
    return SubStateMachine(**{**_task(fields, name), "for_update": True}, machine=machine)


def _compensate_sub_machine(fields: _Fields, name: str) -> State:
    return CompensateSubMachine(**_task(fields, name))


def _choice(fields: _Fields, name: str) -> State:
    choices = [
        (one.evaluated(lambda one=one: Test(one.text("Expression")), "Expression"), one.text("Next"))  # type: ignore[misc]
        for one in fields.objects("Choices")
    ]
    if not choices:
        raise DefinitionError(fields.place, "Choices is empty")
    return Choice(name, tuple(choices), fields.optional("Default"))


def _trigger(fields: _Fields, name: str) -> State:
    return CompensationTrigger(name, fields.optional("Next"))


def _succeed(fields: _Fields, name: str) -> State:
    return Succeed(name)


def _fail(fields: _Fields, name: str) -> State:
    return Fail(name, fields.text("ErrorCode", ""), fields.text("Message", ""))


def _fork(fields: _Fields, name: str) -> State:
    branches = tuple(fields.items("Branches", str))
    if len(branches) < 2 or len(set(branches)) < len(branches):
        raise DefinitionError(fields.place, "Branches must name two different states or more")
    return Fork(name, branches, int(fields.number("Parallel", len(branches), 1)), "")


def _join(fields: _Fields, name: str) -> State:
    return Join(name, fields.optional("Next"))


_READERS: Final[Mapping[str, Callable[[_Fields, str], State]]] = MappingProxyType(
    {
        "ServiceTask": _service,
        "ScriptTask": _script,
        "SubStateMachine": _sub_machine,
        "CompensateSubMachine": _compensate_sub_machine,
        "Choice": _choice,
        "CompensationTrigger": _trigger,
        "Succeed": _succeed,
        "Fail": _fail,
        "Fork": _fork,
        "Join": _join,
    }
)


# --- the machine as a whole ------------------------------------------------------------------------------------------


def leads_to(state: State) -> tuple[str, ...]:
    """The names of the states that may follow, compensation apart."""
    match state:
        case Choice():
            return (*(name for _, name in state.choices), *((state.default,) if state.default else ()))
        case Fork():
            return state.branches
        case Task():
            return (*((state.next,) if state.next else ()), *(catch.next for catch in state.catch))
        case CompensationTrigger() | Join():
            return (state.next,) if state.next else ()
    return ()


def _check_names(machine: StateMachine) -> None:
    if machine.start not in machine.states:
        raise DefinitionError("StartState", f"there is no state {machine.start!r}")
    for name, state in machine.states.items():
        for follower in leads_to(state):
            if follower not in machine.states:
                raise DefinitionError(f"States.{name}", f"there is no state {follower!r}")
        if isinstance(state, Task) and state.compensate_state is not None:
            _check_compensation(machine, state)


def _check_compensation(machine: StateMachine, state: Task) -> None:
    undo = machine.states.get(state.compensate_state or "")
    place = f"States.{state.name}"
    if undo is None:
        raise DefinitionError(place, f"there is no state {state.compensate_state!r} to compensate it")
    allowed = CompensateSubMachine if isinstance(state, SubStateMachine) else ServiceTask | ScriptTask
    if not isinstance(undo, allowed | ServiceTask):
        raise DefinitionError(place, f"{undo.name!r} cannot compensate it: it is a {type(undo).__name__}")
    if undo.loop is not None:
        raise DefinitionError(f"States.{undo.name}", "a compensation runs once for each element anyway: without Loop")


def _with_joins(states: Mapping[str, State]) -> dict[str, State]:
    """Each Fork with the one Join at which all its chains end."""
    found = dict(states)
    for name, state in states.items():
        if isinstance(state, Fork):
            joins = {join for branch in state.branches for join in _joins_behind(states, branch, name)}
            if len(joins) != 1:
                wanted = "none" if not joins else ", ".join(sorted(joins))
                raise DefinitionError(f"States.{name}", f"its chains must meet at one Join; found: {wanted}")
            found[name] = Fork(name, state.branches, state.parallel, joins.pop())
    return found


def _joins_behind(states: Mapping[str, State], start: str, fork: str) -> set[str]:
    """The Joins that a chain may reach; a chain must reach one, and may not hold another Fork."""
    joins, seen, todo = set(), set(), [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        state = states.get(name)
        if isinstance(state, Join):
            joins.add(name)
        elif isinstance(state, Fork):
            raise DefinitionError(f"States.{fork}", f"the Fork {name!r} stands inside of it: put it in a sub-machine")
        elif isinstance(state, CompensationTrigger | Succeed | Fail):
            raise DefinitionError(
                f"States.{fork}", f"a chain of it ends at {name!r}: let exceptions leave the Fork, and Catch them there"
            )
        elif state is not None:
            if isinstance(state, Task) and state.next is None:
                raise DefinitionError(f"States.{fork}", f"the chain that ends at {name!r} reaches no Join")
            todo.extend(leads_to(state))
    return joins
