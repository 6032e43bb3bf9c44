"""What every store keeps of transactions with terms, and of the settings that users keep in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from test_stores import NASTY, added, append, branch_marked, ended, load, opened, reopen

from troth.core.effects import DropBranch, EndGlobal, MarkGlobal
from troth.core.model import BranchType, Cause, EndedBranch, OnTimeout, Phase, PhaseOne, Plan, Terms
from troth.stores import sqlite_journal
from troth.stores.packed import unpack_branches, unpack_terms
from troth.stores.store import BatchRefused, KeyValue, Store, StoreError

Place = Callable[[], Store]


def named(gid: str, **more: int) -> Terms:
    return Terms(gid, "saga", b'{"x":"\0\xff"}', OnTimeout.ASK, **more)  # type: ignore[arg-type]


async def test_terms_and_plans_and_the_words_of_a_decision_come_back(store: Store, place: Place) -> None:
    terms = named("order 7", retry_ms=2_000, retry_limit=3, answer_timeout_ms=9, start_ms=4)
    await append(store, opened("a", terms=terms), opened("b"))
    await append(store, added("a", 1, plan=Plan(True, (2, 3))), added("b", 1))
    await append(store, MarkGlobal("a", Phase.FORWARD, None, False, "a result"))
    store = await reopen(store, place)
    transactions = await load(store)
    assert (transactions["a"].terms, transactions["a"].phase) == (terms, Phase.FORWARD)
    assert transactions["a"].reason == "a result"
    assert transactions["a"].branches[1].plan == Plan(True, (2, 3))
    assert (transactions["b"].terms, transactions["b"].reason, transactions["b"].course) == (None, None, None)
    await store.close()


async def test_a_branch_that_has_left_is_kept_aside(store: Store, place: Place) -> None:
    await append(store, opened("a", terms=named("")), added("a", 1), added("a", 2, seq=2))
    left = branch_marked("a", 2, left=True, ended=True, epoch=5, client_id="another")
    await append(store, left)
    for _ in range(2):
        tx = (await load(store))["a"]
        assert list(tx.branches) == [1]
        (branch,) = tx.finished.values()
        assert (branch.branch_id, branch.left, branch.ended, branch.epoch) == (2, True, True, 5)
        assert branch.client_id == "another"
        assert tx.next_seq == 3
        store = await reopen(store, place)
    await append(store, branch_marked("a", 2, left=True, epoch=6))
    (branch,) = (await load(store))["a"].finished.values()
    assert (branch.epoch, branch.client_id) == (6, "another")
    await store.close()


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_a_gid_of_any_text_finds_its_transaction(store: Store, place: Place, text: str) -> None:
    gid = text or "plain"
    branch = EndedBranch(1, 1, BranchType.MESSAGE, text, text, PhaseOne.DONE, True, 3, text)
    await append(store, opened("open", terms=named(f"{gid}1")), opened("gone", terms=named(gid)))
    await append(store, EndGlobal("gone", Phase.ROLLED_BACK, Cause.REFUSED, 7, text, (branch, branch)))
    for _ in range(2):
        assert await store.find_gid(f"{gid}1") == "open"
        assert await store.find_gid(gid) == "gone"
        assert await store.find_gid(f"{gid}2") is None
        assert await store.find_gid("") is None
        outcome = await store.outcome("gone")
        assert outcome is not None
        assert (outcome.terms, outcome.reason, outcome.branches) == (named(gid), text, (branch, branch))
        assert (await store.find_ended(None, 5, None)).outcomes[0] == outcome
        store = await reopen(store, place)
    await store.close()


async def test_a_gid_is_one_transactions_until_that_is_purged(store: Store) -> None:
    await append(store, opened("a", terms=named("mine")), opened("x", terms=named("")), opened("y", terms=named("")))
    for writes in (
        (opened("b", terms=named("mine")),),
        (opened("b", terms=named("new")), opened("c", terms=named("new"))),
    ):
        with pytest.raises(StoreError, match=r"OpenGlobal is refused: .* gid "):
            await append(store, *writes)
    assert sorted(await load(store)) == ["a", "x", "y"]
    await append(store, ended("a", 5))
    with pytest.raises(StoreError):
        await append(store, opened("b", terms=named("mine")))
    assert await store.purge(6, 10) == 1
    assert await store.find_gid("mine") is None
    await append(store, opened("b", terms=named("mine")))
    assert await store.find_gid("mine") == "b"


async def test_a_whole_named_life_in_one_batch(store: Store, place: Place) -> None:
    branch = EndedBranch(1, 1, BranchType.SAGA, "http://x", None, PhaseOne.DONE, False, 0, None)
    end = msgspec.structs.replace(ended("a", 8), branches=(branch,))
    await append(store, opened("a", terms=named("g")), added("a", 1), branch_marked("a", 1, left=True), end)
    for _ in range(2):
        assert await load(store) == {}
        outcome = await store.outcome("a")
        assert outcome is not None
        assert (outcome.branches, outcome.terms) == ((branch,), named("g"))
        assert await store.find_gid("g") == "a"
        store = await reopen(store, place)
    await store.close()


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_the_journal_keeps_what_is_packed_in_both_of_its_formats(text: str) -> None:
    branch = EndedBranch(1, 1, BranchType.SAGA, text, text, PhaseOne.FAILED, True, 3, text)
    end = EndGlobal("a", Phase.ROLLED_BACK, Cause.REFUSED, 7, text, (branch,))
    plan = Plan(True, (1, 2))
    writes = [opened("a", terms=named(text)), opened("b", name=text), added("a", 1, plan=plan, client_id=text), end]
    assert sqlite_journal.unpack_writes(sqlite_journal.pack_writes(writes)) == writes


async def test_a_batch_that_contradicts_itself_is_refused_and_no_more(store: Store) -> None:
    await append(store, opened("a"), added("a", 1))
    for writes in (
        (opened("b"), opened("b")),
        (opened("b", terms=named("new")), opened("c", terms=named("new"))),
        (added("a", 2), added("a", 2)),
        (DropBranch("a", 1), branch_marked("a", 1)),
        (ended("a", 5), MarkGlobal("a", Phase.COMMITTING, Cause.ASKED, False)),
        (ended("a", 5), added("a", 2)),
    ):
        with pytest.raises(BatchRefused):
            await append(store, *writes)
    await append(store, branch_marked("a", 1, attempts=3))
    assert (await load(store))["a"].branches[1].attempts == 3


async def test_terms_that_no_column_holds_are_refused_and_no_more(store: Store) -> None:
    too_large = (named("a", retry_ms=2**70), named("a", retry_limit=2**64)) if store.durable else ()  # memory holds all
    for terms in too_large:
        with pytest.raises(BatchRefused):
            await append(store, opened("a", terms=terms))
    await append(store, opened("a", terms=named("a", retry_ms=2**62)))
    assert await store.find_gid("a") == "a"


@pytest.mark.parametrize("packed", [b"", b"\x90", b"\xa1x", b"\x94\xa1x\xa1y\xa1z\xa3ask", b"\x91\x01"])
def test_what_no_troth_has_packed_is_not_believed(packed: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_terms(packed)
    with pytest.raises(ValueError):
        unpack_branches(packed)


# ---- what users keep ----


async def test_a_value_is_changed_only_by_who_knows_its_version(store: Store, place: Place) -> None:
    assert await store.kv_get("topics", "orders") is None
    assert not await store.kv_put("topics", "orders", "x", 1, 5)
    assert await store.kv_put("topics", "orders", "[]", None, 5)
    assert not await store.kv_put("topics", "orders", "x", None, 6)
    assert not await store.kv_put("topics", "orders", "x", 2, 6)
    assert await store.kv_put("topics", "orders", "[1]", 1, 7)
    store = await reopen(store, place)
    found = await store.kv_get("topics", "orders")
    assert found is not None
    assert found == KeyValue(found.id, "topics", "orders", "[1]", 2, 5, 7)
    assert await store.kv_get("other", "orders") is None
    assert await store.kv_delete("topics", "orders")
    assert not await store.kv_delete("topics", "orders")
    assert await store.kv_get("topics", "orders") is None
    assert await store.kv_put("topics", "orders", "again", None, 9)
    await store.close()


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_no_text_is_refused_or_changed(store: Store, text: str) -> None:
    cut = text[:1_000]
    assert await store.kv_put(cut, cut, text, None, 1)
    found = await store.kv_get(cut, cut)
    assert found is not None
    assert (found.cat, found.k, found.v) == (cut, cut, text)


async def test_a_category_is_read_page_by_page(store: Store) -> None:
    for number in range(5):
        assert await store.kv_put("a", str(number), "v", None, number)
        assert await store.kv_put("b", str(number), "v", None, number)
    found: list[KeyValue] = []
    after = 0
    while page := await store.kv_scan("a", after, 2):
        found += page
        after = page[-1].id
    assert [row.k for row in found] == ["0", "1", "2", "3", "4"]
    assert {row.cat for row in found} == {"a"}
    with pytest.raises(ValueError, match="at least one"):
        await store.kv_scan("a", 0, 0)
