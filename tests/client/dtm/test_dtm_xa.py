"""XA of DTM's style on real databases and a real coordinator: prepared when called, ended by the coordinator's call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import make_server

import pytest
from dtm_bank import _Quiet, _Server

import troth.dtm
from fixtures_coordinator import until
from troth.client.drivers import barrier as barrier_table
from troth.client.drivers.fence_table import connection_to
from troth.integrations.dtm_wsgi import DtmMiddleware

pytestmark = pytest.mark.engines

TAKE = "UPDATE xa_account SET balance = balance - 30 WHERE id = 1 AND balance >= 30"


class XaBank:
    """One account with 100, and a URL that moves it under XA."""

    def __init__(self, url: str, client: troth.dtm.DtmClient) -> None:
        self.url = url
        self.client = client
        self.seen: list[str] = []
        barrier_table.init(url)
        self.write("CREATE TABLE IF NOT EXISTS xa_account (id INT PRIMARY KEY, balance INT)")
        self.write("DELETE FROM xa_account")
        self.write("INSERT INTO xa_account VALUES (1, 100)")
        app = DtmMiddleware(self.serve)
        self._server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.at = f"http://127.0.0.1:{self._server.server_port}/move"

    def serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        query = dict(parse_qsl(environ["QUERY_STRING"]))
        self.seen.append(query["op"])
        self.client.xa_branch(query, self.url, self.work)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    def work(self, connection: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(TAKE)
            if cursor.rowcount != 1:
                raise troth.dtm.BranchRefused("not enough")

    def write(self, sql: str) -> None:
        with closing(connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            connection.commit()

    def balance(self) -> int:
        with closing(connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT balance FROM xa_account")
            return int(cursor.fetchone()[0])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def xa_urls(request: pytest.FixtureRequest) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def url(engine: str) -> str:
        if engine not in made:
            made[engine] = request.getfixturevalue(f"new_{engine}_database")()
        return made[engine]

    return url


@pytest.fixture(params=["mariadb", pytest.param("postgres", marks=pytest.mark.soak)])
def xa_bank(
    request: pytest.FixtureRequest, xa_urls: Callable[[str], str], client: troth.dtm.DtmClient
) -> Iterator[XaBank]:
    opened = XaBank(xa_urls(request.param), client)
    yield opened
    opened.close()


def test_xa_branches_commit_together(client: troth.dtm.DtmClient, xa_bank: XaBank) -> None:
    with client.xa(wait=True) as xa:
        xa.call(xa_bank.at, {})
        assert xa_bank.balance() == 100  # prepared, and seen by nobody
    until(lambda: client.query(xa.gid)["transaction"]["status"] == "succeed")
    assert xa_bank.balance() == 70
    assert xa_bank.seen == ["action", "commit"]
    repeated = {"gid": xa.gid, "branch_id": "01", "op": "commit", "trans_type": "xa"}
    client.xa_branch(repeated, xa_bank.url, xa_bank.work)
    assert xa_bank.balance() == 70


def test_xa_branches_roll_back_together_and_a_late_one_is_refused(client: troth.dtm.DtmClient, xa_bank: XaBank) -> None:
    xa = client.xa()
    with pytest.raises(KeyError), xa:
        _ = [xa.call(xa_bank.at, {}), {}["the caller fails"]]
    until(lambda: client.query(xa.gid)["transaction"]["status"] == "failed", within_s=20)
    assert xa_bank.balance() == 100
    assert xa_bank.seen == ["action", "rollback"]
    late = {"gid": xa.gid, "branch_id": "01", "op": "action", "trans_type": "xa", "phase2_url": xa_bank.at}
    with pytest.raises(troth.dtm.LateTry):
        client.xa_branch(late, xa_bank.url, xa_bank.work)
    assert xa_bank.balance() == 100


def test_a_refused_xa_branch_leaves_nothing(client: troth.dtm.DtmClient, xa_bank: XaBank) -> None:
    xa_bank.write("UPDATE xa_account SET balance = 10")
    xa = client.xa()
    with pytest.raises(troth.dtm.BranchRefused, match="not enough"), xa:
        xa.call(xa_bank.at, {})
    until(lambda: client.query(xa.gid)["transaction"]["status"] == "failed", within_s=20)
    xa_bank.write("UPDATE xa_account SET balance = 11")  # no lock is left
    assert xa_bank.balance() == 11


def test_a_commit_of_what_was_never_prepared_is_told(client: troth.dtm.DtmClient, xa_bank: XaBank) -> None:
    query = {"gid": troth.dtm.new_gid(), "branch_id": "01", "op": "commit", "trans_type": "xa"}
    with pytest.raises(troth.BranchFailed, match="not prepared it"):
        client.xa_branch(query, xa_bank.url, xa_bank.work)


@pytest.mark.parametrize("gid", ["it's", "x" * 62, "a%b", "a?b"])
def test_a_gid_that_cannot_name_a_branch_is_refused(gid: str) -> None:
    query = {"gid": gid, "branch_id": "01", "op": "commit", "trans_type": "xa"}
    client = troth.dtm.connect("http://127.0.0.1:9")
    with closing(client), pytest.raises(ValueError, match="cannot name"):
        client.xa_branch(query, "postgresql://nobody@127.0.0.1:9/nowhere", lambda _: None)


@pytest.mark.soak
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "asyncmy"])
def test_xa_branches_on_async_drivers(dtm_server: str, xa_urls: Callable[[str], str], driver: str) -> None:
    import asyncmy
    import asyncpg
    import psycopg

    url = xa_urls("mariadb" if driver == "asyncmy" else "postgres")

    async def connect() -> Any:
        if driver == "asyncmy":
            place = connection_to(url).keywords  # type: ignore[attr-defined]
            return await asyncmy.connect(
                **{name: place[name] for name in ("host", "port", "user", "password", "database")}
            )
        return await (asyncpg.connect(url) if driver == "asyncpg" else psycopg.AsyncConnection.connect(url))

    async def take(connection: Any) -> None:
        if driver != "asyncmy":
            await connection.execute(TAKE)
            return
        async with connection.cursor() as cursor:
            await cursor.execute(TAKE)

    async def main() -> None:
        async with troth.dtm.connect_async(dtm_server) as client:
            bank = XaBank(url, client)
            bank.close()
            query = {"gid": "", "branch_id": "01", "op": "action", "trans_type": "xa", "phase2_url": bank.at}
            for op, left in (("commit", 70), ("rollback", 70)):
                xa = client.xa()
                await client._speaker.do(xa._begun())
                called = {**query, "gid": xa.gid}
                await client.xa_branch(called, connect, take)
                await client.xa_branch({**called, "op": op}, connect, bank.work)
                assert bank.balance() == left

    asyncio.run(main())
