"""Guards (`troth at guard`): what is written past AT is recorded at once, nothing else is. On the real databases."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from typer.testing import CliRunner

import troth
from troth.cli.at import app
from troth.client.context import join
from troth.client.drivers.pymysql_places import parse_url
from troth.client.errors import NotSupported

TABLES = """
CREATE TABLE stock (id INTEGER PRIMARY KEY, name VARCHAR(20) UNIQUE, n INTEGER NOT NULL);
INSERT INTO stock VALUES (1, 'apple', 10), (2, 'pear', 20);
CREATE TABLE place (a INTEGER, b VARCHAR(20), v INTEGER, PRIMARY KEY (a, b));
INSERT INTO place VALUES (1, 'it''s %', 0);
CREATE TABLE bare (n INTEGER)
"""
T1, T2 = "10.0.0.1:8091:1", "10.0.0.1:8091:2"
UPSERT = {
    "mariadb": "INSERT INTO stock VALUES (1, 'apple', 1), (9, 'fig', 1) ON DUPLICATE KEY UPDATE n = 99",
    "sqlite": "INSERT INTO stock VALUES (1, 'apple', 1), (9, 'fig', 1) ON CONFLICT (id) DO UPDATE SET n = 99",
    "postgres": "INSERT INTO stock VALUES (1, 'apple', 1), (9, 'fig', 1) ON CONFLICT (id) DO UPDATE SET n = 99",
}


class Shop:
    """One database; `past` writes past AT, `under` under it."""

    def __init__(self, kind: str, url: str, coordinator: Any) -> None:
        self.kind, self.url, self._coordinator = kind, url, coordinator
        self._opened: list[Any] = []
        self.at = self._kept(troth.at.connect(url, client=coordinator))
        self.plain = self._kept(self.new_plain())
        for statement in TABLES.split(";\n"):
            self.past(statement)
        troth.at.init(url)

    def _kept(self, connection: Any) -> Any:
        self._opened.append(connection)
        return connection

    def new_plain(self) -> Any:
        if self.kind == "sqlite":
            return sqlite3.connect(self.url.removeprefix("sqlite:///"))
        if self.kind == "postgres":
            return psycopg.connect(self.url)
        return pymysql.connect(**parse_url(self.url).arguments({}))

    def past(self, *statements: str, end: str = "commit") -> None:
        with closing(self.plain.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
        getattr(self.plain, end)()

    def under(self, xid: str, *statements: str) -> None:
        with join(xid), closing(self.at.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
            self.at.commit()

    def dump(self) -> list[Any]:
        with closing(self.plain.cursor()) as cursor:
            cursor.execute("SELECT id, name, n FROM stock ORDER BY id")
            rows = list(cursor.fetchall())
        self.plain.commit()
        return rows

    def recorded(self) -> list[tuple[str, str]]:
        """Oldest first."""
        return [(write.operation, write.row) for write in reversed(troth.at.foreign_writes(self.url))]

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


MOSTLY_SOAKED = [
    "sqlite",
    *(pytest.param(kind, marks=[pytest.mark.engines, pytest.mark.soak]) for kind in ("postgres", "mariadb")),
]


@pytest.fixture(params=["sqlite", *(pytest.param(kind, marks=pytest.mark.engines) for kind in ("postgres", "mariadb"))])
def shop(request: pytest.FixtureRequest, tmp_path: Path, coordinator: Any) -> Iterator[Shop]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
    else:
        new_database: Callable[[], str] = request.getfixturevalue(f"new_{request.param}_database")
        url = new_database() + ("?ssl_disabled=true" if request.param == "mariadb" else "")
    made = Shop(request.param, url, coordinator)
    yield made
    made.close()


def test_what_is_written_past_at_is_recorded_when_it_is_committed(shop: Shop) -> None:
    troth.at.guard(shop.url, "stock")
    troth.at.guard(shop.url, "place")
    shop.past("UPDATE stock SET n = n + 1", "INSERT INTO stock VALUES (3, 'plum', 0)", end="rollback")
    assert shop.recorded() == []
    shop.past("UPDATE stock SET n = n + 1 WHERE id = 2", "INSERT INTO stock VALUES (3, 'plum', 0)")
    shop.past("DELETE FROM stock WHERE id = 3", "UPDATE place SET v = 1")
    assert shop.recorded() == [
        ("UPDATE", "stock:2"),
        ("INSERT", "stock:3"),
        ("DELETE", "stock:3"),
        ("UPDATE", "place:1_it's %"),
    ]
    newest = troth.at.foreign_writes(shop.url, limit=1)[0]
    assert newest.row == "place:1_it's %"
    assert (newest.by != "", newest.origin != "") == (shop.kind != "sqlite",) * 2


def test_what_at_writes_is_not_recorded_nor_what_it_undoes(shop: Shop, coordinator: Any) -> None:
    troth.at.guard(shop.url, "stock")
    before = shop.dump()
    shop.under(T1, "UPDATE stock SET n = n - 1", "INSERT INTO stock VALUES (3, 'plum', 0)", UPSERT[shop.kind])
    shop.under(T1, "DELETE FROM stock WHERE id = 2")
    assert shop.dump() != before
    coordinator.rollback(T1)
    assert shop.dump() == before
    with troth.global_lock(), closing(shop.at.cursor()) as cursor:
        cursor.execute("UPDATE stock SET n = 0 WHERE id = 1")
        shop.at.commit()
    shop.under(T2, "UPDATE stock SET n = n - 1")
    coordinator.commit(T2)
    assert shop.recorded() == []


def test_a_connection_of_at_that_works_outside_is_recorded(shop: Shop, coordinator: Any) -> None:
    """Also behind statements of AT on it that went well, that failed, and that were rolled back."""
    troth.at.guard(shop.url, "stock")
    outside = "UPDATE stock SET n = n + 1 WHERE id = 2"
    shop.under(T1, "UPDATE stock SET n = n - 1 WHERE id = 1")
    with closing(shop.at.cursor()) as cursor:
        cursor.execute(outside)
        shop.at.commit()
        with join(T1):
            with pytest.raises((sqlite3.Error, psycopg.Error, pymysql.Error)):
                cursor.execute("UPDATE stock SET name = 'pear' WHERE id = 1")
            shop.at.rollback()
        cursor.execute(outside)
        shop.at.commit()
        with join(T1):
            cursor.execute("UPDATE stock SET n = 0 WHERE id = 1")
            shop.at.rollback()
        cursor.execute(outside)
        shop.at.commit()
    assert shop.recorded() == [("UPDATE", "stock:2")] * 3


@pytest.mark.parametrize("shop", MOSTLY_SOAKED, indirect=True)
def test_a_dirty_write_freezes_and_the_record_says_who_it_was(shop: Shop, coordinator: Any) -> None:
    troth.at.guard(shop.url, "stock")
    shop.under(T1, "UPDATE stock SET n = 7 WHERE id = 1")
    shop.past("UPDATE stock SET n = 77 WHERE id = 1")
    assert "77" in coordinator.try_rollback(T1)[-1].msg
    assert shop.recorded() == [("UPDATE", "stock:1")]


@pytest.mark.parametrize("shop", MOSTLY_SOAKED, indirect=True)
def test_a_guard_is_put_up_twice_and_taken_down(shop: Shop, coordinator: Any) -> None:
    for name in ("stock", "stock", "place"):
        troth.at.guard(shop.url, name)
    assert troth.at.guarded(shop.url) == ["place", "stock"]
    shop.past("UPDATE stock SET n = 1 WHERE id = 1")
    troth.at.unguard(shop.url, "STOCK")
    assert troth.at.guarded(shop.url) == ["place"]
    shop.past("UPDATE stock SET n = 2 WHERE id = 1", "UPDATE place SET v = 2")
    troth.at.unguard(shop.url, "place")
    troth.at.unguard(shop.url, "place")
    shop.past("UPDATE place SET v = 3")
    assert shop.recorded() == [("UPDATE", "stock:1"), ("UPDATE", "place:1_it's %")]
    shop.under(T1, "UPDATE stock SET n = 9")
    coordinator.rollback(T1)
    assert troth.at.guarded(shop.url) == []


def test_what_is_no_guard_is_refused_still(shop: Shop) -> None:
    with pytest.raises(NotSupported, match="bare has no primary key"):
        troth.at.guard(shop.url, "bare")
    if shop.kind == "sqlite":
        with pytest.raises(NotSupported, match="no users"):
            troth.at.guard(shop.url, "stock", trust=["ann"])
        troth.at.guard(shop.url, "stock")
        shop.past("CREATE TRIGGER other AFTER UPDATE ON stock BEGIN DELETE FROM place; END")
        with pytest.raises(NotSupported, match="has the trigger other"):
            shop.under(T1, "UPDATE stock SET n = 1")


@pytest.mark.parametrize("shop", ["postgres", "mariadb"], indirect=True)
@pytest.mark.engines
def test_a_trusted_user_is_not_recorded(shop: Shop) -> None:
    user = parse_url(shop.url).user if shop.kind == "mariadb" else psycopg.conninfo.conninfo_to_dict(shop.url)["user"]
    troth.at.guard(shop.url, "stock", trust=["it's", str(user)])
    shop.past("UPDATE stock SET n = 1")
    assert shop.recorded() == []
    troth.at.guard(shop.url, "stock", trust=["it's"])
    shop.past("UPDATE stock SET n = 2 WHERE id = 1")
    assert shop.recorded() == [("UPDATE", "stock:1")]


JAVA = (
    "UPDATE stock SET n = 5 WHERE id = 1",
    "INSERT INTO undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
    "VALUES (1, 'x', 'serializer=jackson', '{}', 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
)


@pytest.mark.parametrize(
    ("shop", "recorded"), [("postgres", []), ("mariadb", [("UPDATE", "stock:1")])], indirect=["shop"]
)
@pytest.mark.engines
def test_the_order_of_java_passes_where_the_database_asks_at_commit(shop: Shop, recorded: list[object]) -> None:
    """The change, then the undo row, then COMMIT; in phase two the change, then the undo row's end."""
    troth.at.guard(shop.url, "stock")
    shop.past(*JAVA)
    assert shop.recorded() == recorded
    shop.past("UPDATE stock SET n = 10 WHERE id = 1", "DELETE FROM undo_log WHERE xid = 'x' AND branch_id = 1")
    assert shop.recorded() == recorded * 2


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
@pytest.mark.engines
@pytest.mark.soak
def test_postgres_records_truncate_and_a_prepared_transaction(shop: Shop) -> None:
    troth.at.guard(shop.url, "place")
    shop.past("COPY place FROM PROGRAM 'echo 5,x,1' (FORMAT csv)")
    shop.past("TRUNCATE place")
    shop.past("INSERT INTO place VALUES (6, 'y', 0)", "PREPARE TRANSACTION 'one'")
    shop.plain.autocommit = True
    shop.plain.execute("COMMIT PREPARED 'one'")
    assert shop.recorded() == [("INSERT", "place:5_x"), ("TRUNCATE", "place:*"), ("INSERT", "place:6_y")]


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
@pytest.mark.parametrize("driver", ["postgresql", pytest.param("postgresql+asyncpg", marks=pytest.mark.soak)])
@pytest.mark.engines
async def test_the_mark_of_the_async_drivers(shop: Shop, coordinator: Any, driver: str) -> None:
    """Under global_lock() there is no undo row, so only the mark tells."""
    troth.at.guard(shop.url, "stock")
    shop.past("UPDATE stock SET n = 3 WHERE id = 1")
    db = await troth.at.connect_async(shop.url.replace("postgresql", driver, 1), client=coordinator)
    async with troth.global_lock():
        await db.execute("UPDATE stock SET n = 4 WHERE id = 2")
        if driver == "postgresql":
            await db.commit()
    await db.close()
    assert [row[2] for row in shop.dump()] == [3, 4]
    assert shop.recorded() == [("UPDATE", "stock:1")]


