"""Starts the demo's processes, lets the business buy, watches, and reads from the databases what came of it."""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TextIO

import msgspec

from troth.demo.admin import Admin
from troth.demo.databases import Databases, on_server, on_sqlite
from troth.demo.events import Ready
from troth.demo.processes import Child, ChildFailed, Family
from troth.demo.scenario import EXPECTED, FailAt
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import PrivateServer, start
from troth.demo.story import Story
from troth.demo.watch import Watch

START_WITHIN_S: Final = 60.0
PURCHASE_WITHIN_S: Final = 90.0
PHASE_TWO_WITHIN_S: Final = 30.0
POLL_S: Final = 0.05


class Result(msgspec.Struct, frozen=True):
    """How a purchase ended; `ok`: the outcome and the rows are those that its `--fail-at` must give."""

    xid: str
    outcome: str
    balance: int
    stock: int
    orders: int
    undo_logs: int
    ok: bool


def run(fail_ats: Sequence[FailAt], *, keep: bool, out: TextIO, server: Kind | None = None) -> list[Result]:
    """Buy once for each of `fail_ats`, telling the story on `out`. With `keep`, wait for Ctrl-C before cleaning up.

    The databases are SQLite files, or those of a private `server`.

    Raises:
        ServersMissing: the server's programs are not installed; the text says what to type.
        ChildFailed: a process ended before its time; the error has the end of its log. The directory is kept then.
        KeyboardInterrupt: Ctrl-C before the end. All processes have ended and the directory is gone.
    """
    directory = Path(tempfile.mkdtemp(prefix="troth-demo-"))
    family = Family(directory)
    atexit.register(family.stop)
    signals = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    keep_logs = False
    servers: list[PrivateServer] = []
    try:
        if server is not None:
            servers += start(server)
        databases = on_server(servers[0]) if servers else on_sqlite(directory)
        demo = Demo(directory, family, Story(out), databases)
        demo.start()
        results = [demo.buy(fail_at) for fail_at in fail_ats]
        if keep:
            demo.explain()
            _wait_for_interrupt(family)
    except ChildFailed:
        keep_logs = True
        raise
    finally:
        with _uninterrupted():
            family.stop()
            for running in servers:
                running.stop()
            if not keep_logs:
                shutil.rmtree(directory)
        for number, handler in signals.items():
            signal.signal(number, handler)
        atexit.unregister(family.stop)
    return results


