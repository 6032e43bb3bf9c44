"""A state machine as Seata's state language describes it: states, and how each leads to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from troth.client.states.values import Template, Test


class ExecutionStatus(Enum):
    """How a state, or a whole machine, ended. The names are Seata's."""

    RUNNING = "RU"
    SUCCEEDED = "SU"
    FAILED = "FA"
    """It has done nothing."""
    UNKNOWN = "UN"
    """It may have done something."""
    SKIPPED = "SK"


class Recovery(Enum):
    """What to do with a machine that ended `UNKNOWN`."""

    COMPENSATE = "Compensate"
    FORWARD = "Forward"


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after one of `exceptions` (none named: any), at most `max_attempts` times, ever more slowly."""

    exceptions: tuple[str, ...]
    interval_s: float
    backoff_rate: float
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Catch:
    """Go to `next` for one of `exceptions`."""

    exceptions: tuple[str, ...]
    next: str


@dataclass(frozen=True, slots=True)
class Loop:
    """Run the state once for each element, at most `parallel` at a time, until all are done or `completion` holds."""

    collection: Template
    parallel: int
    element_name: str
    index_name: str
    completion: Test | None


@dataclass(frozen=True, slots=True)
class Task:
    """What all states that do something have.

    `for_update`: it changes something, so an exception leaves it UNKNOWN, not FAILED. `status` are tests of the result,
    or of the exception, with the status that the first one that holds gives.
    """

    name: str
    input: tuple[Template, ...] = ()
    output: Mapping[str, Template] = field(default_factory=dict)
    status: tuple[tuple[Test, ExecutionStatus], ...] = ()
    retry: tuple[Retry, ...] = ()
    catch: tuple[Catch, ...] = ()
    loop: Loop | None = None
    compensate_state: str | None = None
    for_update: bool = False
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceTask(Task):
    """Calls `method` of the service registered as `service`."""

    service: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True)
class ScriptTask(Task):
    """Runs `content` by the script engine registered for `script_type`."""

    script_type: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class SubStateMachine(Task):
    """Runs the machine registered as `machine`; without a compensation state it is compensated as a whole."""

    machine: str = ""


@dataclass(frozen=True, slots=True)
class CompensateSubMachine(Task):
    """Compensates the sub-machine whose state names it, with parameters of its own."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Goes where the first test that holds points."""

    name: str
    choices: tuple[tuple[Test, str], ...]
    default: str | None


@dataclass(frozen=True, slots=True)
class CompensationTrigger:
    """Compensates what was done so far, newest first, then goes on to `next`."""

    name: str
    next: str | None


@dataclass(frozen=True, slots=True)
class Succeed:
    """The end."""

    name: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The end, with an error for the caller."""

    name: str
    error_code: str
    message: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Runs the chains that begin at `branches` side by side, at most `parallel` at a time, up to their Join."""

    name: str
    branches: tuple[str, ...]
    parallel: int
    join: str


@dataclass(frozen=True, slots=True)
class Join:
    """Where the chains of a fork meet."""

    name: str
    next: str | None


State: TypeAlias = Task | Choice | CompensationTrigger | Succeed | Fail | Fork | Join


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A definition that has been checked: every name in it leads to a state."""

    name: str
    version: str
    comment: str
    start: str
    states: Mapping[str, State]
    recovery: Recovery
    source: Mapping[str, Any]
