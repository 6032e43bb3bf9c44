"""A process that starts the purchase of examples/state_machine, or serves it for others; it may die inside a call.

    state_machine_worker.py COORDINATOR LEDGER run|serve [--fail] [--die N]

`--die N`: by SIGKILL inside the Nth call of a service, after its effect. Effects are rows of LEDGER under their order.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path

import troth

DEFINITION = Path(__file__).parents[2] / "examples" / "state_machine" / "purchase.json"
ITEMS = [{"commodity": "apple", "count": 2}, {"commodity": "pear", "count": 1}]


class NotEnoughMoney(Exception):
    """As the definition names it."""


class Services:
    """All three services, over one ledger: an effect that is there already is no second one."""

    def __init__(self, path: str, die: int, failing: bool) -> None:
        self.path = path
        self.die = die
        self.failing = failing
        self.calls = itertools.count(1)
        with sqlite3.connect(path, timeout=20) as db:
            db.execute("CREATE TABLE IF NOT EXISTS effects(n INTEGER PRIMARY KEY, what TEXT UNIQUE)")

    def do(self, what: str) -> None:
        db = sqlite3.connect(self.path, timeout=20)
        with db:
            db.execute("INSERT OR IGNORE INTO effects(what) VALUES (?)", (what,))
        db.close()
        if next(self.calls) == self.die:
            os.kill(os.getpid(), signal.SIGKILL)

    def reserve(self, order: str, commodity: str, count: int) -> int:
        self.do(f"reserve {commodity}")
        return 10 * count

    def release(self, order: str, commodity: str, count: int) -> None:
        self.do(f"release {commodity}")

    def ask(self, order: str) -> bool:
        return True

    def debit(self, order: str, prices: list[int]) -> int:
        self.do("debit")
        if self.failing:
            raise NotEnoughMoney("broke")
        return sum(prices)

    def credit(self, order: str) -> None:
        self.do("credit")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator")
    parser.add_argument("ledger")
    parser.add_argument("role", choices=["run", "serve"])
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--die", type=int, default=0)
    options = parser.parse_args()
    troth.init(options.coordinator, "shop")
    services = Services(options.ledger, options.die, options.fail)
    every = troth.MachineOptions(check_every=timedelta(milliseconds=300))
    by_name = {"stock": services, "account": services, "approval": services}
    machines = troth.StateMachines(by_name, [DEFINITION.read_text()], options=every)
    print("ready", flush=True)
    if options.role == "run":
        machines.start("purchase", {"items": ITEMS}, business_key="order-1")
    sys.stdin.read()


if __name__ == "__main__":
    main()
