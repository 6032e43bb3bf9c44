"""A client process that moves money between two banks at random and undoes half of it; run by `test_transfers.py`.

Prints one JSON object when all transfers are done, then serves phase two until standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import troth

ACCOUNTS = 200
"""Accounts at each bank."""

TIMEOUT = timedelta(seconds=120)
MAX_TRIES = 100
BUSY_S = 60.0
"""SQLite has one writer a file: how long one waits for the others. (Its own five seconds are not fair to all.)"""
TAKE = "UPDATE account SET balance = balance - ? WHERE id = ?"
GIVE = "UPDATE account SET balance = balance + ? WHERE id = ?"


class NotWanted(Exception):
    """The half that is undone."""


@dataclass
class Report:
    """What this process believes: the deltas of what was committed, and how the rest ended."""

    committed: list[tuple[str, int, int]] = field(default_factory=list)
    """(bank, account, delta)"""
    commits: int = 0
    undone: int = 0
    conflicts: int = 0
    """Tries that were rolled back because another transaction held a row for too long; each was repeated."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def shown(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("committed", "commits", "undone", "conflicts")}


@dataclass(frozen=True)
class Transfer:
    source: str
    source_account: int
    target: str
    target_account: int
    amount: int
    wanted: bool

    @property
    def deltas(self) -> list[tuple[str, int, int]]:
        return [(self.source, self.source_account, -self.amount), (self.target, self.target_account, self.amount)]


def draw(chance: random.Random, banks: list[str], number: int) -> Transfer:
    source, target = chance.sample(banks, 2)
    accounts = chance.randint(1, ACCOUNTS), chance.randint(1, ACCOUNTS)
    return Transfer(source, accounts[0], target, accounts[1], chance.randint(1, 50), wanted=number % 2 == 0)


@contextmanager
def booked(report: Report, transfer: Transfer) -> Iterator[None]:
    """Write down how a try ended; any error but the three expected ends is a failure of this process."""
    try:
        yield
    except NotWanted:
        with report.lock:
            report.undone += 1
    except troth.LockConflict:
        with report.lock:
            report.conflicts += 1
        raise
    else:
        with report.lock:
            report.commits += 1
            report.committed += transfer.deltas


def pause_s(chance: random.Random, tries: int) -> float:
    """How long to wait after a conflict; raises when it is enough."""
    if tries == MAX_TRIES:
        raise RuntimeError(f"a transfer met {MAX_TRIES} lock conflicts one after the other")
    return chance.uniform(0.005, 0.02 * tries)


# --- three ways to do it ---


def by_connection(bank: str, statement: str, values: tuple[int, int]) -> None:
    with closing(troth.at.connect(bank, timeout=BUSY_S)) as connection:
        connection.execute(statement, values)
        connection.commit()


def by_autocommit(bank: str, statement: str, values: tuple[int, int]) -> None:
    with closing(troth.at.connect(bank, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute(statement, values)


def by_engine(engines: dict[str, Any], bank: str, statement: str, values: tuple[int, int]) -> None:
    with engines[bank].begin() as connection:
        connection.exec_driver_sql(statement, values)


def transfer_sync(change: Any, transfer: Transfer) -> None:
    with troth.transaction(name="transfer", timeout=TIMEOUT):
        change(transfer.source, TAKE, (transfer.amount, transfer.source_account))
        change(transfer.target, GIVE, (transfer.amount, transfer.target_account))
        if not transfer.wanted:
            raise NotWanted


async def change_async(bank: str, statement: str, values: tuple[int, int]) -> None:
    connection = await troth.at.connect_async(bank, timeout=BUSY_S)
    try:
        await connection.execute(statement, values)
        await connection.commit()
    finally:
        await connection.close()


async def transfer_async(transfer: Transfer) -> None:
    async with troth.transaction(name="transfer", timeout=TIMEOUT):
        await change_async(transfer.source, TAKE, (transfer.amount, transfer.source_account))
        await change_async(transfer.target, GIVE, (transfer.amount, transfer.target_account))
        if not transfer.wanted:
            raise NotWanted


# --- many at a time ---


def run_threads(change: Any, chosen: argparse.Namespace, report: Report) -> None:
    def work(number: int) -> None:
        chance = random.Random(chosen.seed * 1000 + number)
        for count in range(chosen.transfers):
            transfer = draw(chance, chosen.bank, count)
            for tries in itertools.count(1):
                try:
                    with booked(report, transfer):
                        transfer_sync(change, transfer)
                    break
                except troth.LockConflict:
                    time.sleep(pause_s(chance, tries))

    with ThreadPoolExecutor(chosen.workers) as pool:
        for done in [pool.submit(work, number) for number in range(chosen.workers)]:
            done.result()


async def run_tasks(chosen: argparse.Namespace, report: Report) -> None:
    async def work(number: int) -> None:
        chance = random.Random(chosen.seed * 1000 + number)
        for count in range(chosen.transfers):
            transfer = draw(chance, chosen.bank, count)
            for tries in itertools.count(1):
                try:
                    with booked(report, transfer):
                        await transfer_async(transfer)
                    break
                except troth.LockConflict:
                    await asyncio.sleep(pause_s(chance, tries))

    async with asyncio.TaskGroup() as group:
        for number in range(chosen.workers):
            group.create_task(work(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("sync", "autocommit", "async", "sqlalchemy"))
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--bank", action="append", required=True, help="database URL; twice")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True, help="by each worker")
    chosen = parser.parse_args()
    report = Report()
    with troth.init(coordinator=chosen.coordinator, application=f"bank-{chosen.seed}"):
        if chosen.way == "sync":
            run_threads(by_connection, chosen, report)
        elif chosen.way == "autocommit":
            run_threads(by_autocommit, chosen, report)
        elif chosen.way == "async":
            asyncio.run(run_tasks(chosen, report))
        else:
            from troth.integrations.sqlalchemy import create_engine

            engines = {bank: create_engine(bank, connect_args={"timeout": BUSY_S}) for bank in chosen.bank}
            run_threads(partial(by_engine, engines), chosen, report)
        print(json.dumps(report.shown()), flush=True)
        sys.stdin.read()  # phase two is served until the test has seen its end


if __name__ == "__main__":
    main()
