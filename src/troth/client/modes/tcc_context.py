"""What a confirm or cancel knows of its try: Seata's `applicationData`, as JSON under the key `actionContext`.

Java writes the parameters of the try by name beside some entries of its own; so do we, and either side reads the
other's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from troth.client.errors import BranchFailed, NotSupported

LARGEST_BYTES: Final = 64_000
"""Seata refuses a branch whose applicationData is longer."""

_ROOT: Final = "actionContext"
_NAME: Final = "actionName"
_START: Final = "action-start-time"
_HOST: Final = "host-name"
_FENCE: Final = "useTCCFence"
_PREPARE: Final = "sys::prepare"
_COMMIT: Final = "sys::commit"
_ROLLBACK: Final = "sys::rollback"
_RESULT: Final = "troth::result"
_RESERVED: Final = frozenset({_NAME, _START, _HOST, _FENCE, _PREPARE, _COMMIT, _ROLLBACK, _RESULT})


@dataclass(frozen=True, slots=True)
class ActionContext:
    """One branch of one action; the first argument of its try, confirm and cancel.

    `arguments` are those of the try, by name, as JSON gives them back (a tuple has become a list). `result` is what the
    try returned: None during the try, and in a cancel whose try did not end well. `connection` is the connection of the
    fence: what is done on it commits together with the fence's row. None where there is no fence.
    """

    xid: str
    branch_id: int
    action: str
    arguments: Mapping[str, Any]
    result: Any = None
    connection: Any = None

    def __getitem__(self, name: str) -> Any:
        """An argument of the try. Raises KeyError."""
        return self.arguments[name]


@dataclass(frozen=True, slots=True)
class Written:
    """The applicationData of one branch, before its try."""

    entries: Mapping[str, object]

    def text(self) -> str:
        """Seata's JSON. Raises NotSupported if it is too long."""
        text = json.dumps({_ROOT: dict(self.entries)}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode("utf-8"))
        if size > LARGEST_BYTES:
            raise NotSupported(
                f"the context of {self.entries[_NAME]} takes {size} bytes, and a coordinator takes {LARGEST_BYTES}.",
                "Pass a key, and keep the data in the action's database.",
            )
        return text

    def with_result(self, result: object) -> Written:
        """The same, with what the try returned. Raises NotSupported if JSON cannot hold it."""
        _check(result, f"what the try of {self.entries[_NAME]} returned", "result")
        return Written({**self.entries, _RESULT: result})


@dataclass(frozen=True, slots=True)
class Verbs:
    """The names of an action's three functions, for whoever reads the context."""

    try_: str
    confirm: str
    cancel: str


def check_parameters(action: str, names: list[str]) -> None:
    """Raises NotSupported for a parameter that the context uses itself."""
    taken = _RESERVED.intersection(names)
    if taken:
        raise NotSupported(f"{action}: a parameter cannot be named {', '.join(sorted(taken))}.", "Rename it.")


def written(
    action: str, arguments: Mapping[str, object], verbs: Verbs, *, fenced: bool, now_ms: int, host: str
) -> Written:
    """The context of a try that is about to begin.

    Raises NotSupported: an argument cannot be held by JSON; nothing has been done yet.
    """
    for name, value in arguments.items():
        _check(value, f"the argument {name!r} of {action}", name)
    own = {
        _NAME: action,
        _START: now_ms,
        _HOST: host,
        _FENCE: fenced,
        _PREPARE: verbs.try_,
        _COMMIT: verbs.confirm,
        _ROLLBACK: verbs.cancel,
    }
    return Written({**arguments, **own})


@dataclass(frozen=True, slots=True)
class Read:
    """An applicationData that came back."""

    arguments: Mapping[str, Any]
    result: Any
    fenced: bool


def read(text: str | None, *, fenced: bool) -> Read:
    """What phase two was given. `fenced`: what to take where it does not say. Raises BranchFailed: not a context."""
    try:
        entries = json.loads(text or "{}")[_ROOT]
        own = bool(entries.get(_FENCE, fenced))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BranchFailed(f"the branch's applicationData is not the context of an action: {text!r:.200}") from error
    arguments = {name: value for name, value in entries.items() if name not in _RESERVED}
    return Read(arguments, entries.get(_RESULT), own)


def _check(value: object, what: str, path: str) -> None:
    """Raises NotSupported where the confirm would get something else than what is here."""
    match value:
        case None | bool() | int():
            return
        case float():
            if not isfinite(value):
                raise _refused(value, what, path)
        case str():
            if not value.isascii() and value.encode("utf-8", "replace").decode("utf-8") != value:
                raise _refused(value, what, path)
        case list() | tuple():
            for place, item in enumerate(value):
                _check(item, what, f"{path}[{place}]")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise _refused(key, what, f"a key of {path}")
                _check(item, what, f"{path}[{key!r}]")
        case _:
            raise _refused(value, what, path)


def _refused(value: object, what: str, path: str) -> NotSupported:
    return NotSupported(
        f"{what} does not serialise: {path} is {value!r:.80} ({type(value).__name__}), and the context is JSON.",
        "Pass None, bool, int, a finite float, str, list, or dict with str keys; for a Decimal or a date its text.",
    )
