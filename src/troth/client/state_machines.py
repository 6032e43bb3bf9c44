"""State machines in Seata's language, run as sagas: what one process has begun another one goes on with.

```python
services = {"stock": StockService(), "account": AccountService()}
machines = StateMachines(services, [Path("purchase.json").read_text()])
variables = machines.start("purchase", {"count": 2}, business_key="order-7")
```
Every task is a step of a saga (docs/modes/saga.md): its result, or what it raised, is durable at the coordinator
before the next one begins.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from troth.client.client import Client
from troth.client.drivers.running import arun, run
from troth.client.flow import Flow
from troth.client.modes import saga as durable
from troth.client.modes.saga import Run as SagaRun
from troth.client.modes.saga import RunEnds
from troth.client.modes.saga_records import Ended as StepEnded
from troth.client.modes.saga_records import UndoContext
from troth.client.saga_calls import AsyncNoDatabase, NoDatabase
from troth.client.saga_parallel import aparallel, parallel
from troth.client.saga_run import CHECK_EVERY, Saga, saga
from troth.client.saga_scope import Scope, current_scope
from troth.client.saga_step import Step, step
from troth.client.states.cel import CelExpression
from troth.client.states.definition import ExecutionStatus, ServiceTask, StateMachine
from troth.client.states.interpret import Execution
from troth.client.states.parse import parse
from troth.client.states.steps import Compensate, Ended, Invoke, Parallel, Run, TaskFailed
from troth.client.states.steps import Step as Wanted
from troth.client.states.values import Raised, Value

ScriptEngine: TypeAlias = Callable[[str, Mapping[str, Value]], Any]
"""Runs a script with the variables that its state's Input names."""
Call: TypeAlias = dict[str, Any]
"""A task as it is recorded: service and method, or script type and content, and the arguments."""

_STUCK: Final = "stuck"


class StateMachineFailed(Exception):
    """The machine has ended without success, and nothing of it is left; `ended` says how."""

    def __init__(self, name: str, ended: Ended) -> None:
        code = f" {ended.error_code}" if ended.error_code else ""
        undone = ", and is compensated" if ended.compensation is ExecutionStatus.SUCCEEDED else ""
        super().__init__(f"state machine {name} failed{code}: {ended.message or 'without a message'}{undone}")
        self.ended = ended


class UnknownMachine(LookupError):
    """No definition of that name (and version) was added."""


def cel_script(content: str, variables: Mapping[str, Value]) -> Value:
    """A ScriptTask of the type `cel`: an expression."""
    return CelExpression(content).evaluate(dict(variables))


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """How machines are run."""

    timeout: timedelta | None = None
    check_every: timedelta = CHECK_EVERY
    undo_attempts: int = 5
    forward_attempts: int = 10
    forward_pause: timedelta = timedelta(seconds=1)


