"""`troth demo dtm`: 200 go from account A in one bank to account C in another in DTM's styles; something goes wrong."""

from __future__ import annotations

import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import httpx
import msgspec

import troth
import troth.dtm
from troth.client.drivers import barrier as barrier_table
from troth.demo.dtm_bank import TABLES
from troth.demo.dtm_faults import AMOUNT, AT_START, EXPECTED, Expected, Fault, Style
from troth.demo.events import Ready
from troth.demo.processes import Child, ChildFailed, Family
from troth.demo.run import START_WITHIN_S
from troth.demo.trials import leaving_on_sigterm, trial

END_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.05
_ENDED: Final = frozenset({"succeed", "failed"})
_SOON: Final = troth.dtm.Options(retry_interval=timedelta(seconds=1))
_SHORT_CALL: Final = troth.dtm.Options(request_timeout=timedelta(seconds=1))
"""A's bank is waited for no longer, where it will not answer in time."""


class Account(msgspec.Struct, frozen=True):
    """What stands in a bank, its barrier's rows as `op reason`, and what happened there, in order."""

    balance: int
    frozen: int
    barrier: list[str]
    diary: list[str]


class Result(msgspec.Struct, frozen=True):
    """How the transfer ended; `ok`: everything is as its fault must leave it."""

    fault: str
    style: str
    gid: str
    outcome: str
    a: Account
    c: Account
    ok: bool


def run(faults: Sequence[Fault], *, out: TextIO) -> list[Result]:
    """Transfer once for each fault, with banks and a coordinator of its own; tell the story on `out`.

    Raises:
        ChildFailed: a process ended before its time; the error has the end of its log.
        KeyboardInterrupt: Ctrl-C. All processes have ended.
    """
    with leaving_on_sigterm():
        return [_one(fault, out) for fault in faults]


def _one(fault: Fault, out: TextIO) -> Result:
    with trial("troth-demo-dtm-") as (directory, family):
        return Transfer(directory, family, fault, out).play()


