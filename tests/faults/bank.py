"""The bank under faults: three services with a database each, two programs that transfer, one coordinator between.

Everything is a process of its own, joined by HTTP (the xid rides in a header) and by the Seata protocol through a
proxy. `Bank.run` loads it, lets a fault strike, heals it, and holds what is left against what everybody was told.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bank_audit import Audit, audit
from bank_databases import Database
from bank_settings import BANKS
from fault_proxy import Proxy
from preload import Control, build

from fixtures_coordinator import CoordinatorProcess, until
from fixtures_restarts import DatabaseServer
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import start

HERE = Path(__file__).parent
TMS = ("tm-1", "tm-2")
THREADS = 3
STOP_WITHIN_S = 30.0
QUIET_WITHIN_S = 30.0
"""From the end of the load to the end of everything: a transaction's timeout is 4 s of it."""


class Worker:
    """One process of the bank's own program."""

    def __init__(self, name: str, script: str, args: list[str], directory: Path) -> None:
        self.name = name
        self._command = [sys.executable, str(HERE / script), *args]
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def expect(self, word: str) -> None:
        """Read until the process says `word`."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"{self.name} ended with status {self._process.wait()}: {self._log.read_text()[-3000:]}")

    def tell(self, **order: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.alive and self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
            self._process.communicate()


class SickCoordinator(CoordinatorProcess):
    """A `troth serve` with our library in it."""

    library: Path
    control: Path

    def command(self) -> list[str]:
        sick = ["/usr/bin/env", f"LD_PRELOAD={self.library}", f"FAULT_CONTROL={self.control}"]
        return [*sick, *super().command()]

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass(frozen=True)
class Run:
    """What came of one fault."""

    audit: Audit
    struck: int
    quiet_after_s: float


Strike = Callable[["Bank", random.Random, float], int]


class Bank:
    """Starts everything; `run` may be called again and again."""

    def __init__(self, directory: Path, store: str | None = None) -> None:
        self.directory = directory
        self._store = store
        self._runs = 0
        self._lives = 0
        self.library = build(directory)
        self.control = Control(directory)
        self.proxy = Proxy()
        self.servers: dict[str, DatabaseServer] = {}
        self.databases: dict[str, Database] = {}
        self.workers: dict[str, Worker] = {}
        self.coordinator: SickCoordinator = None  # type: ignore[assignment]  # made by `renew_coordinator`
        self._journals: list[Path] = []
        self._seed = 0

    # ---- life ----

    def open(self) -> Bank:
        post, maria = start(Kind.POSTGRES, Kind.MARIADB)
        self.servers = {"post": DatabaseServer(post), "maria": DatabaseServer(maria)}
        urls = [f"sqlite:///{self.directory}/bank.db", post.create_database("bank"), maria.create_database("bank")]
        self.databases = {name: Database(url) for name, url in zip(BANKS, urls, strict=True)}
        for database in self.databases.values():
            database.create()
        self.renew_coordinator(self.directory)
        ports = dict(zip(BANKS, _free_ports(len(BANKS)), strict=True))
        for name in BANKS:
            self._add(name, "bank_rm.py", ["--database", self.databases[name].url, "--port", str(ports[name])])
        addresses = [part for name, port in ports.items() for part in ("--bank", f"{name}={port}")]
        for name in TMS:
            self._add(name, "bank_tm.py", [*addresses, "--threads", str(THREADS)])
        for worker in self.workers.values():
            worker.start()
        for worker in self.workers.values():
            worker.expect("ready")
        return self

    def _add(self, name: str, script: str, args: list[str]) -> None:
        args = ["--coordinator", f"127.0.0.1:{self.proxy.listen(name)}", *args]
        self.workers[name] = Worker(name, script, args, self.directory)

    def renew_coordinator(self, parent: Path) -> None:
        """A coordinator on an empty store in a new directory of `parent`; only when nothing is open."""
        if self.coordinator is not None:
            self.coordinator.close()
        self._lives += 1
        directory = parent / f"coordinator-{self._lives}"
        directory.mkdir()
        self.coordinator = SickCoordinator(directory, "limits.idle=3s", store=self._store)
        self.coordinator.library, self.coordinator.control = self.library, self.control.path
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.coordinator.start()
        self.proxy.upstream_port = self.coordinator.port

    def close(self) -> None:
        for worker in self.workers.values():
            worker.resume()
            worker.close()
        if self.coordinator is not None:
            self.coordinator.close()
        self.proxy.close()
        self.control.close()
        for server in self.servers.values():
            server.close()

    # ---- what faults use ----

    def kill_coordinator(self) -> None:
        """kill -9, from any thread."""
        assert self.coordinator.process is not None
        with suppress(ProcessLookupError):
            os.kill(self.coordinator.process.pid, signal.SIGKILL)

    def restart_coordinator(self) -> None:
        """After its death, whoever caused it."""
        self.coordinator.wait()
        self.start_coordinator()

    def restart(self, name: str) -> None:
        """Start a dead worker again; a program that transfers goes on with new transfers."""
        worker = self.workers[name]
        worker.close()
        worker.start()
        worker.expect("ready")
        if name in TMS:
            self._load(name)

    def heal(self) -> None:
        """Whatever was sick is well, whoever was dead lives."""
        self.control.heal()
        self.proxy.heal()
        for server in self.servers.values():
            server.resume()
        self.coordinator.signal(signal.SIGCONT)
        if not self.coordinator.alive:
            self.restart_coordinator()
        for name, worker in self.workers.items():
            worker.resume()
            if not worker.alive:
                self.restart(name)

    # ---- a run ----

    def run(self, strike: Strike, seed: int, during_s: float) -> Run:
        """Load, fault, health, quiet, audit. Raises AssertionError with what is wrong."""
        self._runs += 1
        self._seed, self._journals = seed, []
        chance = random.Random(seed)
        for name in TMS:
            self._load(name)
        try:
            until(self._some_committed, 20, "the first transfers of the run are committed")
            struck = strike(self, chance, during_s)
        finally:
            self.heal()
        time.sleep(min(0.5, during_s))  # some load on the healed system
        quiet_after_s = self.rest()
        return Run(audit(self.databases, self._journals, f"{self._runs}-"), struck, quiet_after_s)

    def rest(self) -> float:
        """End the load and wait until everything has ended; how long that took, in seconds."""
        for name in TMS:
            self.workers[name].tell(stop=True)
        for name in TMS:
            self.workers[name].expect("stopped")
        since = time.monotonic()
        try:
            until(self._is_quiet, QUIET_WITHIN_S, "everything has ended")
        except AssertionError as error:
            error.add_note(f"left: {self.state()}")
            raise
        return time.monotonic() - since

    def go_on(self) -> None:
        """Load again, after `rest`."""
        for name in TMS:
            self._load(name)

    def _load(self, name: str) -> None:
        journal = self.directory / f"journal-{self._runs}-{name}-{len(self._journals)}"
        prefix = f"{self._runs}-{name}-{len(self._journals)}"
        journal.touch()
        self._journals.append(journal)
        self.workers[name].tell(go=f"{self._seed}/{prefix}", prefix=prefix, journal=str(journal))

    def committed(self) -> int:
        """How many commits the programs that transfer were told of in this run, up to now."""
        return sum(journal.read_text().count('"told": "committed"') for journal in self._journals)

    def _some_committed(self) -> bool:
        return self.committed() >= 5

    def _is_quiet(self) -> bool:
        """Nothing open at the coordinator, no lock, no undo row that waits, no open local transaction."""
        try:
            status, listed = self.coordinator.get("/api/transactions?status=open")
            locks = self.coordinator.metrics()["troth_locks_held"]
        except (urllib.error.URLError, OSError):
            return False
        if status != 200 or listed["transactions"] or locks:
            return False
        return all(
            database.rows("SELECT count(*) FROM undo_log WHERE log_status = 0") == [(0,)]
            and database.open_transactions() == 0
            for database in self.databases.values()
        )

    def state(self) -> dict[str, Any]:
        """What a failed run leaves, for its message."""
        left: dict[str, Any] = {
            name: database.rows("SELECT xid, branch_id, log_status FROM undo_log WHERE log_status = 0")
            for name, database in self.databases.items()
        }
        left["open local transactions"] = {name: each.open_transactions() for name, each in self.databases.items()}
        with suppress(OSError):
            left["transactions"] = self.coordinator.get("/api/transactions?status=open")[1]
            left["locks"] = self.coordinator.metrics()["troth_locks_held"]
        return left


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
