"""Each statement that AT understands: the database does what it would without AT, and a rollback takes it back."""

from __future__ import annotations

import psycopg
import pytest

from troth.client.context import join

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:77"

UNDERSTOOD = [
    ("UPDATE account SET balance = balance - 5 WHERE id = 1", None, "account:1"),
    ("update Account set Balance=%s where name=%s or name is null", (7, "ann"), "account:1,3"),
    ("UPDATE account AS t SET balance = %(b)s, name = 'x' WHERE t.id IN (%(i)s, 2)", {"b": 1, "i": 1}, "account:1,2"),
    ("UPDATE public.account SET (name, data) = (%s, %s) WHERE account.id > %s", ("n", b"\1", 1), "account:2,3"),
    ("UPDATE public.account SET name = 'q' WHERE public.account.id = 2", None, "account:2"),
    ('UPDATE "account" SET "name" = \'it\'\'s -- /* 100% \' /* ; */ WHERE "id" = 1 -- ; done', None, "account:1"),
    ("UPDATE account SET name = '50%%', balance = 7 %% 4 WHERE id = %s", (1,), "account:1"),
    ("UPDATE account SET name = (SELECT b FROM pair WHERE v = %s) WHERE balance > (SELECT %s::int)", (10, 60),
     "account:1"),
    ("WITH top AS (SELECT max(id) AS m FROM account WHERE id < %s) UPDATE account SET name = %s "
     "WHERE id = (SELECT m FROM top) AND id < %s", (3, "z", 9), "account:2"),
    ("UPDATE account SET name = p.b FROM pair AS p WHERE p.a = account.id AND p.v = %s", (30,), "account:2"),
    ("UPDATE account a SET name = p.b FROM pair p LEFT JOIN pair q ON q.v = 0 "
     "WHERE p.a = a.id AND p.b = 'x'", None, "account:1,2"),
    ("UPDATE account SET name = 'q' WHERE name IS NOT DISTINCT FROM NULL", None, "account:3"),
    ("UPDATE account SET balance = 1 WHERE id = 1 RETURNING id, balance", None, "account:1"),
    ("UPDATE account SET balance = balance * 2 RETURNING *, id + %s AS more", (1,), "account:1,2,3"),
    ("UPDATE pair SET v = v + 1", None, "pair:1_x,1_y,2_x"),
    ("DELETE FROM pair WHERE b = 'x'", None, "pair:1_x,2_x"),
    ("DELETE FROM account", None, "account:1,2,3"),
    ("DELETE FROM account AS t WHERE EXISTS (SELECT 1 FROM pair WHERE a = t.id AND v = %s);", (30,), "account:2"),
    ("DELETE FROM account USING pair WHERE pair.a = account.id RETURNING account.id, account.data", None,
     "account:1,2"),
    ("DELETE FROM pair RETURNING *", None, "pair:1_x,1_y,2_x"),
    ("INSERT INTO account (name) VALUES ('new')", None, "account:4"),
    ("INSERT INTO account VALUES (%s, %s, %s, %s), (DEFAULT, 'b', 1, NULL)", (9, "a", 2, b"x"), "account:9,4"),
    ("INSERT INTO account DEFAULT VALUES", None, "account:4"),
    ("INSERT INTO account (name, balance) SELECT name, balance FROM account WHERE id < 3", None, "account:4,5"),
    ("INSERT INTO account (id, name) VALUES (1, 'dup'), (8, 'ok') ON CONFLICT DO NOTHING", None, "account:8"),
    ("INSERT INTO pair VALUES (1, 'x', 0), (5, 'n', 0) ON CONFLICT (a, b) DO NOTHING RETURNING *", None, "pair:5_n"),
    ("WITH n(i) AS (VALUES (11), (12)) INSERT INTO account (id) SELECT i FROM n", None, "account:11,12"),
    ("INSERT INTO account AS t (id, name) VALUES (1, 'up'), (8, 'ok'), (2, 'up') ON CONFLICT (id) DO UPDATE "
     "SET name = excluded.name || %s, balance = t.balance + 1 RETURNING id, name", ("!",), "account:1,8,2"),
    ("INSERT INTO pair VALUES (7, 'x', 1) ON CONFLICT ON CONSTRAINT pair_pkey DO UPDATE SET v = 9", None, "pair:7_x"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "parameters", "locks"), UNDERSTOOD)
def test_statement_and_its_undo(database, coordinator, sql, parameters, locks):
    before = database.dump()
    with psycopg.connect(database.url) as plain:
        expected = plain.execute(sql, parameters)
        native = (expected.rowcount, expected.statusmessage, _described(expected), _fetched(expected))
        plain.execute("SELECT setval('account_id_seq', 4, false)")
        after = _dump_in(plain)
        plain.rollback()
    database.run("SELECT setval('account_id_seq', 4, false)")
    assert after != before

    connection = database.connect()
    with join(XID):
        cursor = connection.execute(sql, parameters)
        assert (cursor.rowcount, cursor.statusmessage, _described(cursor), _fetched(cursor)) == native
        database.run("SELECT setval('account_id_seq', 4, false)")
        connection.commit()
    assert database.dump() == after
    assert sorted(coordinator.lock_texts[0].split(":")[1].split(",")) == sorted(locks.split(":")[1].split(","))
    assert [row[:3] for row in database.undo_rows()] == [(XID, 1000, 0)]

    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []


def _described(cursor):
    return None if cursor.description is None else [tuple(column) for column in cursor.description]


def _fetched(cursor):
    return sorted(cursor.fetchall(), key=repr) if cursor.description else None


def _dump_in(connection):
    names = [row[0] for row in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' "
             "AND relnamespace = 'public'::regnamespace AND relname <> 'undo_log'").fetchall()]  # fmt: skip
    return {
        name: sorted(str(row[0]) for row in connection.execute(f"SELECT t::text FROM {name} AS t").fetchall())
        for name in names
    }