class Demo:
    """A coordinator, three services and their databases, all of them this demo's own."""

    def __init__(self, directory: Path, family: Family, story: Story, databases: Databases) -> None:
        self._directory = directory
        self._family = family
        self._story = story
        self._databases = databases
        self._coordinator = Ready(address="")
        self._urls: dict[str, str] = {}

    def start(self) -> None:
        """Make the databases and start the coordinator and the services; returns when all of them serve."""
        self._databases.create()
        self._story.started(self._directory, self._databases.names)
        store = f"sqlite:///{self._directory / 'coordinator.db'}"
        doors = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
        coordinator = self._family.start(
            "coordinator", ("-m", "troth.demo.tethered", "serve", *doors, "--store", store, "--ready-json")
        )
        self._coordinator = self._family.expect(coordinator, Ready, START_WITHIN_S)
        self._story.event("coordinator", self._coordinator)
        services = [self._start_service(name) for name in ("account", "stock", "order")]
        for service in services:
            self._story.event(service.name, self._family.expect(service, Ready, START_WITHIN_S))

    def _start_service(self, name: str) -> Child:
        # The parent opens the listening socket: the port is free for certain, and known before the service runs.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._urls[name] = f"http://127.0.0.1:{listening.getsockname()[1]}"
            arguments = [
                name,
                "--database",
                self._databases.urls[name],
                "--coordinator",
                self._coordinator.address,
            ]
            arguments += ["--socket", str(listening.fileno()), "--fail-if", str(self._fail_file(name))]
            if name == "order":
                arguments += ["--account", self._urls["account"]]
            return self._family.start(name, ("-m", "troth.demo.service", *arguments), pass_fds=(listening.fileno(),))

    def buy(self, fail_at: FailAt) -> Result:
        """Let the business buy once, and compare what stands in the databases afterwards with what must."""
        expected = EXPECTED[fail_at]
        self._databases.reset()
        before = self._databases.read()
        self._story.title(fail_at, expected)
        watch = Watch(Admin(self._coordinator.admin), self._story)
        fail_file = self._fail_file(fail_at.value) if fail_at.value in self._urls else None
        if fail_file is not None:
            fail_file.touch()
        self._follow_purchase(watch, fail_at)
        if fail_file is not None:
            fail_file.unlink()
        after = self._databases.read()
        rows_are_right = self._story.table(before, after, expected.rows)
        ok = rows_are_right and watch.status == expected.outcome
        self._story.verdict(ok, watch.status, expected.outcome)
        return Result(
            xid=watch.xid or "",
            outcome=watch.status,
            balance=after.balance,
            stock=after.stock,
            orders=after.orders,
            undo_logs=after.undo_logs,
            ok=ok,
        )

    def _follow_purchase(self, watch: Watch, fail_at: FailAt) -> None:
        business = self._family.start("business", ("-m", *self._business(fail_at), "--tethered"))
        others = [child for child in self._family.children if child is not business]
        deadline = time.monotonic() + PURCHASE_WITHIN_S
        while not business.at_end:
            self._listen(watch, others, deadline, "the business process ended")
        status = business.process.wait()
        if status != 0 or watch.xid is None:
            self._family.check(business)
        self._family.stop(business)
        deadline = time.monotonic() + PHASE_TWO_WITHIN_S
        while not watch.ended:
            self._listen(watch, others, deadline, "the coordinator finished the second phase")

    def _listen(self, watch: Watch, others: Sequence[Child], deadline: float, until: str) -> None:
        for said in self._family.listen(POLL_S):
            watch.hear(said.who, said.event)
        watch.look()
        self._family.check(*others)
        if time.monotonic() > deadline:
            raise ChildFailed(f"waited in vain until {until}; the transaction is {watch.xid}, {watch.status}")

    def _business(self, fail_at: FailAt) -> tuple[str, ...]:
        doors = ("--coordinator", self._coordinator.address, "--admin", self._coordinator.admin)
        services = ("--stock", self._urls["stock"], "--order", self._urls["order"])
        return ("troth.demo.business", *doors, *services, "--fail-at", fail_at.value)

    def _fail_file(self, service: str) -> Path:
        return self._directory / f"{service}.fail"

    def explain(self) -> None:
        """Say what is running, and what can be done with it."""
        say = self._story.line
        say()
        say("Everything is left running. Ctrl-C ends and removes it.")
        say(f"  coordinator   {self._coordinator.address}, admin {self._coordinator.admin}")
        for name, url in self._urls.items():
            say(f"  {name:<12}  {url}, API at {url}/docs, database {self._databases.urls[name]}")
        python = sys.executable
        say("Try:")
        say(f"  {python} -m {' '.join(self._business(FailAt.NONE))}")
        say(f"  {python} -m {' '.join(self._business(FailAt.AFTER_ALL))}")
        say(f"  touch {self._fail_file('stock')}      # from now on, stock fails after its local commit")
        say(f"  {python} -m troth ls --admin {self._coordinator.admin}")
        say(f"  curl {self._coordinator.admin}/api/transactions")
        stock = self._databases.urls["stock"]
        if stock.startswith("sqlite:"):
            say(f"  sqlite3 {self._databases.names['stock']} 'SELECT * FROM stock_tbl; SELECT * FROM undo_log'")
        if stock.startswith("postgresql:"):
            say(f"  psql {stock} -c 'SELECT * FROM stock_tbl'")


def _wait_for_interrupt(family: Family) -> None:
    try:
        while True:
            family.listen(0.5)
            family.check()
    except KeyboardInterrupt:
        return


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Whatever the user presses meanwhile: no child may be left behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
