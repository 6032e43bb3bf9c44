"""Each statement that AT understands: the database does what it would without AT, and a rollback takes it back."""

from __future__ import annotations

import json

import pytest

from troth.client.context import join
from troth.client.errors import NotSupported

XID = "10.0.0.1:8091:77"

UNDERSTOOD = [
    ("UPDATE account SET balance = balance - 5 WHERE id = 1", (), "account:1"),
    ("update Account set Balance=? where name=? or name is null", (7, "ann"), "account:1,3"),
    ("UPDATE account AS t SET balance = :b, name = 'x' WHERE t.id IN (:i, 2)", {"b": 1, "i": 1}, "account:1,2"),
    ("UPDATE account SET balance = ?2 WHERE id = ?1", (2, 9.5), "account:2"),
    ("UPDATE main.account SET (name, data) = (?, ?) WHERE id > ?", ("n", b"\1", 1), "account:2,3"),
    ("UPDATE [account] SET `name` = 'it''s -- /* ' /* ; */ WHERE \"id\" = 1 -- ; done", (), "account:1"),
    ("UPDATE account SET name = (SELECT b FROM pair WHERE v = ?) WHERE balance > (SELECT ?)", (10, 60), "account:1"),
    ("WITH top AS (SELECT max(id) AS m FROM account WHERE id < ?) UPDATE account SET name = ? "
     "WHERE id = (SELECT m FROM top) AND id < ?", (3, "z", 9), "account:2"),
    ("UPDATE account SET name = p.b FROM pair AS p WHERE p.a = account.id AND p.v = ?", (30,), "account:2"),
    ("UPDATE account SET name = 'q' WHERE name IS NOT DISTINCT FROM NULL", (), "account:3"),
    ("UPDATE account SET balance = 1 WHERE id = 1 RETURNING id, balance", (), "account:1"),
    ("UPDATE OR IGNORE pair SET v = 1 WHERE a = 1", (), "pair:1_x,1_y"),
    ("UPDATE pair SET v = v + 1", (), "pair:1_x,1_y,2_x"),
    ("DELETE FROM pair WHERE b = 'x'", (), "pair:1_x,2_x"),
    ("DELETE FROM account", (), "account:1,2,3"),
    ("DELETE FROM account AS t WHERE EXISTS (SELECT 1 FROM pair WHERE a = t.id AND v = ?);", (30,), "account:2"),
    ("INSERT INTO account (name) VALUES ('new')", (), "account:4"),
    ("INSERT INTO account VALUES (?, ?, ?, ?), (NULL, 'b', 1, NULL)", (9, "a", 2, b"x"), "account:9,10"),
    ("INSERT INTO account DEFAULT VALUES", (), "account:4"),
    ("INSERT INTO account (name, balance) SELECT name, balance FROM account WHERE id < 3", (), "account:4,5"),
    ("INSERT OR IGNORE INTO account (id, name) VALUES (1, 'dup'), (8, 'ok')", (), "account:8"),
    ("INSERT INTO pair VALUES (1, 'x', 0), (5, 'n', 0) ON CONFLICT DO NOTHING", (), "pair:5_n"),
    ("INSERT INTO pair VALUES (5, 'n', 0) ON CONFLICT (a, b) DO NOTHING RETURNING *", (), "pair:5_n"),
    ("REPLACE INTO account VALUES (1, 'x', 1, NULL)", (), "account:1"),
    ("INSERT OR REPLACE INTO pair SELECT a, 'x', ? FROM pair", (7,), "pair:1_x,2_x"),
    ("INSERT INTO account VALUES (1, 'x', 1, NULL) ON CONFLICT (id) DO UPDATE SET name = 'y'", (), "account:1"),
    ("INSERT INTO pair VALUES (1, 'x', 0), (7, 'q', 0) ON CONFLICT DO UPDATE SET v = v + excluded.v + 1 RETURNING v",
     (), "pair:1_x,7_q"),
    ("WITH n(i) AS (VALUES (11), (12)) INSERT INTO account (id) SELECT i FROM n", (), "account:11,12"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "parameters", "locks"), UNDERSTOOD)
