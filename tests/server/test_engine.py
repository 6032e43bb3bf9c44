"""Write, then act: what leaves the engine, when, and in how many store commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.model import BranchType, Outcome, Phase, Verb
from troth.core.rowkeys import parse_lock_text
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.engine import Engine, Housekeeping
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch, LeaseLost, StoreError


class SlowStore(MemoryStore):
    """A memory store whose appends end when the test says so, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        self.batches: list[Batch] = []
        self.error: StoreError | None = None
        self.asked: list[str] = []

    async def append(self, batch: Batch) -> None:
        self.begun += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        await super().append(batch)
        self.batches.append(batch)

    async def outcome(self, xid: str) -> Outcome | None:
        self.asked.append(xid)
        return await super().outcome(xid)


class Ask:
    """A waiter that keeps its answer; `log` shows in which order all of them were answered."""

    def __init__(self, log: list[Ask]) -> None:
        self.result: fx.Result | None = None
        self._log = log

    def answer(self, result: fx.Result) -> None:
        assert self.result is None, "answered twice"
        self.result = result
        self._log.append(self)


class Mute:
    """Reaches nobody."""

    def call(self, call: fx.Call) -> None:
        raise AssertionError(call)


class Deposed:
    """Somebody else has taken over while the store was read."""

    fresh = False

    async def confirm(self) -> None:
        raise LeaseLost("epoch 1 is over")


class Coordinator:
    """An engine with a recording outside."""

    def __init__(self, store: SlowStore, rules: Rules, housekeeping: Housekeeping) -> None:
        self.store = store
        self.calls: list[fx.Call] = []
        self.answered: list[Ask] = []
        self.settled: list[fx.Settled] = []
        self.failures: list[BaseException] = []
        self.releases = 0
        self.engine = Engine(
            store,
            rules=rules,
            outbound=self,
            clock=SteadyClock(),
            released=self._released,
            settled=self.settled.append,
            failed=self.failures.append,
            housekeeping=housekeeping,
        )

    def call(self, call: fx.Call) -> None:
        self.calls.append(call)

    def _released(self) -> None:
        self.releases += 1

    def ask(self) -> Ask:
        return Ask(self.answered)

    def begin(self, timeout_ms: int = 60_000) -> tuple[str, Ask]:
        xid, ask = f"127.0.0.1:8091:{self.engine.ids.next()}", self.ask()
        self.engine.submit(ev.Begin(xid, "n", "app", "group", timeout_ms, ask))
        return xid, ask

    def register(self, xid: str, locks: str) -> Ask:
        ask, resource = self.ask(), "jdbc:mysql://db/shop"
        self.engine.submit(
            ev.Register(
                xid,
                self.engine.ids.next(),
                BranchType.AT,
                resource,
                locks,
                parse_lock_text(resource, locks),
                None,
                True,
                "app:127.0.0.1:1",
                None,
                True,
                ask,
            )
        )
        return ask

    def status(self, xid: str) -> Ask:
        ask = self.ask()
        self.engine.submit(ev.Status(xid, ask))
        return ask

    def commit(self, xid: str) -> Ask:
        ask = self.ask()
        self.engine.submit(ev.Commit(xid, ask))
        return ask


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def coordinator(store: SlowStore) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(store, Rules(), Housekeeping())
    await coordinator.engine.start()
    yield coordinator
    store.gate.set()
    await coordinator.engine.stop()


async def test_nothing_is_answered_before_its_batch_is_durable(coordinator: Coordinator, store: SlowStore) -> None:
    store.gate.clear()
    _, ask = coordinator.begin()
    await until(lambda: store.begun == 1)
    await asyncio.sleep(0.01)
    assert ask.result is None
    store.gate.set()
    await until(lambda: ask.result)


async def test_what_comes_while_the_store_is_busy_goes_down_together(
    coordinator: Coordinator, store: SlowStore
) -> None:
    store.gate.clear()
    coordinator.begin()
    await until(lambda: store.begun == 1)
    asks = [coordinator.begin()[1] for _ in range(100)]
    store.gate.set()
    await until(lambda: all(ask.result for ask in asks))
    assert [len(batch.writes) for batch in store.batches] == [1, 100]
    assert [batch.number for batch in store.batches] == [1, 2]
    assert coordinator.engine.stats.store_commits == 2


async def test_events_of_one_loop_turn_share_a_commit(coordinator: Coordinator, store: SlowStore) -> None:
    asks = [coordinator.begin()[1] for _ in range(50)]
    await until(lambda: all(ask.result for ask in asks))
    assert len(store.batches) == 1
    assert coordinator.releases == 1


async def test_an_answer_without_a_write_waits_behind_the_write_that_it_saw(
    coordinator: Coordinator, store: SlowStore
) -> None:
    store.gate.clear()
    xid, begun = coordinator.begin()
    status = coordinator.status(xid)
    await until(lambda: store.begun == 1)
    assert status.result is None
    store.gate.set()
    await until(lambda: status.result)
    assert coordinator.answered == [begun, status]


