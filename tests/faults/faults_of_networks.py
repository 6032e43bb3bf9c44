"""Partitions: a side is cut off by resets, or by a silence in which nothing is lost and nothing arrives."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from bank import TMS, Bank
from bank_settings import BANKS
from fault import Fault, again_and_again


def partition(names: tuple[str, ...], *, one: bool) -> Callable[[Bank, random.Random, float], int]:
    """Cut off all of `names` or `one` of them, silently or not, for shorter and longer than patience lasts."""

    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            cut = (chance.choice(names),) if one else names
            bank.proxy.cut(*cut, silent=chance.random() < 0.5)
            time.sleep(chance.choice((0.3, 1.0, 2.5)))
            bank.proxy.heal()
            time.sleep(chance.uniform(0.1, 0.5))

        return again_and_again(during_s, once)

    return strike


FAULTS = (
    Fault("partition-tc-rm", "one service cut off from the coordinator", partition(BANKS, one=True)),
    Fault("partition-tm-tc", "programs cut off from the coordinator", partition(TMS, one=False)),
    Fault("partition-tc-all", "coordinator cut off from everybody", partition((*BANKS, *TMS), one=False)),
)
