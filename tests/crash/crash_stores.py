"""Coordinators under crash points whose store is in PostgreSQL: each on a copy of one that was left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from crash_processes import CrashingCoordinator, Standing, make_standing

from fixtures_coordinator import until
from troth.demo.servers.private import PrivateServer

SETTINGS = ("lease.ttl=3s", "lease.poll=50ms")
"""Who is killed holds the lease on: the next start stands by for so long."""
TEMPLATE = "crash_standing"


class SharedCrashingCoordinator(CrashingCoordinator):
    """Its start is over when it leads."""

    def start(self) -> SharedCrashingCoordinator:
        super().start()
        assert self.process is not None
        assert self.process.stdout is not None
        while self.ready["event"] != "ready":
            line = self.process.stdout.readline()
            assert line, f"the coordinator never led: {self.log()}"
            self.ready = json.loads(line)
        return self


class PostgresGround:
    """A database with the standing transactions, and copies of it."""

    def __init__(self, server: PrivateServer, directory: Path, numbers: Iterator[int]) -> None:
        self._server = server
        self._directory = directory
        self._numbers = numbers
        store = server.create_database(TEMPLATE)
        make_standing(directory, SharedCrashingCoordinator(directory, *SETTINGS, store=store))
        until(lambda: not self._backends(), 20, "the server has noticed that the coordinator was killed")

    def _backends(self) -> int:
        return int(self._server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'"))

    def new_coordinator(self, directory: Path) -> tuple[CrashingCoordinator, Standing]:
        """A coordinator, not started, on a copy."""
        directory.mkdir()
        name = f"crash_{next(self._numbers)}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        coordinator = SharedCrashingCoordinator(directory, *SETTINGS, store=self._server.url_of(name))
        return coordinator, Standing(**json.loads((self._directory / "standing.json").read_text()))
