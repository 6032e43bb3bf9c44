"""The SQLite store among real processes: a second one, one that dies, one that forks."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from troth.core.effects import OpenGlobal
from troth.core.model import Phase
from troth.stores.sqlite import SqliteStore
from troth.stores.store import Batch, Hot, StoreError, StoreInUse

pytestmark = pytest.mark.engines

COMMON = """
import asyncio, gc, os, signal, sys
from troth.core.effects import AddBranch, EndGlobal, MarkGlobal, OpenGlobal
from troth.core.model import BranchType, Cause, Phase
from troth.stores.sqlite import SqliteStore
from troth.stores.sqlite_file import connect
from troth.stores.sqlite_ledger import Folding
from troth.stores.store import Batch, StoreError

def batch(number):
    return Batch(number, number, [OpenGlobal(f"{number}:{i}", "n" * 300, "a", "g", 1, 2) for i in range(10)])

store = SqliteStore(sys.argv[1], folding=Folding(writes=35, piece=7, after_s=0.001))
loop = asyncio.new_event_loop()
run = loop.run_until_complete
run(store.open())
last = run(store.load_hot()).last_batch
"""

HOLD = "print('open', flush=True); sys.stdin.read()"

WRITE_FOR_EVER = """
while True:
    last += 1
    run(store.append(batch(last)))
    print(last, flush=True)
"""

# three batches a transaction: begun; two branches and the decision; ended. A window has about 35 writes, so lives begin
# in one, are folded while they are open, and end in the next
LIVES_FOR_EVER = """
def lives(number):
    writes = [OpenGlobal(f"{number}:{i}", "n", "a", "g", 1, 2) for i in range(5)]
    if number > 1:
        for i in range(5):
            xid = f"{number - 1}:{i}"
            writes += [AddBranch(xid, n, n, BranchType.AT, "r", "t:1", None, False, "c") for n in (1, 2)]
            writes += [MarkGlobal(xid, Phase.COMMITTING, Cause.ASKED, False)]
    if number > 2:
        writes += [EndGlobal(f"{number - 2}:{i}", Phase.COMMITTED, Cause.ASKED, number) for i in range(5)]
    return Batch(number, number, writes)

while True:
    last += 1
    run(store.append(lives(last)))
    print(last, flush=True)
"""

# dies at the given statement of the folding, which is counted from BEGIN
DIE_IN_A_FOLD = (
    """
import sqlite3
at, counted = int(sys.argv[2]), 0

class Deadly(sqlite3.Connection):
    def execute(self, sql, *parameters):
        global counted
        counted += (counted > 0 or sql.startswith("BEGIN")) and not sql.startswith("INSERT INTO journal")
        if counted == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *parameters)

run(store.close())
store = SqliteStore(
    sys.argv[1],
    folding=Folding(writes=35, piece=7, after_s=3600),
    connect=lambda path: sqlite3.connect(path, isolation_level=None, factory=Deadly),
)
run(store.open())
counted = 0
"""
    + LIVES_FOR_EVER
)

# the child does what could harm: uses the store, closes it, lets it be collected, and ends as an interpreter does
FORK_AND_GO_ON = """
run(store.append(batch(1)))
if os.fork() == 0:
    for job in (store.append(batch(2)), store.load_hot(), store.close(), store.open()):
        try:
            asyncio.new_event_loop().run_until_complete(job)
        except StoreError as refused:
            assert "forked child" in str(refused), refused
        else:
            os._exit(1)
    store._file = None  # as when the whole store is collected, whoever else may still refer to it by chance
    gc.collect()
    sys.exit(7)
_, status = os.wait()
print(os.waitstatus_to_exitcode(status), flush=True)
run = asyncio.new_event_loop().run_until_complete  # the child has taken the first loop's selector to pieces
run(store.append(batch(2)))
run(store.append(batch(3)))
os.kill(os.getpid(), signal.SIGKILL)
"""

FORK_AND_DIE = """
run(store.append(batch(1)))
forked, at_fork = os.pipe()
child = os.fork()
if child == 0:
    os.write(at_fork, b"!")
    sys.stdin.read()
    os._exit(0)
os.read(forked, 1)  # what Python does after a fork is done in the child
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "troth.db"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", COMMON + program, str(path), *arguments]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


