"""One bank as a service: moves money on one account of its own database, in its caller's global transaction.

`python bank_rm.py --coordinator HOST:PORT --database URL --port PORT`; prints `ready` when it serves. `POST /move` with
`{"id", "account", "delta"}` and the header TX_XID: 200 when the branch is committed locally, 409 when a row is held by
another transaction, 500 for anything else, with the reason as text. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bank_settings import CLIENT

import troth

BUSY_S = 3.0
"""How long a statement waits for a row or file that another local transaction has."""


class Bank:
    """One database under AT."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._mark = "?" if url.startswith("sqlite") else "%s"
        self._options: dict[str, Any] = {
            "sqlite": {"timeout": BUSY_S},
            "postgresql": {"connect_timeout": 3, "options": f"-c lock_timeout={int(BUSY_S * 1000)}"},
            "mysql": {"connect_timeout": 3, "init_command": f"SET innodb_lock_wait_timeout = {int(BUSY_S)}"},
        }[url.partition(":")[0]]

        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()

    def connect(self) -> Any:
        return troth.at.connect(self.url, **self._options)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """One that is used again, as services do, unless it has failed; sqlite3's belong to one thread."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self.url.startswith("sqlite"):
            connection.close()
        else:
            self._idle.put(connection)

    def move(self, xid: str, entry: str, account: int, delta: int) -> None:
        """Two rows in one local transaction: the balance, and the entry that accounts for it."""
        with troth.join(xid), self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute(
                f"UPDATE account SET balance = balance + {self._mark} WHERE id = {self._mark}", (delta, account)
            )
            cursor.execute(
                f"INSERT INTO entry (id, account, delta) VALUES ({self._mark}, {self._mark}, {self._mark})",
                (entry, account, delta),
            )
            connection.commit()


class Handler(BaseHTTPRequestHandler):
    bank: Bank

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.bank.move(self.headers["TX_XID"], asked["id"], asked["account"], asked["delta"])
        except troth.LockConflict as error:
            self._say(409, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller hears of it and rolls back
            self._say(500, f"{type(error).__name__}: {error}")
        else:
            self._say(200, "moved")

    def _say(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The reason of a refusal is in its answer."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A caller that was killed while we answered."""


def register_when_possible(bank: Bank) -> None:
    """Phase two of an earlier life of this service waits for its resource, so register it before anybody asks."""
    while True:
        try:
            bank.connect().close()
        except Exception as error:  # noqa: BLE001 - database or coordinator may be the sick one
            print(f"not yet: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.1)
        else:
            return


def end_with_input() -> None:
    """A test that is killed leaves no service behind."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    Handler.bank = Bank(chosen.database)
    with (
        troth.init(coordinator=chosen.coordinator, application="bank-service", **CLIENT),
        Server(("127.0.0.1", chosen.port), Handler) as server,
    ):
        threading.Thread(target=register_when_possible, args=(Handler.bank,), daemon=True).start()
        threading.Thread(target=end_with_input, daemon=True).start()
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
