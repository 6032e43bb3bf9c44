"""`troth demo tcc`: 200 go from account A in one bank to account C in another, and something goes wrong."""

from __future__ import annotations

import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

import httpx
import msgspec

import troth
from troth.client.drivers import fence_table
from troth.client.modes.fence import FenceStatus
from troth.demo.admin import ENDED, Admin
from troth.demo.events import Ready
from troth.demo.processes import Child, ChildFailed, Family
from troth.demo.run import START_WITHIN_S
from troth.demo.tcc_bank import TABLES
from troth.demo.tcc_faults import AMOUNT, AT_START, EXPECTED, Expected, Fault
from troth.demo.trials import leaving_on_sigterm, trial
from troth.integrations.httpx import install

END_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.05
_CALL_S: Final = 30.0
_SHORT_CALL_S: Final = 1.0
"""How long A's bank is waited for where it will not answer in time."""
_TIMEOUT: Final = timedelta(seconds=60)
_SHORT_TIMEOUT: Final = timedelta(seconds=2)
_QUICK: Final = ("retry.min=50ms", "retry.max=500ms", "answer.timeout=2s")


class Account(msgspec.Struct, frozen=True):
    """What stands in a bank, and what happened there, in order."""

    balance: int
    frozen: int
    fence: list[str]
    diary: list[str]


class Result(msgspec.Struct, frozen=True):
    """How the transfer ended; `ok`: everything is as its fault must leave it."""

    fault: str
    xid: str
    outcome: str
    a: Account
    c: Account
    ok: bool


class ChangedMyMind(Exception):
    """Raised behind both tries, to see them cancelled."""


def run(faults: Sequence[Fault], *, out: TextIO) -> list[Result]:
    """Transfer once for each fault, with banks and a coordinator of its own; tell the story on `out`.

    Raises:
        ChildFailed: a process ended before its time; the error has the end of its log.
        KeyboardInterrupt: Ctrl-C. All processes have ended.
    """
    with leaving_on_sigterm():
        return [_one(fault, out) for fault in faults]


def _one(fault: Fault, out: TextIO) -> Result:
    with trial("troth-demo-tcc-") as (directory, family):
        return Transfer(directory, family, fault, out).play()