@pytest.mark.parametrize("shop", MOSTLY_SOAKED, indirect=True)
def test_names_that_want_quotes(shop: Shop, coordinator: Any) -> None:
    name, mark = "T odd.100%;'", "`" if shop.kind == "mariadb" else '"'
    table, key = f"{mark}{name}{mark}", f"{mark}sel ect{mark}"
    shop.past(f"CREATE TABLE {table} ({key} VARCHAR(9) PRIMARY KEY, v INTEGER)", f"INSERT INTO {table} VALUES ('k', 1)")
    troth.at.guard(shop.url, name)
    assert troth.at.guarded(shop.url) == [name]
    shop.under(T1, f"UPDATE {table} SET v = 2")
    shop.past(f"UPDATE {table} SET v = 3")
    assert shop.recorded() == [("UPDATE", f"{name}:k")]
    troth.at.unguard(shop.url, name)
    assert troth.at.guarded(shop.url) == []
    shop.past(f"UPDATE {table} SET v = 4")
    assert len(shop.recorded()) == 1


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
@pytest.mark.engines
def test_a_writer_needs_no_right_to_the_records(shop: Shop) -> None:
    troth.at.guard(shop.url, "stock")
    shop.past("CREATE ROLE poor", "GRANT SELECT, UPDATE ON stock TO poor")
    try:
        shop.past("SET LOCAL ROLE poor", "UPDATE stock SET n = 0 WHERE id = 1")
    finally:
        shop.plain.rollback()
        shop.past("DROP OWNED BY poor", "DROP ROLE poor")
    assert shop.recorded() == [("UPDATE", "stock:1")]


