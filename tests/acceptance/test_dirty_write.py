"""A stranger writes past AT into a row of an open branch: the branch is frozen, shown, put right, and retried."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import troth
from fixtures_coordinator import CoordinatorProcess, until

pytestmark = pytest.mark.engines


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[troth.Client]:
    yield troth.init(coordinator.address, application="stock")
    troth.close()


def command(coordinator: CoordinatorProcess, *arguments: str) -> str:
    """What `troth …` prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    done = subprocess.run(
        [sys.executable, "-m", "troth", *arguments, "--admin", coordinator.admin],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Writes past AT into the database of `url`."""
    troth.at.init(url(tmp_path))
    with closing(sqlite3.connect(tmp_path / "stock.db", isolation_level=None)) as raw:
        raw.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, count INT)")
        raw.execute("INSERT INTO stock VALUES (1, 100), (2, 200)")
        yield raw


def url(directory: Path) -> str:
    return f"sqlite:///{directory}/stock.db"


def undone_over_a_dirty_row(connection: troth.at.Connection, stranger: sqlite3.Connection) -> str:
    """The xid of a transaction that is rolled back after a stranger has written into one of its rows."""
    scope = troth.transaction(name="purchase")

    def purchase() -> None:
        with scope:
            with connection:
                connection.execute("UPDATE stock SET count = count - 2")
            stranger.execute("UPDATE stock SET count = 77 WHERE id = 1")
            raise KeyError

    with pytest.raises(KeyError):
        purchase()
    return scope.xid


def test_frozen_shown_put_right_and_retried(
    coordinator: CoordinatorProcess, client: troth.Client, stranger: sqlite3.Connection, tmp_path: Path
) -> None:
    with closing(troth.at.connect(url(tmp_path))) as connection:
        xid = undone_over_a_dirty_row(connection, stranger)
    until(lambda: coordinator.transaction(xid)["status"] == "RollbackFailed")
    shown = command(coordinator, "inspect", xid)
    assert "row stock(id=1) was changed by somebody else: count: before 100, after 98, now 77" in shown
    assert "PhaseTwo_RollbackFailed_Unretryable" in shown
    (branch,) = coordinator.transaction(xid)["branches"]
    assert (branch["next_due"], branch["lock_keys"]) == (None, "stock:1,2")
    # All or nothing: the row that was not touched waits, too.
    assert stranger.execute("SELECT count FROM stock").fetchall() == [(77,), (198,)]

    command(coordinator, "retry", xid)
    until(lambda: coordinator.transaction(xid)["branches"][0]["attempts"] == 2)
    until(lambda: coordinator.transaction(xid)["status"] == "RollbackFailed")

    stranger.execute("UPDATE stock SET count = 98 WHERE id = 1")
    assert "1 branch is asked again now" in command(coordinator, "retry", xid)
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.execute("SELECT count FROM stock").fetchall() == [(100,), (200,)]
    assert stranger.execute("SELECT * FROM undo_log").fetchall() == []
