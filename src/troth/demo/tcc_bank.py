"""A bank of the transfer as a process: `python -m troth.demo.tcc_bank a --database FILE --socket FD --fault FAULT …`.

A TCC action on an account with a frozen part. What is wrong with it on purpose is in `Faults`; the action knows
nothing of that, and holds by its fence alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import troth
from troth.client.flow import ResourceHandler
from troth.client.modes.fence import LateTry
from troth.client.participant import later
from troth.demo.events import Ready, tell
from troth.demo.tcc_faults import Fault
from troth.demo.tethered import tether
from troth.integrations.fastapi import add_troth
from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    Message,
)

TABLES: Final = (
    "CREATE TABLE account (id TEXT PRIMARY KEY, balance INTEGER, frozen INTEGER, open INTEGER)",
    "CREATE TABLE diary (n INTEGER PRIMARY KEY, what TEXT NOT NULL)",
)
_HELD_UP_AT_MOST_S: Final = 60.0


class Amount(BaseModel):
    """How much, on which account."""

    account: str
    amount: int = Field(gt=0)


class Bank:
    """One bank's database; `connect` is what the fence opens."""

    def __init__(self, file: Path, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def connect(self) -> sqlite3.Connection:
        """A connection for one try, confirm or cancel."""
        self._faults.connecting()
        return sqlite3.connect(self._file, timeout=10)

    @staticmethod
    def moved(ctx: troth.ActionContext, what: str, balance: int, frozen: int) -> None:
        """Move amounts of the account, and write down that it was done, on the fence's connection."""
        account = ctx["account"]
        changed = ctx.connection.execute(
            "UPDATE account SET balance = balance + ?, frozen = frozen + ? WHERE id = ? AND open AND balance + ? >= 0",
            (balance, frozen, account, balance),
        )
        if changed.rowcount != 1:
            raise HTTPException(409, f"account {account} is closed, or has not enough")
        ctx.connection.execute("INSERT INTO diary (what) VALUES (?)", (what,))


def withdrawals(bank: Bank, client: Any) -> Any:
    """The action of the bank that pays: freeze, then take or give back."""

    @troth.tcc(name="withdraw", connection=bank.connect, client=client)
    class Withdraw:
        def try_(self, ctx: troth.ActionContext, account: str, amount: int) -> None:
            bank.moved(ctx, "try", -amount, amount)

        def confirm(self, ctx: troth.ActionContext) -> None:
            bank.moved(ctx, "confirm", 0, -ctx["amount"])

        def cancel(self, ctx: troth.ActionContext) -> None:
            bank.moved(ctx, "cancel", ctx["amount"], -ctx["amount"])

    return Withdraw()


def deposits(bank: Bank, client: Any) -> Any:
    """The action of the bank that is paid: announce, then put or forget."""

    @troth.tcc(name="deposit", connection=bank.connect, client=client)
    class Deposit:
        def try_(self, ctx: troth.ActionContext, account: str, amount: int) -> None:
            bank.moved(ctx, "try", 0, amount)

        def confirm(self, ctx: troth.ActionContext) -> None:
            bank.moved(ctx, "confirm", ctx["amount"], -ctx["amount"])

        def cancel(self, ctx: troth.ActionContext) -> None:
            bank.moved(ctx, "cancel", 0, -ctx["amount"])

    return Deposit()


class Faults:
    """What goes wrong in this process, once: the marker file outlives it."""

    def __init__(self, fault: Fault, file: Path) -> None:
        self.fault = fault
        self._file = file
        self._marker = file.with_suffix(".struck")

    def strikes(self, *faults: Fault) -> bool:
        """Whether one of these is due. It is so once."""
        if self.fault not in faults or self._marker.exists():
            return False
        self._marker.touch()
        return True

    def note(self, what: str) -> None:
        """Into the diary, in a transaction of its own."""
        with closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
            connection.execute("INSERT INTO diary (what) VALUES (?)", (what,))

    def connecting(self) -> None:
        """The fence opens its connection: the branch is registered, its try has not begun."""
        if self.strikes(Fault.EMPTY_CANCEL):
            self.note("no connection to the database, so no try")
            raise ConnectionError("the bank's database cannot be reached")
        if self.strikes(Fault.LATE_TRY):
            self.note("the try is held up")
            self._until_cancelled()

    def tried(self) -> None:
        """The try has committed; the caller does not know yet."""
        if self.strikes(Fault.CRASH_AFTER_TRY):
            self.die("kill -9 after the try")

    def die(self, why: str) -> NoReturn:
        """As by a power cut."""
        self.note(why)
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit  # never comes here

    def _until_cancelled(self) -> None:
        deadline = time.monotonic() + _HELD_UP_AT_MOST_S
        while time.monotonic() < deadline:
            with closing(sqlite3.connect(self._file, timeout=10)) as connection:
                if connection.execute("SELECT count(*) FROM tcc_fence_log WHERE status = 4").fetchone() == (1,):
                    return
            time.sleep(0.02)
        raise TimeoutError("no cancel came")


class Troubled:
    """The bank's client, through which phase two suffers the faults. `troth.client.flow.ResourceClient`."""

    def __init__(self, client: troth.Client, faults: Faults) -> None:
        self._client = client
        self._faults = faults
        self.settings = client.settings

    def tell(self, message: Message) -> Message:
        """To the coordinator."""
        return self._client.tell(message)

    async def atell(self, message: Message) -> Message:
        """To the coordinator."""
        return await self._client.atell(message)

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: ResourceHandler) -> None:
        """With the faults in between."""
        self._client.register_resource(resource_id, branch_type, _TroubledHandler(handler, self._faults))


