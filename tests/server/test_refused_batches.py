"""A batch that the store refuses for its contents: only the event at fault is left out, everybody else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.model import BranchType, Phase, Terms
from troth.core.rowkeys import parse_lock_text
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.engine import Engine
from troth.server.inbound.seata_refusals import refusal_of
from troth.server.waiters import BatchReply, ChildReply, FutureReply, MergedReply, NotStored, Reply
from troth.stores.memory import MemoryStore
from troth.stores.postgres import PostgresStore
from troth.stores.sqlite import SqliteStore
from troth.stores.store import Batch, BatchRefused, Hot, Store
from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchType as WireBranchType
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.frame import Frame

POISON = "poison"
RESOURCE = "jdbc:mysql://db/shop"
TOO_LARGE_MS = 1 << 70
"""No store takes a number of more than 64 bits; the door refuses it long before."""


class PoisonedStore(MemoryStore):
    """Refuses every batch with a certain word in it, as PostgreSQL would a NUL in a text."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.loads = 0
        self.numbers: list[int] = []

    async def load_hot(self) -> Hot:
        self.loads += 1
        return await super().load_hot()

    async def append(self, batch: Batch) -> None:
        await self.gate.wait()
        if any(POISON in repr(write) for write in batch.writes):
            raise BatchRefused("the word is not liked")
        await super().append(batch)
        self.numbers.append(batch.number)


class Ask:
    """A waiter that keeps its answer."""

    def __init__(self) -> None:
        self.result: fx.Result | str | None = None

    def answer(self, result: fx.Result) -> None:
        assert self.result is None, "answered twice"
        self.result = result

    def refuse(self, reason: str) -> None:
        assert self.result is None, "answered twice"
        self.result = reason


