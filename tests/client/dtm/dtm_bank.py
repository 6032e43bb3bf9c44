"""A bank over HTTP whose every door is behind the barrier, and that says what a test tells it to say, once."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import troth.dtm
from troth.client.drivers import barrier as barrier_table
from troth.integrations.dtm_wsgi import DtmMiddleware

MOVES = {
    "/out": -1,
    "/out-undo": 1,
    "/in": 1,
    "/in-undo": -1,
}
"""By path: the sign of what is added to the balance. /try, /confirm and /cancel freeze, take and thaw."""


class Bank:
    """Accounts A and B with 100 each, and a frozen part."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "bank.db")
        self.url = f"sqlite:///{self.path}"
        self.connect = partial(sqlite3.connect, self.path)
        self.calls: list[tuple[str, str, str]] = []
        """(gid, path, branch_id) of each request that came, in order."""
        self.headers: list[dict[str, str]] = []
        self.faults: dict[str, list[Exception]] = {}
        """By path: what is raised instead of, or (`after`) behind the work, one request each."""
        self.after: dict[str, list[Exception]] = {}
        self.hooks: dict[str, Callable[[], None]] = {}
        barrier_table.init(self.url)
        with closing(self.connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE account (id TEXT PRIMARY KEY, balance INT, frozen INT DEFAULT 0)")
            connection.execute("INSERT INTO account (id, balance) VALUES ('A', 100), ('B', 100)")
            connection.commit()
        self.app: Any = DtmMiddleware(self.serve, check_backs={"/check-back": self.url})
        self._server = _serve(lambda environ, start: self.app(environ, start))
        self.base = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ---- as a service ----

    def serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        query = dict(parse_qsl(environ["QUERY_STRING"]))
        self.calls.append((query.get("gid", ""), path, query.get("branch_id", "")))
        self.headers.append({name: value for name, value in environ.items() if name.startswith("HTTP_")})
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self._raise(self.faults, path)
        hook = self.hooks.pop(path, None)
        if hook is not None:
            hook()
        wanted = json.loads(body) if body else {}
        troth.dtm.current_barrier().call(
            self.connect, partial(self.work, path, wanted.get("account", "A"), wanted.get("amount", 30))
        )
        self._raise(self.after, path)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"done": path}).encode()]

    def work(self, path: str, account: str, amount: int, connection: sqlite3.Connection) -> None:
        if path in MOVES:
            self.add(connection, account, MOVES[path] * amount)
        elif path == "/try":
            self.add(connection, account, -amount, amount)
        elif path == "/confirm":
            self.add(connection, account, 0, -amount)
        elif path == "/cancel":
            self.add(connection, account, amount, -amount)
        else:
            raise LookupError(path)

    def add(self, connection: sqlite3.Connection, account: str, amount: int, frozen: int = 0) -> None:
        sql = "UPDATE account SET balance = balance + ?, frozen = frozen + ? WHERE id = ? AND balance + ? >= 0"
        if connection.execute(sql, (amount, frozen, account, amount)).rowcount != 1:
            raise troth.dtm.BranchRefused(f"{account} has not enough")

    def _raise(self, faults: dict[str, list[Exception]], path: str) -> None:
        if faults.get(path):
            raise faults[path].pop(0)

    # ---- as a test sees it ----

    def balances(self) -> tuple[int, int, int]:
        """A, B, and what is frozen."""
        with closing(self.connect()) as connection:
            rows = connection.execute("SELECT balance, frozen FROM account ORDER BY id").fetchall()
        return rows[0][0], rows[1][0], rows[0][1] + rows[1][1]

    def paths(self, gid: str) -> list[str]:
        return [path for seen, path, _ in self.calls if seen == gid]

    def url_of(self, path: str) -> str:
        return self.base + path


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def get_stderr(self) -> Any:
        return io.StringIO()  # tracebacks of planned faults


def _serve(app: Any) -> WSGIServer:
    server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
