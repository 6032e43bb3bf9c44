"""A bank of the transfer as a process: `python -m troth.demo.dtm_bank a --database FILE --socket FD --fault FAULT …`.

All its doors stand behind DTM's barrier. What is wrong with it on purpose is in `Faults`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

import troth.dtm
from troth.demo.dtm_faults import Fault
from troth.demo.events import Ready, tell
from troth.demo.tethered import tether
from troth.integrations.dtm_asgi import DtmMiddleware

TABLES: Final = (
    "CREATE TABLE account (id TEXT PRIMARY KEY, balance INTEGER, frozen INTEGER, open INTEGER)",
    "CREATE TABLE diary (n INTEGER PRIMARY KEY, what TEXT NOT NULL)",
)
_HELD_UP_AT_MOST_S: Final = 60.0
_SOON: Final = timedelta(seconds=1)
_MOVES: Final = MappingProxyType(
    {
        "withdraw": (-1, 0),
        "withdraw-undo": (1, 0),
        "deposit": (1, 0),
        "deposit-undo": (-1, 0),
        "pay": (-1, 0),
    }
)
"""What is added to balance and frozen part, in amounts. Those of TCC depend on the bank."""
_TCC: Final = MappingProxyType(
    {
        "a": {"try": (-1, 1), "confirm": (0, -1), "cancel": (1, -1)},
        "c": {"try": (0, 1), "confirm": (1, -1), "cancel": (0, -1)},
    }
)


class Amount(BaseModel):
    """How much."""

    amount: int = Field(gt=0)


class Payment(Amount):
    """To be sent as a message named `gid`, to the URL `to`."""

    gid: str
    to: str
    check_back: str


class Place(NamedTuple):
    """Where the bank is: its own URL, and that of its database."""

    url: str
    database: str


class Faults:
    """What goes wrong in this process, once: the marker file outlives it."""

    def __init__(self, name: str, fault: Fault, file: Path) -> None:
        self.name = name
        self.fault = fault
        self._file = file
        self._marker = file.with_suffix(".struck")

    def strikes(self, fault: Fault, bank: str = "a") -> bool:
        """Whether it is due, in this bank. It is so once."""
        if self.fault is not fault or self.name != bank or self._marker.exists():
            return False
        self._marker.touch()
        return True

    def note(self, what: str) -> None:
        """Into the diary, in a transaction of its own."""
        with closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
            connection.execute("INSERT INTO diary (what) VALUES (?)", (what,))

    def before(self, what: str) -> None:
        """`what` is asked for."""
        self.note(f"asked to {what}")
        if what == "try" and self.strikes(Fault.LATE_TRY):
            self._until_cancelled()

    def after(self, what: str) -> None:
        """`what` is committed, and not answered yet."""
        if what == "withdraw" and self.strikes(Fault.LOST_ANSWER):
            self.note("the answer is lost")
            raise ConnectionError("the answer is lost")
        if what == "deposit" and self.strikes(Fault.BANK_CRASH, "c"):
            self.die()
        if what == "withdraw" and self.strikes(Fault.COORDINATOR_CRASH):
            self.note("the coordinator is killed")
            time.sleep(1)  # it dies waiting for this answer

    def die(self, *, noted: bool = True) -> NoReturn:
        """As by a power cut."""
        if noted:
            self.note("kill -9")
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit  # never comes here

    def _until_cancelled(self) -> None:
        deadline = time.monotonic() + _HELD_UP_AT_MOST_S
        while time.monotonic() < deadline:
            with closing(sqlite3.connect(self._file, timeout=10)) as connection:
                if connection.execute("SELECT count(*) FROM barrier WHERE op = 'cancel'").fetchone() == (1,):
                    return
            time.sleep(0.02)
        raise TimeoutError("no cancel came")


class Bank:
    """One bank's database and what is done on it."""

    def __init__(self, name: str, file: Path, faults: Faults) -> None:
        self.connect: Callable[[], sqlite3.Connection] = partial(sqlite3.connect, file, timeout=10)
        self._name = name
        self._faults = faults

    def serve(self, what: str, amount: int) -> None:
        """A coordinator's call, behind the barrier of its request."""
        self._faults.before(what)
        try:
            troth.dtm.current_barrier().call(self.connect, partial(self.move, what, amount))
        except troth.dtm.LateTry:
            self._faults.note("the late try is refused")
            raise
        self._faults.after(what)

    def move(self, what: str, amount: int, connection: sqlite3.Connection) -> None:
        """Change the account, and write down that it was done, on the barrier's connection."""
        balance, frozen = (sign * amount for sign in (_TCC[self._name] | _MOVES)[what])
        changed = connection.execute(
            "UPDATE account SET balance = balance + ?, frozen = frozen + ? WHERE open AND balance + ? >= 0",
            (balance, frozen, balance),
        )
        if changed.rowcount != 1:
            raise troth.dtm.BranchRefused("the account is closed, or has not enough")
        connection.execute("INSERT INTO diary (what) VALUES (?)", (what,))

    def pay(self, client: troth.dtm.DtmClient, wanted: Payment) -> None:
        """A's payment and the message to C: both, or none."""
        options = troth.dtm.Options(timeout=_SOON, retry_interval=_SOON)
        message = client.message(wanted.gid, options=options).add(wanted.to, {"amount": wanted.amount})
        message.do(wanted.check_back, self.connect, partial(self._paid, wanted.amount))

    def transfers(self, client: troth.dtm.DtmClient, own_url: str) -> troth.dtm.Workflow:
        """The workflow `transfer`: A pays, behind the barrier of its step; then C is called."""
        options = troth.dtm.Options(retry_interval=_SOON)

        @client.workflow("transfer", callback=f"{own_url}/workflow", options=options)
        def transfer(steps: troth.dtm.Steps, data: dict[str, Any]) -> None:
            self._faults.note("asked to run")
            steps.do(partial(self._pay_once, data["amount"]))
            if self._faults.strikes(Fault.WORKFLOW_CRASH):
                self._faults.die()
            steps.call(data["to"], {"amount": data["amount"]})

        return transfer

    def _pay_once(self, amount: int) -> None:
        troth.dtm.current_barrier().call(self.connect, partial(self.move, "pay", amount))

    def _paid(self, amount: int, connection: sqlite3.Connection) -> None:
        self.move("pay", amount, connection)
        if self._faults.strikes(Fault.SENDER_CRASH_BEFORE_COMMIT):
            self._faults.die(noted=False)  # the diary is locked by this very transaction


