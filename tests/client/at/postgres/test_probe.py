"""A definition that is known is asked for in a short form: whatever changes it must change the answer, too."""

from __future__ import annotations

import pytest

import troth.at
from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:1"
TRIGGER = "CREATE TRIGGER {name} BEFORE UPDATE ON purse FOR EACH ROW EXECUTE FUNCTION kept()"
FUNCTION = "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
CHILD = "CREATE TABLE {name} (purse int REFERENCES purse ON DELETE CASCADE)"


@pytest.fixture
def connection(database, coordinator):
    database.run("CREATE TABLE purse (id int PRIMARY KEY, name text); INSERT INTO purse VALUES (1, 'a'), (2, 'b')")
    made = troth.at.connect(database.url, client=coordinator, autocommit=True)
    with join(XID):
        made.execute("UPDATE purse SET name = 'c' WHERE id = 1")
        yield made
    made.close()


@pytest.mark.parametrize(
    ("before", "change", "statement"),
    [
        ("", f"{FUNCTION}; {TRIGGER.format(name='first')}", "UPDATE purse SET name = 'd'"),
        (CHILD.format(name="kid"), f"{FUNCTION}; {TRIGGER.format(name='second')}", "UPDATE purse SET name = 'd'"),
        ("", CHILD.format(name="kid"), "DELETE FROM purse"),
        (
            "CREATE TABLE other (purse int REFERENCES purse)",
            CHILD.format(name="kid"),
            "DELETE FROM purse",
        ),
        ("", "CREATE TABLE heir () INHERITS (purse)", "UPDATE purse SET name = 'd'"),
        ("", "CREATE RULE r AS ON DELETE TO purse DO INSTEAD NOTHING", "UPDATE purse SET name = 'd'"),
        ("", "ALTER TABLE purse DROP CONSTRAINT purse_pkey", "UPDATE purse SET name = 'd'"),
    ],
)
def test_what_is_refused_from_now_on(database, connection, before, change, statement):
    if before:
        database.run(before)
        connection.execute("UPDATE purse SET name = 'd' WHERE id = 1")
    rows = database.rows("SELECT * FROM purse ORDER BY id")
    database.run(change)
    with pytest.raises(NotSupported):
        connection.execute(statement)
    assert database.rows("SELECT * FROM purse ORDER BY id") == rows


def test_what_is_locked_from_now_on(database, connection, coordinator):
    for change, update, expected in (
        ("CREATE UNIQUE INDEX CONCURRENTLY u ON purse (name)", "name = 'e'", "purse#u:c,e;purse:1"),
        ("ALTER INDEX u RENAME TO v", "name = 'f'", "purse#v:e,f;purse:1"),
        ("ALTER TABLE purse RENAME name TO label", "label = 'g'", "purse#v:f,g;purse:1"),
        ("DROP INDEX v", "label = 'h'", "purse:1"),
    ):
        database.run(change)
        connection.execute(f"UPDATE purse SET {update} WHERE id = 1")
        assert coordinator.lock_texts[-1] is not None
        assert sorted(coordinator.lock_texts[-1].split(";")) == sorted(expected.split(";")), change
    assert database.rows("SELECT label FROM purse WHERE id = 1") == [("h",)]


def test_a_name_that_means_another_table(database, connection, coordinator):
    database.run("CREATE SCHEMA mine; CREATE TABLE mine.purse (id int PRIMARY KEY, name text); ")
    database.run("INSERT INTO mine.purse VALUES (1, 'x')")
    connection.execute("SET search_path = mine, public")
    connection.execute("UPDATE purse SET name = 'y' WHERE id = 1")
    assert coordinator.lock_texts[-1] == "mine.purse:1"
    database.run("ALTER SCHEMA mine RENAME TO ours")
    connection.execute("SET search_path = ours, public")
    connection.execute("UPDATE purse SET name = 'z' WHERE id = 1")
    assert coordinator.lock_texts[-1] == "ours.purse:1"


def test_settings_that_change_what_is_read(connection):
    connection.execute("SET DateStyle = 'German'")
    with pytest.raises(NotSupported, match="DateStyle"):
        connection.execute("UPDATE purse SET name = 'd' WHERE id = 1")
