"""A bank as a web service whose doors stand behind DTM's barrier, and a coordinator: what the examples here share.

A service needs three lines for all of this: the middleware, `@barrier` on what it does, and `troth dtm init URL` once.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

import troth.dtm
from troth.client.drivers import barrier as barrier_table
from troth.integrations.dtm_asgi import DtmMiddleware


class Bank:
    """One account in a database of its own; its doors are `url` + /withdraw, /deposit, their undos, and TCC's three."""

    def __init__(self, file: Path, account: str, balance: int) -> None:
        self.account = account
        self.database = f"sqlite:///{file}"
        self.connect = functools.partial(sqlite3.connect, file, timeout=10)
        barrier_table.init(self.database)  # as `troth dtm init URL`
        with closing(self.connect()) as connection, connection:
            connection.execute("CREATE TABLE account (balance INTEGER, frozen INTEGER)")
            connection.execute("INSERT INTO account VALUES (?, 0)", (balance,))
        self.app = FastAPI()
        for name, balance_sign, frozen_sign in (
            ("withdraw", -1, 0),
            ("withdraw-undo", 1, 0),
            ("deposit", 1, 0),
            ("deposit-undo", -1, 0),
            ("try", -1, 1),
            ("confirm", 0, -1),
            ("cancel", 1, -1),
        ):
            self._door(name, balance_sign, frozen_sign)
        self.app.add_middleware(DtmMiddleware, check_backs={"/check-back": self.database})
        self.url = ""

    def _door(self, name: str, balance_sign: int, frozen_sign: int) -> None:
        @troth.dtm.barrier(self.connect)
        def move(connection: sqlite3.Connection, amount: int) -> None:
            self.add(connection, balance_sign * amount, frozen_sign * amount)

        @self.app.post(f"/{name}")
        def serve(payload: dict[str, int]) -> dict[str, str]:
            move(payload["amount"])
            return {"done": name}

    @staticmethod
    def add(connection: sqlite3.Connection, balance: int, frozen: int = 0) -> None:
        """Move the account, or refuse."""
        sql = "UPDATE account SET balance = balance + ?, frozen = frozen + ? WHERE balance + ? >= 0"
        if connection.execute(sql, (balance, frozen, balance)).rowcount != 1:
            raise troth.dtm.BranchRefused("not enough money")

    def __str__(self) -> str:
        with closing(self.connect()) as connection:
            ((balance, frozen),) = connection.execute("SELECT balance, frozen FROM account")
        return f"{self.account} {balance}" + (f" and {frozen} frozen" if frozen else "")

    @contextmanager
    def serving(self) -> Iterator[Bank]:
        """Serve on a free port."""
        server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="critical"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def coordinator(folder: Path) -> Iterator[dict[str, object]]:
    """`troth serve` on free ports; what it says when it is ready."""
    doors = ["--port", "0", "--admin-port", "0", "--dtm-http-port", "0", "--dtm-grpc-port", "off"]
    command = [
        sys.executable,
        "-m",
        "troth",
        "serve",
        *doors,
        "--store",
        f"sqlite:///{folder}/troth.db",
        "--ready-json",
    ]
    with (folder / "coordinator.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        if process.stdout is None:
            raise RuntimeError("a pipe was asked for")
        ready = json.loads(process.stdout.readline())
        yield ready
    finally:
        process.terminate()
        process.communicate()


def until_is(bank: object, wanted: str) -> str:
    """What it is, once it is that: deliveries come a moment later."""
    deadline = time.monotonic() + 30
    while str(bank) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return str(bank)