class Transfer:
    """One transfer with its coordinator and banks."""

    def __init__(self, directory: Path, family: Family, fault: Fault, out: TextIO) -> None:
        self._directory = directory
        self._family = family
        self._fault = fault
        self._out = out
        self._coordinator = Ready(address="")
        self._ports: dict[str, int] = {}
        self._banks: dict[str, Child] = {}

    def play(self) -> Result:
        """From the start to the end of the second phase."""
        expected = EXPECTED[self._fault]
        self._say(f"--fault {self._fault}: {expected.story}")
        self._start()
        xid = self._transfer()
        outcome = self._ended(xid)
        banks = {name: self._read(name) for name in ("a", "c")}
        ok = self._judge(expected, outcome, banks)
        return Result(self._fault.value, xid, outcome, banks["a"], banks["c"], ok)

    def _start(self) -> None:
        store = f"sqlite:///{self._directory / 'coordinator.db'}"
        doors = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--store", store, "--ready-json")
        settings = [word for setting in _QUICK for word in ("--set", setting)]
        coordinator = self._family.start("coordinator", ("-m", "troth.demo.tethered", "serve", *doors, *settings))
        self._coordinator = self._family.expect(coordinator, Ready, START_WITHIN_S)
        for name, balance, is_open in (("a", AT_START, 1), ("c", 0, int(self._fault is not Fault.REFUSED))):
            fence_table.init(f"sqlite:///{self._file(name)}")
            with closing(sqlite3.connect(self._file(name))) as connection, connection:
                for sql in TABLES:
                    connection.execute(sql)
                connection.execute("INSERT INTO account VALUES (?, ?, 0, ?)", (name.upper(), balance, is_open))
            self._banks[name] = self._start_bank(name)
        for bank in self._banks.values():
            self._family.expect(bank, Ready, START_WITHIN_S)

    def _start_bank(self, name: str) -> Child:
        # The parent opens the listening socket: the port is known before the bank runs, and the same for its successor.
        with socket.create_server(("127.0.0.1", self._ports.get(name, 0))) as listening:
            self._ports[name] = listening.getsockname()[1]
            fault = self._fault if name == "a" else Fault.NONE
            arguments = [name, "--database", str(self._file(name)), "--coordinator", self._coordinator.address]
            arguments += ["--socket", str(listening.fileno()), "--fault", fault.value]
            return self._family.start(
                f"bank-{name}", ("-m", "troth.demo.tcc_bank", *arguments), pass_fds=(listening.fileno(),)
            )

    def _transfer(self) -> str:
        """The business: two calls over HTTP in one global transaction. Its xid, however it ends."""
        timeout = _SHORT_TIMEOUT if self._fault is Fault.TIMEOUT else _TIMEOUT
        xid = ""
        with troth.Client(self._coordinator.address, "transfer") as client:
            scope = troth.transaction(name="transfer", timeout=timeout, client=client)
            try:
                with scope as tx:
                    xid = tx.xid
                    self._say(f"  began {xid}")
                    self._call("a")
                    self._call("c")
                    self._trouble(timeout)
            except (httpx.HTTPError, ChangedMyMind, troth.TrothError) as error:
                self._say(f"  the transfer ends with {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return xid

    def _call(self, bank: str) -> None:
        wait_s = _SHORT_CALL_S if self._fault is Fault.LATE_TRY else _CALL_S
        url = f"http://127.0.0.1:{self._ports[bank]}"
        with install(httpx.Client(base_url=url, timeout=wait_s, trust_env=False)) as http:
            http.post("/transfers", json={"account": bank.upper(), "amount": AMOUNT}).raise_for_status()

    def _trouble(self, timeout: timedelta) -> None:
        if self._fault is Fault.DUPLICATE_CANCEL:
            raise ChangedMyMind("everything worked, and it is not wanted any more")
        if self._fault is Fault.TIMEOUT:
            time.sleep(timeout.total_seconds() + 0.5)

    def _ended(self, xid: str) -> str:
        """The outcome, when the second phase is through and the banks have said what they had to say."""
        admin = Admin(self._coordinator.admin)
        deadline = time.monotonic() + END_WITHIN_S
        shown = EXPECTED[self._fault].shown
        while time.monotonic() < deadline:
            self._replace_the_dead()
            found = admin.transaction(xid)
            status = "Finished" if found is None else found.status
            if status in ENDED and (shown is None or shown in self._read("a").diary):
                return status
            time.sleep(_POLL_S)
        raise ChildFailed(f"the transfer {xid} has not ended within {END_WITHIN_S:g} s")

    def _replace_the_dead(self) -> None:
        for name, bank in self._banks.items():
            if bank.process.poll() is None:
                continue
            if bank.process.returncode != -signal.SIGKILL:
                self._family.check(bank)
            self._say(f"  bank {name} is dead; another process takes its place")
            self._family.stop(bank)
            self._banks[name] = self._start_bank(name)
            self._family.expect(self._banks[name], Ready, START_WITHIN_S)

    def _read(self, name: str) -> Account:
        with closing(sqlite3.connect(self._file(name), timeout=10)) as connection:
            ((balance, frozen),) = connection.execute("SELECT balance, frozen FROM account").fetchall()
            fences = [FenceStatus(row[0]).name for row in connection.execute("SELECT status FROM tcc_fence_log")]
            diary = [row[0] for row in connection.execute("SELECT what FROM diary ORDER BY n")]
        return Account(balance, frozen, fences, diary)

    def _judge(self, expected: Expected, outcome: str, banks: dict[str, Account]) -> bool:
        moved = AMOUNT if expected.outcome == "Committed" else 0
        a, c = banks["a"], banks["c"]
        for name, bank in banks.items():
            self._say(f"  bank {name}: {', '.join(bank.diary)}")
            self._say(f"          balance {bank.balance}, frozen {bank.frozen}, fence {', '.join(bank.fence) or '-'}")
        verb = "asked to confirm" if moved else "asked to cancel"
        checks = {
            f"the outcome is {expected.outcome}": outcome == expected.outcome,
            "A's and C's amounts are right": (a.balance, c.balance) == (AT_START - moved, moved),
            "nothing is frozen": (a.frozen, c.frozen) == (0, 0),
            "A's try, confirm and cancel ran as often as they must": expected.ran
            == tuple(a.diary.count(each) for each in ("try", "confirm", "cancel")),
            f"A was {verb} at least {expected.asked} times": a.diary.count(verb) >= expected.asked,
            "A's fence says so": a.fence == [expected.fence],
            "the fault has struck": expected.shown is None or expected.shown in a.diary,
        }
        for text, right in checks.items():
            self._say(f"  {'ok   ' if right else 'WRONG'} {text}")
        return all(checks.values())

    def _file(self, bank: str) -> Path:
        return self._directory / f"bank-{bank}.db"

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
