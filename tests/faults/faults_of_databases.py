"""The banks' own databases crash and pause; the coordinator and the services live on."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from bank import Bank
from fault import Fault, again_and_again


def crashed(name: str, number: signal.Signals) -> Callable[[Bank, random.Random, float], int]:
    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            time.sleep(chance.uniform(0.05, 0.4))
            bank.servers[name].crash(number)
            bank.servers[name].start()

        return again_and_again(during_s, once)

    return strike


def paused(name: str) -> Callable[[Bank, random.Random, float], int]:
    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            time.sleep(chance.uniform(0.05, 0.4))
            bank.servers[name].pause()
            time.sleep(chance.choice((0.5, 2.0, 5.0)))
            bank.servers[name].resume()

        return again_and_again(during_s, once)

    return strike


FAULTS = (
    Fault("postgres-crashed", "PostgreSQL: immediate shutdown and recovery", crashed("post", signal.SIGQUIT)),
    Fault("mariadb-crashed", "MariaDB: kill -9 and recovery", crashed("maria", signal.SIGKILL)),
    Fault("postgres-paused", "PostgreSQL stopped (SIGSTOP) up to 5 s", paused("post")),
    Fault("mariadb-paused", "MariaDB stopped (SIGSTOP) up to 5 s", paused("maria")),
)
