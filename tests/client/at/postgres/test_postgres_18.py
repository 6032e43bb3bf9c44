"""What is new in PostgreSQL 18, on a server of that version. (All other tests here run on it in soak.)"""

from __future__ import annotations

import psycopg
import pytest

from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:18"


@pytest.fixture(scope="module")
def postgres_database_url(new_postgres_18_database) -> str:
    return new_postgres_18_database()


STATEMENTS = [
    "UPDATE account SET balance = balance + 1 WHERE id < 3 RETURNING id, old.balance, new.balance",
    "UPDATE account SET balance = 0 RETURNING WITH (OLD AS o, NEW AS n) o.balance, n.balance, name",
    "UPDATE account AS old SET balance = 0 WHERE old.id = 1 RETURNING old.balance",
    "UPDATE account SET name = p.b FROM pair p WHERE p.a = account.id RETURNING account.*, p.v",
    "WITH top AS (SELECT max(id) AS m FROM account) UPDATE account SET name = 'top' FROM top WHERE id = m",
    "DELETE FROM account WHERE id = 1 RETURNING old.name, new.name, balance",
    "DELETE FROM account RETURNING WITH (OLD AS o) o.id",
    "DELETE FROM account USING pair WHERE a = id",
    "INSERT INTO account (id, name) VALUES (1, 'up'), (8, 'in'), (2, 'up') ON CONFLICT (id) DO UPDATE "
    "SET name = excluded.name || account.name",
    "INSERT INTO account (id, name) VALUES (1, 'up'), (8, 'in') ON CONFLICT (id) DO UPDATE SET name = 'u' "
    "RETURNING id, old.name, new.name",
    "INSERT INTO account AS old (id, name) VALUES (1, 'up'), (8, 'in') ON CONFLICT (id) DO UPDATE "
    "SET name = old.name || 'u'",
    "INSERT INTO parts VALUES (1, 5), (7, 7) ON CONFLICT (id) DO UPDATE SET v = parts.v + excluded.v RETURNING id, v",
    "UPDATE virtual SET v = v + 1 RETURNING twice",
    "INSERT INTO virtual (v) VALUES (5), (6) RETURNING v, twice",
    "DELETE FROM virtual",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_statement_and_its_undo(database, coordinator, sql):
    assert database._plain.info.server_version >= 180000
    database.run(
        "CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY HASH (id); "
        "CREATE TABLE parts0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0); "
        "CREATE TABLE parts1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1); "
        "INSERT INTO parts VALUES (1, 1), (2, 2); "
        "CREATE TABLE virtual (id uuid DEFAULT uuidv7() PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2)); "
        "INSERT INTO virtual (v) VALUES (1), (2)"
    )
    before = database.dump()
    with psycopg.connect(database.url) as plain:
        expected = seen(plain.execute(sql))
        plain.rollback()
    connection = database.connect()
    with join(XID):
        assert seen(connection.execute(sql)) == expected
        connection.commit()
    assert database.dump() != before
    coordinator.rollback(XID)
    assert database.dump() == before


def seen(cursor):
    rows = sorted(map(repr, cursor.fetchall())) if cursor.description else None
    return cursor.rowcount, cursor.statusmessage, [*map(tuple, cursor.description or ())], rows


def test_temporal_keys_are_refused_by_name(database):
    database.run(
        "CREATE EXTENSION IF NOT EXISTS btree_gist; "
        "CREATE TABLE stay (room int, during daterange, guest text, PRIMARY KEY (room, during WITHOUT OVERLAPS))"
    )
    with join(XID), pytest.raises(NotSupported, match="during"), database.connect() as connection:
        connection.execute("INSERT INTO stay VALUES (1, '[2026-01-01,2026-01-03)', 'ann')")
