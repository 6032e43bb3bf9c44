"""What the simulated world has found in the coordinator, each as a small test of its own."""

from __future__ import annotations

import asyncio

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.model import Phase
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.engine import Engine, Housekeeping
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch, StoreError
from troth.testing.simulator import simulate
from troth.testing.world import Options


class FullStore(MemoryStore):
    """Every write fails, after a while."""

    async def append(self, batch: Batch) -> None:
        await asyncio.sleep(0.01)
        raise StoreError("the disk is full")


class GatedStore(MemoryStore):
    """Writes end when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, batch: Batch) -> None:
        await self.gate.wait()
        await super().append(batch)


class Ask:
    """Keeps its answer."""

    def __init__(self) -> None:
        self.result: asyncio.Future[fx.Result] = asyncio.get_running_loop().create_future()

    def answer(self, result: fx.Result) -> None:
        self.result.set_result(result)


class Silent:
    """Hears nothing."""

    def call(self, call: fx.Call) -> None: ...

    def answer(self, result: fx.Result) -> None: ...


class LateClock(SteadyClock):
    """A wall clock that was set back by ten minutes."""

    def __init__(self) -> None:
        super().__init__()
        self._offset_ms -= 600_000


def engine(store: MemoryStore, clock: SteadyClock, failures: list[BaseException]) -> Engine:
    return Engine(
        store,
        rules=Rules(outcome_memory_ms=1),
        housekeeping=Housekeeping(interval_ms=10),
        outbound=Silent(),
        clock=clock,
        released=lambda: None,
        settled=lambda settled: None,
        failed=failures.append,
    )


def begin(coordinator: Engine) -> str:
    xid = f"127.0.0.1:8091:{coordinator.ids.next()}"
    coordinator.submit(ev.Begin(xid, "n", "app", "group", 60_000, Silent()))
    return xid


async def test_stopping_ends_although_the_store_fails_meanwhile() -> None:
    """Seed 560: `stop` waited for ever for a write that had failed after it was asked to stop."""
    coordinator = engine(FullStore(), SteadyClock(), [])
    await coordinator.start()
    begin(coordinator)
    await asyncio.sleep(0)
    await asyncio.wait_for(coordinator.stop(), 5.0)


async def test_an_outcome_on_its_way_to_the_store_is_not_unknown() -> None:
    """Seed 600458, violence 2: what had ended, left memory and was not written yet was answered with Finished."""
    store = GatedStore()
    coordinator = engine(store, SteadyClock(), [])
    await coordinator.start()
    xid = begin(coordinator)
    store.gate.clear()
    coordinator.submit(ev.Rollback(xid, Silent()))
    assert xid not in coordinator.transactions()
    for _ in range(500):
        if coordinator.outcome_in_memory(xid) is None:
            break
        await asyncio.sleep(0.01)
    assert coordinator.outcome_in_memory(xid) is None
    ask = Ask()
    coordinator.submit(ev.Status(xid, ask))
    await asyncio.sleep(0.01)
    store.gate.set()
    answer = await asyncio.wait_for(ask.result, 5.0)
    assert isinstance(answer, fx.Stands)
    assert answer.standing.phase is Phase.ROLLED_BACK
    await coordinator.stop()


async def test_a_clock_that_was_set_back_prolongs_nothing() -> None:
    """Seed 10095, violence 2.5: what was open at a restart, and its locks, outlived its timeout by the step."""
    store = MemoryStore()
    before = engine(store, SteadyClock(), [])
    await before.start()
    xid = begin(before)
    await before.stop()
    after = engine(store, LateClock(), [])
    await after.start()
    tx = after.transactions()[xid]
    assert tx.begin_ms <= after.clock.now_ms() < tx.begin_ms + 60_000
    await after.stop()


def test_the_seed_of_the_clock() -> None:
    assert not simulate(10_095, Options(violence=2.5)).complaints
