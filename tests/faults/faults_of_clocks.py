"""The wall clock of the coordinator's process is set, while it runs and between two of its lives."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from bank import Bank
from fault import Fault, again_and_again
from faults_of_stores import no_preload

_STEPS_MS = (900, 10_000, 3_600_000, 86_400_000)


def stepped(sign: int) -> Callable[[Bank, random.Random, float], int]:
    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            bank.control.set(clock_shift_ms=sign * chance.choice(_STEPS_MS))
            time.sleep(chance.uniform(0.2, 0.5))
            if chance.random() < 0.7:
                bank.kill_coordinator()
                bank.restart_coordinator()
                time.sleep(chance.uniform(0.2, 0.5))
            bank.control.set(clock_shift_ms=0)
            time.sleep(chance.uniform(0.05, 0.3))

        before = bank.control.get("struck")
        count = again_and_again(during_s, once)
        assert bank.control.get("struck") > before, "the coordinator never asked for the time that was stepped"
        return count

    return strike


FAULTS = (
    Fault("clock-forward", "the coordinator's clock jumps up to a day ahead, and back", stepped(1), no_preload),
    Fault("clock-back", "the coordinator's clock jumps up to a day back, and ahead", stepped(-1), no_preload),
)
