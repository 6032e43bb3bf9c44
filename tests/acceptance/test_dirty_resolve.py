"""A frozen branch is shown column by column and ended by an operator, row by row, on every database (C1, C2)."""

from __future__ import annotations

import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from typer.testing import CliRunner

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.cli.main import app
from troth.client.drivers.pymysql_places import parse_url

pytestmark = pytest.mark.engines


@pytest.fixture
def client(coordinator: CoordinatorProcess) -> Iterator[troth.Client]:
    yield troth.init(coordinator.address, application="stock")
    troth.close()


def command(coordinator: CoordinatorProcess, *arguments: str, status: int = 0) -> str:
    """What `troth …` prints: on success its output, else its errors."""
    done = CliRunner().invoke(app, [*arguments, "--admin", coordinator.admin])
    assert done.exit_code == status, (done.stderr, done.stdout, done.exception)
    return done.stderr if status else done.stdout


def post(coordinator: CoordinatorProcess, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a POST."""
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    request = urllib.request.Request(coordinator.admin + path, content, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class Stranger:
    """Writes past AT, each statement by itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def _sqlite(directory: Path) -> tuple[str, Any]:
    file = directory / "stock.db"
    return f"sqlite:///{file}", sqlite3.connect(file, isolation_level=None)


def _postgres(url: str) -> tuple[str, Any]:
    return url, psycopg.connect(url, autocommit=True)


def _mariadb(url: str) -> tuple[str, Any]:
    return url, pymysql.connect(**{**parse_url(url).arguments({}), "autocommit": True})


Database = tuple[str, Stranger]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A URL, and a stranger's connection to a database with stock (1, 100), (2, 200), (3, 300)."""
    made = {
        "sqlite": lambda: _sqlite(tmp_path),
        "postgresql": lambda: _postgres(request.getfixturevalue("new_postgres_database")()),
        "mariadb": lambda: _mariadb(request.getfixturevalue("new_mariadb_database")()),
    }
    url, raw = made[request.param]()
    with closing(raw):
        yield url, prepared(url, raw)


@pytest.fixture
def file_database(tmp_path: Path) -> Iterator[Database]:
    url, raw = _sqlite(tmp_path)
    with closing(raw):
        yield url, prepared(url, raw)


def prepared(url: str, raw: Any) -> Stranger:
    troth.at.init(url)
    stranger = Stranger(raw)
    stranger.run("CREATE TABLE stock (id INTEGER PRIMARY KEY, count INTEGER, note VARCHAR(40))")
    stranger.run("INSERT INTO stock VALUES (1, 100, 'a'), (2, 200, 'b'), (3, 300, NULL)")
    return stranger


def undone_after(url: str, dirty: Callable[[], object], *statements: str) -> str:
    """The xid of a transaction that ran `statements` in one local transaction and is undone after `dirty`."""
    scope = troth.transaction(name="purchase")

    def purchase() -> None:
        with closing(troth.at.connect(url)) as connection, scope:
            run(connection, *statements)
            dirty()
            raise KeyError

    with pytest.raises(KeyError):
        purchase()
    return scope.xid


def run(connection: Any, *statements: str) -> None:
    """One local transaction."""
    with closing(connection.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.commit()


TWO_STATEMENTS = (
    "UPDATE stock SET count = count - 2 WHERE id < 3",
    "UPDATE stock SET count = count - 1 WHERE id = 1",
    "DELETE FROM stock WHERE id = 3",
    "INSERT INTO stock VALUES (4, 400, 'new')",
)


def frozen(coordinator: CoordinatorProcess, xid: str) -> dict[str, Any]:
    until(lambda: coordinator.transaction(xid)["status"] == "RollbackFailed", what="the branch is frozen")
    (branch,) = coordinator.get(f"/api/transactions/{xid}/images")[1]["branches"]
    assert branch["frozen"]
    return branch


def undo_rows(stranger: Stranger) -> int:
    return len(stranger.run("SELECT 1 FROM undo_log WHERE log_status = 0"))


def test_inspect_shows_before_after_now_and_resolve_decides_per_row(
    coordinator: CoordinatorProcess, client: troth.Client, database: Database
) -> None:
    url, stranger = database

    def dirty() -> None:
        stranger.run("UPDATE stock SET count = 77 WHERE id = 1")
        stranger.run("UPDATE stock SET note = 'theirs', count = 5 WHERE id = 4")

    xid = undone_after(url, dirty, *TWO_STATEMENTS)
    branch = frozen(coordinator, xid)
    rows = {row["row"].rpartition(":")[2]: row for row in branch["report"]["rows"]}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        "1": "dirty",
        "2": "as-left",
        "3": "as-left",
        "4": "dirty",
    }
    count = next(column for column in rows["1"]["columns"] if column["name"].lower() == "count")
    # Two statements of the branch are one change: from the first before image to the last after image.
    assert (count["before"], count["after"], count["now"], count["differs"]) == ("100", "97", "77", True)
    assert rows["4"]["exists"] == [False, True, True]
    assert rows["4"]["sql"].startswith("DELETE FROM")
    shown = command(coordinator, "inspect", xid)
    assert "CHANGED BY SOMEBODY ELSE" in shown
    assert f"troth resolve {xid} --branch {branch['branch_id']}" in shown
    assert "rollback would run: UPDATE" in shown
    assert undo_rows(stranger) == 1  # looking has changed nothing

    (one, four) = (rows["1"]["row"], rows["4"]["row"])
    refused = command(coordinator, "resolve", xid, "--row", f"{one}=keep", "--yes", status=1)
    assert f"not decided for 1 dirty row: {four}" in refused
    assert stranger.run("SELECT count FROM stock WHERE id IN (1, 2) ORDER BY id") == [(77,), (198,)]

    done = command(coordinator, "resolve", xid, "--row", f"{one}=keep", "--row", f"{four}=force-before", "--yes")
    assert "has ended" in done
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.run("SELECT id, count, note FROM stock ORDER BY id") == [
        (1, 77, "a"),
        (2, 200, "b"),
        (3, 300, None),
    ]
    assert undo_rows(stranger) == 0
    check_audit(coordinator, xid, one)
    # The rows are free: the next transaction has them at once.
    with closing(troth.at.connect(url)) as connection, troth.transaction(name="next"):
        run(connection, "UPDATE stock SET count = 1")


def check_audit(coordinator: CoordinatorProcess, xid: str, row: str) -> None:
    """The decision is kept twice, before and after it was carried out, each time with the three versions."""
    entries = json.loads(command(coordinator, "audit", xid, "--json"))
    assert [entry["stage"] for entry in entries][:2] == ["done", "decided"]
    done = entries[0]
    kept = next(one for one in done["rows"] if one["row"] == row)
    assert (kept["decision"], done["decisions"][row]) == ("keep", "keep")
    assert [column["now"] for column in kept["columns"] if column["name"].lower() == "count"] == ["77"]
    assert "@" in done["operator"]
    assert xid in command(coordinator, "audit")


@pytest.mark.parametrize(
    ("how", "count"),
    [("--force-before", [(100,), (200,)]), ("--keep", [(77,), (200,)]), ("--abandon", [(77,), (198,)])],
)
def test_all_rows_at_once(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database, how: str, count: list[tuple[int]]
) -> None:
    url, stranger = file_database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = count - 2 WHERE id < 3")
    frozen(coordinator, xid)
    assert "add --yes" in command(coordinator, "resolve", xid, how, status=1)
    command(coordinator, "resolve", xid, how, "--yes", "--reason", "ticket 7", "--operator", "ann")
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.run("SELECT count FROM stock WHERE id < 3 ORDER BY id") == count
    assert undo_rows(stranger) == 0
    (done, decided) = coordinator.get(f"/api/audit?xid={xid}")[1]["entries"]
    assert (decided["operator"], decided["reason"], decided["stage"]) == ("ann", "ticket 7", "decided")
    assert done["resolution"] == decided["resolution"]
    # Again: there is nothing to decide any more.
    command(coordinator, "resolve", xid, how, "--yes", status=1)


def test_a_row_that_was_deleted_comes_back_only_from_a_whole_image(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database
) -> None:
    url, stranger = file_database
    dirty = lambda: stranger.run("DELETE FROM stock WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = 98 WHERE id = 1")
    row = frozen(coordinator, xid)["report"]["rows"][0]
    assert row["exists"] == [True, True, False]
    if row["sql"]:
        command(coordinator, "resolve", xid, "--force-before", "--yes")
        assert stranger.run("SELECT count, note FROM stock WHERE id = 1") == [(100, "a")]
    else:
        assert "can not be made again" in command(coordinator, "resolve", xid, "--force-before", "--yes", status=1)
        command(coordinator, "resolve", xid, "--keep", "--yes")
        assert stranger.run("SELECT 1 FROM stock WHERE id = 1") == []
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")


def test_a_decision_is_refused_where_the_row_has_changed_since_it_was_seen(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database
) -> None:
    url, stranger = file_database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = 98 WHERE id = 1")
    branch = frozen(coordinator, xid)
    (row,) = branch["report"]["rows"]
    stranger.run("UPDATE stock SET count = 78 WHERE id = 1")
    body = {
        "action": "resolve",
        "operator": "ann",
        "others": "force-before",
        "seen": {row["row"]: row["now_digest"]},
    }
    status, answer = post(coordinator, f"/api/transactions/{xid}/branches/{branch['branch_id']}/resolve", body)
    assert status == 409
    assert "has changed since it was looked at" in answer["error"]
    assert stranger.run("SELECT count FROM stock WHERE id = 1") == [(78,)]
    assert coordinator.transaction(xid)["status"] == "RollbackFailed"
    assert coordinator.get(f"/api/audit?xid={xid}")[1]["entries"][0]["stage"] == "refused"


def test_the_same_decision_twice_and_beside_a_retry_ends_the_branch_once(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database
) -> None:
    url, stranger = file_database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = 98 WHERE id = 1")
    branch_id = frozen(coordinator, xid)["branch_id"]
    body = {"action": "resolve", "operator": "ann", "others": "force-before"}
    path = f"/api/transactions/{xid}/branches/{branch_id}/resolve"
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, coordinator, path, body) for _ in range(2)]
        retried = pool.submit(coordinator.get, f"/api/transactions/{xid}/retry", "POST")
    assert retried.result()[0] in (200, 404, 409)
    assert {status for status, _ in (answer.result() for answer in answers)} <= {200, 404, 409}
    if coordinator.transaction(xid)["status"] != "Rollbacked":  # the retry had taken the branch from both
        until(lambda: coordinator.transaction(xid)["status"] == "RollbackFailed")
        assert post(coordinator, path, body)[0] == 200
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.run("SELECT count FROM stock WHERE id = 1") == [(100,)]
    stages = [entry["stage"] for entry in coordinator.get(f"/api/audit?xid={xid}")[1]["entries"]]
    assert stages.count("done") == 1, stages


