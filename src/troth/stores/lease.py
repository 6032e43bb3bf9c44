"""What a leader knows of its lease: whose turn it is, and until when by a clock that also counts a machine's sleep."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import msgspec

Seconds = Callable[[], float]


def boottime_s() -> float:
    """Seconds of a clock that never steps and does not stop while the machine sleeps, where there is such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class LeaseTerms(msgspec.Struct, frozen=True):
    """How a candidate holds a cell: who it says it is (shown to operators), and for how long a lease is good."""

    holder: str = msgspec.field(default_factory=_this_process)
    ttl_s: float = 10.0


class Incumbent(msgspec.Struct, frozen=True):
    """Who leads instead; `left_s` by the store's clock, if the lease is not renewed."""

    holder: str
    epoch: int
    left_s: float


class Tenure:
    """One leader's turn. Its lease counts from before it was asked for, so it ends here before it ends in the store."""

    def __init__(self, epoch: int, node: int, ttl_s: float, asked_at_s: float, clock: Seconds) -> None:
        self.epoch = epoch
        self.node = node
        """0…1023, for ids (`server/ids.py`)."""
        self.ttl_s = ttl_s
        self._clock = clock
        self._until_s = asked_at_s + ttl_s

    @property
    def left_s(self) -> float:
        """Seconds until others may take over; negative once they may have."""
        return self._until_s - self._clock()

    @property
    def fresh(self) -> bool:
        """True while more than a third of the lease is left: so long, answers need no look at the store."""
        return self.left_s > self.ttl_s / 3

    def renewed(self, asked_at_s: float) -> None:
        """The store has agreed to a renewal that was sent at `asked_at_s`."""
        self._until_s = max(self._until_s, asked_at_s + self.ttl_s)