def create_app(bank: Bank, faults: Faults, client: troth.dtm.DtmClient, place: Place) -> Any:
    """The bank's web service."""
    app = FastAPI(title="bank")
    transfer = bank.transfers(client, place.url)

    @app.post("/run", status_code=204)
    def run(wanted: Payment) -> None:
        transfer.execute({"amount": wanted.amount, "to": wanted.to}, gid=wanted.gid)

    @app.post("/pay", status_code=204)
    def pay(wanted: Payment) -> None:
        bank.pay(client, wanted)

    @app.post("/{what}")
    def move(what: str, wanted: Amount) -> dict[str, str]:
        bank.serve(what, wanted.amount)
        return {"done": what}

    guarded = DtmMiddleware(app, check_backs={"/check-back": place.database}, workflows={"/workflow": client})

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/check-back":
            faults.note("asked to check-back")
        await guarded(scope, receive, send)

    return noting


def _dies_at_submit(faults: Faults) -> Callable[[httpx.Request], None]:
    def hook(request: httpx.Request) -> None:
        if request.url.path.endswith("/submit") and faults.strikes(Fault.SENDER_CRASH):
            faults.die()

    return hook


def main() -> None:
    """Serve on the listening socket that the parent process passed, until SIGTERM."""
    parser = argparse.ArgumentParser(prog="troth.demo.dtm_bank")
    parser.add_argument("name", choices=("a", "c"), help="a pays, c is paid")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a listening socket")
    parser.add_argument("--fault", type=Fault, default=Fault.NONE)
    chosen = parser.parse_args()
    tether()
    signal.signal(signal.SIGTERM, _leave)  # uvicorn stops first, then hands the signal on to this
    faults = Faults(chosen.name, chosen.fault, chosen.database)
    http = httpx.Client(event_hooks={"request": [_dies_at_submit(faults)]}, trust_env=False)
    with troth.dtm.connect(chosen.coordinator, http=http) as client:
        bank = Bank(chosen.name, chosen.database, faults)
        listening = socket.socket(fileno=chosen.socket)
        host, port = listening.getsockname()[:2]
        place = Place(f"http://{host}:{port}", f"sqlite:///{chosen.database}")
        app = create_app(bank, faults, client, place)
        tell(Ready(address=place.url))
        uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False)).run(sockets=[listening])


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
