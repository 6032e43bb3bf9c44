"""Random transfers between two banks by two client processes, half of them undone: no money appears or vanishes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import troth
from troth.demo.events import Ready
from troth.demo.processes import Family

WORKER = Path(__file__).with_name("transfer_worker.py")
ACCOUNTS = 200
AT_START = 1000
PATIENCE_S = 120.0

pytestmark = pytest.mark.engines


@dataclass(frozen=True)
class Coordinator:
    address: str
    admin: str

    def get(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.admin + path, timeout=10) as answer:
            text: str = answer.read().decode("utf-8")
        return text

    def open_transactions(self) -> list[Any]:
        return list(json.loads(self.get("/api/transactions?status=open"))["transactions"])

    def locks_held(self) -> float:
        (line,) = (line for line in self.get("/metrics").splitlines() if line.startswith("troth_locks_held "))
        return float(line.split()[1])


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    family = Family(tmp_path)
    doors = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--store", f"sqlite:///{tmp_path / 'tc.db'}")
    try:
        child = family.start("coordinator", ("-m", "troth.demo.tethered", "serve", *doors, "--ready-json"))
        ready = family.expect(child, Ready, 60)
        yield Coordinator(ready.address, ready.admin)
        family.check(child)
    finally:
        family.stop()


@pytest.fixture
def banks(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "north.db", tmp_path / "south.db"]
    for path in paths:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
            connection.executemany(
                "INSERT INTO account VALUES (?, ?)", [(number, AT_START) for number in range(1, ACCOUNTS + 1)]
            )
        troth.at.init(f"sqlite:///{path}")
    return paths


def start(way: str, coordinator: Coordinator, banks: list[Path], seed: int, load: tuple[int, int]) -> Any:
    command = [sys.executable, str(WORKER), way, "--coordinator", coordinator.address, "--seed", str(seed)]
    command += [part for bank in banks for part in ("--bank", f"sqlite:///{bank}")]
    command += ["--workers", str(load[0]), "--transfers", str(load[1])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until(what: str, condition: Callable[[], bool], patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.05)


def reports_of(clients: list[Any]) -> list[dict[str, Any]]:
    """Read each client's report; they go on serving phase two."""
    reports = []
    for client in clients:
        line = client.stdout.readline()
        assert line, f"a client ended with status {client.wait()} and no report"
        reports.append(json.loads(line))
    return reports


@pytest.mark.parametrize(
    ("ways", "workers", "transfers"),
    [(("sync", "autocommit"), 25, 8), (("async", "sync"), 8, 10), (("sqlalchemy", "sqlalchemy"), 6, 8)],
    ids=["sync", "async", "sqlalchemy"],
)
def test_sums_hold_and_nothing_is_left(
    coordinator: Coordinator, banks: list[Path], ways: tuple[str, str], workers: int, transfers: int
) -> None:
    clients = [start(way, coordinator, banks, seed, (workers, transfers)) for seed, way in enumerate(ways, 1)]
    try:
        reports = reports_of(clients)
        wait_until("every transaction has ended", lambda: coordinator.open_transactions() == [])
        assert_half_was_undone(reports, 2 * workers * transfers)
        assert_accounts_are_right(banks, reports)
        assert coordinator.locks_held() == 0
        assert_every_row_is_free(coordinator, banks)
    finally:
        for client in clients:
            client.communicate(timeout=60)  # ends its standard input
    assert [client.returncode for client in clients] == [0, 0]


def assert_half_was_undone(reports: list[dict[str, Any]], wanted: int) -> None:
    commits, undone, conflicts = (sum(report[key] for report in reports) for key in ("commits", "undone", "conflicts"))
    print(f"{commits} committed, {undone} undone, {conflicts} repeated after a lock conflict")
    assert (commits, undone) == (wanted // 2, wanted // 2)


def assert_accounts_are_right(banks: list[Path], reports: list[dict[str, Any]]) -> None:
    """Every single account holds what its committed transfers make of it; so the sums hold too."""
    expected = {(f"sqlite:///{bank}", number): AT_START for bank in banks for number in range(1, ACCOUNTS + 1)}
    for report in reports:
        for bank, account, delta in report["committed"]:
            expected[bank, account] += delta
    found: dict[tuple[str, int], int] = {}
    for bank in banks:
        with closing(sqlite3.connect(bank)) as connection:
            found |= {
                (f"sqlite:///{bank}", number): money for number, money in connection.execute("SELECT * FROM account")
            }
            assert connection.execute("SELECT count(*) FROM undo_log").fetchone() == (0,)
    assert sum(found.values()) == 2 * ACCOUNTS * AT_START
    assert found == expected


def assert_every_row_is_free(coordinator: Coordinator, banks: list[Path]) -> None:
    """One transaction that wants every row of both banks gets them all."""
    with (
        troth.init(coordinator=coordinator.address, application="auditor", lock_retry_times=1),
        troth.transaction(name="audit"),
    ):
        for bank in banks:
            with closing(troth.at.connect(f"sqlite:///{bank}")) as connection:
                changed = connection.execute("UPDATE account SET balance = balance + 1")
                assert changed.rowcount == ACCOUNTS
                connection.commit()
