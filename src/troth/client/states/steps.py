"""What a running state machine yields, is sent, and ends with."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from troth.client.states.definition import ExecutionStatus, ScriptTask, ServiceTask
from troth.client.states.values import Raised, Value

LONGEST_KEY: Final = 160


class TaskFailed(Exception):
    """Thrown into the generator in place of a result: the task raised."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.message)
        self.raised = raised


@dataclass(frozen=True, slots=True)
class Invoke:
    """Run a task, after `delay_s` seconds. `key` is the same in every run, and of letters, digits and `. _ - < >`."""

    key: str
    task: ServiceTask | ScriptTask
    arguments: Sequence[Value]
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Compensate:
    """Run these tasks in this order; each must be tried until it succeeds. Send whether all have."""

    tasks: Sequence[Invoke]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Run these flows side by side, at most `limit` at a time, to their ends. They raise nothing, and give nothing."""

    flows: Sequence[Run]
    limit: int


Step: TypeAlias = Invoke | Compensate | Parallel
Run: TypeAlias = Generator[Step, Any, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a machine ended. `compensation` is None where nothing was compensated.

    `status` SU: done. Else all is undone if `compensation` is SU, or nothing was done if `status` is FA without one;
    anything else needs a person.
    """

    status: ExecutionStatus
    compensation: ExecutionStatus | None
    variables: Mapping[str, Value]
    error_code: str = ""
    message: str = ""
    raised: Raised | None = None

    @property
    def needs_human(self) -> bool:
        """It is neither done nor undone."""
        succeeded, failed = ExecutionStatus.SUCCEEDED, ExecutionStatus.FAILED
        undone = self.compensation is succeeded or (self.compensation is None and self.status is failed)
        return self.status is not succeeded and not undone


def bounded(key: str) -> str:
    """`key`, or where it is too long its beginning and its digest."""
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[: LONGEST_KEY - 33]}-{hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()}"