async def test_calls_leave_after_the_decision_is_durable(coordinator: Coordinator, store: SlowStore) -> None:
    xid, _ = coordinator.begin()
    await until(lambda: coordinator.register(xid, "t:1"))
    store.gate.clear()
    commit = coordinator.commit(xid)
    await asyncio.sleep(0.01)
    assert not coordinator.calls
    store.gate.set()
    await until(lambda: commit.result and coordinator.calls)
    call = coordinator.calls[0]
    coordinator.engine.submit(ev.Answered(xid, call.branch_id, Verb.COMMIT, call.attempt, ev.CallResult.DONE))
    await until(lambda: coordinator.settled)
    assert (await store.outcome(xid)) is not None


async def test_a_store_that_fails_stops_the_engine_and_nobody_is_answered(
    coordinator: Coordinator, store: SlowStore
) -> None:
    store.error = StoreError("disk full")
    _, ask = coordinator.begin()
    await until(lambda: coordinator.failures)
    _, late = coordinator.begin()
    await asyncio.sleep(0.01)
    assert ask.result is None
    assert late.result is None
    assert not coordinator.engine.running


async def test_a_timeout_fires_by_itself(coordinator: Coordinator) -> None:
    xid, _ = coordinator.begin(timeout_ms=60)
    coordinator.register(xid, "t:1")
    await until(lambda: coordinator.calls)
    assert coordinator.calls[0].verb is Verb.ROLLBACK


async def test_an_xid_that_left_memory_is_looked_up_once_and_its_events_keep_their_order(store: SlowStore) -> None:
    first = Coordinator(store, Rules(), Housekeeping())
    await first.engine.start()
    xid, _ = first.begin()
    await until(lambda: first.commit(xid).result or first.settled)
    await first.engine.stop()

    second = Coordinator(store, Rules(), Housekeeping())
    await second.engine.start()
    store.asked.clear()
    asks = [second.status(xid), second.commit(xid), second.status("10.0.0.1:1:1")]
    await until(lambda: all(ask.result for ask in asks))
    assert store.asked == [xid, "10.0.0.1:1:1"]
    assert isinstance(asks[0].result, fx.Stands)
    assert asks[0].result.standing.phase is Phase.COMMITTED
    assert asks[2].result == fx.Unknown("10.0.0.1:1:1")
    assert second.engine.ids.next() > int(xid.rsplit(":", 1)[1])
    await second.engine.stop()


async def test_a_restart_takes_up_what_was_open(store: SlowStore) -> None:
    first = Coordinator(store, Rules(), Housekeeping())
    await first.engine.start()
    xid, _ = first.begin()
    ask = first.register(xid, "t:1")
    await until(lambda: ask.result)
    await first.engine.stop()

    second = Coordinator(store, Rules(hot_wait_ms=0), Housekeeping())
    await second.engine.start()
    other, _ = second.begin()
    conflict = second.register(other, "t:1")
    await until(lambda: conflict.result)
    assert isinstance(conflict.result, fx.Conflict)
    assert conflict.result.holder == xid
    await second.engine.stop()


async def test_old_outcomes_leave_memory_and_store(store: SlowStore) -> None:
    keep = Housekeeping(keep_outcomes_ms=20, interval_ms=20, purge_limit=1)
    coordinator = Coordinator(store, Rules(outcome_memory_ms=1), keep)
    await coordinator.engine.start()
    xids = [coordinator.begin()[0] for _ in range(5)]
    for xid in xids:
        coordinator.commit(xid)
    await until(lambda: len(coordinator.settled) == 5)
    async with asyncio.timeout(5):
        while any([await store.outcome(xid) for xid in xids]):
            await asyncio.sleep(0.01)
    assert coordinator.engine.outcome_in_memory(xids[0]) is None
    ask = coordinator.status(xids[0])
    await until(lambda: ask.result)
    assert ask.result == fx.Unknown(xids[0])
    await coordinator.engine.stop()


async def test_stop_answers_what_is_pending_first(coordinator: Coordinator, store: SlowStore) -> None:
    store.gate.clear()
    asks = [coordinator.begin()[1] for _ in range(3)]
    stopping = asyncio.create_task(coordinator.engine.stop())
    await asyncio.sleep(0.01)
    assert not any(ask.result for ask in asks)
    store.gate.set()
    await stopping
    assert all(isinstance(ask.result, fx.Begun) for ask in asks)


async def test_a_store_that_fails_while_we_stop_neither_hangs_the_stop_nor_goes_unnoticed(
    coordinator: Coordinator, store: SlowStore
) -> None:
    store.gate.clear()
    _, ask = coordinator.begin()
    stopping = asyncio.create_task(coordinator.engine.stop())
    await asyncio.sleep(0.01)
    store.error = StoreError("disk full")
    store.gate.set()
    async with asyncio.timeout(5):
        await stopping
    assert ask.result is None
    assert [str(failure) for failure in coordinator.failures] == ["disk full"]


async def test_a_load_that_has_outlived_the_lease_is_not_gone_on_with() -> None:
    engine = Engine(
        SlowStore(),
        rules=Rules(),
        outbound=Mute(),
        clock=SteadyClock(),
        released=lambda: None,
        settled=lambda settled: None,
        failed=lambda error: None,
        fence=Deposed(),
    )
    with pytest.raises(LeaseLost):
        await engine.start()
    assert not engine.running
    await engine.stop()
