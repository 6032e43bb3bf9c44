"""Processes of the saga tests: workers, their ledger, and what must be true in it at the end."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fixtures_coordinator import CoordinatorProcess, until

WORKER = Path(__file__).parent / "acceptance" / "saga_worker.py"


class Workers:
    """The processes of one test, ended with it."""

    def __init__(self, directory: Path, coordinator: CoordinatorProcess) -> None:
        self.ledger = directory / "ledger.db"
        self.coordinator = coordinator
        self.processes: list[subprocess.Popen[str]] = []
        self.before = {tx["xid"] for tx in self.transactions()}

    def start(self, role: str, *options: str) -> subprocess.Popen[str]:
        """A worker that is ready."""
        command = [sys.executable, str(WORKER), self.coordinator.address, str(self.ledger), role, *options]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def close(self) -> None:
        """End them all."""
        for process in self.processes:
            process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def effects(self) -> list[str]:
        """What was done, each effect once, in its order."""
        with sqlite3.connect(self.ledger, timeout=20) as db:
            return [what for (what,) in db.execute("SELECT what FROM effects ORDER BY n")]

    def transactions(self) -> list[dict[str, Any]]:
        """What the coordinator shows."""
        _, body = self.coordinator.get("/api/transactions")
        return list(body["transactions"])

    def ours(self) -> list[dict[str, Any]]:
        """Those that were begun in this test."""
        return [tx for tx in self.transactions() if tx["xid"] not in self.before]

    def outcome(self, within_s: float = 30.0) -> str:
        """How the test's one saga has ended, once it has."""

        def look() -> str | None:
            try:
                (saga,) = self.ours()
            except (OSError, ValueError):  # the coordinator is not there, or the saga not begun
                return None
            return saga["outcome"]

        found = until(look, within_s, "the saga has ended")
        assert isinstance(found, str)
        return found


@contextmanager
def workers(directory: Path, coordinator: CoordinatorProcess) -> Iterator[Workers]:
    """`Workers` that end with the block."""
    made = Workers(directory, coordinator)
    try:
        yield made
    finally:
        made.close()