class _Machines:
    """Definitions, services, and what both shells share."""

    def __init__(
        self,
        services: Mapping[str, object],
        definitions: Iterable[str | bytes | Mapping[str, Any]] = (),
        *,
        scripts: Mapping[str, ScriptEngine] | None = None,
        name: str = "state-machines",
        options: MachineOptions | None = None,
        client: Client | None = None,
    ) -> None:
        """Serve machines; what others have begun and not ended is asked for at once.

        Args:
            services: objects, or mappings of functions, by ServiceName.
            definitions: as `add` takes them; more may be added later.
            scripts: engines by ScriptType, beside `cel`.
            name: the same in all processes that serve each other's runs.
            options: how often and how long things are tried.
            client: None means the process's default one.

        Raises what `add` raises.
        """
        self._services = dict(services)
        self._scripts = MappingProxyType({"cel": cel_script, **(scripts or {})})
        self._machines: dict[tuple[str, str], StateMachine] = {}
        self._newest: dict[str, StateMachine] = {}
        self._name = name
        self._options = options or MachineOptions()
        self._client = client
        for definition in definitions:
            self.add(definition)

    def add(self, definition: str | bytes | Mapping[str, Any]) -> StateMachine:
        """Take a definition (JSON). A newer version is for what begins from now on; runs keep the one they began with.

        Raises:
            DefinitionError: it cannot run; the error says where.
            LookupError: it calls a service, a method or a script engine that was not given.
        """
        machine = parse(definition)
        for state in machine.states.values():
            if isinstance(state, ServiceTask):
                self._method(state.service, state.method)
            elif hasattr(state, "script_type"):
                self._script(state.script_type)
        self._machines[machine.name, machine.version] = machine
        self._newest[machine.name] = machine
        return machine

    def find(self, name: str, version: str | None = None) -> StateMachine:
        """The newest definition of `name`, or that of `version`. Raises UnknownMachine."""
        found = self._newest.get(name) if version is None else self._machines.get((name, version))
        if found is None:
            known = ", ".join(sorted(f"{one} {two}" for one, two in self._machines)) or "none"
            wanted = repr(name) if version is None else f"{name!r} {version}"
            raise UnknownMachine(f"no state machine {wanted} was added (known: {known})")
        return found

    def _method(self, service: str, method: str) -> Callable[..., Any]:
        found = self._services.get(service)
        if found is None:
            raise LookupError(
                f"no service {service!r} was given (known: {', '.join(sorted(self._services)) or 'none'})"
            )
        member = found.get(method) if isinstance(found, Mapping) else getattr(found, method, None)
        if not callable(member) or method.startswith("_"):
            raise LookupError(f"the service {service!r} has no method {method!r}")
        return cast(Callable[..., Any], member)

    def _script(self, kind: str) -> ScriptEngine:
        engine = self._scripts.get(kind)
        if engine is None:
            raise LookupError(f"no engine for scripts of the type {kind!r} (known: {', '.join(sorted(self._scripts))})")
        return engine

    # --- tasks ---

    def _call(self, task: Call) -> Any:
        """Run a task: an awaitable where the service is async."""
        if "script" in task:
            given = task["arguments"][0] if task["arguments"] else {}
            return self._script(task["script"])(task["content"], given if isinstance(given, Mapping) else {})
        return self._method(task["service"], task["method"])(*task["arguments"])

    def _execution(self, machine: str, version: str, parameters: dict[str, Value], business_key: str) -> Execution:
        try:
            found = self.find(machine, version)
        except UnknownMachine as error:  # it is to be added yet, or another process that serves these machines has it
            raise _scope().run.halt(RunEnds(str(error))) from error
        options = self._options
        return Execution(
            self.find,
            found,
            parameters,
            business_key,
            forward_attempts=options.forward_attempts,
            forward_pause_s=options.forward_pause.total_seconds(),
        )

    def _undo_step(self, function: Callable[..., Any], compensate: Callable[[UndoContext], Any]) -> Step[Any, Any]:
        name, attempts = f"{self._name}.undo", self._options.undo_attempts
        return step(name=name, compensate=compensate, undo_attempts=attempts, attempts=1, client=self._client)(function)

    def _task_step(self, function: Callable[..., Any]) -> Step[Any, Any]:
        return step(name=f"{self._name}.task", attempts=1, client=self._client)(function)

    def _saga(self, function: Callable[..., Any]) -> Saga[Any, Any]:
        options = self._options
        decorate = saga(name=self._name, timeout=options.timeout, check_every=options.check_every, client=self._client)
        return decorate(function)

    def _begun(self, machine: str, parameters: Mapping[str, Value] | None, business_key: str) -> tuple[Any, ...]:
        return machine, self.find(machine).version, dict(parameters or {}), business_key


