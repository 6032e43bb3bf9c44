"""Random histories of valid deltas in random batches: every store agrees with a few dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import BranchType, Cause, EndedBranch, LockMode, OnTimeout, Phase, PhaseOne, Plan, Terms
from troth.stores.store import Batch, Store

Place = Callable[[], Store]
Facts = dict[str, Any]

TEXT = st.text(max_size=12)
OPTIONAL_TEXT = st.none() | TEXT
CAUSES = st.sampled_from(Cause)
TIME = st.integers(0, 2**45)
LOCKS = st.sampled_from(["", "t:1", "t:1,2;u:a", "t:9;"])


class Reference:
    """What a store should know, as plain dictionaries."""

    def __init__(self) -> None:
        self.hot: dict[str, Facts] = {}
        self.branches: dict[str, dict[int, Facts]] = {}
        self.ended: dict[str, Facts] = {}

    def apply(self, write: Write) -> None:
        facts = msgspec.structs.asdict(write)
        xid = facts.pop("xid")
        match write:
            case OpenGlobal():
                self.hot[xid] = facts | {"phase": Phase.OPEN, "cause": None, "rollback_only": False, "reason": None}
                self.branches[xid] = {}
            case MarkGlobal():
                self.hot[xid] |= facts
            case EndGlobal():
                self.ended[xid] = self.hot.pop(xid) | facts
                del self.branches[xid]
            case AddBranch(branch_id=branch_id):
                self.branches[xid][branch_id] = facts | {"left": False, "ended": False, "epoch": 0}
            case MarkBranch(branch_id=branch_id):
                if facts["client_id"] is None:
                    del facts["client_id"]
                self.branches[xid][branch_id] |= facts
            case DropBranch(branch_id=branch_id):
                del self.branches[xid][branch_id]


# prepared once: strategies that are built anew for each step cost more than the stores do
PLANS = st.none() | st.builds(Plan, st.booleans(), st.lists(st.integers(0, 99), max_size=3).map(tuple))
TERMS = st.none() | st.builds(
    Terms,
    *(TEXT, TEXT, st.binary(max_size=9), st.sampled_from(OnTimeout), st.none() | TIME, st.integers(0, 9)),
    *(st.none() | TIME, TIME),
)
ENDED = st.builds(
    EndedBranch,
    *(TIME, TIME, st.sampled_from(BranchType), TEXT, OPTIONAL_TEXT, st.sampled_from(PhaseOne), st.booleans(), TIME),
    OPTIONAL_TEXT,
)
OPEN_PHASES, END_PHASES = ([phase for phase in Phase if phase.ended is ended] for ended in (False, True))
MARKS = st.tuples(st.sampled_from(OPEN_PHASES), st.none() | CAUSES, st.booleans(), OPTIONAL_TEXT)
ENDS = st.tuples(
    *(st.sampled_from(END_PHASES), CAUSES, st.integers(0, 5), OPTIONAL_TEXT, st.lists(ENDED, max_size=2).map(tuple))
)
ADDS = st.tuples(
    *(st.sampled_from(BranchType), TEXT, LOCKS, OPTIONAL_TEXT, st.booleans(), TEXT, st.sampled_from(LockMode), PLANS)
)
BRANCH_MARKS = st.tuples(
    *(st.sampled_from(PhaseOne), OPTIONAL_TEXT, st.integers(0, 9), st.booleans()),
    *(OPTIONAL_TEXT, OPTIONAL_TEXT, st.none() | TIME, st.none() | TIME),
    *(st.booleans(), st.booleans(), st.integers(0, 9), OPTIONAL_TEXT),
)
OPENS = st.tuples(TEXT, TEXT, TEXT, TIME, TIME, TERMS)
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 3)), min_size=1, max_size=30)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Write]]:
    """Batches of deltas, each of them possible after those before it."""
    reference = Reference()
    batches: list[list[Write]] = [[]]
    for number, (kind, target, new_batch) in enumerate(draw(STEPS)):
        write = possible(draw, reference, number, kind, target)
        reference.apply(write)
        batches[-1].append(write)
        if new_batch == 0:
            batches.append([])
    return batches


def possible(draw: st.DrawFn, reference: Reference, number: int, kind: int, target: int) -> Write:
    if kind <= 1 or not reference.hot:
        opened = OpenGlobal(f"h:8091:{number}", *draw(OPENS))
        if opened.terms is None or not opened.terms.gid:
            return opened
        terms = msgspec.structs.replace(opened.terms, gid=f"{opened.terms.gid}{number}")
        return msgspec.structs.replace(opened, terms=terms)
    xid = sorted(reference.hot)[target % len(reference.hot)]
    if kind == 2:
        return EndGlobal(xid, *draw(ENDS))
    if kind == 3:
        return MarkGlobal(xid, *draw(MARKS))
    live = [(xid, branch_id) for xid in sorted(reference.branches) for branch_id in reference.branches[xid]]
    if kind <= 6 or not live:
        return AddBranch(xid, 1000 - number, number, *draw(ADDS))
    if kind == 7:
        return DropBranch(*live[target % len(live)])
    return MarkBranch(*live[target % len(live)], *draw(BRANCH_MARKS))


async def replay(place: Place, batches: list[list[Write]], reopen_every: int) -> None:
    reference = Reference()
    store = place()
    await store.open()
    for number, writes in enumerate(batches, start=1):
        await store.append(Batch(number=number, last_id=number * 10, writes=writes))
        for write in writes:
            reference.apply(write)
        if number % reopen_every == 0 or number == len(batches):
            await store.close()
            store = place()
            await store.open()
            await agree(store, reference, number)
    await store.close()


async def agree(store: Store, reference: Reference, number: int) -> None:
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (number, number * 10)
    assert {tx.xid for tx in hot.transactions} == set(reference.hot)
    for tx in hot.transactions:
        for name, value in reference.hot[tx.xid].items():
            assert getattr(tx, name) == value, name
        branches = reference.branches[tx.xid]
        for kept, left in ((tx.branches, False), (tx.finished, True)):
            expected = [branch_id for branch_id, facts in branches.items() if facts["left"] is left]
            assert list(kept) == sorted(expected, key=lambda branch_id: branches[branch_id]["seq"])
        assert tx.next_seq == max((branch["seq"] for branch in branches.values()), default=0) + 1
        for branch_id, facts in branches.items():
            branch = (tx.finished if facts["left"] else tx.branches)[branch_id]
            for name, value in facts.items():
                assert getattr(branch, name) == value, name
        if tx.terms is not None and tx.terms.gid:
            assert await store.find_gid(tx.terms.gid) == tx.xid
    page = await store.find_ended(None, 100, None)
    newest_first = sorted(reference.ended, key=lambda xid: (reference.ended[xid]["end_ms"], xid), reverse=True)
    assert [outcome.xid for outcome in page.outcomes] == newest_first
    for outcome in page.outcomes:
        facts = reference.ended[outcome.xid]
        assert all(getattr(outcome, name) == facts[name] for name in facts if name != "rollback_only")
        assert await store.outcome(outcome.xid) == outcome
        if outcome.terms is not None and outcome.terms.gid:
            assert await store.find_gid(outcome.terms.gid) == outcome.xid


@pytest.mark.parametrize(
    "new_place",
    ["memory", "sqlite", pytest.param("postgres", marks=[pytest.mark.engines, pytest.mark.soak])],
    indirect=True,
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batches=histories(), reopen_every=st.integers(1, 10))
def test_any_history_in_any_batches_is_remembered(
    new_place: Callable[[], Place], batches: list[list[Write]], reopen_every: int
) -> None:
    asyncio.run(replay(new_place(), batches, reopen_every))
