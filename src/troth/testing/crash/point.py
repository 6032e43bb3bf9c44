"""What a crash point is, and what happens when it is reached."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Hit = Callable[[], None]
"""Called at the point. Returns if it is not yet the one at which to die."""


class Role(StrEnum):
    """Whose process dies."""

    TC = "coordinator (TC)"
    RM = "resource manager (RM)"
    TM = "transaction manager (TM)"


@dataclass(frozen=True, slots=True)
class Point:
    """One named moment; `sentence` says how things stand when the process dies there."""

    name: str
    role: Role
    sentence: str
    attach: Callable[[Hit], None]
    """Hooks it into this process. Raises SeamGone if the program has changed under it."""


class Trigger:
    """Counts how often a point is reached; at the `nth` time the process dies by SIGKILL. 0: it only counts."""

    def __init__(self, name: str, nth: int) -> None:
        self.name = name
        self.hits = 0
        self._nth = nth

    def __call__(self) -> None:
        """The point is reached."""
        self.hits += 1
        if self.hits == self._nth:
            os.write(2, f"troth.testing.crash: {self.name} reached {self.hits} times, SIGKILL\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # no other thread goes on for long, and this one not at all