class StateMachines(_Machines):
    """State machines whose services are plain functions."""

    def __init__(
        self,
        services: Mapping[str, object],
        definitions: Iterable[str | bytes | Mapping[str, Any]] = (),
        **options: Any,
    ) -> None:
        super().__init__(services, definitions, **options)

        def task(task: Call, delay_s: float) -> Call:
            time.sleep(delay_s)
            try:
                return {"result": self._call(task)}
            except Exception as error:  # noqa: BLE001 - recorded; the machine decides what it means
                return {"raised": _named(error)}

        def undo(context: UndoContext) -> None:
            _check_stuck(context)
            self._call(context["task"])

        def body(machine: str, version: str, parameters: dict[str, Any], business_key: str) -> Any:
            execution = self._execution(machine, version, parameters, business_key)
            return self._finish(machine, self._drive(execution.run()))

        self._task = self._task_step(task)
        self._undo = self._undo_step(lambda task: None, undo)
        self._run = self._saga(body)

    def start(
        self,
        machine: str,
        parameters: Mapping[str, Value] | None = None,
        *,
        business_key: str = "",
        deadline: datetime | None = None,
    ) -> Mapping[str, Value]:
        """Run `machine` to its end; its variables then.

        Args:
            parameters: the variables that it begins with: what JSON knows.
            business_key: what `$Sequence.BUSINESS_KEY` gives.
            deadline: with a zone; what has not ended then is compensated.

        Raises:
            StateMachineFailed: it ended without success, and nothing of it is left.
            NeedsHuman: something could not be compensated; `troth inspect` shows what.
            UnknownMachine: no such definition.
            TrothError: as a saga's call raises.
        """
        call = self._run if deadline is None else self._run.until(deadline)
        return cast(Mapping[str, Value], call(*self._begun(machine, parameters, business_key)))

    def _drive(self, flow: Run) -> Any:
        answer: Any = None
        while True:
            try:
                wanted = _advance(flow, answer)
            except StopIteration as stopped:
                return stopped.value
            answer = self._answer(wanted)

    def _answer(self, wanted: Wanted) -> Any:
        match wanted:
            case Invoke():
                return _heard(self._task.keyed(wanted.key)(_recorded(wanted), wanted.delay_s))
            case Compensate():
                return self._compensate([(task.key, {"task": _recorded(task)}) for task in wanted.tasks])
            case Parallel():
                parallel(*(lambda flow=flow: self._drive(flow) for flow in wanted.flows), at_once=wanted.limit)
        return None

    def _compensate(self, tasks: Sequence[tuple[str, Call]]) -> bool:
        scope = _scope()
        run(_compensation(scope.run, self._undo.name, scope, tasks), NoDatabase(), scope.coordinator)
        return True

    def _finish(self, name: str, ended: Ended) -> dict[str, Value]:
        if ended.needs_human:
            self._compensate([("needs-human", {_STUCK: _why_stuck(name, ended)})])
        return _succeeded(name, ended)


