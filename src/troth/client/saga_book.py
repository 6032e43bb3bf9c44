"""The steps of this process by their names: records name them, and who goes on with a saga must find them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from troth.client.saga_step import Step


class StepBook:
    """Name → step. Thread-safe. A step that is declared again (a reloaded module) takes its own place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, Step[Any, Any]] = {}

    def add(self, step: Step[Any, Any]) -> None:
        """Raises ValueError: another function has the name."""
        place = _place(step)
        with self._lock:
            there = self._steps.get(step.name)
            if there is not None and _place(there) != place:
                raise ValueError(
                    f"two steps are named {step.name!r}: {_place(there)} and {place}; give one another name="
                )
            self._steps[step.name] = step

    def forget(self, step: Step[Any, Any]) -> None:
        """Give its name free (tests declare steps again and again)."""
        with self._lock:
            if self._steps.get(step.name) is step:
                del self._steps[step.name]

    def find(self, name: str) -> Step[Any, Any] | None:
        """The step of that name, if this process has it."""
        return self._steps.get(name)


def _place(step: Step[Any, Any]) -> str:
    return f"{step.function.__module__}.{step.function.__qualname__}"


BOOK: Final = StepBook()
