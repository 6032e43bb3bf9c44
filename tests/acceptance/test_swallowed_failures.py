"""A called service fails after its local commit, and the caller swallows that: the global commit must be refused.

Either end of the call is enough to see to that; with both opted out, the caller's word counts.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest
import requests
from fastapi import FastAPI, HTTPException

import troth
from troth.integrations import httpx as with_httpx
from troth.integrations import requests as with_requests
from troth.integrations.fastapi import add_troth
from troth.integrations.wsgi import TrothMiddleware

pytestmark = pytest.mark.engines

VOTES = pytest.mark.parametrize(
    ("caller_votes", "service_votes"), [(True, True), (True, False), (False, True), (False, False)]
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "stock.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
        connection.execute("INSERT INTO stock VALUES (1, 100)")
    troth.at.init(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def _coordinator() -> Iterator[None]:
    with troth.embedded():
        yield


def deduct(database: Path) -> None:
    with closing(troth.at.connect(f"sqlite:///{database}")) as connection:
        connection.execute("UPDATE stock SET count = count - 2 WHERE id = 1")
        connection.commit()


def assert_outcome(database: Path, count: int) -> None:
    """The row is what it must be, and phase two is through."""
    deadline = time.monotonic() + 20
    while (found := _look(database)) != (count, 0):
        assert time.monotonic() < deadline, f"(count, undo logs) is {found}, not {(count, 0)}"
        time.sleep(0.02)


def _look(database: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT count FROM stock WHERE id = 1").fetchone()
        (undo_logs,) = connection.execute("SELECT count(*) FROM undo_log").fetchone()
    return count, undo_logs


@VOTES
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_asgi_and_httpx(database: Path, caller_votes: bool, service_votes: bool, kind: str) -> None:
    app = FastAPI()
    add_troth(app, vote_on_5xx=service_votes)

    def sync_handler() -> None:
        deduct(database)
        raise HTTPException(503)

    async def async_handler() -> None:
        connection = await troth.at.connect_async(f"sqlite:///{database}")
        await connection.execute("UPDATE stock SET count = count - 2 WHERE id = 1")
        await connection.commit()
        await connection.close()
        raise HTTPException(503)

    app.post("/deductions")(sync_handler if kind == "sync" else async_handler)
    transport = httpx.ASGITransport(app=app)
    http = with_httpx.install(httpx.AsyncClient(transport=transport, base_url="http://stock"), vote_on_5xx=caller_votes)

    @troth.global_transaction(name="purchase")
    async def purchase() -> None:
        assert (await http.post("/deductions")).status_code == 503  # swallowed, as a fallback does

    async with http:
        if caller_votes or service_votes:
            with pytest.raises(troth.TransactionRolledBack):
                await purchase()
            assert_outcome(database, 100)
        else:
            await purchase()
            assert_outcome(database, 98)
    assert troth.current_xid() is None


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serve a WSGI application on a real socket."""
    running: list[tuple[WSGIServer, threading.Thread]] = []

    def start(app: Any) -> str:
        server = make_server("127.0.0.1", 0, app, WSGIServer, QuietHandler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@VOTES
def test_wsgi_and_requests(
    database: Path, serve: Callable[[Any], str], caller_votes: bool, service_votes: bool
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        deduct(database)
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"sorry"]

    url = serve(TrothMiddleware(app, vote_on_5xx=service_votes))

    @troth.global_transaction(name="purchase")
    def purchase(http: requests.Session) -> None:
        assert http.post(url).status_code == 500  # swallowed, as a fallback does

    with requests.Session() as session:
        session.trust_env = False
        http = with_requests.install(session, vote_on_5xx=caller_votes)
        if caller_votes or service_votes:
            with pytest.raises(troth.TransactionRolledBack):
                purchase(http)
            assert_outcome(database, 100)
        else:
            purchase(http)
            assert_outcome(database, 98)
    assert troth.current_xid() is None
