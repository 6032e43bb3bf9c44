"""A step costs the same however much is open: counted in calls, bytes and deltas, not in seconds (`bench/scale.py`)."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.due import due_ms
from troth.core.model import BranchType, Global, Verb
from troth.core.rowkeys import parse_lock_text
from troth.server.scheduler import Scheduler
from troth.stores.sqlite import SqliteStore
from troth.stores.store import Batch

RESOURCE = "jdbc:mysql://127.0.0.1:3306/shop"
CLIENT = "shop:127.0.0.1:40000"
NOW = 1_800_000_000_000


class Busy:
    """A cell and its scheduler, as the engine keeps them."""

    def __init__(self) -> None:
        self.cell = Cell()
        self.scheduler = Scheduler()
        self._ids = iter(range(1, 1 << 40))

    def decide(self, event: ev.Event) -> list[fx.Write]:
        decision = self.cell.decide(event, NOW)
        for xid in decision.moved:
            tx = self.cell.transactions.get(xid)
            self.scheduler.set(xid, None if tx is None else due_ms(tx))
        return decision.writes

    def begin(self) -> str:
        xid = f"127.0.0.1:8091:{next(self._ids)}"
        self.decide(ev.Begin(xid, "purchase", "shop", "default_tx_group", 60_000, None))
        return xid

    def register(self, xid: str) -> tuple[int, list[fx.Write]]:
        branch_id = next(self._ids)
        text = f"stock:{branch_id};account:{branch_id}"
        keys = parse_lock_text(RESOURCE, text)
        event = ev.Register(xid, branch_id, BranchType.AT, RESOURCE, text, keys, None, True, CLIENT, None, True, None)
        return branch_id, self.decide(event)

    def open(self, count: int) -> None:
        for _ in range(count):
            self.register(self.begin())

    def whole(self) -> None:
        """One transaction from its begin to its end."""
        xid = self.begin()
        branch_id, _ = self.register(xid)
        self.decide(ev.Commit(xid, None))
        self.decide(ev.Answered(xid, branch_id, Verb.COMMIT, 1, ev.CallResult.DONE, None, CLIENT))
        assert xid not in self.cell.transactions


def calls_of(work: Callable[[], None]) -> int:
    """How many functions are called, Python's and C's."""
    calls = 0

    def count(frame: Any, kind: str, argument: Any) -> None:
        nonlocal calls
        calls += kind in {"call", "c_call"}

    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize("others", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_transaction_costs_the_same_beside_many_open_ones(others: int) -> None:
    busy = Busy()
    busy.whole()
    alone = calls_of(busy.whole)
    busy.open(others)
    assert len(busy.cell.locks) == 2 * others
    assert calls_of(busy.whole) <= alone + 2  # a heap that is deeper


def test_the_core_stays_within_its_budget_of_calls() -> None:
    """A ratchet: what a transaction costs is calls, and nearly all of them are as dear as the next."""
    busy = Busy()
    busy.whole()
    assert calls_of(busy.whole) <= 200


@pytest.mark.parametrize("others", [10_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_an_open_transaction_takes_less_than_two_kibibytes(others: int) -> None:
    busy = Busy()
    busy.whole()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        busy.open(others)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / others < 2048


def test_a_registration_writes_the_same_into_a_transaction_of_ten_branches_and_of_a_thousand() -> None:
    busy = Busy()
    xid = busy.begin()
    sizes = {}
    for number in range(1, 1001):
        _, writes = busy.register(xid)
        assert [type(write) for write in writes] == [fx.AddBranch]
        sizes[number] = len(msgspec.json.encode(writes))
    assert sizes[1000] - sizes[10] <= 8  # three numbers that have grown


def test_phase_two_writes_one_delta_a_branch() -> None:
    busy = Busy()
    xid = busy.begin()
    branches = [busy.register(xid)[0] for _ in range(300)]
    written = [*busy.decide(ev.Commit(xid, None))]
    for branch_id in branches:
        written += busy.decide(ev.Answered(xid, branch_id, Verb.COMMIT, 1, ev.CallResult.DONE, None, CLIENT))
    kinds = [type(write) for write in written]
    assert kinds == [fx.MarkGlobal, *[fx.DropBranch] * 299, fx.EndGlobal]


def opened(count: int) -> Iterator[list[fx.Write]]:
    """The writes of so many transactions that do not end, in batches."""
    for start in range(0, count, 5_000):
        writes: list[fx.Write] = []
        for number in range(start, min(start + 5_000, count)):
            xid, text = f"127.0.0.1:8091:{number}", f"stock:{number};account:{number}"
            writes.append(fx.OpenGlobal(xid, "purchase", "shop", "default_tx_group", NOW, 60_000))
            writes.append(fx.AddBranch(xid, count + number, 1, BranchType.AT, RESOURCE, text, None, True, CLIENT))
        yield writes


@pytest.mark.parametrize("count", [5_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_all_that_is_open_is_taken_up_again(count: int, tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "open.db"))
    await store.open()
    for number, writes in enumerate(opened(count), start=1):
        await store.append(Batch(number, 2 * count, writes))
    await store.close()
    await store.open()
    hot = await store.load_hot()
    await store.close()
    cell = Cell()
    cell.restore(hot.transactions)
    assert len(cell.transactions) == count
    assert len(cell.locks) == 2 * count
    last: Global = cell.transactions[f"127.0.0.1:8091:{count - 1}"]
    assert due_ms(last) == NOW + 60_000


def test_the_coordinator_imports_nothing_of_the_client() -> None:
    """Half of what a start costs is imports, and the parser of SQL alone would double them."""
    code = (
        "import sys, troth.server.process\n"
        "print(*[name for name in sys.modules if name.startswith(('troth.client', 'troth.at', 'sqlglot'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
