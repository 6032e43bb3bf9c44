"""What goes wrong on the first day: the text says what to do."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

import troth
from troth.cli.main import app
from troth.client.drivers.fence_kinds import KINDS, run_query
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.flow import Query, Rows
from troth.client.links.channel import _reason
from troth.client.modes.fence import DIALECTS, Branch, SqlFence
from troth.client.settings import parse_addresses
from troth.server.app import Ready
from troth.server.process import _announce

KEEPING = troth.dtm.Keeping(table="nobody_made_it")


def called(keeping: troth.dtm.Keeping | None = None) -> troth.dtm.Barrier:
    return troth.dtm.Barrier("g", "01", "action", "saga", keeping=keeping or troth.dtm.Keeping())


class Executor:
    """Runs a flow's queries on a connection of sqlite3."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, step: Query) -> Rows:
        return run_query(KINDS["sqlite3"], self._connection, step)


def test_a_url_is_no_address_of_the_seata_port() -> None:
    with pytest.raises(ValueError, match=r"is a URL: give the coordinator's Seata port as 'host:port'"):
        parse_addresses("http://127.0.0.1:8091")


def test_a_name_that_nobody_knows_is_not_told_by_a_number() -> None:
    assert (
        _reason(socket.gaierror(-2, "Name or service not known")) == "the name is not known: Name or service not known"
    )
    assert _reason(ConnectionRefusedError(111, "Connect call failed")) == "Connection refused"


@pytest.mark.parametrize("decorator", [troth.step, troth.saga, troth.undoable])
def test_a_decorator_without_parentheses(decorator: Callable[..., Any]) -> None:
    options = {"compensate": print} if decorator is troth.undoable else {}
    with pytest.raises(TypeError, match=rf"write @troth\.{decorator.__name__}\(…\), with parentheses"):
        decorator(lambda: None, **options)


def test_a_step_outside_of_a_saga_says_where_it_may_be_called() -> None:
    nobodys: Any = object()  # a client of its own, or all clients to come would serve it
    alone = troth.step(name="first-errors-alone", client=nobodys)(lambda: None)
    with pytest.raises(troth.NoTransaction, match=r"from a function under @troth\.saga\(\), or inside `with troth\.tr"):
        alone()


def test_propagation_by_its_name_is_refused_with_the_right_spelling() -> None:
    with pytest.raises(TypeError, match=r"like troth\.Propagation\.MANDATORY, not 'MANDATORY'"):
        troth.transaction(propagation="MANDATORY")  # type: ignore[arg-type]


def test_a_machine_that_was_not_added() -> None:
    with pytest.raises(LookupError, match=r"no state machine 'refund' was added \(known: none\)"):
        troth.StateMachines({}, []).find("refund")


@pytest.mark.parametrize("flow", ["tried", "cancel"])
def test_a_missing_table_of_the_fence_names_the_command(flow: str) -> None:
    with closing(sqlite3.connect(":memory:")) as bank:
        fenced = getattr(SqlFence(DIALECTS["sqlite"]), flow)(Branch("h:1:1", 7, "withdraw"))
        with pytest.raises(sqlite3.OperationalError) as caught:
            run(fenced, Executor(bank), NoCoordinator())
        assert caught.value.__notes__ == ["troth: `troth tcc init URL` makes the table tcc_fence_log"]


def test_a_missing_table_of_the_barrier_names_the_command() -> None:
    with closing(sqlite3.connect(":memory:")) as bank, pytest.raises(sqlite3.OperationalError) as caught:
        called().call(bank, lambda _: None)
    assert caught.value.__notes__ == ["troth: `troth dtm init URL` makes the table barrier"]


def test_another_error_of_the_barrier_has_no_such_note() -> None:
    with closing(sqlite3.connect(":memory:")) as bank:
        bank.execute("CREATE TABLE barrier (id INTEGER)")
        with pytest.raises(sqlite3.OperationalError, match="has no column") as caught:
            called().call(bank, lambda _: None)
    assert not getattr(caught.value, "__notes__", [])


@pytest.mark.engines
@pytest.mark.parametrize("database", ["new_postgres_database", "new_mariadb_database"])
def test_a_missing_table_is_known_on_servers_too(database: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(database)()
    with pytest.raises(Exception, match="exist") as caught:
        called(KEEPING).call(url, lambda _: None)
    assert caught.value.__notes__ == ["troth: `troth dtm init URL` makes the table nobody_made_it"]


def test_xa_scan_of_a_database_without_xa() -> None:
    ended = CliRunner().invoke(app, ["xa", "scan", "sqlite:///stock.db"])
    assert ended.exit_code == 1
    assert "XA works on PostgreSQL, MySQL and MariaDB" in ended.stderr


@pytest.mark.parametrize("driver", ["xa_psycopg", "xa_psycopg_async"])
def test_xa_without_its_driver_names_the_extra(driver: str) -> None:
    program = f"import sys; sys.modules['psycopg'] = None; import troth.client.drivers.{driver}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines()[-1].endswith("needs psycopg 3: pip install 'troth[postgresql]'")


class NotFound(BaseHTTPRequestHandler):
    """A web server that is no coordinator."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(404, "Not Found")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def other_port() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_port_than_dtms_is_named(other_port: str) -> None:
    refused = pytest.raises(troth.CoordinatorRefused, match=rf"prepare at {other_port}/api/dtmsvr: 404: ")
    with troth.dtm.connect(other_port) as client, refused:
        client.message().prepare("http://shop/check-back")


def test_the_start_line_names_every_door(capsys: pytest.CaptureFixture[str]) -> None:
    ready = {"event": "ready", "address": "127.0.0.1:8091", "host": "127.0.0.1", "port": 8091, "admin_port": 7091}
    ready |= {"admin": "http://127.0.0.1:7091", "advertise": "127.0.0.1:8091", "store": "sqlite:///troth.db"}
    ready |= {"durable": True, "open_transactions": 0, "pid": 1, "dtm_http_port": 36789, "dtm_grpc_port": 36790}
    _announce(Ready(**ready), as_json=False)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "DTM http 127.0.0.1:36789, DTM gRPC 127.0.0.1:36790, store" in said
    _announce(Ready(**ready), as_json=True)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)["dtm_grpc_port"] == 36790