class AsyncStateMachines(_Machines):
    """State machines whose services are coroutine functions, or plain ones that do not block."""

    def __init__(
        self,
        services: Mapping[str, object],
        definitions: Iterable[str | bytes | Mapping[str, Any]] = (),
        **options: Any,
    ) -> None:
        super().__init__(services, definitions, **options)

        async def task(task: Call, delay_s: float) -> Call:
            await asyncio.sleep(delay_s)
            try:
                return {"result": await _awaited(self._call(task))}
            except Exception as error:  # noqa: BLE001 - recorded; the machine decides what it means
                return {"raised": _named(error)}

        async def undo(context: UndoContext) -> None:
            _check_stuck(context)
            await _awaited(self._call(context["task"]))

        async def nothing(task: Call) -> None:
            return None

        async def body(machine: str, version: str, parameters: dict[str, Any], business_key: str) -> Any:
            execution = self._execution(machine, version, parameters, business_key)
            return await self._finish(machine, await self._drive(execution.run()))

        self._task = self._task_step(task)
        self._undo = self._undo_step(nothing, undo)
        self._run = self._saga(body)

    async def start(
        self,
        machine: str,
        parameters: Mapping[str, Value] | None = None,
        *,
        business_key: str = "",
        deadline: datetime | None = None,
    ) -> Mapping[str, Value]:
        """As `StateMachines.start`."""
        call = self._run if deadline is None else self._run.until(deadline)
        return cast(Mapping[str, Value], await call(*self._begun(machine, parameters, business_key)))

    async def _drive(self, flow: Run) -> Any:
        answer: Any = None
        while True:
            try:
                wanted = _advance(flow, answer)
            except StopIteration as stopped:
                return stopped.value
            answer = await self._answer(wanted)

    async def _answer(self, wanted: Wanted) -> Any:
        match wanted:
            case Invoke():
                return _heard(await self._task.keyed(wanted.key)(_recorded(wanted), wanted.delay_s))
            case Compensate():
                return await self._compensate([(task.key, {"task": _recorded(task)}) for task in wanted.tasks])
            case Parallel():
                for first in range(0, len(wanted.flows), wanted.limit):
                    some = wanted.flows[first : first + wanted.limit]
                    await aparallel(*(lambda flow=flow: self._drive(flow) for flow in some))
        return None

    async def _compensate(self, tasks: Sequence[tuple[str, Call]]) -> bool:
        scope = _scope()
        await arun(_compensation(scope.run, self._undo.name, scope, tasks), AsyncNoDatabase(), scope.coordinator)
        return True

    async def _finish(self, name: str, ended: Ended) -> dict[str, Value]:
        if ended.needs_human:
            await self._compensate([("needs-human", {_STUCK: _why_stuck(name, ended)})])
        return _succeeded(name, ended)


# --- what both do ----------------------------------------------------------------------------------------------------


def _advance(flow: Generator[Wanted, Any, Any], answer: Any) -> Wanted:
    return flow.throw(answer) if isinstance(answer, TaskFailed) else flow.send(answer)


def _scope() -> Scope:
    scope = current_scope()
    assert scope is not None, "a machine is driven in the body of its saga"
    return scope


def _recorded(task: Invoke) -> Call:
    wanted = task.task
    if isinstance(wanted, ServiceTask):
        return {"service": wanted.service, "method": wanted.method, "arguments": list(task.arguments)}
    return {"script": wanted.script_type, "content": wanted.content, "arguments": list(task.arguments)}


def _heard(outcome: Call) -> Any:
    raised = outcome.get("raised")
    return outcome["result"] if raised is None else TaskFailed(Raised(tuple(raised["names"]), raised["message"]))


def _named(error: Exception) -> dict[str, Any]:
    """An error as definitions name it: its class and those that it inherits from, with and without their modules."""
    classes = [one for one in type(error).__mro__ if issubclass(one, Exception)]
    names = [name for one in classes for name in (f"{one.__module__}.{one.__qualname__}", one.__name__)]
    return {"names": list(dict.fromkeys(names)), "message": str(error)[:2000]}


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _compensation(saga_run: SagaRun, name: str, scope: Scope, tasks: Sequence[tuple[str, Call]]) -> Flow[None]:
    """Compensate in the order of `tasks`. All are noted before the first, so whoever goes on knows what is left."""
    keys = [scope.at(f"{name}.{key}") for key, _ in tasks]
    for key, (_, arguments) in reversed(list(zip(keys, tasks, strict=True))):
        if key not in saga_run.entries:
            wanted = StepEnded(name, arguments, reason="it is to be compensated", error_type="Compensation")
            yield from durable.record(saga_run, key, wanted)
    for key in keys:
        yield from durable.undo(saga_run, key)


def _check_stuck(context: UndoContext) -> None:
    if _STUCK in context.arguments:
        raise RuntimeError(str(context[_STUCK]))


def _why_stuck(name: str, ended: Ended) -> str:
    return f"state machine {name} is neither done nor undone: {ended.message or 'a change has no compensation'}"


def _succeeded(name: str, ended: Ended) -> dict[str, Value]:
    if ended.status is not ExecutionStatus.SUCCEEDED:
        raise StateMachineFailed(name, ended)
    return dict(ended.variables)
