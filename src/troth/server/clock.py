"""The coordinator's one clock: milliseconds since the epoch at start, then the monotonic clock, so never back."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the engine asks for the time; tests and the simulator bring their own."""

    def now_ms(self) -> int:
        """Integer milliseconds since the Unix epoch, never smaller than before."""
        ...

    def not_before(self, floor_ms: int) -> None:
        """From now on it says at least `floor_ms`: so much an earlier life of the coordinator has seen already."""
        ...


class SteadyClock:
    """Wall time at start plus what the monotonic clock has counted since: a stepped wall clock times nothing out."""

    def __init__(self) -> None:
        self._offset_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000

    def not_before(self, floor_ms: int) -> None:
        self._offset_ms += max(0, floor_ms - self.now_ms())

    def now_ms(self) -> int:
        return self._offset_ms + time.monotonic_ns() // 1_000_000