@pytest.mark.parametrize("shop", ["mariadb"], indirect=True)
@pytest.mark.engines
@pytest.mark.soak
def test_keys_that_are_no_text(shop: Shop, coordinator: Any) -> None:
    """A record that could not be written would stop a stranger's statement."""
    shop.past("CREATE TABLE odd (k BINARY(3), m BIT(9), PRIMARY KEY (k, m)) ENGINE = InnoDB")
    troth.at.guard(shop.url, "odd")
    shop.past("INSERT INTO odd VALUES (X'ff00c3', b'100000001')")
    assert shop.recorded() == [("INSERT", "odd:xff00c3_x101")]


def test_the_command(tmp_path: Path, coordinator: Any) -> None:
    shop = Shop("sqlite", f"sqlite:///{tmp_path}/shop.db", coordinator)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["guard", shop.url, *arguments])
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    assert said() == f"{shop.url}: guarded: no table\n"
    assert said("--list") == "no foreign write\n"
    assert said("stock", "place") == f"{shop.url}: guarded: place, stock\n"
    shop.past("UPDATE stock SET n = 1 WHERE id = 1")
    assert said("--list").splitlines()[1].split()[1:] == ["UPDATE", "stock:1", "-", "-"]
    (line,) = said("--list", "--json").splitlines()
    assert json.loads(line)["row"] == "stock:1"
    assert said("stock", "--remove") == f"{shop.url}: guarded: place\n"
    refused = CliRunner().invoke(app, ["guard", shop.url, "bare"])
    assert (refused.exit_code, "no primary key" in refused.stderr) == (1, True)
    assert CliRunner().invoke(app, ["guard", shop.url, "--list", "stock"]).exit_code == 2
    shop.close()
