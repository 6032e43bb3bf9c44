"""XA on real servers of its own: processes killed, connections cut, databases and coordinators restarted."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pymysql
import pytest
from typer.testing import CliRunner

import troth
import troth.xa
from fixtures_coordinator import CoordinatorProcess, until
from troth.cli.main import app
from troth.client.drivers.pymysql_places import parse_url as parse_mysql_url
from troth.client.modes.xa import postgres_gid
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import PrivateServer, start

pytestmark = pytest.mark.engines

UPDATE = "UPDATE stock SET count = count - 2 WHERE id = 1"


def look(url: str, sql: str) -> list[tuple[object, ...]]:
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as raw:
            found = raw.execute(sql)
            return found.fetchall() if found.description else []
    with closing(pymysql.connect(**{**parse_mysql_url(url).arguments({}), "autocommit": True})) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())


def prepared(url: str) -> int:
    if url.startswith("postgresql"):
        return len(look(url, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"))
    return len(look(url, "XA RECOVER"))


def count(url: str) -> object:
    return look(url, "SELECT count FROM stock WHERE id = 1")[0][0]


@pytest.fixture
def shop(coordinator: CoordinatorProcess) -> Iterator[troth.Client]:
    with troth.Client(coordinator.address, "shop") as client:
        yield client


def with_table(url: str) -> str:
    look(url, "CREATE TABLE stock (id INT PRIMARY KEY, count INT)")
    look(url, "INSERT INTO stock VALUES (1, 10)")
    return url


@pytest.fixture
def closes() -> Iterator[list[Any]]:
    """Connections that are closed with the test, if they still can be."""
    opened: list[Any] = []
    yield opened
    for connection in opened:
        with suppress(psycopg.Error, pymysql.err.Error):
            connection.close()


@pytest.fixture(params=["postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    make: Callable[[], str] = request.getfixturevalue(f"new_{request.param}_database")
    return with_table(make())


DYING = """
import os, sys, troth, troth.xa
address, url, xid, when = sys.argv[1:]
troth.init(address, "shop")
conn = troth.xa.connect(url)
with troth.join(xid):
    conn.cursor().execute("UPDATE stock SET count = count - 2 WHERE id = 1")
    if when == "prepared":
        conn.commit()
    os._exit(9)
