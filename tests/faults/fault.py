"""A fault: its name, what it does, and the function that does it for a while to a bank under load."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bank import Bank
from fault_proxy import LOST, PASSES, Fate, Passing

STRIKE_WITHIN_S = 15.0
"""How long a fault that waits for its moment waits; the load makes every moment come within a second or so."""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    strike: Callable[[Bank, random.Random, float], int]
    needs: Callable[[], str | None] = lambda: None
    """Why it cannot be run here, or None."""


class Moment:
    """A frame of `kind` goes by, after `skip` others: `action` runs before it goes on, or is lost. Once only."""

    def __init__(self, kind: str, action: Callable[[Passing], None], *, lost: bool, skip: int = 0) -> None:
        self._kind, self._action, self._lost, self._skip = kind, action, lost, skip
        self.came = threading.Event()

    def __call__(self, passing: Passing) -> Fate:
        if passing.kind != self._kind or self.came.is_set():
            return PASSES
        if self._skip:
            self._skip -= 1
            return PASSES
        self._action(passing)
        self.came.set()
        return LOST if self._lost else PASSES

    def wait(self) -> None:
        assert self.came.wait(STRIKE_WITHIN_S), f"no {self._kind} went by within {STRIKE_WITHIN_S} s"


def again_and_again(during_s: float, once: Callable[[], None]) -> int:
    """Strike at least once, and until the time is over; how often."""
    until, count = time.monotonic() + during_s, 0
    while not count or time.monotonic() < until:
        once()
        count += 1
    return count
