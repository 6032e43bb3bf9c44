"""What DTM's doors do, on a real engine: what a store refuses is told, and is not remembered as done."""

import asyncio

import pytest

from troth.core.effects import Call
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.config import Config
from troth.server.engine import Engine
from troth.server.inbound.dtm import Operations
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch, BatchRefused
from troth.wire.dtm.messages import Registration, Trans
from troth.wire.dtm.results import BadInput, Refused

POISON = "poison"


class PoisonedStore(MemoryStore):
    """Refuses every batch with a certain word in it, as a database would one that is out of its range."""

    async def append(self, batch: Batch) -> None:
        if any(POISON in repr(write) for write in batch.writes):
            raise BatchRefused("the word is not liked")
        await super().append(batch)


class Outbound:
    """Nothing is called here before it is decided."""

    def call(self, call: Call) -> None:
        raise AssertionError(call)


async def test_a_branch_that_the_store_refuses_is_a_4xx_each_time() -> None:
    failures: list[BaseException] = []
    engine = Engine(
        PoisonedStore(),
        rules=Rules(),
        outbound=Outbound(),
        clock=SteadyClock(),
        released=lambda: None,
        settled=lambda _: None,
        failed=failures.append,
    )
    await engine.start()
    operations = Operations(engine, Config(), address=lambda: "127.0.0.1:8091", overloaded=lambda: None)
    await operations.prepare(Trans("a", "tcc"))
    bad = Registration("a", "tcc", "01", {"confirm": f"http://127.0.0.1:1/{POISON}", "cancel": ""})
    for _ in range(2):
        with pytest.raises(BadInput, match="the word is not liked"):
            await operations.register_branch(bad)
    both = await asyncio.gather(*(operations.register_branch(bad) for _ in range(2)), return_exceptions=True)
    assert all(isinstance(one, Refused) for one in both), both
    await operations.register_branch(Registration("a", "tcc", "01", {"confirm": "", "cancel": ""}))
    assert [(row.branch_id, row.op) for row in (await operations.query("a")).branches] == [
        ("01", "cancel"),
        ("01", "confirm"),
    ]
    await engine.stop()
    assert not failures
