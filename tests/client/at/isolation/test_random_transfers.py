"""Random transfers by many clients over three databases at once, half of them undone; then the history is checked."""

from __future__ import annotations

import random
import threading
from collections import defaultdict

import pytest

import troth
from troth.client.errors import LockConflict

pytestmark = pytest.mark.engines

ACCOUNTS = 4
AT_START = 1000
SEEDS = [pytest.param(1, 4, 8), *(pytest.param(seed, 8, 60, marks=pytest.mark.soak) for seed in range(2, 8))]


class Undo(Exception):
    pass


class History:
    """For each row, the writes of committed transactions: (value before, value after)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.writes: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self.ended = {"committed": 0, "undone": 0, "refused": 0}

    def end(self, how: str, writes: list[tuple[tuple[str, int], int, int]]) -> None:
        with self._lock:
            self.ended[how] += 1
            for row, before, after in writes:
                self.writes[row].append((before, after))

    def check(self, row: tuple[str, int], final: int) -> None:
        """The writes are one chain from the first value to the last: each saw what its predecessor left.

        Amounts are drawn from so many that no value comes twice: so the values alone tell the order.
        """
        step = dict(self.writes[row])
        assert len(step) == len(self.writes[row]), f"two writes of {row} saw the same value: {self.writes[row]}"
        value, steps = AT_START, 0
        while value in step:
            value, steps = step.pop(value), steps + 1
        assert not step, f"writes of {row} that saw a value nobody left: {step}"
        assert value == final


def move(shops, connections, drawn, amount):
    """Move `amount` between two rows of two databases (or of one); what it read and wrote, row by row."""
    sides = sorted(drawn.sample([(engine, account) for engine in shops for account in range(1, ACCOUNTS + 1)], 2))
    writes = []
    for (engine, account), change in zip(sides, drawn.sample([-amount, amount], 2), strict=True):
        connection = connections[engine]
        connection.run("UPDATE account SET balance = balance + %s WHERE id = %s", change, account)
        after = connection.balance(account)
        connection.commit()
        writes.append(((engine, account), after - change, after))
    return writes


def work(shops, history, seed, place, times):
    drawn = random.Random(f"{seed}-{place}")
    connections = {engine: shop.connect() for engine, shop in shops.items()}
    for turn in range(times):
        level = drawn.choice(["read_committed", "read_uncommitted"])
        undo = drawn.random() < 0.5
        writes: list[tuple[tuple[str, int], int, int]] = []
        try:
            with troth.transaction(name=f"transfer {seed}-{place}-{turn}", isolation=level):
                writes = move(shops, connections, drawn, drawn.randrange(1, 2**40))
                if undo:
                    raise Undo
        except Undo:
            history.end("undone", [])
        except LockConflict:
            history.end("refused", [])
        else:
            history.end("committed", writes)
        finally:
            for connection in connections.values():
                connection.rollback()


@pytest.mark.parametrize(("seed", "clients", "times"), SEEDS)
def test_random_transfers(new_shop, seed, clients, times):
    print(f"seed {seed}")
    shops = {engine: new_shop(engine) for engine in ("sqlite", "postgresql", "mysql")}
    for shop in shops.values():
        shop.run("DELETE FROM account")
        for account in range(1, ACCOUNTS + 1):
            shop.run("INSERT INTO account VALUES (%s, 'x', %s)", account, AT_START)
    history, failures = History(), []

    def client(place):
        try:
            work(shops, history, seed, place, times)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=client, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert failures == []
    print(history.ended)
    assert sum(history.ended.values()) == clients * times
    assert min(history.ended["committed"], history.ended["undone"]) > 0
    total = 0
    for engine, shop in shops.items():
        for account in range(1, ACCOUNTS + 1):
            history.check((engine, account), shop.balance(account))
            total += shop.balance(account)
        shop.close()
    assert total == AT_START * ACCOUNTS * len(shops)
