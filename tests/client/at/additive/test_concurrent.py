"""Many clients on few hot rows, on each database, with a real coordinator: adders, exclusive writers, upgrades, half of
them rolled back. No row is ever below its floor, and what remains is the sum of what was committed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import troth

ROWS = 3
SEED = 20261122


class RolledBackOnPurpose(Exception):
    pass


@pytest.fixture
def client() -> Iterator[Any]:
    with troth.embedded(retry__min="20ms", retry__max="100ms", lock__hot_wait="100ms") as made:
        yield made


class Shop:
    """One client's random transactions. `net` is what each has changed, by row, until its outcome is known."""

    def __init__(self, hot: Any, client: Any, seed: int) -> None:
        self.hot = hot
        self.random = random.Random(seed)
        self.alone = hot.connect(client)
        self.several = hot.connect(client, autocommit=False)
        self.net: Counter[int] = Counter()
        self.committed: Counter[int] = Counter()
        self.ended: Counter[str] = Counter()

    def row(self) -> int:
        return self.random.randint(1, ROWS)

    def add(self, connection: Any, amount: int, row: int) -> None:
        sign = "+" if amount > 0 else "-"
        self.hot.execute(connection, f"UPDATE stock SET count = count {sign} ? WHERE id = ?", abs(amount), row)
        self.net[row] += amount

    def take_one(self) -> None:
        self.add(self.alone, -self.random.randint(1, 6), self.row())

    def give_one(self) -> None:
        self.add(self.alone, self.random.randint(1, 6), self.row())

    def transfer(self) -> None:
        amount, (one, other) = self.random.randint(1, 6), self.random.sample(range(1, ROWS + 1), 2)
        self.add(self.several, -amount, one)
        self.add(self.several, amount, other)
        self.several.commit()

    def write_alone(self) -> None:
        row = self.row()
        self.hot.execute(self.alone, "UPDATE stock SET count = count + 2, other = other + 1 WHERE id = ?", row)
        self.net[row] += 2

    def upgrade(self) -> None:
        row = self.row()
        self.add(self.alone, 3, row)
        self.hot.execute(self.alone, "UPDATE stock SET count = count * 1, name = ? WHERE id = ?", "x", row)
        self.add(self.alone, -1, row)

    def run(self, times: int) -> None:
        steps = [self.take_one, self.give_one, self.transfer, self.write_alone, self.upgrade]
        weights = [5, 4, 4, 1, 1]
        for _ in range(times):
            self.net.clear()
            try:
                with troth.transaction(name="hot"):
                    for step in self.random.choices(steps, weights, k=self.random.randint(1, 3)):
                        step()
                    if self.random.random() < 0.3:
                        raise RolledBackOnPurpose
            except RolledBackOnPurpose:
                self.ended["on purpose"] += 1
            except (troth.FloorReached, troth.LockConflict) as error:
                self.ended[type(error).__name__] += 1
                self.several.rollback()
            except Exception as error:
                if not _is_deadlock(error):
                    raise
                self.ended["deadlock"] += 1
                self.several.rollback()
            else:
                self.ended["committed"] += 1
                self.committed.update(self.net)


def _is_deadlock(error: BaseException | None) -> bool:
    """The database chose a victim: transfers take their rows in any order."""
    while error is not None:
        if getattr(error, "sqlstate", None) == "40P01" or (error.args and error.args[0] in (1213, 1205)):
            return True
        error = error.__cause__
    return False


def watch(hot: Any, ended: threading.Event, seen: list[int]) -> None:
    while not ended.wait(0.01):
        seen.append(hot.one(f"SELECT MIN(count) FROM stock WHERE id <= {ROWS}"))


def until_clean(hot: Any) -> None:
    deadline = time.monotonic() + 20
    while not hot.is_clean():
        assert time.monotonic() < deadline, (hot.reserved(), hot.contexts())
        time.sleep(0.02)


