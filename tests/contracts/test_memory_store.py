"""What only the memory store does."""

from __future__ import annotations

from troth.core.effects import EndGlobal, OpenGlobal
from troth.core.model import Cause, Phase
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch


async def test_the_oldest_outcomes_make_room() -> None:
    store = MemoryStore(max_outcomes=20)
    await store.open()
    for number in range(1, 101):
        xid = f"xid-{number}"
        writes = [OpenGlobal(xid, "n", "a", "g", number, 1), EndGlobal(xid, Phase.COMMITTED, Cause.ASKED, number)]
        await store.append(Batch(number, number, writes))
    kept = [outcome.end_ms for outcome in (await store.find_ended(None, 100, None)).outcomes]
    assert kept == list(range(100, 100 - len(kept), -1)), "the newest stay"
    assert 18 <= len(kept) <= 20
    assert await store.outcome("xid-1") is None
