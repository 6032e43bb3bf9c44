"""What only the SQLite store promises: its file, its refusals, its settings, and few statements a batch."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkGlobal, OpenGlobal, Write
from troth.core.model import BranchType, Cause, Phase
from troth.stores import sqlite_journal, sqlite_reading, sqlite_statements
from troth.stores.migrations import APPLICATION_ID, Migration, load_migrations, migrate
from troth.stores.sqlite import SqliteStore
from troth.stores.sqlite_file import connect
from troth.stores.sqlite_ledger import Folding
from troth.stores.store import Batch, StoreCorrupt, StoreError, StoreInUse, StoreTooNew


def opened(xid: str, name: str = "n") -> OpenGlobal:
    return OpenGlobal(xid=xid, name=name, application="a", group="g", begin_ms=1, timeout_ms=2)


def added(xid: str, branch_id: int, application_data: str | None = None) -> AddBranch:
    return AddBranch(xid, branch_id, 1, BranchType.AT, "r", "t:1", application_data, False, "c")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "troth.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(path))
    await store.open()
    yield store
    await store.close()


async def written(path: Path, *writes: Write) -> None:
    store = SqliteStore(str(path))
    await store.open()
    await store.append(Batch(number=1, last_id=1, writes=writes))
    await store.close()


async def refused(
    path: Path, error: type[StoreError], match: str, migrations: Sequence[Migration] | None = None
) -> None:
    store = SqliteStore(str(path), migrations=migrations)
    with pytest.raises(error, match=match):
        await store.open()
    await store.close()


# ---- the place ----


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    await refused(tmp_path / "none" / "troth.db", StoreError, "none of the store .* does not exist")


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    await refused(tmp_path, StoreError, "not a regular file")


async def test_a_symlink_to_itself_is_no_store(path: Path) -> None:
    path.symlink_to(path)
    await refused(path, StoreError, "cannot be looked at|not a regular file")


async def test_a_pipe_is_no_store(path: Path) -> None:
    os.mkfifo(path)
    await refused(path, StoreError, "not a regular file")


async def test_a_file_as_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await refused(tmp_path / "file" / "troth.db", StoreError, "does not exist")


async def test_a_lock_that_cannot_be_written_is_named(path: Path) -> None:
    path.with_name("troth.db.lock").mkdir()
    await refused(path, StoreError, "lock file .* cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_read_only_place_is_named(path: Path) -> None:
    path.parent.chmod(0o500)
    await refused(path, StoreError, "not writable")
    path.parent.chmod(0o700)


async def test_a_dangling_symlink_is_a_new_store(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "real.db"
    path.symlink_to(target)
    await written(path, opened("a"))
    assert target.stat().st_size > 0
    assert path.is_symlink()


# ---- one process, one store ----


async def test_a_second_store_in_this_process_is_refused(store: SqliteStore, path: Path) -> None:
    await refused(path, StoreInUse, rf"in use by this process \({os.getpid()}\)")
    await store.append(Batch(number=1, last_id=0, writes=[opened("a")]))


@pytest.mark.parametrize("kind", ["symlink", "relative", "hard link"])
async def test_another_name_of_the_file_is_the_same_store(
    store: SqliteStore, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = path.with_name("other.db")
    if kind == "symlink":
        other.symlink_to(path)
    elif kind == "hard link":
        other.hardlink_to(path)
    else:
        monkeypatch.chdir(path.parent)
        other = Path("./troth.db")
    await refused(other, StoreInUse, "in use by|held by another")


async def test_other_programs_are_kept_out_of_the_file(store: SqliteStore, path: Path) -> None:
    await store.append(Batch(number=1, last_id=0, writes=[opened("a")]))
    other = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM global_transaction")
    other.close()


async def test_a_database_that_another_program_has_open_is_in_use(path: Path) -> None:
    await written(path, opened("a"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await refused(path, StoreInUse, "held by another program")
    other.close()


async def test_a_refused_opening_leaves_no_lock_behind(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be read as the header of one" * 20)
    await refused(path, StoreCorrupt, "damaged or not a SQLite database")
    path.unlink()
    await written(path, opened("a"))


# ---- what lies there ----


@pytest.mark.parametrize("content", [b"x", b"hello world" * 100, b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_what_is_not_a_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await refused(path, StoreCorrupt, "restore it from a copy")
    assert path.read_bytes() == content


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    await written(path, opened("a"))


@pytest.mark.parametrize(
    "script", ["CREATE TABLE theirs (a)", "PRAGMA user_version = 3", "PRAGMA application_id = 7; CREATE TABLE b (a)"]
)
async def test_a_database_of_somebody_else_is_refused_and_left_alone(path: Path, script: str) -> None:
    theirs = sqlite3.connect(path)
    theirs.executescript(script)
    theirs.close()
    before = path.read_bytes()
    await refused(path, StoreCorrupt, "not a store of troth")
    assert path.read_bytes() == before
    assert not path.with_name("troth.db-wal").exists()


async def test_a_truncated_store_is_corrupt(path: Path) -> None:
    await written(path, *(opened(f"x{n}", "n" * 500) for n in range(200)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    await refused(path, StoreCorrupt, "damaged")


async def test_a_store_with_a_spoiled_page_is_corrupt(path: Path) -> None:
    await written(path, *(opened(f"x{n}", "n" * 500) for n in range(200)))
    file = sqlite3.connect(path)
    (page,) = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'global_transaction'").fetchone()
    file.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    path.write_bytes(content)
    await refused(path, StoreCorrupt, "damaged")


@pytest.mark.parametrize(
    "spoil",
    [
        "DELETE FROM cell",
        "UPDATE global_transaction SET phase = 'dancing'",
        "UPDATE global_transaction SET name = x'ff'",
        "UPDATE branch SET lock_text = CAST('no colon' AS BLOB)",
        "UPDATE branch SET branch_type = 99",
        "DELETE FROM global_transaction",
    ],
)
async def test_facts_that_no_troth_has_written_are_corrupt(path: Path, spoil: str) -> None:
    await written(path, opened("a"), added("a", 1))
    theirs = sqlite3.connect(path)
    theirs.execute(spoil)
    theirs.commit()
    theirs.close()
    store = SqliteStore(str(path))
    with pytest.raises(StoreCorrupt):
        await load_at_once(store)
    await store.close()


async def load_at_once(store: SqliteStore) -> None:
    await store.open()
    await store.load_hot()


# ---- the schema ----


def test_the_schema_files_are_numbered_without_gap() -> None:
    assert [migration.number for migration in load_migrations("sqlite")] == list(
        range(1, len(load_migrations("sqlite")) + 1)
    )


async def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    await written(path, opened("a"))
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    before = path.read_bytes()
    await refused(path, StoreTooNew, "written by a newer troth .*schema 99")
    assert path.read_bytes() == before


def of_the_first_schema(path: Path) -> None:
    """A file as the first version of the schema has it: a transaction, a branch, an outcome, and the counters."""
    file = sqlite3.connect(path, isolation_level=None)
    migrate(file, 0, load_migrations("sqlite")[:1])
    file.executescript(
        "INSERT INTO global_transaction VALUES (x'61', x'6e', x'61', x'67', 1, 2, 'committing', 'asked', 0, NULL),"
        " (x'62', x'6e', x'61', x'67', 1, 2, 'committed', 'asked', 0, 3);"
        "INSERT INTO branch (xid, branch_id, seq, branch_type, resource_id, lock_text, auto_commit, client_id)"
        " VALUES (x'61', 1, 1, 0, x'72', x'743a31', 0, x'63'); UPDATE cell SET last_batch = 4, last_id = 7;"
    )
    file.close()


async def test_an_older_store_is_migrated_and_keeps_what_it_knows(path: Path) -> None:
    of_the_first_schema(path)
    store = SqliteStore(str(path))
    await store.open()
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (4, 7)
    (tx,) = hot.transactions
    assert (tx.xid, tx.phase, tx.branches[1].lock_text) == ("a", Phase.COMMITTING, "t:1")
    outcome = await store.outcome("b")
    assert outcome is not None
    assert outcome.phase is Phase.COMMITTED
    writes = [DropBranch("a", 1), EndGlobal("a", Phase.COMMITTED, Cause.ASKED, 9)]
    await store.append(Batch(number=5, last_id=8, writes=writes))
    await store.close()
    await refused(path, StoreTooNew, "schema", migrations=load_migrations("sqlite")[:1])


async def test_migrations_are_applied_in_order_and_once(path: Path) -> None:
    known = load_migrations("sqlite")
    await written(path, opened("a"))
    later = (
        *known,
        Migration(len(known) + 1, "CREATE TABLE resource (name BLOB PRIMARY KEY) WITHOUT ROWID;"),
        Migration(len(known) + 2, "-- a comment; with a semicolon\nINSERT INTO resource VALUES (x'00'), (x'01');"),
    )
    for _ in range(2):
        store = SqliteStore(str(path), migrations=later)
        await store.open()
        assert [tx.xid for tx in (await store.load_hot()).transactions] == ["a"]
        await store.close()
    file = sqlite3.connect(path)
    assert file.execute("PRAGMA user_version").fetchone() == (len(known) + 2,)
    assert file.execute("SELECT count(*) FROM resource").fetchone() == (2,)
    file.close()
    await refused(path, StoreTooNew, f"schema {len(known) + 2}")


async def test_a_migration_that_fails_leaves_the_old_version(path: Path) -> None:
    await written(path, opened("a"))
    known = load_migrations("sqlite")
    last = len(known)
    broken = (*known, Migration(last + 1, "CREATE TABLE half (a);"), Migration(last + 2, "NONSENSE;"))
    store = SqliteStore(str(path), migrations=broken)
    with pytest.raises(StoreError, match="syntax error"):
        await store.open()
    file = sqlite3.connect(path)
    assert file.execute("PRAGMA user_version").fetchone() == (last,)
    assert file.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert file.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
    file.close()


# ---- durability and failure ----


class Undurable(sqlite3.Connection):
    """Ignores what it is asked for, as SQLite does where it cannot oblige."""

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:  # type: ignore[override]
        return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *parameters)


async def test_a_store_that_cannot_be_durable_is_refused(path: Path) -> None:
    store = SqliteStore(str(path), connect=lambda name: sqlite3.connect(name, isolation_level=None, factory=Undurable))
    with pytest.raises(StoreError, match="synchronous = 1, not 2"):
        await store.open()


def small(path: str) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA max_page_count = 40")
    return connection


async def append_for_ever(store: SqliteStore, acknowledged: list[int]) -> None:
    for number in itertools.count(1):
        writes = [opened(f"x{number}"), added(f"x{number}", number, "d" * 5_000)]
        await store.append(Batch(number=number, last_id=number, writes=writes))
        acknowledged.append(number)


async def test_a_full_disk_is_named_and_fatal_and_loses_nothing(path: Path) -> None:
    store = SqliteStore(str(path), connect=small)
    await store.open()
    acknowledged: list[int] = []
    with pytest.raises(StoreError, match="the disk is full"):
        await append_for_ever(store, acknowledged)
    assert len(acknowledged) > 5
    last = acknowledged[-1]
    with pytest.raises(StoreError, match="has failed before"):
        await store.append(Batch(number=last + 1, last_id=1, writes=[]))
    with pytest.raises(StoreError, match="has failed before"):
        await store.load_hot()
    await store.close()
    store = SqliteStore(str(path))
    await store.open()
    hot = await store.load_hot()
    assert hot.last_batch == last
    assert {tx.xid for tx in hot.transactions} == {f"x{number}" for number in range(1, last + 1)}
    assert all(len(tx.branches) == 1 for tx in hot.transactions)
    await store.append(Batch(number=last + 1, last_id=1, writes=[opened("after")]))
    await store.close()


async def test_a_number_beyond_64_bits_is_refused_for_its_batch_only(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="for its contents"):
        await store.append(Batch(number=1, last_id=2**63, writes=[opened("a")]))
    await store.append(Batch(number=1, last_id=1, writes=[opened("a")]))


async def test_a_closed_store_leaves_no_log_and_no_process_id(path: Path) -> None:
    await written(path, opened("a"))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["troth.db", "troth.db.lock"]
    assert path.with_name("troth.db.lock").read_bytes() == b""


# ---- what keeps it fast ----


async def test_a_batch_is_one_statement_and_a_window_few(path: Path) -> None:
    statements: list[str] = []

    def traced(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.set_trace_callback(lambda sql: statements.append(sql[:40]))
        return connection

    store = SqliteStore(str(path), connect=traced, folding=Folding(after_s=3600))
    await store.open()
    xids = [f"x{number}" for number in range(256)]
    statements.clear()
    await store.append(Batch(number=1, last_id=0, writes=[opened(xid) for xid in xids]))
    await store.append(Batch(number=2, last_id=0, writes=[added(xid, 1) for xid in xids]))
    await store.append(
        Batch(number=3, last_id=0, writes=[MarkGlobal(x, Phase.COMMITTING, Cause.ASKED, False) for x in xids])
    )
    assert len(statements) == 3, statements
    writes: list[Write] = []
    for xid in xids:
        writes += [DropBranch(xid, 1), EndGlobal(xid, Phase.COMMITTED, Cause.ASKED, 1)]
    await store.append(Batch(number=4, last_id=0, writes=writes))
    statements.clear()
    await store.load_hot()
    # what flushes and what does not (3), BEGIN, the outcomes, the journal, the counters, COMMIT; and three questions
    assert len(statements) == 11, statements
    await store.close()


async def test_no_statement_reads_a_whole_table(path: Path) -> None:
    await written(path)
    file = sqlite3.connect(path)
    kinds = [kind for kind in vars(sqlite_statements).values() if isinstance(kind, sqlite_statements.ManyRows)]
    questions = ("OUTCOME", "NEWEST_ENDED", "NEXT_ENDED", "OLDEST_ENDED", "HOT_GLOBALS", "HIGHEST")
    texts = [kind.sql[256] for kind in kinds] + [getattr(sqlite_reading, name) for name in questions]
    texts += [text.format(marks="?, ?, ?") for text in (sqlite_reading.LIVES, sqlite_reading.LIVE_BRANCHES)]
    texts += [sqlite_journal.DELETE]
    assert len(texts) == 15
    for text in texts:
        plan = [row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {text}", [None] * text.count("?"))]
        tables = ("SCAN branch", "SCAN global_transaction", "SCAN g", "SCAN journal")
        scans = [step for step in plan if step.startswith(tables)]
        assert all("USING INDEX global_transaction_hot" in step for step in scans), (text, plan)
        assert not any("TEMP B-TREE" in step for step in plan), (text, plan)
    file.close()