def run_shops(hot: Any, client: Any, *, clients: int, times: int, seed: int) -> Counter[str]:
    hot.run("UPDATE stock SET count = 12")
    shops = [Shop(hot, client, seed + number) for number in range(clients)]
    errors: list[BaseException] = []

    def run(shop: Shop) -> None:
        try:
            shop.run(times)
        except BaseException as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    lowest: list[int] = []
    ended = threading.Event()
    threads = [threading.Thread(target=run, args=(shop,)) for shop in shops]
    watcher = threading.Thread(target=watch, args=(hot, ended, lowest))
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    until_clean(hot)
    ended.set()
    watcher.join()
    if errors:
        raise errors[0]
    print(f"seed {seed}")
    outcome: Counter[str] = Counter()
    expected = Counter(dict.fromkeys(range(1, ROWS + 1), 12))
    for shop in shops:
        outcome.update(shop.ended)
        expected.update(shop.committed)
    assert min(lowest) >= 0
    assert dict(hot.rows("SELECT id, count FROM stock ORDER BY id")) == dict(expected), (seed, outcome)
    return outcome


@pytest.mark.everywhere
def test_sums_hold_and_no_floor_is_broken(hot: Any, client: Any) -> None:
    outcome = run_shops(hot, client, clients=4, times=7, seed=SEED)
    assert outcome["committed"] >= 4, outcome
    assert outcome["on purpose"] >= 2, outcome


@pytest.mark.soak
@pytest.mark.parametrize("seed", [SEED + 1000 * number for number in range(1, 4)])
def test_sums_hold_for_long(hot: Any, client: Any, seed: int) -> None:
    outcome = run_shops(hot, client, clients=10, times=40, seed=seed)
    assert outcome["committed"] >= 50, outcome


def test_two_adders_and_an_upgrade(hot: Any, client: Any) -> None:
    """Exclusive means alone: it waits for the other adder, and the undo of both leaves what was there."""
    one, other = hot.connect(client), hot.connect(client)
    waited: list[float] = []

    def hold() -> None:
        with troth.transaction(name="other"):
            hot.execute(other, "UPDATE stock SET count = count - ? WHERE id = ?", 2, 1)
            held.set()
            time.sleep(0.1)

    held = threading.Event()
    holder = threading.Thread(target=hold)

    @troth.global_transaction(name="one")
    def add_and_upgrade() -> None:
        hot.execute(one, "UPDATE stock SET count = count - ? WHERE id = ?", 3, 1)
        holder.start()
        assert held.wait(10)
        assert hot.count() == 5
        started = time.monotonic()
        hot.execute(one, "UPDATE stock SET count = 100 WHERE id = ?", 1)
        waited.append(time.monotonic() - started)
        raise RolledBackOnPurpose

    with pytest.raises(RolledBackOnPurpose):
        add_and_upgrade()
    holder.join()
    until_clean(hot)
    assert hot.count() == 8
    assert waited[0] > 0.05


@pytest.mark.everywhere
def test_of_two_upgraders_the_younger_loses(hot: Any, client: Any) -> None:
    """Each waits for the other to be gone: one is told, the other gets the row when the first has rolled back."""
    outcomes: dict[str, str] = {}
    both = threading.Barrier(2)

    def upgrade(name: str, amount: int) -> None:
        connection = hot.connect(client)
        if name == "younger":
            assert begun.wait(10)
        try:
            with troth.transaction(name=name):
                begun.set()
                hot.execute(connection, "UPDATE stock SET count = count - ? WHERE id = ?", amount, 1)
                both.wait(10)
                hot.execute(connection, "UPDATE stock SET count = count * 2 WHERE id = ?", 1)
            outcomes[name] = "committed"
        except troth.LockConflict as conflict:
            outcomes[name] = str(conflict)

    begun = threading.Event()
    threads = [threading.Thread(target=upgrade, args=one) for one in (("older", 1), ("younger", 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    until_clean(hot)
    assert outcomes["older"] == "committed", outcomes
    assert "stock:1 is held by" in outcomes["younger"], outcomes
    assert hot.count() == 18
