"""One service of the demo as a process: `python -m troth.demo.service stock --database URL --socket FD …`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
import uvicorn
from fastapi import FastAPI

import troth
from troth.demo import account, order, stock
from troth.demo.events import Ready, tell
from troth.demo.images import committed
from troth.demo.tethered import tether
from troth.integrations.httpx import install

CALL_TIMEOUT_S = 30.0


class FailsOnPurpose(RuntimeError):
    """Raised by the service that the demo was told to let fail."""


def main() -> None:
    """Serve on the listening socket that the parent process passed, until SIGTERM."""
    parser = argparse.ArgumentParser(prog="troth.demo.service")
    parser.add_argument("name", choices=("account", "stock", "order"))
    parser.add_argument("--database", required=True, help="its URL")
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a listening socket")
    parser.add_argument("--account", help="base URL of the account service")
    parser.add_argument("--fail-if", type=Path, required=True, help="fail after local commits while this file exists")
    chosen = parser.parse_args()
    tether()
    signal.signal(signal.SIGTERM, _leave)  # uvicorn stops first, then hands the signal on to this
    with troth.init(coordinator=chosen.coordinator, application=chosen.name):
        # The coordinator learns of the database now, not at the first request: it may have work from before a restart.
        troth.at.connect(chosen.database).close()
        app = _app(chosen.name, chosen.database, chosen.account, _after_commit(chosen.database, chosen.fail_if))
        listening = socket.socket(fileno=chosen.socket)
        host, port = listening.getsockname()[:2]
        tell(Ready(address=f"http://{host}:{port}"))
        uvicorn.Server(uvicorn.Config(app, log_level="info", access_log=False)).run(sockets=[listening])


def _app(name: str, database: str, account_url: str | None, after_commit: Callable[[], None]) -> FastAPI:
    if name == "account":
        return account.create_app(database, after_commit)
    if name == "stock":
        return stock.create_app(database, after_commit)
    http = install(httpx.Client(base_url=account_url or "", timeout=CALL_TIMEOUT_S, trust_env=False))
    return order.create_app(database, http, after_commit)


def _after_commit(database: str, fail_if: Path) -> Callable[[], None]:
    def show_and_maybe_fail() -> None:
        for event in committed(database, troth.current_xid()):
            tell(event)
        if fail_if.exists():
            raise FailsOnPurpose("this service was told to fail after its local commit")

    return show_and_maybe_fail


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
