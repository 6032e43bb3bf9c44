"""The connection behaves as sqlite3's own, inside a global transaction and outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

import troth.at
from troth.client.context import join
from troth.client.errors import CoordinatorUnavailable, NotSupported

XID = "10.0.0.1:8091:3"


@pytest.mark.parametrize("xid", [None, XID])
def test_fetching_from_a_returning_statement(database, xid):
    connection = database.connect()
    sql = "INSERT INTO account (name) VALUES ('a'), ('b'), ('c'), ('d') RETURNING id, name AS \"n m\""
    with join(xid):
        cursor = connection.execute(sql)
        assert [column[0] for column in cursor.description] == ["id", "n m"]
        assert cursor.fetchone() == (4, "a")
        assert cursor.fetchmany(2) == [(5, "b"), (6, "c")]
        assert list(cursor) == [(7, "d")]
        assert cursor.fetchone() is None
        assert cursor.fetchall() == []
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("xid", [None, XID])
def test_row_factories(database, xid):
    connection = database.connect()
    connection.row_factory = sqlite3.Row
    with join(xid):
        row = connection.execute("UPDATE account SET balance = 3 WHERE id = 1 RETURNING id, balance AS b").fetchone()
        assert (row["id"], row["B"], tuple(row)) == (1, 3.0, (1, 3.0))
        assert connection.execute("SELECT name FROM account").fetchone()["name"] == "ann"
        connection.row_factory = lambda cursor, values: (cursor.description[0][0], *values)
        assert connection.execute("DELETE FROM account WHERE id = 2 RETURNING name").fetchall() == [("name", "bob")]
        connection.rollback()


def test_converters_and_text_factories_do_not_touch_the_images(database, coordinator):
    database.run("CREATE TABLE day (d DATE PRIMARY KEY, t TEXT); INSERT INTO day VALUES ('no date', 'x')")
    before = database.dump()
    connection = database.connect(detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES)
    connection.text_factory = bytes
    with join(XID):
        connection.execute("UPDATE day SET t = 'y'")
        assert connection.execute("SELECT t FROM day").fetchall() == [(b"y",)]
        with pytest.raises(NotSupported, match="text_factory"):
            connection.execute("DELETE FROM day RETURNING t")
        connection.commit()
    coordinator.rollback(XID)
    assert database.dump() == before


def test_adapted_parameters(database, coordinator):
    class Money:
        def __init__(self, cents):
            self.cents = cents

        def __conform__(self, protocol):
            return self.cents / 100

    connection = database.connect()
    with join(XID), connection:
        assert connection.execute("UPDATE account SET name = 'rich' WHERE balance = ?", (Money(10000),)).rowcount == 1
    assert coordinator.lock_texts == ["account:1"]


def test_own_functions_in_statements(database, coordinator):
    connection = database.connect()
    connection.create_function("twice", 1, lambda value: value * 2)
    with join(XID), connection:
        connection.execute("UPDATE account SET balance = twice(balance) WHERE twice(id) = 2")
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(200.0,)]


def test_what_would_write_past_at_is_refused_inside(database):
    connection = database.connect()
    with join(XID):
        for call in (
            lambda: connection.executescript("DELETE FROM account"),
            lambda: connection.cursor().executescript("DELETE FROM account"),
            lambda: connection.blobopen("account", "data", 1),
            lambda: connection.deserialize(b""),
        ):
            with pytest.raises(NotSupported):
                call()
        with connection.blobopen("account", "data", 1, readonly=True) as blob:
            assert blob.read() == b"\x00\xff"
    with connection.blobopen("account", "data", 1) as blob:
        blob.write(b"\x01")


def test_cursor_attributes(database):
    connection = database.connect()
    cursor = connection.cursor()
    assert cursor.connection is connection
    cursor.arraysize = 2
    assert cursor.arraysize == 2
    with join(XID):
        cursor.execute("UPDATE account SET balance = 0")
        assert (cursor.rowcount, cursor.description, cursor.fetchall()) == (3, None, [])
        cursor.execute("SELECT id FROM account ORDER BY id")
        assert (cursor.rowcount, cursor.fetchmany()) == (-1, [(1,), (2,)])
        cursor.executemany("UPDATE account SET balance = ? WHERE id < ? RETURNING id", [(1, 3), (2, 2)])
        assert (cursor.rowcount, cursor.fetchall(), cursor.description) == (3, [], None)
        cursor.close()
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.execute("UPDATE account SET balance = 0")
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.fetchone()
    assert connection.total_changes > 0
    assert connection.Error is sqlite3.Error


def test_last_insert_rowid_is_the_users(database, coordinator):
    connection = database.connect(isolation_level=None)
    with join(XID):
        connection.execute("INSERT INTO account (id) VALUES (70)")
        assert connection.execute("SELECT last_insert_rowid()").fetchone() == (70,)


def test_names_that_hide_the_table(database, coordinator):
    before = database.dump()
    connection = database.connect(isolation_level=None)
    with join(XID):
        connection.execute("WITH account AS (SELECT 1 AS id) UPDATE account SET name = 'cte' WHERE id = 1")
        connection.execute("UPDATE account AS pair SET name = 'alias' WHERE pair.id = 2")
    coordinator.rollback(XID)
    assert database.dump() == before


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory", "oracle://h/d"])
def test_databases_that_at_cannot_serve(url):
    with pytest.raises(NotSupported):
        troth.at.connect(url)


@pytest.mark.parametrize("url", ["shop.db", "sqlite://host/shop.db", "sqlite:///shop.db?what=1"])
def test_urls_that_are_none(url):
    with pytest.raises(ValueError, match=r".+"):
        troth.at.connect(url)


def test_url_options_and_resource_id(database, tmp_path, monkeypatch):
    link = tmp_path / "link,name.db"
    link.symlink_to(database.path)
    with closing(
        troth.at.connect(f"sqlite:///{link}?timeout=0.5&check_same_thread=false&isolation_level=IMMEDIATE")
    ) as one:
        assert one.resource_id == f"jdbc:sqlite:{database.path.resolve()}"
        assert one.isolation_level == "IMMEDIATE"
    monkeypatch.chdir(tmp_path)
    with closing(troth.at.connect("sqlite:///shop.db")) as two:
        assert two.resource_id == one.resource_id
    with closing(troth.at.connect(f"sqlite+pysqlite:////{tmp_path}/a,b.db")) as three:
        assert three.resource_id.endswith("/a%2Cb.db")


def test_the_resource_is_registered_when_the_connection_is_opened(database, coordinator):
    connection = database.connect()
    assert list(coordinator.handlers) == [connection.resource_id]


def test_a_coordinator_that_is_away_is_no_matter_outside_of_a_global_transaction(database, coordinator):
    def refuse(resource_id, branch_type, handler):
        raise CoordinatorUnavailable("no link")

    coordinator.register_resource = refuse
    connection = database.connect()
    connection.execute("UPDATE account SET balance = 0")
    connection.commit()
    with join(XID), pytest.raises(CoordinatorUnavailable):
        connection.execute("UPDATE account SET balance = 0")


def test_a_relative_path_is_the_same_file_after_the_program_has_changed_its_directory(
    database, coordinator, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with closing(troth.at.connect("sqlite:///shop.db", client=coordinator)) as connection:
        monkeypatch.chdir("/")
        assert connection.resource_id == f"jdbc:sqlite:{database.path}"
