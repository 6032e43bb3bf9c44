"""Leading a cell: nothing is answered on an old lease, and a deposed leader falls silent. On a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.rules import Rules
from troth.server.engine import Engine
from troth.server.ids import SEATA_EPOCH_MS, IdGenerator
from troth.server.leadership import Leadership, StoreClock
from troth.server.waiters import FutureReply
from troth.stores.lease import LeaseTerms, boottime_s
from troth.stores.postgres import PostgresStore
from troth.stores.store import LeaseLost, StoreError, StoreUnreachable

TTL_S = 30.0
XID = "h:8091:1"


class Sleeper:
    """A machine's clock that can jump ahead, as after a pause of the whole process."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def __call__(self) -> float:
        return boottime_s() + self.slept_s


class Nobody:
    """Carries no calls."""

    def call(self, call: fx.Call) -> None:
        raise AssertionError(call)


class Node:
    """One coordinator without doors."""

    def __init__(self, url: str, name: str) -> None:
        self.machine = Sleeper()
        self.failures: list[BaseException] = []
        self.settled: list[fx.Settled] = []
        self.store = PostgresStore(url, LeaseTerms(name, TTL_S), clock=self.machine)
        clock = StoreClock(self.machine)
        self.leadership = Leadership(self.store, clock, poll_s=0.02, lost=lambda error: self.engine.step_down(error))
        self.engine = Engine(
            self.store,
            rules=Rules(),
            outbound=Nobody(),
            clock=clock,
            released=lambda: None,
            settled=self.settled.append,
            failed=self.failures.append,
            fence=self.leadership,
        )

    async def lead(self) -> Node:
        if not await self.leadership.stand_by(patient=False):
            await self.leadership.win()
        await self.engine.start()
        return self

    async def stop(self) -> None:
        await self.leadership.stop()
        await self.engine.stop()

    def ask(self, event_of: Callable[[FutureReply], ev.Event]) -> asyncio.Future[fx.Result]:
        reply = FutureReply()
        self.engine.submit(event_of(reply))
        return reply.result

    def begin(self, xid: str = XID) -> asyncio.Future[fx.Result]:
        return self.ask(lambda reply: ev.Begin(xid, "n", "a", "g", 60_000, reply))

    def status(self, xid: str = XID) -> asyncio.Future[fx.Result]:
        return self.ask(lambda reply: ev.Status(xid, reply))


@pytest.fixture(scope="module")
def database(new_postgres_database: Callable[[], str]) -> str:
    return new_postgres_database()


@pytest.fixture
async def new_node(database: str) -> AsyncIterator[Callable[[str], Node]]:
    await execute(database, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS troth CASCADE")
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(database, name))
        return made[-1]

    yield make
    for node in made:
        await node.stop()


async def execute(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql) if sql.startswith("SELECT") else await connection.execute(sql)
    finally:
        await connection.close()


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def expire(url: str) -> None:
    await execute(url, "UPDATE troth.cell SET lease_until = '-infinity'")


@pytest.mark.engines
@pytest.mark.parametrize("asleep", [0.5, 0.8, 5.0], ids=["half", "almost", "long past"])
async def test_after_a_pause_nothing_is_answered_before_the_lease_is_renewed(
    new_node: Callable[[str], Node], database: str, asleep: float
) -> None:
    node = await new_node("only").lead()
    assert isinstance(await node.begin(), fx.Begun)
    node.machine.slept_s += asleep * TTL_S
    until_before = await execute(database, "SELECT lease_until FROM troth.cell")
    assert isinstance(await node.status(), fx.Stands)
    renewed = await execute(database, "SELECT lease_until FROM troth.cell") != until_before
    assert renewed is (asleep > 2 / 3), "a fresh lease needs no look at the store"
    assert node.leadership.fresh
    assert node.failures == []


