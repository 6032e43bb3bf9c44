"""What is kept of a saga's run at the coordinator, as JSON: how each step ended, and what its compensation needs.

Results and arguments pass through JSON in the first run, too: what a step returns today is what the process that goes
on tomorrow reads from its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from troth.client.errors import NotSupported

LARGEST_BYTES: Final = 64_000
"""The coordinator takes no more of one record (its `limits.application_data_bytes`)."""
LONGEST_REASON: Final = 2_000
UNDO_MARK: Final = "~"
"""Before a step's key: it is compensated."""
ABORT_MARK: Final = "!"
"""Before a scope's key: what ran in it is being compensated, and its body is not run any more."""
TOP: Final = ""
"""The key of the whole saga, as a scope."""


class Started(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process needs to take a saga over: its arguments, by name, and its deadline (UTC, milliseconds)."""

    arguments: dict[str, Any]
    deadline_ms: int | None = None


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a step ended. `refused`: it failed and has left nothing behind. `reason` None: it did not fail."""

    step: str
    arguments: dict[str, Any] = {}
    result: Any = None
    reason: str | None = None
    error_type: str = ""
    refused: bool = False
    attempts: int = 1

    @property
    def failed(self) -> bool:
        """True if there is no result."""
        return self.reason is not None


class Undo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The applicationData of a branch whose rollback is a compensation. `settled`: there is nothing to compensate."""

    step: str
    key: str
    arguments: dict[str, Any] = {}
    result: Any = None
    known: bool = False
    settled: bool = False
    needs_human: bool = False


@dataclass(frozen=True, slots=True)
class StepContext:
    """Where a step is: `troth.current_step()` inside its function.

    `idempotency_key` is the same at every attempt of this step, in whatever process: hand it to the service that is
    called, so that a repetition has no second effect. `attempt` counts from 1 in this process.
    """

    xid: str
    step: str
    key: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """Names this step of this saga in the whole world."""
        return f"{self.xid}/{self.key}"


@dataclass(frozen=True, slots=True)
class UndoContext:
    """The one argument of a compensation.

    `arguments` are the step's, by name, as JSON gives them back; `result` what it returned. `known` False: nobody
    knows whether the step had its effect (its process died, its answer was lost, it raised): `result` is None then, and
    the compensation must bear that there is nothing to undo. `idempotency_key` is the same at each attempt, and
    `step_idempotency_key` is that of the step itself.
    """

    xid: str
    step: str
    key: str
    arguments: Mapping[str, Any]
    result: Any = None
    known: bool = True

    def __getitem__(self, name: str) -> Any:
        """An argument of the step. Raises KeyError."""
        return self.arguments[name]

    @property
    def step_idempotency_key(self) -> str:
        """What the step had as its idempotency key."""
        return f"{self.xid}/{self.key}"

    @property
    def idempotency_key(self) -> str:
        """Names this compensation in the whole world."""
        return f"{self.xid}/{self.key}/compensate"


def written(what: str, value: msgspec.Struct) -> str:
    """`value` as JSON.

    Raises NotSupported: JSON cannot hold it, or it is too long. `what` names it.
    """
    try:
        text = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, RecursionError) as error:
        raise NotSupported(
            f"{what} cannot be kept: {error}.", "Pass plain data: numbers, text, lists, dicts."
        ) from error
    if len(text) > LARGEST_BYTES:
        raise NotSupported(
            f"{what} takes {len(text)} bytes, and a coordinator takes {LARGEST_BYTES}.",
            "Pass a key, and keep the data in a database.",
        )
    return text.decode()


def builtins(what: str, value: Any) -> Any:
    """`value` as JSON gives it back. Raises NotSupported."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, RecursionError) as error:
        raise NotSupported(
            f"{what} cannot be kept: {error}.", "Pass plain data: numbers, text, lists, dicts."
        ) from error


def shaped(what: str, value: Any, wanted: Any) -> Any:
    """`value`, plain data, as the annotation `wanted` says. Raises NotSupported."""
    if wanted is None or wanted is Any:
        return value
    try:
        return msgspec.convert(value, wanted, strict=False)
    except (TypeError, msgspec.MsgspecError, RecursionError) as error:
        raise NotSupported(f"{what} cannot be read back as {wanted}: {error}.", "Change the annotation.") from error


def reason_of(error: BaseException) -> str:
    """An error's words, for a record: not too long, and nothing that no frame can carry."""
    return str(error)[:LONGEST_REASON].encode("utf-8", "replace").decode()
