"""Names that users choose: begun once, whatever has left memory and whatever is still on its way to the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import NewStep
from troth.core.model import BranchType, OnTimeout, Phase, Terms
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.engine import Engine
from troth.server.waiters import FutureReply
from troth.stores.memory import MemoryStore


class Mute:
    """Reaches nobody: nothing here has a branch."""

    def call(self, call: fx.Call) -> None:
        raise AssertionError(call)


def engine_on(store: MemoryStore, rules: Rules | None = None) -> Engine:
    def fail(error: BaseException) -> None:
        raise error

    return Engine(
        store,
        rules=rules or Rules(),
        outbound=Mute(),
        clock=SteadyClock(),
        released=lambda: None,
        settled=lambda settled: None,
        failed=fail,
    )


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = engine_on(MemoryStore())
    await engine.start()
    yield engine
    await engine.stop()


def begin(
    engine: Engine, gid: str, *, submit: bool = False, steps: tuple[NewStep, ...] = ()
) -> asyncio.Future[fx.Result]:
    reply = FutureReply()
    xid = f"127.0.0.1:8091:{engine.ids.next()}"
    terms = Terms(gid, "saga", b"", OnTimeout.GO_ON)
    engine.submit(ev.Begin(xid, "n", "app", "group", 1_000, reply, terms, steps, submit=submit))
    return reply.result


async def test_of_many_at_once_one_begins(engine: Engine) -> None:
    results = await asyncio.gather(*(begin(engine, "order") for _ in range(5)))
    (begun,) = [result for result in results if isinstance(result, fx.Begun)]
    known = [result for result in results if isinstance(result, fx.Known)]
    assert [result.xid for result in known] == [begun.xid] * 4
    assert await engine.find("order") == begun.xid


async def test_a_name_that_has_left_memory_is_found_in_the_store(engine: Engine) -> None:
    begun = await begin(engine, "order", submit=True)
    assert isinstance(begun, fx.Begun)
    engine.submit(ev.Sweep(engine.clock.now_ms() + 1))
    assert engine.outcome_in_memory(begun.xid) is None
    assert await engine.find("order") == begun.xid
    known = await begin(engine, "order")
    assert isinstance(known, fx.Known)
    assert (known.xid, known.standing.phase) == (begun.xid, Phase.COMMITTED)


async def test_a_transaction_of_more_branches_than_memory_keeps_is_known_all_the_same() -> None:
    engine = engine_on(MemoryStore(), Rules(outcome_memory_max=2))
    await engine.start()
    steps = tuple(NewStep(engine.ids.next(), BranchType.RECORD, "r", None, None) for _ in range(4))
    begun = await begin(engine, "order", submit=True, steps=steps)
    assert isinstance(begun, fx.Begun)
    for _ in range(2):
        reply = FutureReply()
        engine.submit(ev.Status(begun.xid, reply))
        result = await reply.result
        assert isinstance(result, fx.Stands)
        assert result.standing.phase is Phase.COMMITTED
        known = await begin(engine, "order")
        assert isinstance(known, fx.Known)
        assert known.xid == begun.xid
        engine.submit(ev.Sweep(engine.clock.now_ms() + 1))
    await engine.stop()


async def test_a_name_is_known_after_a_restart() -> None:
    store = MemoryStore()
    results = []
    for _ in range(2):
        engine = engine_on(store)
        await engine.start()
        results.append((await begin(engine, "ended", submit=True), await begin(engine, "open")))
        await engine.stop()
    before, after = results
    assert all(isinstance(result, fx.Begun) for result in before)
    assert [result.xid for result in after if isinstance(result, fx.Known)] == [
        result.xid for result in before if isinstance(result, fx.Begun)
    ]


async def test_an_xid_is_a_name_of_its_transaction_and_nothing_else_is(engine: Engine) -> None:
    begun = await begin(engine, "", submit=True)
    assert isinstance(begun, fx.Begun)
    assert await engine.find(begun.xid) == begun.xid
    engine.submit(ev.Sweep(engine.clock.now_ms() + 1))
    assert await engine.find(begun.xid) == begun.xid
    for nothing in ("", "127.0.0.1:8091:1", "x\0", "y" * 4096):
        assert await engine.find(nothing) is None