class Transfer:
    """One transfer with its coordinator and banks."""

    def __init__(self, directory: Path, family: Family, fault: Fault, out: TextIO) -> None:
        self._directory = directory
        self._family = family
        self._fault = fault
        self._out = out
        self._ports: dict[str, int] = {}
        self._banks: dict[str, Child] = {}
        self._coordinator: Child | None = None
        self._kill_coordinator = fault is Fault.COORDINATOR_CRASH

    def play(self) -> Result:
        """From the start to the end of the transaction."""
        expected = EXPECTED[self._fault]
        self._say(f"--fault {self._fault}: {expected.story}")
        self._start()
        gid = troth.dtm.new_gid()
        with troth.dtm.connect(self._url("coordinator")) as client:
            self._begin(client, expected.style, gid)
            outcome = self._ended(client, gid)
        banks = {name: self._read(name) for name in ("a", "c")}
        ok = self._judge(expected, outcome, banks)
        return Result(self._fault.value, expected.style.value, gid, outcome, banks["a"], banks["c"], ok)

    # --- processes ---

    def _start(self) -> None:
        self._ports["coordinator"] = _free_port()
        self._start_coordinator()
        for name, balance, is_open in (("a", AT_START, 1), ("c", 0, int(self._fault is not Fault.REFUSED))):
            barrier_table.init(f"sqlite:///{self._file(name)}")
            with closing(sqlite3.connect(self._file(name))) as connection, connection:
                for sql in TABLES:
                    connection.execute(sql)
                connection.execute("INSERT INTO account VALUES (?, ?, 0, ?)", (name.upper(), balance, is_open))
            self._banks[name] = self._start_bank(name)
        for bank in self._banks.values():
            self._family.expect(bank, Ready, START_WITHIN_S)

    def _start_coordinator(self) -> None:
        store = f"sqlite:///{self._directory / 'coordinator.db'}"
        doors = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--store", store, "--ready-json")
        dtm = ("--dtm-http-port", str(self._ports["coordinator"]), "--dtm-grpc-port", "off")
        settings = ("--set", "retry.min=50ms", "--set", "retry.max=500ms")
        self._coordinator = self._family.start(
            "coordinator", ("-m", "troth.demo.tethered", "serve", *doors, *dtm, *settings)
        )
        self._family.expect(self._coordinator, Ready, START_WITHIN_S)

    def _start_bank(self, name: str) -> Child:
        # The parent opens the listening socket: the port is known before the bank runs, and the same for its successor.
        with socket.create_server(("127.0.0.1", self._ports.get(name, 0))) as listening:
            self._ports[name] = listening.getsockname()[1]
            arguments = [name, "--database", str(self._file(name)), "--coordinator", self._url("coordinator")]
            arguments += ["--socket", str(listening.fileno()), "--fault", self._fault.value]
            return self._family.start(
                f"bank-{name}", ("-m", "troth.demo.dtm_bank", *arguments), pass_fds=(listening.fileno(),)
            )

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

    def _strike_the_coordinator(self) -> None:
        if not self._kill_coordinator or self._coordinator is None:
            return
        if "the coordinator is killed" not in self._read("a").diary:
            return
        self._kill_coordinator = False
        self._say("  the coordinator is killed; another process takes its place")
        self._coordinator.process.kill()
        self._coordinator.process.wait()
        self._family.stop(self._coordinator)
        self._start_coordinator()

    # --- the business ---

    def _begin(self, client: troth.dtm.DtmClient, style: Style, gid: str) -> None:
        self._say(f"  begins {gid}")
        try:
            if style is Style.SAGA:
                self._saga(client, gid)
            elif style is Style.TCC:
                self._tcc(client, gid)
            else:
                self._let_a_begin("pay" if style is Style.MESSAGE else "run", gid)
        except (httpx.HTTPError, troth.TrothError) as error:
            self._say(f"  the caller hears {type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _saga(self, client: troth.dtm.DtmClient, gid: str) -> None:
        saga = client.saga(gid, options=_SOON)
        payload = {"amount": AMOUNT}
        saga.add(self._url("a") + "/withdraw", self._url("a") + "/withdraw-undo", payload)
        saga.add(self._url("c") + "/deposit", self._url("c") + "/deposit-undo", payload)
        saga.submit()

    def _tcc(self, client: troth.dtm.DtmClient, gid: str) -> None:
        options = _SHORT_CALL if self._fault is Fault.LATE_TRY else None
        with client.tcc(gid, options=options) as tcc:
            for name in ("a", "c"):
                at = self._url(name)
                tcc.call(f"{at}/try", confirm=f"{at}/confirm", cancel=f"{at}/cancel", payload={"amount": AMOUNT})

    def _let_a_begin(self, door: str, gid: str) -> None:
        a, c = self._url("a"), self._url("c")
        wanted = {"amount": AMOUNT, "gid": gid, "to": f"{c}/deposit", "check_back": f"{a}/check-back"}
        with httpx.Client(timeout=30, trust_env=False) as http:
            http.post(f"{a}/{door}", json=wanted).raise_for_status()

    def _ended(self, client: troth.dtm.DtmClient, gid: str) -> str:
        """The outcome, when it is decided and the banks have said what they had to say."""
        deadline = time.monotonic() + END_WITHIN_S
        shown = EXPECTED[self._fault].shown
        while time.monotonic() < deadline:
            self._replace_the_dead()
            self._strike_the_coordinator()
            status = self._status(client, gid)
            diaries = self._read("a").diary + self._read("c").diary
            if status in _ENDED and (shown is None or shown in diaries):
                return status
            time.sleep(_POLL_S)
        raise ChildFailed(f"the transfer {gid} has not ended within {END_WITHIN_S:g} s")

    def _status(self, client: troth.dtm.DtmClient, gid: str) -> str:
        found: dict[str, Any] = client.query(gid)
        return str((found["transaction"] or {}).get("status", ""))

    # --- what stands there ---

    def _read(self, name: str) -> Account:
        with closing(sqlite3.connect(self._file(name), timeout=10)) as connection:
            ((balance, frozen),) = connection.execute("SELECT balance, frozen FROM account").fetchall()
            rows = connection.execute("SELECT op || ' ' || reason FROM barrier ORDER BY id")
            barrier = [row[0] for row in rows]
            diary = [row[0] for row in connection.execute("SELECT what FROM diary ORDER BY n")]
        return Account(balance, frozen, barrier, diary)

    def _judge(self, expected: Expected, outcome: str, banks: dict[str, Account]) -> bool:
        moved = AMOUNT if expected.outcome == "succeed" else 0
        a, c = banks["a"], banks["c"]
        for name, bank in banks.items():
            self._say(f"  bank {name}: {', '.join(bank.diary) or '-'}")
            self._say(
                f"          balance {bank.balance}, frozen {bank.frozen}, barrier {', '.join(bank.barrier) or '-'}"
            )
        checks = {
            f"the outcome is {expected.outcome}": outcome == expected.outcome,
            "A's and C's amounts are right": (a.balance, c.balance) == (AT_START - moved, moved),
            "nothing is frozen": (a.frozen, c.frozen) == (0, 0),
            "what is done in A is done as often as it must": _ran(a, expected.a),
            "what is done in C is done as often as it must": _ran(c, expected.c),
        }
        for asked, least in expected.asked:
            name, what = asked.split(" ")
            times = banks[name].diary.count(f"asked to {what}")
            checks[f"{name.upper()} was asked to {what}, {least} times at least"] = times >= least
        for text, right in checks.items():
            self._say(f"  {'ok   ' if right else 'WRONG'} {text}")
        return all(checks.values())

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def _file(self, bank: str) -> Path:
        return self._directory / f"bank-{bank}.db"

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def _ran(bank: Account, wanted: tuple[tuple[str, int], ...]) -> bool:
    return all(bank.diary.count(what) == times for what, times in wanted)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
