"""`@troth.tcc` under the crash points: a real process dies by SIGKILL, and another one of the same bank goes on."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fixtures_coordinator import CoordinatorProcess, until
from troth.client.drivers import fence_table

pytestmark = pytest.mark.engines

WORKER = str(Path(__file__).with_name("tcc_crash_worker.py"))
POINTS = (
    ("rm.register.before-send", "commit"),
    ("rm.register.sent", "commit"),
    ("rm.register.answered", "commit"),
    ("tm.commit.before-send", "commit"),
    ("tm.commit.sent", "commit"),
    ("rm.confirm.before", "commit"),
    ("rm.confirm.after", "commit"),
    ("tm.rollback.before-send", "rollback"),
    ("rm.cancel.before", "rollback"),
    ("rm.cancel.after", "rollback"),
)
QUICK = ("rm.confirm.after",)
COMMITTED = (70, 0)
UNTOUCHED = (100, 0)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """One for a test."""
    process = CoordinatorProcess(tmp_path)
    try:
        yield process.start()
    finally:
        process.close()


@pytest.mark.parametrize(
    ("point", "end"),
    [pytest.param(*each, marks=() if each[0] in QUICK else pytest.mark.soak, id=each[0]) for each in POINTS],
)
def test_crash(point: str, end: str, coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    file = tmp_path / "bank.db"
    fence_table.init(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE account (balance INTEGER, frozen INTEGER)")
        connection.execute("INSERT INTO account VALUES (100, 0)")
    worker = [WORKER, "--coordinator", coordinator.address, "--file", str(file), "--end"]
    crash = [sys.executable, "-m", "troth.testing.crash", point, "--", "python", *worker, end]
    died = subprocess.run(crash, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    successor = subprocess.Popen([sys.executable, *worker, "serve"], stdin=subprocess.PIPE)
    try:
        listed = coordinator.get("/api/transactions?limit=10")[1]["transactions"]
        (xid,) = [transaction["xid"] for transaction in listed]
        until(lambda: not coordinator.transaction(xid)["branches"] and ended(coordinator, xid), within_s=90)
        outcome = coordinator.transaction(xid)["status"]
    finally:
        assert successor.stdin is not None
        successor.stdin.close()
        successor.wait(30)
    with closing(sqlite3.connect(file)) as connection:
        books = connection.execute("SELECT balance, frozen FROM account").fetchone()
    assert books == (COMMITTED if outcome == "Committed" else UNTOUCHED), outcome
    if point.startswith(("rm.confirm", "tm.commit.sent")):
        assert outcome == "Committed"


def ended(coordinator: CoordinatorProcess, xid: str) -> bool:
    status: str = coordinator.transaction(xid)["status"]
    return status in ("Committed", "Rollbacked", "TimeoutRollbacked")
