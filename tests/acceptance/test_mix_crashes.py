"""A transaction of AT, TCC and XA branches, and a saga that has such, while the coordinator is killed in between.

The simulator kills it between any two; here real processes and databases show that it is the same there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mix_shop import AFTERWARDS, UNTOUCHED, Shop

from fixtures_coordinator import CoordinatorProcess, until

pytestmark = pytest.mark.engines

PROGRAM = str(Path(__file__).with_name("mix_shop.py"))
POINTS = (
    ("tc.register.after-write:3", "commit", None),
    ("tc.report.before-write:1", "commit", None),
    ("tc.report.after-write:2", "commit", None),
    ("tc.commit-decision.before-write:1", "commit", "Committed"),
    ("tc.commit-decision.after-write:1", "commit", "Committed"),
    ("tc.calls.middle:2", "commit", "Committed"),
    ("tc.branch-end.after-write:1", "commit", "Committed"),
    ("tc.global-end.before-write:1", "commit", "Committed"),
    ("tc.rollback-decision.after-write:1", "rollback", "Rollbacked"),
    ("tc.calls.middle:2", "rollback", "Rollbacked"),
    ("tc.branch-end.before-write:2", "rollback", "Rollbacked"),
    ("tc.commit-decision.after-write:1", "trip", "Committed"),
    ("tc.calls.middle:2", "trip", "Committed"),
    ("tc.rollback-decision.after-write:1", "trip-fails", "Rollbacked"),
    ("tc.calls.middle:3", "trip-fails", "Rollbacked"),
)
"""(the point, and the how-manieth time; what the owner does; how it must end, None: either way)."""
QUICK = (("tc.calls.middle:2", "commit"),)


class Crashing(CoordinatorProcess):
    """`troth serve` with a crash point at its first start."""

    crash = ""

    def command(self) -> list[str]:
        plain = super().command()
        return [plain[0], "-m", "troth.testing.crash", self.crash, "--", *plain[3:]] if self.crash else plain


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Crashing]:
    process = Crashing(tmp_path)
    yield process
    process.close()


@pytest.fixture
def shop(tmp_path: Path, new_postgres_database: Callable[[], str], new_mariadb_database: Callable[[], str]) -> Shop:
    return Shop(f"sqlite:///{tmp_path / 'shop.db'}", new_postgres_database(), new_mariadb_database()).make()


@pytest.mark.parametrize(
    ("crash", "end", "must"),
    [
        pytest.param(*each, id=f"{each[0]}-{each[1]}", marks=() if each[:2] in QUICK else pytest.mark.soak)
        for each in POINTS
    ],
)
def test_the_coordinator_dies(crash: str, end: str, must: str | None, coordinator: Crashing, shop: Shop) -> None:
    coordinator.crash = crash
    coordinator.start()
    command = [sys.executable, PROGRAM, "--coordinator", coordinator.address, "--end", end]
    command += ["--sqlite", shop.sqlite, "--postgres", shop.postgres, "--mariadb", shop.mariadb]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as program:
        try:
            heard = _play(coordinator, program)
            (xid,) = [tx["xid"] for tx in coordinator.get("/api/transactions?limit=10")[1]["transactions"]]
            until(lambda: coordinator.transaction(xid).get("outcome"), 30, f"{heard} has ended")
            status = coordinator.transaction(xid)["status"]
            assert status == must or (must is None and status in ("Committed", "Rollbacked")), heard
            until(
                lambda: shop.rows() == (AFTERWARDS if status == "Committed" else UNTOUCHED), what=f"{status}: {heard}"
            )
            until(lambda: not shop.left_behind(), what="nothing is left behind")
            assert (heard["outcome"] == "committed") is (status == "Committed"), heard
            until(lambda: coordinator.metrics()["troth_locks_held"] == 0, what="no row is held")
            if end.startswith("trip"):
                assert shop.flights() == (["booked"] if end == "trip" else ["booked", "given back"])
        finally:
            assert program.stdin is not None
            program.stdin.close()
            assert program.wait(30) == 0


def _play(coordinator: Crashing, program: subprocess.Popen[str]) -> dict[str, str]:
    """The coordinator dies at its point and comes back without it; what the program's owner heard."""
    process = coordinator.process
    assert process is not None
    until(lambda: process.poll() is not None or program.poll() is not None, 60, coordinator.crash)
    assert process.poll() == -signal.SIGKILL, coordinator.log()
    assert process.stdout is not None
    process.stdout.close()
    coordinator.crash = ""
    coordinator.start()
    assert program.stdout is not None
    heard: dict[str, str] = json.loads(program.stdout.readline())
    return heard