@pytest.mark.engines
@pytest.mark.parametrize("question", ["a write", "no write"])
async def test_a_leader_that_slept_through_a_take_over_answers_nothing(
    new_node: Callable[[str], Node], database: str, question: str
) -> None:
    first = await new_node("first").lead()
    assert isinstance(await first.begin(), fx.Begun)
    await expire(database)
    second = await new_node("second").lead()
    assert list(second.engine.transactions()) == [XID], "open transactions go on under the next leader"
    first.machine.slept_s += 2 * TTL_S
    answer = first.begin("h:8091:2") if question == "a write" else first.status()
    await until(lambda: first.failures)
    assert isinstance(first.failures[0], LeaseLost)
    assert not answer.done()
    assert not first.engine.running
    assert isinstance(await second.status(), fx.Stands)
    assert isinstance(await second.status("h:8091:2"), fx.Unknown), "a deposed leader writes nothing"


@pytest.mark.engines
async def test_a_pause_between_the_write_and_its_answer(
    new_node: Callable[[str], Node], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is durable, but somebody else leads by the time it could be answered: it is theirs to answer."""
    first = await new_node("first").lead()
    append = first.store.append
    paused = asyncio.Event()

    async def append_and_sleep(batch: object) -> None:
        await append(batch)  # type: ignore[arg-type]
        await expire(database)
        await new_node("second").lead()
        first.machine.slept_s += 2 * TTL_S
        paused.set()

    monkeypatch.setattr(first.store, "append", append_and_sleep)
    answer = first.begin()
    await paused.wait()
    await until(lambda: first.failures)
    assert isinstance(first.failures[0], LeaseLost)
    assert not answer.done()


@pytest.mark.engines
async def test_an_idle_leader_notices_that_it_has_been_deposed(new_node: Callable[[str], Node], database: str) -> None:
    first = new_node("first")
    first.store._terms = LeaseTerms("first", 0.6)
    await first.lead()
    await execute(database, "UPDATE troth.cell SET epoch = epoch + 1")
    await until(lambda: first.failures)
    assert isinstance(first.failures[0], LeaseLost)


@pytest.mark.engines
async def test_a_stop_hands_over_at_once_and_time_does_not_go_back(
    new_node: Callable[[str], Node], database: str
) -> None:
    first, second = await new_node("first").lead(), new_node("second")
    assert not await second.leadership.stand_by(patient=False)
    assert second.leadership.standing == "standby: first leads"
    assert second.leadership.leader() == ("first", 1)
    assert isinstance(await first.begin(), fx.Begun)
    seen_ms = first.engine.clock.now_ms()
    taking_over = asyncio.ensure_future(second.lead())
    await first.stop()
    await asyncio.wait_for(taking_over, TTL_S / 3)
    assert second.leadership.leader() == ("this process", 2)
    store_ms = await second.store.now_ms()
    assert seen_ms - 50 <= second.engine.clock.now_ms() <= store_ms + 50
    assert isinstance(await second.status(), fx.Stands)


async def test_a_candidate_waits_for_a_store_that_does_not_answer_only_when_it_is_patient() -> None:
    node = Node("postgresql://u:not-the-secret@127.0.0.1:1/x", "early")
    with pytest.raises(StoreUnreachable):
        await node.leadership.stand_by(patient=False)
    assert not await node.leadership.stand_by(patient=True)
    assert node.leadership.standing.startswith("standby: postgresql://u@127.0.0.1:1/x cannot be reached")
    with pytest.raises(StoreError):
        await node.engine.start()
    await node.stop()


def test_ids_carry_the_node_and_the_time_of_the_store_even_if_the_store_is_new() -> None:
    clock = StoreClock()
    ids = IdGenerator(clock)
    ids.use_node(5)
    ids.start_at(SEATA_EPOCH_MS + 1_000)
    assert ids.next() == (5 << 53) + (1_000 << 12) + 1
    ids.skip_past((7 << 53) + (2_000 << 12))
    assert ids.next() == (5 << 53) + (2_000 << 12) + 1


def test_the_clock_of_a_leader_is_the_stores_and_never_goes_back() -> None:
    machine = Sleeper()
    clock = StoreClock(machine)
    clock.start_at(1_000_000)
    assert 1_000_000 <= clock.now_ms() < 1_010_000
    machine.slept_s = 60
    assert clock.now_ms() >= 1_060_000
    clock.not_before(5_000_000)
    assert clock.now_ms() >= 5_000_000
    clock.not_before(2_000_000)
    assert clock.now_ms() >= 5_000_000
