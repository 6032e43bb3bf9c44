"""Processes that end when they please: scripts that just exit, RMs and TMs that are killed, a coordinator restarted."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import troth
from fixtures_coordinator import CoordinatorProcess, until

pytestmark = pytest.mark.engines

PRELUDE = """
import sys, time, troth
from datetime import timedelta
address, url = sys.argv[1:]
troth.init(address, application="bank")
conn = troth.at.connect(url)
"""
COMMITS = """
with troth.transaction(name="script"):
    with conn:
        conn.execute("UPDATE account SET balance = balance + 1")
"""
ROLLS_BACK = COMMITS + "    raise SystemExit(7)\n"
HANGS = """
with troth.transaction(name="hangs", timeout=timedelta(seconds=1)) as tx:
    with conn:
        conn.execute("UPDATE account SET balance = balance + 1")
    print(tx.xid, flush=True)
    time.sleep(60)
"""
SERVES = """
print("up", flush=True)
sys.stdin.read()
"""


class Bank:
    """A database file with two accounts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        troth.at.init(self.url)
        with closing(sqlite3.connect(path)) as raw:
            raw.executescript(
                "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INT); INSERT INTO account VALUES (1, 0), (2, 0)"
            )

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as raw:
            return raw.execute(sql).fetchall()

    @property
    def balances(self) -> list[object]:
        return [row[0] for row in self.rows("SELECT balance FROM account")]

    @property
    def undo_logs(self) -> int:
        return len(self.rows("SELECT 1 FROM undo_log"))


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path / "bank.db")


def script(coordinator: CoordinatorProcess, bank: Bank, text: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + text, coordinator.address, bank.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@contextmanager
def running(coordinator: CoordinatorProcess, bank: Bank, text: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the first line it printed."""
    with script(coordinator, bank, text) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize(("text", "status", "balances"), [(COMMITS, 0, [1, 1]), (ROLLS_BACK, 7, [0, 0])])
def test_a_script_that_just_ends_leaves_no_undo_log(
    coordinator: CoordinatorProcess, bank: Bank, text: str, status: int, balances: list[int]
) -> None:
    with script(coordinator, bank, text) as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "")
    assert (bank.balances, bank.undo_logs) == (balances, 0)


def test_a_successor_undoes_what_a_killed_process_left(coordinator: CoordinatorProcess, bank: Bank) -> None:
    with running(coordinator, bank, HANGS) as (process, xid):
        process.kill()
    assert (bank.balances, bank.undo_logs) == ([1, 1], 1)
    until(lambda: coordinator.transaction(xid)["status"] == "TimeoutRollbackRetrying")
    with running(coordinator, bank, SERVES):
        until(lambda: coordinator.transaction(xid)["status"] == "TimeoutRollbacked")
        assert (bank.balances, bank.undo_logs) == ([0, 0], 0)


def test_a_coordinator_restarted_before_the_commit(
    new_coordinator: Callable[..., CoordinatorProcess], bank: Bank
) -> None:
    coordinator = new_coordinator().start()
    client = troth.init(coordinator.address, reconnect_max_s=0.5)
    restart = threading.Thread(target=coordinator.start)
    with closing(troth.at.connect(bank.url)) as connection:
        try:
            with troth.transaction() as tx:
                with connection:
                    connection.execute("UPDATE account SET balance = balance + 1")
                coordinator.kill()
                restart.start()
        finally:
            restart.join()
        until(lambda: client.status(tx.xid).name == "Committed")
        until(lambda: bank.undo_logs == 0)
        assert bank.balances == [1, 1]
        coordinator.kill()
        with pytest.raises(troth.CoordinatorUnavailable, match="Connection refused"):
            troth.init(coordinator.address, connect_timeout_s=0.5)
        assert connection.execute("UPDATE account SET balance = 5").rowcount == 2
        connection.commit()
    troth.close()


def test_a_file_that_is_locked_for_long_is_undone_once_it_is_free(coordinator: CoordinatorProcess, bank: Bank) -> None:
    """The coordinator's patience is shorter than SQLite's here: its repeated requests must not undo twice."""
    client = troth.init(coordinator.address)
    scope = troth.transaction()
    with (
        closing(troth.at.connect(bank.url)) as connection,
        closing(sqlite3.connect(bank.path, isolation_level=None)) as other,
    ):

        def fails() -> None:
            with scope:
                with connection:
                    connection.execute("UPDATE account SET balance = balance + 1")
                other.execute("BEGIN IMMEDIATE")
                raise KeyError

        with pytest.raises(KeyError):
            fails()
        until(lambda: coordinator.transaction(scope.xid)["branches"][0]["attempts"] >= 2)
        other.execute("ROLLBACK")
        until(lambda: client.status(scope.xid).name == "Rollbacked")
    troth.close()
    assert (bank.balances, bank.undo_logs) == ([0, 0], 0)