@pytest.mark.parametrize(
    "database",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak), pytest.param("mariadb", marks=pytest.mark.soak)],
    indirect=True,
)
def test_by_a_connection_of_ones_own_where_no_client_shows_images(
    coordinator: CoordinatorProcess, client: troth.Client, database: Database
) -> None:
    """As for a Java client's database: nobody is there who answers inquiries."""
    url, stranger = database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = count - 2 WHERE id < 3")
    frozen(coordinator, xid)
    troth.close()
    until(lambda: coordinator.get(f"/api/transactions/{xid}/images")[1]["branches"][0]["report"] is None)
    assert "--db URL" in command(coordinator, "inspect", xid)
    assert "--db URL" in command(coordinator, "resolve", xid, "--keep", "--yes", status=1)
    shown = command(coordinator, "inspect", xid, "--db", url)
    assert "CHANGED BY SOMEBODY ELSE" in shown
    command(coordinator, "resolve", xid, "--force-before", "--db", url, "--yes")
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.run("SELECT count FROM stock WHERE id < 3 ORDER BY id") == [(100,), (200,)]
    (done, decided) = coordinator.get(f"/api/audit?xid={xid}")[1]["entries"]
    assert (done["stage"], done["via"], decided["stage"]) == ("done", "direct", "decided")