class Coordinator:
    """An engine with a recording outside."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[fx.Call] = []
        self.failures: list[BaseException] = []
        self.engine = Engine(
            store,
            rules=Rules(),
            outbound=self,
            clock=SteadyClock(),
            released=lambda: None,
            settled=lambda _: None,
            failed=self.failures.append,
        )

    def call(self, call: fx.Call) -> None:
        self.calls.append(call)

    def begin(self, name: str = "n", timeout_ms: int = 60_000) -> tuple[str, Ask]:
        xid, ask = f"127.0.0.1:8091:{self.engine.ids.next()}", Ask()
        self.engine.submit(ev.Begin(xid, name, "app", "group", timeout_ms, ask))
        return xid, ask

    async def begun(self, name: str = "n") -> str:
        xid, ask = self.begin(name)
        assert await told(ask) == fx.Begun(xid)
        return xid

    def register(self, xid: str, locks: str, data: str | None = None, kind: BranchType = BranchType.AT) -> Ask:
        ask = Ask()
        keys = parse_lock_text(RESOURCE, locks)
        branch_id = self.engine.ids.next()
        self.engine.submit(
            ev.Register(xid, branch_id, kind, RESOURCE, locks, keys, data, True, "app:127.0.0.1:1", None, True, ask)
        )
        return ask

    def ask(self, make: Callable[[str, object], ev.Event], xid: str) -> Ask:
        ask = Ask()
        self.engine.submit(make(xid, ask))
        return ask

    async def phases(self) -> dict[str, Phase]:
        """What the store holds of what is open."""
        return {tx.xid: tx.phase for tx in (await self.store.load_hot()).transactions}


async def told(ask: Ask) -> fx.Result | str:
    async with asyncio.timeout(10):
        while ask.result is None:
            await asyncio.sleep(0)
    return ask.result


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    made = Coordinator(PoisonedStore())
    await made.engine.start()
    yield made
    assert made.failures == []
    await made.engine.stop()


def poisoned(coordinator: Coordinator) -> PoisonedStore:
    assert isinstance(coordinator.store, PoisonedStore)
    return coordinator.store


async def test_only_the_event_at_fault_is_left_out(coordinator: Coordinator) -> None:
    open_one = await coordinator.begun()
    first, answer_to_first = coordinator.begin()
    bad, answer_to_bad = coordinator.begin(POISON)
    last, answer_to_last = coordinator.begin()
    committed = coordinator.ask(ev.Commit, open_one)
    of_the_bad = coordinator.ask(ev.Status, bad)
    assert await told(answer_to_bad) == "the word is not liked"
    assert await told(answer_to_first) == fx.Begun(first)
    assert await told(answer_to_last) == fx.Begun(last)
    assert isinstance(await told(committed), fx.Stands)
    assert await told(of_the_bad) == fx.Unknown(bad), "what was decided on top of it is decided anew"
    assert await coordinator.phases() == {first: Phase.OPEN, last: Phase.OPEN}
    assert set(coordinator.engine.transactions()) == {first, last}
    stats = coordinator.engine.stats
    assert (stats.events_refused, stats.transactions_begun) == (1, 4)
    numbers = poisoned(coordinator).numbers
    assert numbers == list(range(1, len(numbers) + 1)), "a refused batch uses up no number"


async def test_it_goes_on_and_the_locks_are_those_of_the_store(coordinator: Coordinator) -> None:
    holder, other = await coordinator.begun(), await coordinator.begun()
    assert isinstance(await told(coordinator.register(holder, "t:1")), fx.Registered)
    refused, taken = coordinator.register(other, "t:2", POISON), coordinator.register(other, "t:3")
    assert await told(refused) == "the word is not liked"
    assert isinstance(await told(taken), fx.Registered)
    assert coordinator.engine.locks_held == 2, "t:2 is free again"
    assert isinstance(await told(coordinator.register(holder, "t:2")), fx.Registered)
    assert isinstance(await told(coordinator.register(other, "t:4")), fx.Registered)


async def test_who_lets_it_in_is_not_to_blame(coordinator: Coordinator) -> None:
    """The end of one transaction grants its row to a registration that cannot be stored."""
    holder, bad, good = (
        await coordinator.begun("holder"),
        await coordinator.begun("bad"),
        await coordinator.begun("good"),
    )
    assert isinstance(await told(coordinator.register(holder, "t:1")), fx.Registered)
    granted_badly = coordinator.register(bad, "t:1", POISON)
    granted_well = coordinator.register(good, "t:1")
    assert coordinator.engine.locks_queued == 2
    committed = coordinator.ask(ev.Commit, holder)
    assert isinstance(await told(committed), fx.Stands)
    assert "the word is not liked" in str(await told(granted_badly))
    assert isinstance(await told(granted_well), fx.Registered)
    assert (await coordinator.phases())[holder] is Phase.COMMITTING
    assert coordinator.engine.stats.events_refused == 1


@pytest.mark.parametrize("turns", range(0, 12, 3))
async def test_a_name_is_begun_once_whatever_is_refused_meanwhile(coordinator: Coordinator, turns: int) -> None:
    """`turns` of the event loop pass before the refusal, so that it meets the look-up of the name at several places."""

    def begin_named(name: str = "n") -> Ask:
        xid, ask = f"127.0.0.1:8091:{coordinator.engine.ids.next()}", Ask()
        terms = Terms("order 7", "saga", b"")
        coordinator.engine.submit(ev.Begin(xid, name, "app", "group", 60_000, ask, terms))
        return ask

    gate = poisoned(coordinator).gate
    gate.clear()
    _, before = coordinator.begin()
    await asyncio.sleep(0)
    _, bad = coordinator.begin(POISON)
    bad_one, first, second = begin_named(POISON), begin_named(), begin_named()
    for _ in range(turns):
        await asyncio.sleep(0)
    gate.set()
    _, worse = coordinator.begin(POISON)
    third = begin_named()
    results = [await told(ask) for ask in (first, second, third)]
    (begun,) = [result for result in results if isinstance(result, fx.Begun)]
    assert [result.xid for result in results if isinstance(result, fx.Known)] == [begun.xid] * 2
    assert isinstance(await told(before), fx.Begun)
    assert [await told(ask) for ask in (bad, worse, bad_one)] == ["the word is not liked"] * 3
    assert await coordinator.store.find_gid("order 7") == begun.xid


async def test_who_waits_for_the_end_is_answered_once(coordinator: Coordinator) -> None:
    """Who asked for a rollback hears after its first round; that he waits is in memory only."""
    undone = await coordinator.begun()
    assert isinstance(await told(coordinator.register(undone, "t:1")), fx.Registered)
    waiting = coordinator.ask(ev.Rollback, undone)
    await until_called(coordinator, 1)
    assert waiting.result is None
    assert await told(coordinator.begin(POISON)[1]) == "the word is not liked"
    await until_called(coordinator, 2)
    call = coordinator.calls[-1]
    coordinator.engine.submit(ev.Answered(undone, call.branch_id, call.verb, call.attempt, ev.CallResult.DONE))
    answer = await told(waiting)
    assert isinstance(answer, fx.Stands)
    assert answer.standing.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    ended = await told(coordinator.ask(ev.Status, undone))
    assert isinstance(ended, fx.Stands)
    assert ended.standing.phase is Phase.ROLLED_BACK


async def test_the_end_that_was_told_in_a_lost_turn_is_told_again(coordinator: Coordinator) -> None:
    """The answer of the branch is decided on top of what the store refuses: with it the end, and who hears of it."""
    undone = await coordinator.begun()
    assert isinstance(await told(coordinator.register(undone, "t:1")), fx.Registered)
    waiting = coordinator.ask(ev.Rollback, undone)
    await until_called(coordinator, 1)
    call = coordinator.calls[-1]
    refused = coordinator.begin(POISON)[1]
    coordinator.engine.submit(ev.Answered(undone, call.branch_id, call.verb, call.attempt, ev.CallResult.DONE))
    assert await told(refused) == "the word is not liked"
    assert isinstance(await told(waiting), fx.Stands)


async def test_a_step_of_its_own_that_is_refused_is_not_tried_at_once(coordinator: Coordinator) -> None:
    undone = await coordinator.begun()
    assert isinstance(await told(coordinator.register(undone, "t:1")), fx.Registered)
    coordinator.ask(ev.Rollback, undone)
    await until_called(coordinator, 1)
    call, loads = coordinator.calls[-1], poisoned(coordinator).loads
    coordinator.engine.submit(ev.Answered(undone, call.branch_id, call.verb, call.attempt, ev.CallResult.RETRY, POISON))
    async with asyncio.timeout(10):
        while coordinator.engine.stats.events_refused == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # more than a turn of the timer: it would spin
    assert len(coordinator.calls) == 1
    assert poisoned(coordinator).loads == loads + 1
    assert isinstance(await told(coordinator.ask(ev.Status, undone)), fx.Stands)
    assert await coordinator.begun()


async def test_what_comes_while_memory_is_read_anew_waits_its_turn(coordinator: Coordinator) -> None:
    store = poisoned(coordinator)
    reading = asyncio.Event()
    go_on = asyncio.Event()
    load_hot = store.load_hot

    async def slowly() -> Hot:
        reading.set()
        await go_on.wait()
        return await load_hot()

    store.load_hot = slowly  # type: ignore[method-assign]
    refused = coordinator.begin(POISON)[1]
    await reading.wait()
    xid, meanwhile = coordinator.begin()
    status = coordinator.ask(ev.Status, xid)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (refused.result, meanwhile.result, status.result) == (None, None, None)
    go_on.set()
    assert await told(meanwhile) == fx.Begun(xid)
    assert isinstance(await told(status), fx.Stands)
    assert isinstance(refused.result, str)


async def refuses_and_goes_on(new_store: Callable[[], Store]) -> None:
    coordinator = Coordinator(new_store())
    await coordinator.engine.start()
    first, answer = coordinator.begin()
    refused = coordinator.begin(timeout_ms=TOO_LARGE_MS)[1]
    last, answer_to_last = coordinator.begin()
    assert await told(answer) == fx.Begun(first)
    assert isinstance(await told(refused), str)
    assert await told(answer_to_last) == fx.Begun(last)
    await coordinator.engine.stop()
    assert coordinator.failures == []
    again = Coordinator(new_store())
    await again.engine.start()
    assert set(again.engine.transactions()) == {first, last}
    await again.engine.stop()


async def test_the_embedded_store_refuses_and_goes_on(tmp_path: Path) -> None:
    await refuses_and_goes_on(lambda: SqliteStore(str(tmp_path / "troth.db")))


@pytest.mark.engines
async def test_the_shared_store_refuses_and_goes_on(new_postgres_database: Callable[[], str]) -> None:
    url = new_postgres_database()
    await refuses_and_goes_on(lambda: PostgresStore(url))


async def until_called(coordinator: Coordinator, times: int) -> None:
    async with asyncio.timeout(10):
        while len(coordinator.calls) < times:
            await asyncio.sleep(0)


# ---- what is said at the door ----


class Channel:
    """Keeps what is answered."""

    def __init__(self) -> None:
        self.said: list[m.Message] = []

    def respond(self, frame: Frame, message: m.Message, *, more: bool = False) -> None:
        self.said.append(message)

    def refusal(self, request: m.Message, reason: str) -> m.Message | None:
        return refusal_of(request, reason)


def frame_of(body: m.Message) -> Frame:
    return Connection().request(body)


REQUESTS = (
    m.GlobalBeginRequest(1000, "n"),
    m.GlobalCommitRequest("x:1:1"),
    m.GlobalRollbackRequest("x:1:1"),
    m.GlobalReportRequest("x:1:1", None, GlobalStatus.Rollbacking),
    m.BranchRegisterRequest("x:1:1", WireBranchType.AT, RESOURCE, "t:1"),
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_that_writes_hears_that_it_has_failed(request_: m.Message) -> None:
    channel = Channel()
    Reply(channel, frame_of(request_)).refuse("too odd")
    (answer,) = channel.said
    assert answer.result_code is ResultCode.Failed  # type: ignore[attr-defined]
    assert "too odd" in answer.msg  # type: ignore[attr-defined]
    assert answer.TYPE_CODE == request_.TYPE_CODE + 1


def test_children_of_a_merged_request_hear_it_each_by_itself() -> None:
    merged = m.MergedWarpMessage(REQUESTS[:2], (1, 2))
    old = Channel()
    whole = MergedReply(old, frame_of(merged), 2)
    ChildReply(whole, 1).send(m.GlobalCommitResponse(global_status=GlobalStatus.Committed))
    assert old.said == []
    ChildReply(whole, 0).refuse("too odd")
    (answer,) = old.said
    assert isinstance(answer, m.MergeResultMessage)
    assert [type(one) for one in answer.msgs] == [m.GlobalBeginResponse, m.GlobalCommitResponse]
    new = Channel()
    ChildReply(BatchReply(new, frame_of(merged), (1, 2)), 1).refuse("too odd")
    (answer,) = new.said
    assert isinstance(answer, m.BatchResultMessage)
    assert answer.result_messages[0].global_status is GlobalStatus.Finished  # type: ignore[attr-defined]


async def test_a_coroutine_that_asks_gets_an_exception() -> None:
    reply = FutureReply()
    reply.refuse("too odd")
    with pytest.raises(NotStored, match="too odd"):
        await reply.result