async def load(path: Path) -> Hot:
    store = SqliteStore(str(path))
    await store.open()
    hot = await store.load_hot()
    await store.close()
    return hot


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def test_a_second_process_is_told_who_holds_the_store(path: Path, start: Start) -> None:
    holder = start(HOLD)
    assert read_line(holder) == "open"
    with pytest.raises(StoreInUse, match=f"in use by process {holder.pid}: "):
        await load(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    await load(path)


async def test_a_deleted_lock_file_does_not_let_a_second_process_in(path: Path, start: Start) -> None:
    assert read_line(start(HOLD)) == "open"
    path.with_name("troth.db.lock").unlink()
    with pytest.raises(StoreInUse, match="held by another program"):
        await load(path)


async def test_every_acknowledged_batch_survives_kill_9(path: Path, start: Start) -> None:
    for kills in range(6):
        writer = start(WRITE_FOR_EVER)
        acknowledged = 0
        for _ in range(5 + 13 * kills):
            acknowledged = int(read_line(writer))
        writer.kill()
        acknowledged = last_line(writer, acknowledged)
        hot = await load(path)
        assert hot.last_batch in (acknowledged, acknowledged + 1)
        assert hot.last_id == hot.last_batch
        expected = {f"{number}:{i}" for number in range(1, hot.last_batch + 1) for i in range(10)}
        assert {tx.xid for tx in hot.transactions} == expected


def last_line(writer: subprocess.Popen[str], before: int) -> int:
    """The last batch that a writer which is dead has acknowledged; its last line may have been cut short."""
    assert writer.stdout is not None
    rest = writer.stdout.read().split("\n")  # not communicate(), which loses what readline() has buffered
    return max([before, *(int(line) for line in rest[:-1])])


async def check_lives(path: Path, acknowledged: int) -> None:
    """Exactly what LIVES_FOR_EVER has written, up to the last batch acknowledged or the one after."""
    store = SqliteStore(str(path))
    await store.open()
    hot = await store.load_hot()
    last = hot.last_batch
    assert last in (acknowledged, acknowledged + 1)
    found = {tx.xid: (tx.phase, sorted(tx.branches)) for tx in hot.transactions}
    expected = {f"{last}:{i}": (Phase.OPEN, list[int]()) for i in range(5)}
    if last > 1:
        expected |= {f"{last - 1}:{i}": (Phase.COMMITTING, [1, 2]) for i in range(5)}
    assert found == expected
    page = await store.find_ended(None, 10**6, None)
    assert len(page.outcomes) == 5 * max(last - 2, 0)
    assert {outcome.xid for outcome in page.outcomes} == {f"{n}:{i}" for n in range(1, last - 1) for i in range(5)}
    await store.close()


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.soak)])
async def test_windows_that_are_being_folded_survive_kill_9(path: Path, start: Start, kills: int) -> None:
    acknowledged = 0
    for kill in range(kills):
        writer = start(LIVES_FOR_EVER)
        for _ in range(30 + 17 * kill):
            acknowledged = int(read_line(writer))
        writer.kill()
        acknowledged = last_line(writer, acknowledged)
        await check_lives(path, acknowledged)


# a piece is: not flushed, BEGIN, some rows, (forgetting,) COMMIT, flushed again, checked
@pytest.mark.parametrize(
    "statement",
    [2, 9, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 3, 4, 5, 6, 7, 8, 10, 14, 17, 25, 40, 61, 88))],
)
async def test_a_death_at_any_statement_of_a_piece_is_survived(path: Path, start: Start, statement: int) -> None:
    writer = start(DIE_IN_A_FOLD, str(statement))
    assert writer.wait(timeout=60) == -signal.SIGKILL
    await check_lives(path, last_line(writer, 0))


async def test_a_forked_child_can_neither_use_nor_harm_the_store(path: Path, start: Start) -> None:
    parent = start(FORK_AND_GO_ON)
    assert read_line(parent) == "7"
    assert parent.wait() == -signal.SIGKILL
    hot = await load(path)
    assert hot.last_batch == 3
    assert len(hot.transactions) == 30


async def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_store(path: Path, start: Start) -> None:
    parent = start(FORK_AND_DIE)
    assert int(read_line(parent)) > 0
    assert parent.wait() == -signal.SIGKILL
    assert (await load(path)).last_batch == 1


async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        await fill(mounted / "troth.db")
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


async def fill(path: Path) -> None:
    store = SqliteStore(str(path))
    await store.open()
    with pytest.raises(StoreError, match="the disk is full"):
        await append_for_ever(store)
    with pytest.raises(StoreError, match="has failed before"):
        await store.load_hot()
    await store.close()


async def append_for_ever(store: SqliteStore) -> None:
    for number in itertools.count(1):
        opened = OpenGlobal(f"x{number}", "n" * 5_000, "a", "g", 1, 2)
        await store.append(Batch(number=number, last_id=0, writes=[opened]))
