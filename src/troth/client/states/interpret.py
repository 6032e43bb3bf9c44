"""Runs a state machine: a generator that yields what is to be done and is sent what came of it.

Nothing here depends on anything but the definition, the parameters and those results, and every call has a key that is
the same when the machine is run again: a process that finds the results of another one's calls recorded goes on where
that one died. Which calls run side by side is decided in waves, so the order in which they end does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from troth.client.states.definition import (
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
from troth.client.states.steps import Compensate, Ended, Invoke, Parallel, Run, Step, TaskFailed, bounded
from troth.client.states.values import Raised, Value

MOST_VISITS: Final = 100_000
"""A machine that visits more states than this goes round in a circle."""

SU, FA, UN = ExecutionStatus.SUCCEEDED, ExecutionStatus.FAILED, ExecutionStatus.UNKNOWN


# --- while it runs ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Visit:
    """One run of one task: with its element, if it was one of a loop, and with what came out of it (C24)."""

    task: Task
    key: str
    local: Mapping[str, Value]
    status: ExecutionStatus = ExecutionStatus.RUNNING
    outputs: dict[str, Value] = field(default_factory=dict)
    raised: Raised | None = None
    sub: Execution | None = None
    compensated: bool = False
    delay_s: float = 0.0


class _Stopped(Exception):
    """The machine is at an end: at a Succeed or Fail state (`end`), or because a task raised and nobody caught it."""

    def __init__(self, end: Succeed | Fail | None, raised: Raised | None = None) -> None:
        super().__init__()
        self.end = end
        self.raised = raised


class Execution:
    """One run of a machine, sub-machines within it included."""

    def __init__(
        self,
        machines: Callable[[str], StateMachine],
        machine: StateMachine,
        parameters: Mapping[str, Value],
        business_key: str,
        *,
        path: str = "",
        forward_attempts: int = 10,
        forward_pause_s: float = 1.0,
    ) -> None:
        self._machines = machines
        self._machine = machine
        self._business_key = business_key
        self._path = path
        self._forward_attempts = forward_attempts
        self._forward_pause_s = forward_pause_s
        self._visited: dict[str, int] = {}
        self._numbers = 0
        self._delay_s = 0.0
        self._visits: list[_Visit] = []
        self._compensation: ExecutionStatus | None = None
        self.variables: dict[str, Value] = dict(parameters)
        self.status = ExecutionStatus.RUNNING

    def run(self) -> Run:
        """From the start state to the end, compensation and recovery included. Returns `Ended`."""
        state: str | None = self._machine.start
        for attempt in range(1, self._forward_attempts + 1):
            stopped, at = yield from self._forward(state)
            self.status = self._decide_status(stopped)
            if self.status is not UN or self._compensation is not None:
                break
            if self._machine.recovery is Recovery.COMPENSATE:
                yield from self.compensate()
                break
            if attempt < self._forward_attempts:
                self._visits = [visit for visit in self._visits if visit.task.name != at or visit.status is SU]
                state = at
                self._delay_s = self._forward_pause_s * 2 ** (attempt - 1)
        return self._ended(stopped)

    def _forward(self, state: str | None) -> Generator[Step, Any, tuple[_Stopped, str | None]]:
        at = state
        try:
            while state is not None:
                at = state
                state = yield from self._step(self._machine.states[state])
        except _Stopped as stopped:
            return stopped, self._last_failed(at)
        return _Stopped(None), at

    def _last_failed(self, at: str | None) -> str | None:
        """Where forward recovery goes on: at the task that did not succeed, not at the Fail state behind it."""
        failed = [visit.task.name for visit in self._visits if visit.status in (UN, FA)]
        return failed[-1] if failed else at

    def _ended(self, stopped: _Stopped) -> Ended:
        end = stopped.end
        code, message = (end.error_code, end.message) if isinstance(end, Fail) else ("", "")
        if not message and stopped.raised is not None:
            message = stopped.raised.message
        variables = MappingProxyType(self.variables)
        return Ended(self.status, self._compensation, variables, code, message, stopped.raised)

    def _decide_status(self, stopped: _Stopped) -> ExecutionStatus:
        """As Seata decides: from the states that were visited, then from what was raised, then from the end state."""
        statuses = [visit.status for visit in self._visits]
        changed = any(visit.status is SU and visit.task.for_update for visit in self._visits)
        if UN in statuses:
            return UN
        if FA in statuses or stopped.raised is not None:
            return UN if changed else FA
        if isinstance(stopped.end, Fail):
            return UN if any(visit.task.for_update for visit in self._visits) else FA
        return SU

    # --- one state ---

    def _step(self, state: State) -> Generator[Step, Any, str | None]:
        match state:
            case Task():
                return (yield from self._task(state))
            case Choice():
                return self._choose(state)
            case Fork():
                return (yield from self._fork(state))
            case Join():
                return state.next
            case CompensationTrigger():
                self.status = self._decide_status(_Stopped(None))
                yield from self.compensate()
                return state.next
            case _:
                raise _Stopped(state)

    def _choose(self, choice: Choice) -> str:
        for test, target in choice.choices:
            try:
                if test.holds(self.variables):
                    return target
            except ExpressionError as error:
                raise _Stopped(None, _expression_failed(choice.name, error)) from None
        if choice.default is None:
            names = ("StateMachineNoChoiceMatched",)
            raise _Stopped(None, Raised(names, f"no choice of {choice.name!r} holds, and it has no Default"))
        return choice.default

    def _task(self, task: Task) -> Generator[Step, Any, str | None]:
        if task.loop is not None:
            visits = yield from self._loop(task, task.loop)
        else:
            visit = self._visit(task, {})
            self._visits.append(visit)
            yield from self._carry_out(visit)
            self.variables.update(visit.outputs)
            visits = [visit]
        failed = next((visit for visit in visits if visit.raised is not None and visit.status is not SU), None)
        if failed is None or failed.raised is None:
            return task.next
        for catch in task.catch:
            if failed.raised.is_one_of(catch.exceptions):
                return catch.next
        raise _Stopped(None, failed.raised)

    def _visit(self, task: Task, local: Mapping[str, Value], part: str = "") -> _Visit:
        number = self._visited[task.name] = self._visited.get(task.name, 0) + 1
        if sum(self._visited.values()) > MOST_VISITS:
            raise _Stopped(None, Raised(("EndlessStateMachine",), f"more than {MOST_VISITS} states were visited"))
        return _Visit(task, f"{self._path}{task.name}{part}-{number}", local)

    def _carry_out(self, visit: _Visit) -> Generator[Step, Any, None]:
        """Run one task to its end, retries included. Whatever it raises is noted in the visit."""
        task = visit.task
        try:
            arguments = [template.fill(self._root(visit), self._number) for template in task.input]
        except ExpressionError as error:
            visit.raised, visit.status = _expression_failed(task.name, error), FA
            return
        attempts: dict[Retry, int] = {}
        number = 0
        while True:
            number += 1
            key = visit.key if number == 1 else f"{visit.key}<r{number}>"
            result, visit.raised = yield from self._attempt(visit, key, arguments)
            self._judge(visit, result)
            retry = self._retry_of(visit, attempts)
            if retry is None:
                return
            attempts[retry] = attempts.get(retry, 0) + 1
            visit.delay_s = retry.interval_s * retry.backoff_rate ** (attempts[retry] - 1)

    def _retry_of(self, visit: _Visit, attempts: Mapping[Retry, int]) -> Retry | None:
        """The first rule that names what was raised; it alone counts."""
        if visit.raised is None or visit.status is SU:
            return None
        for retry in visit.task.retry:
            if not retry.exceptions or visit.raised.is_one_of(retry.exceptions):
                return retry if attempts.get(retry, 0) < retry.max_attempts else None
        return None

    def _attempt(
        self, visit: _Visit, key: str, arguments: Sequence[Value]
    ) -> Generator[Step, Any, tuple[Value, Raised | None]]:
        task = visit.task
        if isinstance(task, SubStateMachine):
            return (yield from self._run_sub_machine(visit, task, key, arguments))
        assert isinstance(task, ServiceTask | ScriptTask)
        delay_s, visit.delay_s, self._delay_s = visit.delay_s or self._delay_s, 0.0, 0.0
        try:
            return (yield Invoke(bounded(key), task, arguments, delay_s)), None
        except TaskFailed as failed:
            return None, failed.raised

    def _judge(self, visit: _Visit, result: Value) -> None:
        """Its status, and its outputs."""
        task = visit.task
        try:
            visit.status = self._status_of(visit, result)
            if visit.raised is None:
                outputs = {name: template.fill(result, self._number) for name, template in task.output.items()}
                visit.outputs = outputs
        except ExpressionError as error:
            visit.raised = _expression_failed(task.name, error)
            visit.status = UN if task.for_update else FA

    def _status_of(self, visit: _Visit, result: Value) -> ExecutionStatus:
        task, raised = visit.task, visit.raised
        for test, status in task.status:
            if test.matches(raised) if raised is not None else test.holds(result):
                return status
        if isinstance(task, SubStateMachine) and visit.sub is not None and raised is not None:
            return FA if visit.sub.left_nothing else UN
        if raised is not None:
            return UN if task.for_update else FA
        if task.status and not all(test.is_of_exceptions for test, _ in task.status):
            visit.raised = Raised(("NoMatchedStatus",), f"no Status of {task.name!r} holds of its result")
            return UN if task.for_update else FA
        return SU

    def _root(self, visit: _Visit) -> dict[str, Value]:
        return {**self.variables, **visit.local, **visit.outputs}

    def _number(self, entity: str) -> str:
        if entity == "BUSINESS_KEY":
            return self._business_key
        self._numbers += 1
        return f"{self._business_key}:{self._path}{self._numbers}"

    # --- loops, forks, machines in machines ---

    def _loop(self, task: Task, loop: Loop) -> Generator[Step, Any, list[_Visit]]:
        try:
            collection = loop.collection.fill(self.variables, self._number)
        except ExpressionError as error:
            raise _Stopped(None, _expression_failed(task.name, error)) from None
        if not isinstance(collection, list):
            raise _Stopped(None, Raised(("TypeError",), f"the Collection of {task.name!r} is no list: {collection!r}"))
        done: list[_Visit] = []
        for first in range(0, len(collection), loop.parallel):
            if self._is_complete(task, loop, len(collection), len(done)):
                break
            wave = [
                self._visit(task, {loop.element_name: collection[number], loop.index_name: number}, f"<{number}>")
                for number in range(first, min(first + loop.parallel, len(collection)))
            ]
            self._visits += wave
            yield Parallel([self._carry_out(visit) for visit in wave], loop.parallel)
            done += wave
            if any(visit.raised is not None and visit.status is not SU for visit in wave):
                break
        self.variables["loopResult"] = [visit.outputs for visit in done]
        return done

    def _is_complete(self, task: Task, loop: Loop, instances: int, completed: int) -> bool:
        if loop.completion is None:
            return False
        counts = {
            "nrOfInstances": instances,
            "nrOfActiveInstances": 0,
            "nrOfCompletedInstances": completed,
        }
        try:
            return loop.completion.holds({**self.variables, **counts})
        except ExpressionError as error:
            raise _Stopped(None, _expression_failed(task.name, error)) from None

    def _fork(self, fork: Fork) -> Generator[Step, Any, str]:
        number = self._visited[fork.name] = self._visited.get(fork.name, 0) + 1
        chains = [
            _Chain(self, f"{self._path}{fork.name}-{number}.{place}>", branch, fork.join)
            for place, branch in enumerate(fork.branches)
        ]
        yield Parallel([chain.run() for chain in chains], fork.parallel)
        for chain in chains:
            self._visits += chain.visits
            self.variables.update(chain.changes)
        stopped = next((chain.stopped for chain in chains if chain.stopped is not None), None)
        if stopped is not None:
            raise stopped
        return fork.join

    def _run_sub_machine(
        self, visit: _Visit, task: SubStateMachine, key: str, arguments: Sequence[Value]
    ) -> Generator[Step, Any, tuple[Value, Raised | None]]:
        parameters = arguments[0] if arguments and isinstance(arguments[0], Mapping) else {}
        visit.sub = Execution(
            self._machines,
            self._machines(task.machine),
            parameters,
            self._business_key,
            path=f"{key}>",
            forward_attempts=self._forward_attempts,
            forward_pause_s=self._forward_pause_s,
        )
        ended: Ended = yield from visit.sub.run()
        if ended.status is SU:
            return dict(ended.variables), None
        names = ("SubStateMachineFailed",) if ended.raised is None else ended.raised.names
        return None, Raised(names, ended.message or f"the state machine {task.machine!r} failed")

    @property
    def left_nothing(self) -> bool:
        """True if it has failed and nothing of it is left."""
        return self._compensation is SU or (self._compensation is None and self.status is FA)

    # --- compensation ---

    def compensate(self, parameters: Mapping[str, Value] | None = None) -> Generator[Step, Any, None]:
        """Undo what was done or may have been, newest first. `parameters` come over the machine's own variables."""
        plan = self.plan_compensation(parameters)
        done = plan is not None and (not plan or (yield Compensate(plan)))
        self.note_compensated(done=done)

    def plan_compensation(self, parameters: Mapping[str, Value] | None = None) -> list[Invoke] | None:
        """The tasks that undo this machine, in their order; None: it cannot be undone, so no task is to be run."""
        self.variables.update(parameters or {})
        plan: list[Invoke] = []
        for visit in self._to_undo():
            part = self._plan_of(visit)
            if part is None:
                return None
            plan += part
        return plan

    def note_compensated(self, *, done: bool) -> None:
        """What was planned has been carried out, or not."""
        self._compensation = SU if done else UN
        for visit in self._to_undo() if done else ():
            visit.compensated = True
            if visit.sub is not None:
                visit.sub.note_compensated(done=True)

    def _to_undo(self) -> list[_Visit]:
        return [visit for visit in reversed(self._visits) if self._needs_undoing(visit)]

    def _needs_undoing(self, visit: _Visit) -> bool:
        task = visit.task
        if visit.compensated or visit.status in (FA, ExecutionStatus.RUNNING):
            return False
        if isinstance(task, SubStateMachine):
            return visit.sub is not None and not visit.sub.left_nothing
        return isinstance(task, ServiceTask) and (task.compensate_state is not None or task.for_update)

    def _plan_of(self, visit: _Visit) -> list[Invoke] | None:
        undo = None if visit.task.compensate_state is None else self._machine.states[visit.task.compensate_state]
        if undo is None and visit.sub is None:
            return None  # it changes something, and nothing undoes it: then nothing is undone, as in Seata
        root = self._root(visit)
        try:
            given = [] if undo is None else [one.fill(root, self._number) for one in undo.input]  # type: ignore[union-attr]
        except ExpressionError:
            return None
        if visit.sub is not None and (undo is None or isinstance(undo, CompensateSubMachine)):
            return visit.sub.plan_compensation(given[0] if given and isinstance(given[0], Mapping) else None)
        assert isinstance(undo, ServiceTask | ScriptTask)
        return [Invoke(bounded(f"{visit.key}>{undo.name}"), undo, given)]


class _Chain(Execution):
    """One chain of a fork: it sees the variables as they were at the fork, and its own."""

    def __init__(self, around: Execution, path: str, start: str, join: str) -> None:
        super().__init__(
            around._machines, around._machine, around.variables, around._business_key, path=path, forward_attempts=1
        )
        self._before = dict(around.variables)
        self._start = start
        self._join = join
        self.stopped: _Stopped | None = None

    def run(self) -> Run:
        state: str | None = self._start
        try:
            while state is not None and state != self._join:
                state = yield from self._step(self._machine.states[state])
        except _Stopped as stopped:
            self.stopped = stopped

    @property
    def visits(self) -> list[_Visit]:
        """What it has visited, oldest first."""
        return self._visits

    @property
    def changes(self) -> dict[str, Value]:
        """The variables that it has set."""
        missing = object()
        return {name: value for name, value in self.variables.items() if self._before.get(name, missing) is not value}


def _expression_failed(place: str, error: ExpressionError) -> Raised:
    return Raised(("ExpressionError", "ValueError"), f"{place}: {error}")