def test_a_wrong_database_is_not_taken_for_a_branch_that_is_done(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database, tmp_path: Path
) -> None:
    url, stranger = file_database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = 98 WHERE id = 1")
    frozen(coordinator, xid)
    other = f"sqlite:///{tmp_path}/other.db"
    troth.at.init(other)
    assert "is it the right one" in command(coordinator, "resolve", xid, "--keep", "--db", other, "--yes", status=1)
    assert coordinator.transaction(xid)["status"] == "RollbackFailed"


def test_c2_aba_a_frozen_branch_never_wakes_by_itself_not_even_over_restarts(
    coordinator: CoordinatorProcess, client: troth.Client, file_database: Database
) -> None:
    """C2: a row that is edited back to the after image months later must not be rolled back by itself."""
    url, stranger = file_database
    dirty = lambda: stranger.run("UPDATE stock SET count = 77 WHERE id = 1")  # noqa: E731
    xid = undone_after(url, dirty, "UPDATE stock SET count = 98 WHERE id = 1")
    frozen(coordinator, xid)
    stranger.run("UPDATE stock SET count = 98 WHERE id = 1")  # as the branch left it: a retry would undo it now
    troth.close()
    coordinator.kill()
    coordinator.start()
    troth.init(coordinator.address, application="stock")
    # Whatever is due is done by now: a later transaction on the same database has been through phase two.
    undone_after(url, lambda: None, "UPDATE stock SET count = 1 WHERE id = 2")
    until(lambda: stranger.run("SELECT count FROM stock WHERE id = 2") == [(200,)])
    (branch,) = coordinator.transaction(xid)["branches"]
    assert (branch["next_due"], branch["attempts"]) == (None, 1)
    assert coordinator.transaction(xid)["status"] == "RollbackFailed"
    assert stranger.run("SELECT count FROM stock WHERE id = 1") == [(98,)]
    shown = coordinator.get(f"/api/transactions/{xid}/images")[1]["branches"][0]
    assert shown["report"]["dirty_count"] == 0
    assert "troth retry" in shown["next_step"]
    command(coordinator, "retry", xid)
    until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")
    assert stranger.run("SELECT count FROM stock WHERE id = 1") == [(100,)]
