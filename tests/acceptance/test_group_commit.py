"""The shape of the coordinator, seen from outside: many transactions share one store commit. Counts only, no timing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.engines


class Measured(TypedDict):
    """What one run of `bench/run.py` says that this test reads."""

    transactions: int
    store_commits: int
    tx_per_store_commit: float


def run_once(directory: Path, shape: str, transactions: int) -> Measured:
    """One run on a fresh SQLite store, with the Python generator: it needs no Go, and its counts are the same."""
    command = [sys.executable, str(REPOSITORY / "bench" / "run.py"), "--shape", shape, "--rounds", "1", "--json"]
    command += ["--generator", "python", "--transactions", str(transactions), "--warmup-s", "0"]
    done = subprocess.run(
        [*command, "--directory", str(directory)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured: Measured
    (measured,) = json.loads(done.stdout)["measurements"]
    return measured


def test_256_in_flight_share_store_commits_twenty_to_one(tmp_path: Path) -> None:
    measured = run_once(tmp_path, "8x32", 6000)
    assert measured["transactions"] == 6000
    assert measured["tx_per_store_commit"] >= 20, measured


def test_one_in_flight_pays_for_its_own_writes(tmp_path: Path) -> None:
    # Guards the count itself: one after the other, nothing can be shared, and each needs at least two durable writes
    # before an answer (the branch with its locks, the decision).
    measured = run_once(tmp_path, "1x1", 50)
    assert measured["store_commits"] >= 2 * measured["transactions"], measured
