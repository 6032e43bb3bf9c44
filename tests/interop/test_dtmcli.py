"""The published Python client `dtmcli` 1.7.7.0, unchanged, at our DTM door; its services are written with it, too."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pymysql
import pytest
from dtm_doors import BOTH, door_of
from dtm_go_app import Door, real_dtm, until
from dtmcli import barrier, msg, saga, tcc, utils

from troth.demo.servers.private import PrivateServer

pytestmark = pytest.mark.engines

BARRIER_TABLE = """
create table if not exists dtm_barrier.barrier (id bigint primary key auto_increment, trans_type varchar(45) default '',
  gid varchar(128) default '', branch_id varchar(128) default '', op varchar(45) default '',
  barrier_id varchar(45) default '', reason varchar(45) default '', create_time datetime default now(),
  update_time datetime default now(), unique key (gid, branch_id, op, barrier_id))
"""
CHANGES = {
    "action": "balance = balance + %(amount)s",
    "compensate": "balance = balance - %(amount)s",
    "msg": "balance = balance + %(amount)s",
    "try": "frozen = frozen + %(amount)s",
    "confirm": "balance = balance + %(amount)s, frozen = frozen - %(amount)s",
    "cancel": "frozen = frozen - %(amount)s",
}


class Bank:
    """Services of a bank, as a user of dtmcli writes them: `/move` under the barrier, `/refuse`, `/queryPrepared`."""

    def __init__(self, url: str) -> None:
        self.database = urlsplit(url)
        self.calls: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        with self.cursor() as cursor:
            cursor.execute("create database if not exists dtm_barrier")
            cursor.execute(BARRIER_TABLE)
            cursor.execute("create table account (name varchar(45) primary key, balance int, frozen int default 0)")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        where = self.database
        connection = pymysql.connect(
            host=where.hostname,
            port=where.port or 3306,
            user=where.username,
            password=where.password or "",
            database=where.path[1:],
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            yield cursor
            connection.commit()

    def open_account(self, name: str, balance: int) -> str:
        with self.cursor() as cursor:
            cursor.execute("insert into account (name, balance) values (%s, %s)", (name, balance))
        return name

    def balance(self, name: str) -> tuple[int, int]:
        with self.cursor() as cursor:
            cursor.execute("select balance, frozen from account where name = %s", (name,))
            return cursor.fetchone()

    @staticmethod
    def move(cursor: Any, op: str, body: dict) -> None:
        cursor.execute(f"update account set {CHANGES[op]} where name = %(name)s", body)

    def serve(self, path: str, query: dict[str, str], body: dict) -> int:
        branch = barrier.BranchBarrier(query["trans_type"], query["gid"], query["branch_id"], query["op"])
        self.calls.append((query["gid"], f"{query['branch_id']}/{query['op']}"))
        try:
            with self.cursor() as cursor:
                if path == "/queryPrepared":
                    branch.query_prepared(cursor)
                elif path == "/refuse" and query["op"] in ("action", "try"):
                    raise utils.DTMFailureError("refused")
                else:
                    branch.call(cursor, lambda inner: self.move(inner, branch.op, body))
        except utils.DTMFailureError:
            return 409
        return 200

    def seen(self, gid: str) -> list[str]:
        return [call for of, call in self.calls if of == gid]

    def _handler(bank: Bank) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = urlsplit(self.path)
                status = bank.serve(parts.path, dict(parse_qsl(parts.query)), json.loads(body or b"{}"))
                answer = json.dumps({"dtm_result": "SUCCESS" if status == 200 else "FAILURE"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(scope="module", params=BOTH)
def door(request: pytest.FixtureRequest) -> Door:
    return real_dtm() if request.param == "dtm" else door_of(request.getfixturevalue("coordinator"))


@pytest.fixture(scope="module")
def bank(door: Door, mariadb_server: PrivateServer, new_mariadb_database: Callable[[], str]) -> Iterator[Bank]:
    made = Bank(new_mariadb_database())
    yield made
    made.close()


@pytest.fixture
def gid(door: Door) -> str:
    return utils.gen_gid(door.http)


def test_a_saga(door: Door, bank: Bank, gid: str) -> None:
    giver, taker = bank.open_account(f"{gid}-a", 100), bank.open_account(f"{gid}-b", 0)
    order = saga.Saga(door.http, gid)
    for name, amount in ((giver, -30), (taker, 30)):
        order.add({"name": name, "amount": amount}, f"{bank.url}/move", f"{bank.url}/move")
    order.trans_base.wait_result = True
    order.submit()
    assert bank.balance(giver) == (70, 0)
    assert bank.balance(taker) == (30, 0)
    assert door.status(gid) == "succeed"


def test_a_saga_that_is_refused(door: Door, bank: Bank, gid: str) -> None:
    taker = bank.open_account(gid, 0)
    order = saga.Saga(door.http, gid)
    order.add({"name": taker, "amount": 30}, f"{bank.url}/move", f"{bank.url}/move")
    order.add({"name": taker, "amount": 30}, f"{bank.url}/refuse", f"{bank.url}/refuse")
    order.trans_base.wait_result = True
    with pytest.raises(utils.DTMFailureError):
        order.submit()
    until(lambda: door.status(gid), "failed")
    assert bank.balance(taker) == (0, 0)
    assert bank.seen(gid) == ["01/action", "02/action", "02/compensate", "01/compensate"]


@pytest.mark.parametrize("second", ["move", "refuse"])
def test_a_tcc(door: Door, bank: Bank, gid: str, second: str) -> None:
    taker = bank.open_account(gid, 0)
    move, other = f"{bank.url}/move", f"{bank.url}/{second}"

    def business(transaction: Any) -> None:
        transaction.call_branch({"name": taker, "amount": 30}, move, move, move)
        transaction.call_branch({"name": taker, "amount": 12}, other, other, other)

    done = second == "move"
    assert tcc.tcc_global_transaction(door.http, gid, business) == (gid if done else "")
    until(lambda: door.status(gid), "succeed" if done else "failed")
    assert bank.balance(taker) == ((42, 0) if done else (0, 0))
    ends = "confirm" if done else "cancel"
    assert bank.seen(gid) == ["01/try", "02/try", f"02/{ends}", f"01/{ends}"]


@pytest.mark.parametrize("ends", ["well", pytest.param("refused", marks=pytest.mark.soak), "unknown"])
def test_a_message_with_its_local_transaction(door: Door, bank: Bank, gid: str, ends: str) -> None:
    """`unknown`: the local transaction fails with an error; the client itself asks back through the barrier."""
    giver, taker = bank.open_account(f"{gid}-a", 100), bank.open_account(f"{gid}-b", 0)
    trouble = {"refused": utils.DTMFailureError("no"), "unknown": RuntimeError("lost")}.get(ends)

    def local(cursor: Any) -> None:
        bank.move(cursor, "msg", {"name": giver, "amount": -30})
        if trouble is not None:
            raise trouble

    order = msg.Msg(door.http, gid).add({"name": taker, "amount": 30}, f"{bank.url}/move")
    with bank.cursor() as cursor, contextlib.ExitStack() as expected:
        if trouble is not None:
            expected.enter_context(pytest.raises(type(trouble)))
        order.do_and_submit_db(f"{bank.url}/queryPrepared", cursor, local)
    until(lambda: door.status(gid), "succeed" if ends == "well" else "failed")
    assert (bank.balance(giver), bank.balance(taker)) == (((70, 0), (30, 0)) if ends == "well" else ((100, 0), (0, 0)))


def test_nobody_submits_and_the_barrier_says_that_it_was_done(door: Door, bank: Bank, gid: str) -> None:
    giver, taker = bank.open_account(f"{gid}-a", 100), bank.open_account(f"{gid}-b", 0)
    order = msg.Msg(door.http, gid).add({"name": taker, "amount": 30}, f"{bank.url}/move")
    order.trans_base.timeout_to_fail = order.trans_base.retry_interval = 1
    order.prepare(f"{bank.url}/queryPrepared")
    with bank.cursor() as cursor:
        local = barrier.BranchBarrier("msg", gid, "00", "msg")
        local.call(cursor, lambda inner: bank.move(inner, "msg", {"name": giver, "amount": -30}))
    until(lambda: door.status(gid), "succeed")
    assert (bank.balance(giver), bank.balance(taker)) == ((70, 0), (30, 0))
    assert bank.seen(gid) == ["00/msg", "01/action"]
