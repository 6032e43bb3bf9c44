"""Messages that are lost, doubled, late or overtaken: the first of each kind for sure, then some at random."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from bank import Bank
from fault import STRIKE_WITHIN_S, Fault
from fault_proxy import LOST, PASSES, Fate, Passing

from fixtures_coordinator import until

KINDS = frozenset(
    f"{verb}{half}"
    for verb in ("GlobalBegin", "BranchRegister", "GlobalCommit", "GlobalRollback", "BranchCommit", "BranchRollback")
    for half in ("Request", "Response")
)
"""Every kind of message of a transfer; heartbeats and registrations are struck by chance as well."""


class Weather:
    """Strikes frames; the first of each kind always."""

    def __init__(self, share: float, chance: random.Random, fate: Callable[[random.Random], Fate]) -> None:
        self._share, self._chance, self._fate = share, chance, fate
        self.struck: Counter[str] = Counter()

    def __call__(self, passing: Passing) -> Fate:
        if self.struck[passing.kind] and self._chance.random() >= self._share:
            return PASSES
        self.struck[passing.kind] += 1
        return self._fate(self._chance)

    def missed(self) -> frozenset[str]:
        return KINDS - self.struck.keys()


def weather(share: float, fate: Callable[[random.Random], Fate]) -> Callable[[Bank, random.Random, float], int]:
    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        rule = Weather(share, random.Random(chance.random()), fate)
        bank.proxy.rule = rule
        time.sleep(during_s)
        until(lambda: not rule.missed(), STRIKE_WITHIN_S, "every kind of message has been struck")
        return rule.struck.total()

    return strike


def lose(_: random.Random) -> Fate:
    return LOST


def double(chance: random.Random) -> Fate:
    return Fate((0.0, chance.choice((0.0, 0.005, 0.05, 0.5))))


def delay(chance: random.Random) -> Fate:
    return Fate(hold_s=chance.choice((0.02, 0.1, 0.4)))


def overtake(chance: random.Random) -> Fate:
    return Fate((chance.choice((0.005, 0.02, 0.1, 0.6)),))


FAULTS = (
    Fault("messages-lost", "each kind of message lost, then 3 % of all", weather(0.03, lose)),
    Fault("messages-doubled", "each kind of message doubled, then 30 % of all", weather(0.3, double)),
    Fault("messages-delayed", "each kind of message held, then 10 % of all, up to 0.4 s", weather(0.1, delay)),
    Fault("messages-reordered", "each kind of message overtaken, then 30 % of all", weather(0.3, overtake)),
)
