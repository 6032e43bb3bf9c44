"""The journal of the SQLite store: what is in it is known, survives at every step of its folding, and stays small."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_histories import Reference, agree, histories

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import BranchType, Cause, LockMode, Phase, PhaseOne, Terms
from troth.stores import sqlite_journal
from troth.stores.migrations import load_migrations, migrate
from troth.stores.sqlite import SqliteStore
from troth.stores.sqlite_file import SqliteFile, connect
from troth.stores.sqlite_ledger import Folding, Ledger
from troth.stores.store import Batch, StoreCorrupt, StoreError

NEVER = Folding(writes=10**9, bytes=10**12, after_s=10**6)
OPENED = OpenGlobal("h:1:7", "n", "a", "g", 1, 2)
ADDED = AddBranch("h:1:7", 8, 1, BranchType.TCC, "r", "t:1", None, True, "c")
MARKED = MarkGlobal("h:1:7", Phase.ROLLING_BACK, Cause.VOTE, True)
BRANCH_MARKED = MarkBranch("h:1:7", 8, PhaseOne.FAILED, "d", 3, True, "e", None, 5, None)
ENDED = EndGlobal("h:1:7", Phase.ROLLED_BACK, Cause.VOTE, 9)
ONE_OF_EACH: tuple[Write, ...] = (OPENED, MARKED, ADDED, BRANCH_MARKED, DropBranch("h:1:7", 8), ENDED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "troth.db"


def opened(xid: str) -> OpenGlobal:
    return OpenGlobal(xid=xid, name="n", application="a", group="g", begin_ms=1, timeout_ms=2)


def added(xid: str, branch_id: int) -> AddBranch:
    return AddBranch(xid, branch_id, 1, BranchType.AT, "r", "t:1", None, False, "c")


def ended(xid: str, end_ms: int = 5) -> EndGlobal:
    return EndGlobal(xid, Phase.COMMITTED, Cause.ASKED, end_ms)


# ---- one row ----


def test_every_kind_of_write_comes_back() -> None:
    assert sqlite_journal.unpack_writes(sqlite_journal.pack_writes(ONE_OF_EACH)) == list(ONE_OF_EACH)
    surrogate = msgspec.structs.replace(ADDED, application_data="\ud800", lock_mode=LockMode.ADD)
    packed = sqlite_journal.pack_writes([*ONE_OF_EACH, surrogate])
    assert packed[:1] == sqlite_journal.BYTES
    assert sqlite_journal.unpack_writes(packed) == [*ONE_OF_EACH, surrogate]


def test_what_older_versions_have_written_can_be_read() -> None:
    """A coordinator may die, be upgraded, and start on the journal of the old one."""
    first = bytes.fromhex(
        "0192c406000102030405"  # format 1; the kinds of six writes
        "9696a5683a313a37a16ea161a1670102"  # OpenGlobal
        "94a5683a313a37ac726f6c6c696e672d6261636ba4766f7465c3"  # MarkGlobal
        "99a5683a313a37080101a172a3743a31c0c3a163"  # AddBranch, before it had a lock mode
        "9aa5683a313a3708a66661696c6564a16403c3a165c005c0"  # MarkBranch
        "92a5683a313a3708"  # DropBranch
        "94a5683a313a37ab726f6c6c65642d6261636ba4766f746509"  # EndGlobal
    )
    assert sqlite_journal.unpack_writes(first) == list(ONE_OF_EACH)


async def test_an_older_store_that_died_is_migrated_with_its_journal(path: Path) -> None:
    """The journal is read after the tables have got their new columns, and some of its writes are in them already."""
    file = connect(str(path))
    migrate(file, 0, load_migrations("sqlite")[:3])
    file.execute("INSERT INTO global_transaction VALUES (x'613a37', x'6e', x'61', x'67', 1, 2, 'open', NULL, 0, NULL)")
    file.execute(
        "INSERT INTO branch (xid, branch_id, seq, branch_type, resource_id, lock_text, auto_commit, client_id,"
        " lock_mode) VALUES (x'613a37', 8, 1, 0, x'72', x'743a31', 0, x'63', 'add')"
    )
    fields = [
        ("a:7", "n", "a", "g", 1, 2),
        ("a:7", 8, 1, 0, "r", "t:1", None, False, "c", "add"),
        ("a:7", 8, "done", "d", 3, False, "e", "w", 5, 6),
        ("a:7", "rolling-back", "vote", True),
        ("b:9", "n", "a", "g", 1, 2),
        ("b:9", "committed", "asked", 9),
    ]
    deltas = sqlite_journal.PLAIN + msgspec.msgpack.encode((bytes((0, 2, 3, 1, 0, 5)), fields))
    row = sqlite_journal.Entry(1, 9, sqlite_journal.checksum(1, 9, deltas), deltas)
    sqlite_journal.insert(file, row)
    file.close()
    store = SqliteStore(str(path))
    await store.open()
    hot = await store.load_hot()
    (tx,) = hot.transactions
    assert (hot.last_batch, hot.last_id, tx.xid, tx.phase, tx.cause) == (1, 9, "a:7", Phase.ROLLING_BACK, Cause.VOTE)
    (old,) = tx.branches.values()
    assert (old.phase_one, old.attempts, old.next_due_ms, old.lock_mode) == (PhaseOne.DONE, 3, 6, LockMode.ADD)
    assert (old.client_id, old.plan, old.left, tx.terms, tx.reason) == ("c", None, False, None, None)
    outcome = await store.outcome("b:9")
    assert outcome is not None
    assert (outcome.phase, outcome.branches) == (Phase.COMMITTED, ())
    named = msgspec.structs.replace(opened("c:10"), terms=Terms("order 7", "saga", b""))
    await store.append(Batch(2, 10, [named, ended("a:7")]))
    assert [tx.xid for tx in (await store.load_hot()).transactions] == ["c:10"]
    assert await store.find_gid("order 7") == "c:10"
    await store.close()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("UPDATE journal SET deltas = CAST(replace(deltas, 'purchase', 'purchasf') AS BLOB)", "checksum"),
        ("UPDATE journal SET deltas = x''", "checksum"),
        ("UPDATE journal SET crc32 = crc32 + 1", "checksum"),
        ("UPDATE journal SET last_id = last_id + 1", "checksum"),
        ("UPDATE journal SET deltas = 'text'", "columns"),
        ("UPDATE journal SET number = 7 WHERE number = 2", "lacks row 2"),
        ("DELETE FROM journal WHERE number = 1", "lacks row 1"),
    ],
)
async def test_a_damaged_journal_is_corrupt_and_named(path: Path, spoil: str, reason: str) -> None:
    left_behind(path, [[msgspec.structs.replace(OPENED, name="purchase")], [ADDED]])
    file = sqlite3.connect(path)
    file.execute(spoil)
    file.commit()
    file.close()
    store = SqliteStore(str(path))
    with pytest.raises(StoreCorrupt, match=reason) as refusal:
        await store.open()
    assert "row" in str(refusal.value)
    await store.close()


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        (b"", "format is missing"),
        (b"\x03\x92\xc4\x00\x90", "format 03 is unknown"),
        (b"\x01\x92\xc4\x01\x00\x90", "differ in number"),
        (b"\x01\x92\xc4\x01\x06\x91\x90", "kind 6 is unknown"),
        (b"\x01\x92\xc4\x01\x04\x91\x92\x01\x02", "Expected `str`"),
        (b"\x01\x92\xc4\x01\x04\x91\x93\xa1a\x02\x02", "at most length 2|length 2"),
        (b"\x01\x92\xc4", "truncated"),
    ],
)
def test_a_row_of_no_known_shape_is_corrupt(deltas: bytes, reason: str) -> None:
    entry = sqlite_journal.Entry(3, 4, sqlite_journal.checksum(3, 4, deltas), deltas)
    with pytest.raises(StoreCorrupt, match=f"row 3 of the journal is damaged .*({reason})"):
        sqlite_journal.unpack(entry)


# ---- what it costs ----


def left_behind(path: Path, batches: list[list[Write]]) -> None:
    """A store as a coordinator that died has left it: all in the journal."""
    file = SqliteFile(str(path), load_migrations("sqlite"), connect)
    ledger = Ledger(file.connection, str(path), NEVER)
    for number, writes in enumerate(batches, start=1):
        ledger.append(Batch(number, number * 10, writes))
    file.close()


@pytest.fixture
def file(path: Path) -> Iterator[SqliteFile]:
    file = SqliteFile(str(path), load_migrations("sqlite"), connect)
    yield file
    file.close()


def bytes_a_branch(directory: Path, count: int) -> float:
    """Of log and journal: a transaction of so many branches, each registered and ended in batches of its own."""
    directory.mkdir()
    path = directory / "troth.db"
    file = SqliteFile(str(path), load_migrations("sqlite"), connect)
    file.connection.execute("PRAGMA wal_autocheckpoint = 0")
    ledger = Ledger(file.connection, str(path), Folding(writes=16, piece=4, after_s=3600))
    writes = [added("x", 1000 + number) for number in range(count)] + [DropBranch("x", 1000 + n) for n in range(count)]
    ledger.append(Batch(1, 1, [opened("x")]))
    before = path.with_name("troth.db-wal").stat().st_size
    for number, write in enumerate(writes, start=2):
        ledger.append(Batch(number, number, [write]))
        ledger.fold_piece()
    size = path.with_name("troth.db-wal").stat().st_size - before
    file.close()
    return size / count


def test_a_branch_costs_the_same_bytes_among_ten_and_among_a_thousand(tmp_path: Path) -> None:
    few, many = bytes_a_branch(tmp_path / "few", 20), bytes_a_branch(tmp_path / "many", 1_000)
    assert many < few * 1.25, (few, many)


def test_the_journal_stays_small_under_endless_load(file: SqliteFile, path: Path) -> None:
    limits = Folding(writes=200, bytes=20_000, piece=8, after_s=3600)
    ledger = Ledger(file.connection, str(path), limits)
    largest_rows = largest_bytes = 0
    for number in range(1, 400):
        # every tenth batch is fat, and some end nothing for long
        fat = "d" * (2_000 if number % 10 == 0 else 10)
        writes: list[Write] = [opened(f"{number:06}:{n}") for n in range(4)]
        writes += [msgspec.structs.replace(added(f"{number:06}:{n}", n), application_data=fat) for n in range(4)]
        if number > 30:
            writes += [ended(f"{number - 30:06}:{n}", number) for n in range(4)]
        ledger.append(Batch(number, number, writes))
        ledger.fold_piece()
        rows, size = file.connection.execute("SELECT count(*), sum(length(deltas)) FROM journal").fetchone()
        largest_rows, largest_bytes = max(largest_rows, rows), max(largest_bytes, size or 0)
    assert largest_rows * 12 <= 2 * limits.writes + 24, largest_rows
    assert largest_bytes <= 2 * limits.bytes + 20_000, largest_bytes
    assert largest_rows > 5


def test_a_piece_is_bounded(file: SqliteFile, path: Path) -> None:
    """One transaction of a thousand branches is folded in many pieces, and each is a few statements."""
    ledger = Ledger(file.connection, str(path), Folding(piece=100))
    ledger.append(Batch(1, 1, [opened("x"), *(added("x", n) for n in range(1_000))]))
    ledger.freeze()
    counts = []
    while ledger.is_folding:
        ledger.fold_piece()
        counts.append(file.connection.execute("SELECT count(*) FROM branch").fetchone()[0])
    assert counts[0] < 250
    assert counts[-1] == 1_000
    assert all(after - before <= 100 for before, after in itertools.pairwise(counts)), counts


# ---- crashes and readers ----


def crash_copy(path: Path, number: int, *, log_size: int | None = None) -> Path:
    """What a process that dies now leaves; with `log_size`, what a power loss leaves that kept so much of the log."""
    directory = path.parent / f"crash{number}"
    directory.mkdir()
    copy = directory / path.name
    shutil.copyfile(path, copy)
    log = path.with_name(f"{path.name}-wal").read_bytes()
    copy.with_name(f"{path.name}-wal").write_bytes(log[:log_size])
    return copy


async def holds(path: Path, reference: Reference, number: int) -> None:
    """A store opened there knows what the reference does, and goes on."""
    store = SqliteStore(str(path))
    await store.open()
    await agree(store, reference, number)
    await store.append(Batch(number + 1, number + 1, [opened("afterwards")]))
    await store.close()
    shutil.rmtree(path.parent)


async def tells(ledger: Ledger, reference: Reference) -> None:
    """While a window is half folded, readers see every outcome once and nothing else as ended."""
    page = ledger.ended(None, 100, None)
    newest_first = sorted(reference.ended, key=lambda xid: (reference.ended[xid]["end_ms"], xid), reverse=True)
    assert [outcome.xid for outcome in page.outcomes] == newest_first
    for outcome in page.outcomes:
        assert ledger.outcome(outcome.xid) == outcome
        assert all(getattr(outcome, k) == v for k, v in reference.ended[outcome.xid].items() if k != "rollback_only")
    assert [ledger.outcome(xid) for xid in reference.hot] == [None] * len(reference.hot)


async def replay_with_crashes(path: Path, batches: list[list[Write]], steps: list[int]) -> None:
    reference = Reference()
    file = SqliteFile(str(path), load_migrations("sqlite"), connect)
    ledger = Ledger(file.connection, str(path), Folding(writes=5, piece=1, after_s=3600))
    # one write a batch: the more windows end in the middle of a life, the better
    for number, writes in enumerate([[write] for batch in batches for write in batch], start=1):
        ledger.append(Batch(number, number * 10, writes))
        for write in writes:
            reference.apply(write)
        flushed = path.with_name(f"{path.name}-wal").stat().st_size
        step = steps[number % len(steps)]
        if step == 4:
            with pytest.raises(StoreError, match="is not open"):
                ledger.append(Batch(number + 1, 0, [opened("refused"), added("nobody", 1)]))
            ledger.recover()
        for _ in range(step % 4):
            ledger.fold_piece()
        await tells(ledger, reference)
        if step >= 6:
            await holds(crash_copy(path, number), reference, number)
            await holds(crash_copy(path, number, log_size=flushed), reference, number)
    file.close()
    remove(path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batches=histories(), steps=st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_any_history_survives_a_crash_at_any_piece_of_its_folding(
    path: Path, batches: list[list[Write]], steps: list[int]
) -> None:
    asyncio.run(replay_with_crashes(path, batches, steps))


@pytest.mark.soak
@settings(
    max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batches=histories(), steps=st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_very_many_histories_survive_crashes(path: Path, batches: list[list[Write]], steps: list[int]) -> None:
    asyncio.run(replay_with_crashes(path, batches, steps))


LIFE: tuple[Write, ...] = (
    OPENED,
    ADDED,
    BRANCH_MARKED,
    AddBranch("h:1:7", 9, 2, BranchType.AT, "r", "", None, False, "c", LockMode.ADD),
    MarkGlobal("h:1:7", Phase.OPEN, None, True),
    DropBranch("h:1:7", 8),
    msgspec.structs.replace(BRANCH_MARKED, branch_id=9),
    MARKED,
    AddBranch("h:1:7", 8, 3, BranchType.AT, "again", "", None, False, "c"),
    ENDED,
)


async def test_windows_may_end_anywhere_in_a_life(path: Path) -> None:
    """Windows end after any two of its writes; the first is then in the tables in part, or wholly."""
    for first, second in itertools.combinations(range(1, len(LIFE)), 2):
        for pieces, finish in ((2, False), (2, True)):
            file = SqliteFile(str(path), load_migrations("sqlite"), connect)
            ledger = Ledger(file.connection, str(path), Folding(piece=1, after_s=3600))
            reference = Reference()
            for number, write in enumerate(LIFE[: second + 1], start=1):
                ledger.append(Batch(number, number * 10, [write]))
                ledger._unpaced = 0.0
                reference.apply(write)
                if number == first:
                    ledger.freeze()
                if number == second:
                    while ledger.is_folding and finish:
                        ledger.fold_piece()
                    ledger.freeze()
                for _ in range(pieces if number == first or (number == second and finish) else 0):
                    ledger.fold_piece()
                await tells(ledger, reference)
            await holds(crash_copy(path, 0), reference, second + 1)
            file.close()
            remove(path)


def remove(path: Path) -> None:
    path.unlink()
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)


async def test_the_first_batch_after_a_start_is_checked_too(path: Path) -> None:
    """What was replayed is trusted; what comes after is not."""
    left_behind(path, [[opened("a")]])
    store = SqliteStore(str(path))
    await store.open()
    for impossible in (opened("a"), ended("b"), added("b", 1), DropBranch("a", 1)):
        with pytest.raises(StoreError, match="is refused"):
            await store.append(Batch(2, 1, [impossible]))
    await store.append(Batch(2, 1, [ended("a")]))
    with pytest.raises(StoreError, match="has ended"):
        await store.append(Batch(3, 1, [added("a", 1)]))
    await store.close()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 2**70])
async def test_a_number_that_the_tables_cannot_hold_is_refused_before_the_journal(path: Path, number: int) -> None:
    store = SqliteStore(str(path))
    await store.open()
    await store.append(Batch(1, 1, [opened("a"), added("a", 1)]))
    mark = MarkBranch("a", 1, PhaseOne.DONE, None, 0, False, None, None, None, None)
    wrong: list[Write] = [msgspec.structs.replace(opened("b"), **{name: number}) for name in ("begin_ms", "timeout_ms")]
    wrong += [msgspec.structs.replace(added("a", 2), **{name: number}) for name in ("branch_id", "seq")]
    wrong += [msgspec.structs.replace(mark, **{n: number}) for n in ("attempts", "last_attempt_ms", "next_due_ms")]
    wrong += [ended("a", number)]
    for write in wrong:
        with pytest.raises(StoreError, match="for its contents"):
            await store.append(Batch(2, 1, [write]))
    assert list((await store.load_hot()).transactions[0].branches) == [1]
    await store.close()


# ---- when it is folded ----


async def folded(store: SqliteStore, number: int) -> None:
    assert store._ledger is not None
    async with asyncio.timeout(20):
        while store._ledger.folded_batch < number:
            await asyncio.sleep(0.005)


async def test_an_idle_store_folds_what_it_has(path: Path) -> None:
    store = SqliteStore(str(path), folding=Folding(after_s=0.02, piece=3))
    await store.open()
    for number in range(1, 6):
        await store.append(Batch(number, number, [opened(f"x{number}{n}") for n in range(10)]))
        if number % 2:
            await folded(store, number)
    await folded(store, 5)
    copy = sqlite3.connect(crash_copy(path, 1))
    assert copy.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    assert copy.execute("SELECT count(*) FROM global_transaction").fetchone() == (50,)
    assert copy.execute("SELECT last_batch, last_id FROM cell").fetchone() == (5, 5)
    copy.close()
    await store.close()


async def test_a_closed_store_is_all_in_its_tables(path: Path) -> None:
    store = SqliteStore(str(path), folding=NEVER)
    await store.open()
    await store.append(Batch(1, 1, [opened("a"), added("a", 1)]))
    await store.append(Batch(2, 2, [opened("b"), ended("b")]))
    await store.close()
    file = sqlite3.connect(path)
    assert file.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    assert file.execute("SELECT xid, phase FROM global_transaction").fetchall() == [(b"a", "open"), (b"b", "committed")]
    assert file.execute("SELECT xid, branch_id, lock_text FROM branch").fetchall() == [(b"a", 1, b"t:1")]
    file.close()


async def test_a_purge_takes_what_is_in_the_journal_and_it_stays_gone(path: Path) -> None:
    store = SqliteStore(str(path), folding=NEVER)
    await store.open()
    await store.append(Batch(1, 10, [opened("old"), ended("old", 5), opened("new"), ended("new", 50)]))
    assert await store.purge(50, 10) == 1
    assert await store.outcome("old") is None
    reference = Reference()
    for write in (opened("new"), ended("new", 50)):
        reference.apply(write)
    await holds(crash_copy(path, 1), reference, 1)
    await store.close()


class Unwilling(sqlite3.Connection):
    """Writes the journal, and not the tables."""

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.startswith("INSERT INTO global_transaction"):
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *parameters)


async def test_a_piece_that_fails_is_told_by_the_next_call_and_loses_nothing(path: Path) -> None:
    def unwilling(name: str) -> sqlite3.Connection:
        return sqlite3.connect(name, isolation_level=None, factory=Unwilling)

    store = SqliteStore(str(path), folding=Folding(after_s=0.001), connect=unwilling)
    await store.open()
    await store.append(Batch(1, 10, [opened("a")]))
    async with asyncio.timeout(20):
        while store._failure is None:
            await asyncio.sleep(0.005)
    with pytest.raises(StoreError, match=r"has failed before.*disk I/O error"):
        await store.append(Batch(2, 20, [opened("b")]))
    await store.close()
    reference = Reference()
    reference.apply(opened("a"))
    await holds(crash_copy_closed(path), reference, 1)


def crash_copy_closed(path: Path) -> Path:
    directory = path.parent / "copy"
    directory.mkdir()
    shutil.copyfile(path, directory / path.name)
    return directory / path.name