class _TroubledHandler:
    def __init__(self, handler: ResourceHandler, faults: Faults) -> None:
        self._handler = handler
        self._faults = faults

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        for _ in requests:
            self._faults.note("asked to confirm")
        if self._faults.strikes(Fault.CRASH_BEFORE_CONFIRM):
            self._faults.die("kill -9 before the confirm")
        answers = self._handler.commit(requests)
        if self._faults.strikes(Fault.CRASH_AFTER_CONFIRM):
            self._faults.die("kill -9 after the confirm")
        if self._faults.strikes(Fault.DUPLICATE_CONFIRM):
            self._faults.note("the answer to the confirm is lost")
            lost = BranchStatus.PhaseTwo_CommitFailed_Retryable
            return [
                BranchCommitResponse(xid=answer.xid, branch_id=answer.branch_id, branch_status=lost)
                for answer in answers
            ]
        return answers

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        self._faults.note("asked to cancel")
        answer = self._handler.rollback(request)
        if self._faults.strikes(Fault.DUPLICATE_CANCEL):
            self._faults.note("the answer to the cancel is lost")
            put_off = later(request, "lost")
            assert isinstance(put_off, BranchRollbackResponse)
            return put_off
        return answer

    def delete_undo_logs(self, save_days: int) -> None:
        self._handler.delete_undo_logs(save_days)


def create_app(action: Any, faults: Faults, client: troth.Client) -> FastAPI:
    """The bank's web service: a request joins its caller's transaction, and calls the action."""
    app = FastAPI(title="bank")
    add_troth(app, client=client)

    @app.post("/transfers", status_code=204)
    def transfer(wanted: Amount) -> None:
        try:
            action.try_(wanted.account, wanted.amount)
        except LateTry:
            faults.note("the late try is refused")
            raise
        faults.tried()

    return app


def main() -> None:
    """Serve on the listening socket that the parent process passed, until SIGTERM."""
    parser = argparse.ArgumentParser(prog="troth.demo.tcc_bank")
    parser.add_argument("name", choices=("a", "c"), help="a pays, c is paid")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a listening socket")
    parser.add_argument("--fault", type=Fault, default=Fault.NONE)
    chosen = parser.parse_args()
    tether()
    signal.signal(signal.SIGTERM, _leave)  # uvicorn stops first, then hands the signal on to this
    faults = Faults(chosen.fault, chosen.database)
    with troth.init(coordinator=chosen.coordinator, application=f"bank-{chosen.name}") as client:
        of_bank = withdrawals if chosen.name == "a" else deposits
        app = create_app(of_bank(Bank(chosen.database, faults), Troubled(client, faults)), faults, client)
        listening = socket.socket(fileno=chosen.socket)
        host, port = listening.getsockname()[:2]
        tell(Ready(address=f"http://{host}:{port}"))
        uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False)).run(sockets=[listening])


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