"""


@pytest.mark.parametrize("when", ["prepared", "working"])
def test_the_process_dies_before_or_after_the_prepare(
    url: str, when: str, coordinator: CoordinatorProcess, shop: troth.Client
) -> None:
    def purchase() -> None:
        with troth.transaction(name="purchase", client=shop) as tx:
            command = [sys.executable, "-c", DYING, coordinator.address, url, tx.xid, when]
            assert subprocess.run(command, check=False).returncode == 9
            assert prepared(url) == (when == "prepared")
            if when == "working":
                raise LookupError("the other service is gone")

    with closing(troth.xa.connect(url, client=shop)):  # another process of the same application
        if when == "prepared":
            purchase()
            until(lambda: count(url) == 8, what="committed by another process")
        else:
            with pytest.raises(LookupError):
                purchase()
            look(url, UPDATE)  # no lock is left
        until(lambda: prepared(url) == 0)


def test_an_owner_who_commits_without_the_vote_is_told_of_a_rollback(
    url: str, coordinator: CoordinatorProcess, shop: troth.Client
) -> None:
    """The process dies between register and prepare; who called it swallows that and commits the rest."""
    with closing(troth.xa.connect(url, client=shop)):
        with pytest.raises(troth.TransactionRolledBack), troth.transaction(name="purchase", client=shop) as tx:  # noqa: PT012
            crash = ["-m", "troth.testing.crash", "rm.register.answered", "--", "python", "-c", DYING]
            command = [sys.executable, *crash, coordinator.address, url, tx.xid, "prepared"]
            died = subprocess.run(command, check=False, capture_output=True)
            assert died.returncode == -signal.SIGKILL, died.stderr
            (branch,) = coordinator.transaction(tx.xid)["branches"]
            assert (branch["branch_type"], branch["status"]) == ("XA", "Registered")
        until(lambda: coordinator.transaction(tx.xid)["status"] == "Rollbacked", what="nothing is frozen")
        assert prepared(url) == 0
        look(url, UPDATE)  # no lock is left
        assert count(url) == 8


def test_what_has_only_read_or_was_rolled_back_has_no_phase_two(
    url: str, coordinator: CoordinatorProcess, shop: troth.Client
) -> None:
    with closing(troth.xa.connect(url, client=shop)) as conn:
        with troth.transaction(name="look", client=shop) as tx:
            conn.cursor().execute("SELECT count FROM stock")
            conn.commit()
            conn.cursor().execute(UPDATE)
            conn.rollback()
            assert coordinator.transaction(tx.xid)["branches"] == []
        assert coordinator.transaction(tx.xid)["status"] == "Committed"
    assert count(url) == 10


def test_the_connection_is_cut(url: str, shop: troth.Client, closes: list[Any]) -> None:
    conn = troth.xa.connect(url, client=shop)
    closes.append(conn)
    if url.startswith("postgresql"):
        kill = f"SELECT pg_terminate_backend({conn.info.backend_pid})"
    else:
        kill = f"KILL {conn.thread_id()}"
    with (  # noqa: PT012
        pytest.raises((troth.BranchFailed, psycopg.Error, pymysql.err.Error)),
        troth.transaction(name="purchase", client=shop),
    ):
        conn.cursor().execute(UPDATE)
        look(url, kill)
        conn.commit()
    assert prepared(url) == 0
    assert count(url) == 10
    second = troth.xa.connect(url, client=shop)
    with troth.transaction(name="purchase", client=shop):
        second.cursor().execute(UPDATE)
        second.commit()
        second.close()  # what is prepared does not need it
    until(lambda: count(url) == 8)


def test_the_coordinator_is_killed_while_a_branch_is_prepared(
    new_postgres_database: Callable[[], str], new_coordinator: Callable[..., CoordinatorProcess]
) -> None:
    url = with_table(new_postgres_database())
    coordinator = new_coordinator().start()
    with (
        troth.Client(coordinator.address, "shop") as client,
        closing(troth.xa.connect(url, client=client)) as conn,
    ):
        with troth.transaction(name="purchase", client=client):
            conn.execute(UPDATE)
            conn.commit()
            coordinator.kill()
            assert prepared(url) == 1
            coordinator.start()
        until(lambda: count(url) == 8)
    assert prepared(url) == 0


# --- servers that are restarted ---


class Restarted:
    """A private server that is killed and started again on its data. Its sitter is stopped meanwhile."""

    def __init__(self, kind: Kind) -> None:
        (self.server,) = start(kind)
        self.again: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        server: PrivateServer = self.server
        os.kill(server.sitter.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        (server.directory / "data" / "postmaster.pid").unlink(missing_ok=True)  # its zombie looks alive
        plan = server.product.plan(server.directory, server.account)
        user = pwd.getpwnam(server.product.system_user) if os.geteuid() == 0 else None
        identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        serve = [part for part in plan.serve if not part.startswith("--init-file")]
        deadline = time.monotonic() + 60
        while True:
            self.again = subprocess.Popen(serve, cwd=server.directory, stderr=subprocess.DEVNULL, **identity)
            while self.again.poll() is None:
                try:
                    look(server.url, "SELECT 1")
                except (psycopg.Error, pymysql.err.Error):
                    assert time.monotonic() < deadline, "the server does not come back"
                    time.sleep(0.1)
                else:
                    return
            assert time.monotonic() < deadline, "the server does not start again"  # the dead one's children still go

    def stop(self) -> None:
        if self.again is not None:
            self.again.kill()
            self.again.wait()
        os.kill(self.server.sitter.pid, signal.SIGCONT)
        self.server.stop()


@pytest.mark.soak
@pytest.mark.parametrize("kind", [Kind.POSTGRES, Kind.MARIADB])
def test_the_database_is_killed_and_restarted_while_a_branch_is_prepared(
    kind: Kind, shop: troth.Client, closes: list[Any]
) -> None:
    restarted = Restarted(kind)
    try:
        url = with_table(restarted.server.create_database("shop"))
        conn = troth.xa.connect(url, client=shop)
        closes.append(conn)
        with troth.transaction(name="purchase", client=shop):
            conn.cursor().execute(UPDATE)
            conn.commit()
            restarted.restart()
            assert prepared(url) == 1
            assert count(url) == 10
        until(lambda: count(url) == 8)
        assert prepared(url) == 0
    finally:
        restarted.stop()


# --- what nobody will end ---


def test_scan_finds_orphans_and_ends_them_only(
    new_postgres_database: Callable[[], str], coordinator: CoordinatorProcess, shop: troth.Client
) -> None:
    """C13: what the database still holds although its transaction has ended is found, named, and ended."""
    url = with_table(new_postgres_database())
    conn = troth.xa.connect(url, client=shop)
    ended = [end_one(shop, conn, fails=fails) for fails in (False, True)]

    def prepare(gid: str, row: int) -> None:
        with psycopg.connect(url) as raw:
            raw.execute("INSERT INTO stock VALUES (%s, 0)", (row,))
            raw.execute(f"PREPARE TRANSACTION '{gid}'")

    def scan(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["xa", "scan", url, "--admin", coordinator.admin, *options])
        return result.exit_code, result.output

    prepare(postgres_gid(ended[0], 901), 901)
    prepare(postgres_gid(ended[1], 902), 902)
    prepare(postgres_gid("192.0.2.9:8091:5", 903), 903)
    prepare("another program", 904)
    with troth.transaction(name="purchase", client=shop):
        conn.execute("INSERT INTO stock VALUES (905, 0)")
        conn.commit()
        status, output = scan()
        assert status == 1
        assert "in hand" in output
        assert "to be committed" in output
        assert "to be rolled back" in output
        assert "unknown to this coordinator" in output
        assert "another program" not in output
        status, output = scan("--resolve", "--json")
        assert status == 1  # the unknown one is left
        assert output.count('"done": true') == 2
    until(lambda: prepared(url) == 2)
    assert look(url, "SELECT id FROM stock WHERE id > 900 ORDER BY id") == [(901,), (905,)]
    look(url, f"ROLLBACK PREPARED '{postgres_gid('192.0.2.9:8091:5', 903)}'")
    look(url, "ROLLBACK PREPARED 'another program'")
    assert scan() == (0, "nothing is prepared\n")
    conn.close()


def end_one(shop: troth.Client, conn: psycopg.Connection, *, fails: bool) -> str:
    """The xid of a transaction that has ended."""
    xid = ""
    try:
        with troth.transaction(name="earlier", client=shop) as tx:
            xid = tx.xid
            conn.execute(UPDATE)
            conn.commit()
            if fails:
                raise LookupError
    except LookupError:
        assert fails
    return xid


@pytest.mark.soak
def test_scan_on_mariadb(new_mariadb_database: Callable[[], str], coordinator: CoordinatorProcess, shop: troth.Client):
    url = with_table(new_mariadb_database())
    with closing(troth.xa.connect(url, client=shop)) as conn, troth.transaction(name="purchase", client=shop) as tx:
        conn.cursor().execute(UPDATE)
        conn.commit()
        result = CliRunner().invoke(app, ["xa", "scan", url, "--admin", coordinator.admin])
        assert result.exit_code == 0
        assert tx.xid in result.output
        assert "in hand" in result.output
