"""Which faults a seed brings, and how often each has struck. Every fault has a name here and nowhere else.

A seed draws which kinds of fault it has at all, and how often they come: runs with few kinds see deeper into them than
runs in which everything goes wrong at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import MappingProxyType

RATES = MappingProxyType(
    {
        # network, for each message
        "message delayed": 0.03,
        "message lost with its connection": 0.006,
        "connection cut behind a message": 0.006,
        "message split": 0.05,
        "half-open silence": 0.004,
        # the store, for each batch
        "store failed": 0.006,
        "commit applied, answer lost": 0.006,
        "coordinator killed before the write": 0.006,
        "coordinator killed between write and effects": 0.006,
        "coordinator killed among its answers": 0.006,
        # a store that two coordinators share, for each batch
        "commit applied late": 0.02,
        # what comes over the world now and then, for each look at it
        "partition": 0.05,
        "coordinator killed": 0.04,
        "coordinator stopped politely": 0.03,
        "leader paused": 0.06,
        "store slow": 0.05,
        "store full": 0.03,
        "store read-only": 0.03,
        "RM killed": 0.05,
        "TM killed": 0.04,
        "garbage bytes": 0.05,
        "stray event": 0.3,
        "late question": 0.3,
        # at a start of the coordinator
        "clock stepped back": 0.3,
        "clock stepped forward": 0.3,
        # resource managers, for each branch
        "RM killed before the local commit": 0.02,
        "RM killed after the local commit": 0.02,
        "RM killed after the undo": 0.04,
        "RM killed before the undo": 0.03,
        "undo log deleted, RM killed": 0.02,
        "local commit failed": 0.04,
        "local commit threw, but was applied": 0.04,
        "phase one late": 0.04,
        "connection cut during a registration": 0.04,
        "phase two failed": 0.08,
        "phase two refused": 0.03,
        "phase two unanswered": 0.04,
        "phase two answered twice": 0.08,
        "phase two slow": 0.04,
        "successor on another host": 0.3,
        # transaction managers, for each transaction
        "TM killed before the commit call": 0.03,
        "TM killed after the commit call": 0.03,
        "transaction abandoned": 0.05,
        "commit at the timeout": 0.06,
        "work at the timeout": 0.05,
        "rolled back with work under way": 0.05,
        "request asked again": 0.15,
        "participant voted": 0.06,
        "poisoned value": 0.05,
        "branch without local work": 0.1,
        "failed branch, commit asked": 0.5,
        # services that the coordinator calls itself, for each call
        "step call lost": 0.03,
        "step call late": 0.03,
        "step answer lost": 0.03,
        "step answer late": 0.03,
        "step refused": 0.06,
        "step served by nobody": 0.15,
        "step ongoing": 0.06,
        "step failed": 0.2,
        "step failed, but ran": 0.05,
        # programs that begin sagas, messages and runs
        "request to the door lost": 0.03,
        "answer of the door lost": 0.04,
        "sender slow": 0.3,
        "sender killed after its local commit": 0.05,
        "run slow": 0.08,
        "run killed before it tells": 0.04,
        "runner killed": 0.12,
        # people, and the very moment of a timeout
        "stopped by an operator": 0.04,
        "request at the very timeout": 0.15,
    }
)
"""How likely each is wherever it may strike, in a run of ordinary violence."""

ALWAYS = frozenset(
    {
        *("stray event", "late question", "request asked again", "failed branch, commit asked", "participant voted"),
        *("step refused", "step ongoing", "sender slow", "request at the very timeout", "stopped by an operator"),
    }
)
"""These break nothing by themselves: every run has them."""

BY_ITSELF = (
    "messages reordered",
    "requests merged",
    "branch committed by SQL",
    "branch undone by SQL",
    "cell taken over",
)
"""These come of themselves; they are only counted."""


class Weather:
    """The faults of one run. `strikes(name)` is asked wherever a fault may happen."""

    def __init__(self, rng: random.Random, violence: float, note: Callable[[str], None]) -> None:
        self.struck: Counter[str] = Counter()
        self.calm = False
        self.last_s = 0.0
        self._rng = rng
        self._note = note
        kinds = rng.choice((0.15, 0.3, 0.6))
        self.rates = {
            name: min(rate * violence * rng.choice((0.5, 1.0, 2.0)), 0.9)
            for name, rate in RATES.items()
            if name in ALWAYS or rng.random() < kinds
        }

    def strikes(self, name: str) -> bool:
        """True if this fault happens here and now; counted then, and noted in the timeline."""
        rate = self.rates.get(name, 0.0)
        if self.calm or rate == 0.0 or self._rng.random() >= rate:
            return False
        self.count(name)
        return True

    def count(self, name: str) -> None:
        """`name` has happened."""
        self.struck[name] += 1
        if name not in BY_ITSELF:
            self._note(name)
