"""The contract of the store seam (`troth.stores.store`), held against every store of `conftest.PLACES`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import Branch, BranchType, Cause, Global, Outcome, Phase, PhaseOne, RowKey
from troth.stores.store import Batch, Store, StoreError

Place = Callable[[], Store]

NASTY = ("", "naïve ☃ 🏦", "nul\0inside\0", "quote ' \" ; -- \\ %s ?", "line\r\n\ttab", "x" * 70_000, "lone \ud800")


def opened(xid: str, **changes: object) -> OpenGlobal:
    usual = OpenGlobal(xid=xid, name="purchase", application="shop", group="g", begin_ms=1_000, timeout_ms=60_000)
    return msgspec.structs.replace(usual, **changes)


def added(xid: str, branch_id: int, seq: int = 1, **changes: object) -> AddBranch:
    usual = AddBranch(
        xid=xid,
        branch_id=branch_id,
        seq=seq,
        branch_type=BranchType.AT,
        resource_id="jdbc:mysql://db/shop",
        lock_text="stock:1,2;account:7",
        application_data=None,
        auto_commit=False,
        client_id="shop:10.0.0.1:5000",
    )
    return msgspec.structs.replace(usual, **changes)


def branch_marked(xid: str, branch_id: int, **changes: object) -> MarkBranch:
    usual = MarkBranch(
        xid=xid,
        branch_id=branch_id,
        phase_one=PhaseOne.DONE,
        application_data=None,
        attempts=0,
        frozen=False,
        last_error=None,
        last_worker=None,
        last_attempt_ms=None,
        next_due_ms=None,
    )
    return msgspec.structs.replace(usual, **changes)


def ended(xid: str, end_ms: int, phase: Phase = Phase.COMMITTED, cause: Cause = Cause.ASKED) -> EndGlobal:
    return EndGlobal(xid=xid, phase=phase, cause=cause, end_ms=end_ms)


async def append(store: Store, *writes: Write, last_id: int = 0) -> None:
    hot = await store.load_hot()
    await store.append(Batch(number=hot.last_batch + 1, last_id=last_id, writes=writes))


async def load(store: Store) -> dict[str, Global]:
    return {tx.xid: tx for tx in (await store.load_hot()).transactions}


async def reopen(store: Store, place: Place) -> Store:
    await store.close()
    again = place()
    await again.open()
    return again


# ---- opening ----


async def test_a_new_store_is_empty(store: Store) -> None:
    hot = await store.load_hot()
    assert (list(hot.transactions), hot.last_batch, hot.last_id) == ([], 0, 0)
    assert await store.outcome("none") is None
    assert await store.purge(10**15, 10) == 0
    page = await store.find_ended(None, 10, None)
    assert (list(page.outcomes), page.cursor) == ([], None)


async def test_what_is_not_open_answers_nothing(place: Place) -> None:
    store = place()
    with pytest.raises(StoreError, match="not open"):
        await store.load_hot()
    await store.open()
    with pytest.raises(StoreError, match="open already"):
        await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="not open"):
        await store.append(Batch(number=1, last_id=0, writes=()))


async def test_a_closed_store_opens_again_and_remembers(place: Place) -> None:
    store = place()
    await store.open()
    await append(store, opened("a"), added("a", 5), last_id=77)
    await append(store, opened("b"), ended("b", 9), last_id=78)
    store = await reopen(store, place)
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (2, 78)
    assert list(await load(store)) == ["a"]
    assert await store.outcome("b") is not None
    await append(store, added("a", 6, seq=2))
    await store.close()


async def test_the_url_names_the_store(store: Store) -> None:
    assert "://" in store.url
    assert isinstance(store.durable, bool)


# ---- what comes back ----


async def test_a_global_comes_back_as_it_was_opened(store: Store) -> None:
    await append(store, opened("127.0.0.1:8091:1", name="n", application="a", group="g", begin_ms=5, timeout_ms=6))
    assert await load(store) == {
        "127.0.0.1:8091:1": Global(
            xid="127.0.0.1:8091:1", name="n", application="a", group="g", begin_ms=5, timeout_ms=6
        )
    }


@pytest.mark.parametrize("rollback_only", [False, True])
@pytest.mark.parametrize(
    ("phase", "cause"), [(Phase.OPEN, None)] + [(p, c) for p in (Phase.COMMITTING, Phase.ROLLING_BACK) for c in Cause]
)
async def test_marks_of_a_global_come_back(
    store: Store, phase: Phase, cause: Cause | None, rollback_only: bool
) -> None:
    await append(store, opened("a"))
    await append(store, MarkGlobal("a", phase, cause, rollback_only))
    tx = (await load(store))["a"]
    assert (tx.phase, tx.cause, tx.rollback_only) == (phase, cause, rollback_only)


async def test_a_branch_comes_back_with_every_field(store: Store) -> None:
    await append(store, opened("a"), added("a", 2**63 - 1, branch_type=BranchType.TCC, application_data="{}"))
    await append(store, added("a", -5, seq=2, auto_commit=True, lock_text="", resource_id="r2", client_id="c2"))
    await append(
        store,
        branch_marked(
            "a",
            -5,
            phase_one=PhaseOne.FAILED,
            application_data="overwritten",
            attempts=3,
            frozen=True,
            last_error="no answer",
            last_worker="w",
            last_attempt_ms=2**62,
            next_due_ms=-1,
        ),
    )
    first = Branch(
        branch_id=2**63 - 1,
        seq=1,
        branch_type=BranchType.TCC,
        resource_id="jdbc:mysql://db/shop",
        lock_text="stock:1,2;account:7",
        keys=tuple(RowKey("jdbc:mysql://db/shop", *row) for row in (("stock", "1"), ("stock", "2"), ("account", "7"))),
        application_data="{}",
        auto_commit=False,
        client_id="shop:10.0.0.1:5000",
    )
    second = Branch(
        branch_id=-5,
        seq=2,
        branch_type=BranchType.AT,
        resource_id="r2",
        lock_text="",
        keys=(),
        application_data="overwritten",
        auto_commit=True,
        client_id="c2",
        phase_one=PhaseOne.FAILED,
        attempts=3,
        frozen=True,
        last_error="no answer",
        last_worker="w",
        last_attempt_ms=2**62,
        next_due_ms=-1,
    )
    tx = (await load(store))["a"]
    assert tx.branches == {2**63 - 1: first, -5: second}
    assert tx.next_seq == 3


@pytest.mark.parametrize("branch_type", BranchType)
@pytest.mark.parametrize("phase_one", PhaseOne)
async def test_every_mode_and_phase_one_comes_back(store: Store, branch_type: BranchType, phase_one: PhaseOne) -> None:
    await append(store, opened("a"), added("a", 1, branch_type=branch_type), branch_marked("a", 1, phase_one=phase_one))
    branch = (await load(store))["a"].branches[1]
    assert (branch.branch_type, branch.phase_one) == (branch_type, phase_one)


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_no_text_of_a_client_is_refused_or_changed(store: Store, place: Place, text: str) -> None:
    xid = f"x{text}"
    await append(
        store,
        opened(xid, name=text, application=text, group=text),
        added(xid, 1, resource_id=text, lock_text="t:1", application_data=text, client_id=text),
        added(xid, 2, seq=2, lock_text=f"t:{text or 1}".replace(";", ":").replace(",", ".")),
    )
    await append(store, branch_marked(xid, 1, application_data=text, last_error=text, last_worker=text))
    await append(store, opened(f"{xid}2", name=text, application=text, group=text), ended(f"{xid}2", 1))
    store = await reopen(store, place)
    tx = (await load(store))[xid]
    assert (tx.name, tx.application, tx.group) == (text, text, text)
    branch = tx.branches[1]
    assert (branch.resource_id, branch.application_data, branch.client_id) == (text, text, text)
    assert (branch.last_error, branch.last_worker) == (text, text)
    assert (await store.outcome(f"{xid}2")) is not None
    await store.close()


async def test_none_overwrites_what_was_there(store: Store) -> None:
    await append(store, opened("a"), added("a", 1, application_data="registered with"))
    await append(store, branch_marked("a", 1, application_data="x", last_error="e", last_worker="w", next_due_ms=1))
    await append(store, branch_marked("a", 1))
    branch = (await load(store))["a"].branches[1]
    assert (branch.application_data, branch.last_error, branch.last_worker, branch.next_due_ms) == (None,) * 4


async def test_branches_are_ordered_by_seq_and_not_by_id(store: Store) -> None:
    await append(store, opened("a"), added("a", 30, seq=1), added("a", 10, seq=2))
    await append(store, added("a", 20, seq=3))
    tx = (await load(store))["a"]
    assert list(tx.branches) == [30, 10, 20]
    assert tx.next_seq == 4


async def test_equal_branch_ids_in_two_transactions_are_two_branches(store: Store) -> None:
    await append(store, opened("a"), opened("b"), added("a", 1), added("b", 1), branch_marked("b", 1, attempts=4))
    await append(store, DropBranch("a", 1))
    transactions = await load(store)
    assert transactions["a"].branches == {}
    assert transactions["b"].branches[1].attempts == 4


async def test_what_was_loaded_may_be_changed_without_harm(store: Store) -> None:
    await append(store, opened("a"), added("a", 1))
    tx = (await load(store))["a"]
    tx.phase, tx.branches[1].attempts = Phase.COMMITTING, 99
    tx.branches.clear()
    again = (await load(store))["a"]
    assert again.phase is Phase.OPEN
    assert again.branches[1].attempts == 0


async def test_memory_only_fields_are_empty_and_unshared(store: Store) -> None:
    await append(store, opened("a"), opened("b"), added("a", 1))
    transactions = await load(store)
    for tx in transactions.values():
        assert (tx.waiting, tx.listeners, tx.hot_wait_spent_ms) == ({}, [], {})
    assert transactions["a"].branches[1].answer_due_ms is None
    transactions["a"].listeners.append(None)  # type: ignore[arg-type]
    assert transactions["b"].listeners == []


# ---- batches ----


async def test_one_batch_is_applied_in_its_order(store: Store) -> None:
    await append(
        store,
        opened("a"),
        MarkGlobal("a", Phase.OPEN, None, True),
        added("a", 1),
        branch_marked("a", 1, attempts=1),
        branch_marked("a", 1, attempts=2),
        added("a", 2, seq=2),
        DropBranch("a", 1),
        MarkGlobal("a", Phase.ROLLING_BACK, Cause.VOTE, True),
    )
    tx = (await load(store))["a"]
    assert (tx.phase, tx.cause, list(tx.branches)) == (Phase.ROLLING_BACK, Cause.VOTE, [2])


async def test_a_whole_life_in_one_batch_leaves_only_the_outcome(store: Store) -> None:
    decided = MarkGlobal("a", Phase.COMMITTING, Cause.ASKED, False)
    await append(store, opened("a"), added("a", 1), added("a", 2, seq=2), decided, DropBranch("a", 1), ended("a", 8))
    assert await load(store) == {}
    assert await store.outcome("a") == Outcome("a", "purchase", "shop", "g", 1_000, 60_000, *END_OF_A)


END_OF_A = (Phase.COMMITTED, Cause.ASKED, 8)


@pytest.mark.parametrize("count", [1, 2, 7, 31, 128, 300])
async def test_batches_of_any_size(store: Store, count: int) -> None:
    xids = [f"host:8091:{number}" for number in range(count)]
    await append(store, *(opened(xid) for xid in xids))
    await append(store, *(added(xid, number) for number, xid in enumerate(xids)))
    await append(store, *(branch_marked(xid, number, attempts=number) for number, xid in enumerate(xids)))
    await append(store, *(MarkGlobal(xid, Phase.COMMITTING, Cause.ASKED, False) for xid in xids))
    transactions = await load(store)
    assert [transactions[xid].branches[number].attempts for number, xid in enumerate(xids)] == list(range(count))
    assert {tx.phase for tx in transactions.values()} == {Phase.COMMITTING}
    await append(store, *(DropBranch(xid, number) for number, xid in enumerate(xids[: count // 2])))
    assert sum(len(tx.branches) for tx in (await load(store)).values()) == count - count // 2
    await append(store, *(ended(xid, number) for number, xid in enumerate(xids)))
    assert await load(store) == {}
    assert len((await store.find_ended(None, 1_000, None)).outcomes) == count


async def test_an_empty_batch_still_counts(store: Store) -> None:
    await store.append(Batch(number=1, last_id=41, writes=()))
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (1, 41)


@pytest.mark.parametrize("number", [-1, 0, 1, 3, 4])
async def test_batches_are_neither_skipped_nor_repeated(store: Store, number: int) -> None:
    await store.append(Batch(number=1, last_id=1, writes=[opened("a")]))
    with pytest.raises(StoreError, match="out of order"):
        await store.append(Batch(number=number, last_id=9, writes=[opened("b")]))
    assert list(await load(store)) == ["a"]
    await store.append(Batch(number=2, last_id=2, writes=[opened("b")]))
    assert sorted(await load(store)) == ["a", "b"]


IMPOSSIBLE: dict[str, tuple[Write, ...]] = {
    "open again": (opened("a"),),
    "open twice": (opened("c"), opened("c")),
    "open what has ended": (opened("gone"),),
    "mark unknown": (MarkGlobal("c", Phase.COMMITTING, Cause.ASKED, False),),
    "mark ended": (MarkGlobal("gone", Phase.COMMITTING, Cause.ASKED, False),),
    "end unknown": (ended("c", 1),),
    "end ended": (ended("gone", 1),),
    "end twice": (ended("a", 1), ended("a", 2)),
    "add to unknown": (added("c", 1),),
    "add to ended": (added("gone", 1),),
    "add to just ended": (ended("a", 1), added("a", 9)),
    "add again": (added("a", 1),),
    "add twice": (added("a", 9), added("a", 9)),
    "mark unknown branch": (branch_marked("a", 9),),
    "mark dropped branch": (DropBranch("a", 1), branch_marked("a", 1)),
    "drop unknown branch": (DropBranch("a", 9),),
    "drop twice": (DropBranch("a", 1), DropBranch("a", 1)),
}


@pytest.mark.parametrize("writes", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
async def test_a_batch_that_cannot_be_right_changes_nothing(store: Store, writes: tuple[Write, ...]) -> None:
    await append(store, opened("a"), added("a", 1), opened("gone"), ended("gone", 3))
    before = await load(store)
    good = (opened("b"), added("b", 1), MarkGlobal("a", Phase.COMMITTING, Cause.ASKED, True), added("a", 7, seq=2))
    with pytest.raises(StoreError):
        await append(store, *good, *writes)
    assert await load(store) == before
    assert (await store.load_hot()).last_batch == 1
    assert [outcome.xid for outcome in (await store.find_ended(None, 9, None)).outcomes] == ["gone"]
    await append(store, *good)
    assert sorted(await load(store)) == ["a", "b"]


# ---- outcomes ----


async def test_an_outcome_tells_what_was_opened_and_how_it_ended(store: Store) -> None:
    await append(store, opened("a"), added("a", 1))
    assert await store.outcome("a") is None
    await append(store, MarkGlobal("a", Phase.ROLLING_BACK, Cause.TIMEOUT, True))
    await append(store, ended("a", 123, Phase.ROLLED_BACK, Cause.TIMEOUT))
    expected = Outcome("a", "purchase", "shop", "g", 1_000, 60_000, Phase.ROLLED_BACK, Cause.TIMEOUT, 123)
    assert await store.outcome("a") == expected
    assert list((await store.find_ended(None, 5, None)).outcomes) == [expected]


async def many_outcomes(store: Store) -> list[tuple[int, str]]:
    """Ten outcomes, several in one millisecond, every third rolled back; newest end first."""
    ends = [(100 + number // 3, f"h:1:{number}") for number in range(10)]
    await append(store, *(opened(xid) for _, xid in ends))
    for number, (end_ms, xid) in enumerate(ends):
        phase = Phase.ROLLED_BACK if number % 3 == 0 else Phase.COMMITTED
        await append(store, ended(xid, end_ms, phase))
    return sorted(ends, reverse=True)


@pytest.mark.parametrize("phase", [None, *Phase])
@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 11, 500])
async def test_pages_of_outcomes_join_without_gap_or_repeat(store: Store, limit: int, phase: Phase | None) -> None:
    await many_outcomes(store)
    everything = list((await store.find_ended(None, 500, None)).outcomes)
    expected = [outcome for outcome in everything if phase in (None, outcome.phase)]
    found: list[Outcome] = []
    cursor: str | None = None
    for _ in range(20):
        page = await store.find_ended(phase, limit, cursor)
        assert len(page.outcomes) <= limit
        found += page.outcomes
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.outcomes) == limit
    assert cursor is None
    assert found == expected


async def test_outcomes_come_newest_end_first(store: Store) -> None:
    expected = await many_outcomes(store)
    page = await store.find_ended(None, 500, None)
    assert [(outcome.end_ms, outcome.xid) for outcome in page.outcomes] == expected


async def test_a_cursor_survives_new_ends_and_the_purge_of_its_own_outcome(store: Store) -> None:
    expected = await many_outcomes(store)
    page = await store.find_ended(None, 4, None)
    await append(store, opened("new"), ended("new", 999))
    assert await store.purge(102, 100) == 6
    rest = await store.find_ended(None, 500, page.cursor)
    assert [(outcome.end_ms, outcome.xid) for outcome in rest.outcomes] == [e for e in expected[4:] if e[0] >= 102]


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!", "MTIz", "ünicode", "OmE=", "LTotOmE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OmE="]
)
async def test_a_cursor_of_somebody_else_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await store.find_ended(None, 1, cursor)


async def test_a_page_has_a_length(store: Store) -> None:
    for limit in (0, -1):
        with pytest.raises(ValueError, match="at least one"):
            await store.find_ended(None, limit, None)
        with pytest.raises(ValueError, match="at least one"):
            await store.purge(0, limit)


async def test_purge_takes_the_oldest_first_and_only_what_is_old(store: Store) -> None:
    expected = await many_outcomes(store)
    await append(store, opened("open", begin_ms=0))
    assert await store.purge(100, 500) == 0
    assert await store.purge(103, 4) == 4
    left = [(outcome.end_ms, outcome.xid) for outcome in (await store.find_ended(None, 500, None)).outcomes]
    assert left == expected[:-4]
    assert await store.outcome(expected[-1][1]) is None
    assert await store.outcome(expected[0][1]) is not None
    assert await store.purge(103, 500) == 5
    assert await store.purge(103, 500) == 0
    assert list(await load(store)) == ["open"]


async def test_a_purge_moves_no_counter(store: Store) -> None:
    await append(store, opened("a"), ended("a", 1), last_id=5)
    await store.purge(2, 1)
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (1, 5)
    await append(store, opened("b"))