def test_statement_and_its_undo(database, coordinator, sql, parameters, locks):
    before = database.dump()
    plain = database.connect()
    expected = plain.execute(sql, parameters)
    native = (expected.fetchall(), expected.description, expected.lastrowid)
    count = plain.total_changes
    plain.commit()
    after = database.dump()
    assert count > 0
    _restore(database, before)

    connection = database.connect()
    with join(XID):
        cursor = connection.execute(sql, parameters)
        assert cursor.rowcount == count
        assert (cursor.fetchall(), cursor.description) == native[:2]
        if "INSERT" in sql and "pair" not in sql:
            assert cursor.lastrowid == native[2]
        connection.commit()
    assert database.dump() == after
    assert coordinator.lock_texts == [locks]
    assert [row[:3] for row in database.undo_rows()] == [(XID, 1000, 0)]

    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []


def _restore(database, dump):
    connection = database.connect()
    for table, rows in dump.items():
        connection.execute(f"DELETE FROM {table}")
        marks = ", ".join("?" * (len(rows[0]) // 2))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", [row[::2] for row in rows])
    connection.commit()
    assert database.dump() == dump


def test_commit_deletes_the_undo_row_and_keeps_the_rows(database, coordinator):
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        connection.commit()
    coordinator.commit(XID)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(1.0,)]
    assert database.undo_rows() == []


def test_undo_row_is_in_the_format_of_seata(database):
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        connection.commit()
    ((xid, branch_id, status, context, info),) = database.undo_rows()
    assert (xid, branch_id, status, context) == (XID, 1000, 0, "serializer=jackson&compressorType=NONE")
    log = json.loads(info)
    assert log["@class"] == "org.apache.seata.rm.datasource.undo.BranchUndoLog"
    (statement,) = log["sqlUndoLogs"][1]
    (row,) = statement["beforeImage"]["rows"][1]
    assert [(f["name"], f["keyType"], f["type"], f["value"]) for f in row["fields"][1]] == [
        ("id", "PRIMARY_KEY", 4, 1),
        ("balance", "NULL", 7, 100.0),
    ]


REFUSED = [
    "INSERT INTO account VALUES (1, 'x', 1, NULL) ON CONFLICT (id) DO UPDATE SET id = 9",
    "INSERT OR ROLLBACK INTO account (id) VALUES (1)",
    "UPDATE OR REPLACE account SET name = 'x'",
    "UPDATE account SET id = 9 WHERE id = 1",
    "UPDATE account SET rowid = 9 WHERE id = 1",
    "UPDATE pair SET (v, b) = (1, 'q')",
    "DELETE FROM account ORDER BY id LIMIT 1",
    "UPDATE account SET name = 'x' LIMIT 1",
    "UPDATE account SET name = 'x' WHERE random() % 2 = 0 OR random() > 0 OR random() < 0 AND id = abs(random())",
    "UPDATE 'account' SET name = 'x'",
    "UPDATE account SET name = 'x'; DELETE FROM account",
    "CREATE TABLE t (id INTEGER PRIMARY KEY)",
    "DROP TABLE account",
    "ALTER TABLE account ADD COLUMN x",
    "ATTACH ':memory:' AS other",
    "VACUUM",
    "PRAGMA user_version = 5",
    "PRAGMA wal_checkpoint",
    "UPDATE undo_log SET xid = 'x'",
    "UPDATE nokey SET v = 1",
    "UPDATE shown SET name = 'x'",
    "UPDATE watched SET v = 1",
    "INSERT INTO careless VALUES (1, 1)",
    "UPDATE odd SET v = 1",
    "UPDATE scratch SET v = 1",
    "INSERT INTO search VALUES ('x')",
    "UPDATE nothere SET v = 1",
    "FROB account",
    "UPDATE account SET name = 'open",
]  # fmt: skip

SCHEMA = """
CREATE TABLE nokey (v); INSERT INTO nokey VALUES (0);
CREATE VIEW shown AS SELECT * FROM account;
CREATE TABLE watched (id INTEGER PRIMARY KEY, v); INSERT INTO watched VALUES (1, 0);
CREATE TRIGGER watch AFTER UPDATE ON watched BEGIN UPDATE account SET name = 'by trigger'; END;
CREATE TABLE careless (id INTEGER PRIMARY KEY, v UNIQUE ON CONFLICT REPLACE);
CREATE TABLE odd (id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX odd_v ON odd (v + 1);
CREATE VIRTUAL TABLE search USING fts5 (text);
"""


@pytest.mark.parametrize("sql", REFUSED)
def test_refused_with_reason_and_hint_and_nothing_changed(database, coordinator, sql):
    database.run(SCHEMA)
    before = database.dump()
    connection = database.connect()
    connection.execute("CREATE TEMP TABLE scratch (id INTEGER PRIMARY KEY, v)")
    with join(XID):
        with pytest.raises(NotSupported) as caught:
            _until_refused(connection, sql)
        assert len(caught.value.reason) > 10
        assert not connection.in_transaction
        connection.commit()
    assert database.dump() == before
    assert coordinator.branches == []


def _until_refused(connection, sql):
    """random() may by chance choose the same rows twice: that is no harm, and worth another try."""
    for _ in range(64):
        connection.execute(sql)
        connection.rollback()


def test_outside_of_a_global_transaction_everything_passes(database, coordinator):
    connection = database.connect()
    connection.execute("REPLACE INTO account VALUES (1, 'x', 1, NULL)")
    connection.executescript("CREATE TABLE t (v); INSERT INTO t VALUES (1);")
    assert connection.execute("SELECT v FROM t").fetchall() == [(1,)]
    connection.commit()
    assert coordinator.messages == []


def test_no_rows_hit_registers_nothing(database, coordinator):
    connection = database.connect()
    with join(XID):
        assert connection.execute("UPDATE account SET name = 'x' WHERE id = 99").rowcount == 0
        assert connection.execute("DELETE FROM account WHERE id = 99").rowcount == 0
        connection.commit()
    assert coordinator.messages == []
    assert database.undo_rows() == []


def test_executemany(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(XID):
        rows = ((f"n{i}", i) for i in range(5))
        assert connection.executemany("INSERT INTO account (name, balance) VALUES (?, ?)", rows).rowcount == 5
        assert connection.executemany("UPDATE account SET balance = ? WHERE id = ?", [(1, 1), (2, 1)]).rowcount == 2
        connection.commit()
    assert coordinator.lock_texts == ["account:4,5,6,7,8,1"]
    log = json.loads(database.undo_rows()[0][4])
    assert [item["sqlType"] for item in log["sqlUndoLogs"][1]] == ["INSERT", "UPDATE", "UPDATE"]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_executemany_that_fails_half_way_keeps_what_it_did_in_the_local_transaction(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(XID):
        with pytest.raises(Exception, match="UNIQUE"):
            connection.executemany("INSERT INTO account (id) VALUES (?)", [(10,), (1,), (11,)])
        connection.commit()
    assert coordinator.lock_texts == ["account:10"]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_wrong_number_of_parameters_is_the_drivers_error(database):
    connection = database.connect()
    with join(XID):
        with pytest.raises(connection.ProgrammingError):
            connection.execute("UPDATE account SET name = ? WHERE id = ?", (1,))
        with pytest.raises(connection.ProgrammingError):
            connection.execute("UPDATE account SET name = ? WHERE id = ?", (1, 2, 3))
        with pytest.raises(connection.ProgrammingError):
            connection.execute("UPDATE account SET name = :n WHERE id = :i", {"n": 1})


def test_values_keep_their_storage_class(database, coordinator):
    database.run("CREATE TABLE any_value (k BLOB PRIMARY KEY, v)")
    values = [None, 0, 2**31, -(2**63), 1.0, 1.5e300, float("inf"), -0.0, "", "1", "né\u2028", b"", b"\0\xff", "a\0b"]
    connection = database.connect()
    connection.executemany("INSERT INTO any_value VALUES (?, ?)", [(str(i), v) for i, v in enumerate(values)])
    connection.commit()
    before = database.dump()
    with join(XID):
        connection.execute("UPDATE any_value SET v = 'gone'")
        connection.execute("DELETE FROM any_value WHERE k > '5'")
        connection.commit()
    coordinator.rollback(XID)
    assert database.dump() == before


def test_generated_columns_are_not_written_back(database, coordinator):
    database.run(
        """CREATE TABLE g (id INTEGER PRIMARY KEY, v, w AS (v * 2), s AS (v + 1) STORED UNIQUE);
        INSERT INTO g (v) VALUES (1), (5);"""
    )
    before = database.dump()
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE g SET v = 7 WHERE id = 1")
        connection.execute("DELETE FROM g WHERE id = 2")
        connection.commit()
    assert coordinator.lock_texts == ["g:1,2;g#sqlite_autoindex_g_1:2,8,6"]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_unique_keys_are_locked_too(database, coordinator):
    database.run(
        """CREATE TABLE u (id INTEGER PRIMARY KEY, mail TEXT COLLATE NOCASE, v, a, on_sale);
        CREATE UNIQUE INDEX by_mail ON u (mail); CREATE UNIQUE INDEX by_sale ON u (a) WHERE on_sale;
        INSERT INTO u VALUES (1, 'Ann@X', 0, 'k', 0), (2, NULL, 0, NULL, 0);"""
    )
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE u SET v = 1, mail = 'ANN@x' WHERE id = 1")
        connection.commit()
        connection.execute("UPDATE u SET mail = 'c,d' WHERE id = 2")
        connection.commit()
        connection.execute("UPDATE u SET on_sale = 1 WHERE id = 1")
        connection.commit()
        connection.execute("DELETE FROM u WHERE id = 1")
        connection.commit()
    assert coordinator.lock_texts == [
        "u:1;u#by_sale:k",
        "u:2;u#by_mail:c%2Cd",
        "u:1;u#by_sale:k",
        "u:1;u#by_mail:ann@x;u#by_sale:k",
    ]
    coordinator.rollback(XID)


def test_referential_actions_are_refused_only_where_they_act(database, coordinator):
    database.run(
        """CREATE TABLE head (id INTEGER PRIMARY KEY, code TEXT UNIQUE, v);
        CREATE TABLE line (id INTEGER PRIMARY KEY, h REFERENCES head ON DELETE CASCADE,
                           c REFERENCES head (code) ON UPDATE CASCADE);
        INSERT INTO head VALUES (1, 'a', 0), (2, 'b', 0); INSERT INTO line VALUES (1, 1, 'a');"""
    )
    connection = database.connect(isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    with join(XID):
        for sql in ("DELETE FROM head WHERE id = 2", "UPDATE head SET code = 'z' WHERE id = 1"):
            with pytest.raises(NotSupported, match="CASCADE"):
                connection.execute(sql)
        connection.execute("UPDATE head SET v = 1 WHERE id = 1")
        connection.execute("DELETE FROM line WHERE id = 1")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM head WHERE id = 2")
    assert "foreignKeys=ON" in str(database.undo_rows()[0][3])
    assert "foreignKeys" not in str(database.undo_rows()[-1][3])
    coordinator.rollback(XID)
    assert database.rows("SELECT * FROM head") == [(1, "a", 0), (2, "b", 0)]


def test_schema_changes_between_transactions_are_seen(database, coordinator):
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE account SET name = 'a' WHERE id = 1")
        connection.commit()
    coordinator.commit(XID)
    database.run("ALTER TABLE account ADD COLUMN extra DEFAULT 'e'")
    before = database.dump()
    with join(XID):
        connection.execute("DELETE FROM account WHERE id = 1")
        connection.commit()
    coordinator.rollback(XID)
    assert database.dump() == before


def test_many_rows_are_looked_up_in_groups(database, coordinator):
    database.run(
        """WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
        INSERT INTO pair SELECT i, 'b', i FROM n"""
    )
    before = database.dump()
    connection = database.connect()
    with join(XID):
        assert connection.execute("UPDATE pair SET v = -v").rowcount == 2494
        assert connection.execute("DELETE FROM pair WHERE a % 2").rowcount == 1247
        connection.commit()
    coordinator.rollback(XID)
    assert database.dump() == before


def test_missing_undo_table(database, coordinator):
    database.run("DROP TABLE undo_log")
    connection = database.connect()
    with join(XID), pytest.raises(NotSupported, match="troth at init"):
        connection.execute("UPDATE account SET name = 'a'")
    assert not connection.in_transaction
