"""Each kind of statement on a real MariaDB: what is locked, what is undone, what the user sees."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

XID = "127.0.0.1:8091:42"


def undone_is_as_before(database, in_global, sql, parameters=None, *, locks=None, rowcount=None):
    """Run `sql` as a branch, look at the locks, roll back, and compare every row with what was before."""
    before = database.dump()
    connection = database.connect(autocommit=True)
    with in_global(XID):
        cursor = connection.cursor()
        cursor.execute(sql, parameters)
    if rowcount is not None:
        assert cursor.rowcount == rowcount
    if locks is not None:
        # Behind the row locks, which are Java's, stand those of keys that are texts.
        assert [text.partition(";pair#PRIMARY:")[0] for text in database.coordinator.lock_texts] == locks
    after = database.dump()
    database.coordinator.rollback(XID)
    assert database.dump() == before
    assert not database.rows("SELECT 1 FROM undo_log WHERE log_status = 0")
    assert after != before or rowcount == 0
    return cursor


UPDATES = [
    ("UPDATE account SET balance = balance - 1 WHERE id = 1", None, ["account:1"], 1),
    ("UPDATE account SET balance = %s WHERE name = %s", (5, "bob"), ["account:2"], 1),
    ("UPDATE account SET balance = %(b)s WHERE id IN (%(i)s, %(j)s)", {"b": 1, "i": 1, "j": 3}, ["account:1,3"], 2),
    ("UPDATE account SET note = CONCAT('50%', id) WHERE note LIKE '%'", None, ["account:1,3"], 2),
    ("UPDATE account SET note = '100%%' WHERE id = %s", (1,), ["account:1"], 1),
    ("UPDATE `account` AS a SET a.`balance` = 0 WHERE a.id > 1 ORDER BY a.id DESC LIMIT 1", None, ["account:3"], 1),
    ("UPDATE account SET balance = RAND() * 100, note = UUID() WHERE id = 2", None, ["account:2"], 1),
    ("UPDATE account a JOIN pair p ON a.id = p.a SET a.balance = p.v WHERE p.b = 'x'", None, ["account:1,2"], 2),
    ("UPDATE account, pair SET pair.v = account.balance WHERE account.id = pair.a", None, ["pair:1_x,1_y,2_x"], 3),
    ("UPDATE account SET balance = 7 WHERE id IN (SELECT a FROM pair WHERE v > 15)", None, ["account:1,2"], 2),
    ("UPDATE account a LEFT JOIN pair p ON a.id = p.a SET a.note = 'alone' WHERE p.a IS NULL", None, ["account:3"], 1),
    ("UPDATE pair SET v = v + 1 WHERE a = 1", None, ["pair:1_x,1_y"], 2),
    ("UPDATE account SET balance = 1 WHERE id = 99", None, [], 0),
    ("UPDATE IGNORE account SET note = 'q' WHERE id = 1", None, ["account:1"], 1),
    ("UPDATE account SET balance = balance + 1", None, ["account:1,2,3"], 3),
]


@pytest.mark.parametrize(
    ("sql", "parameters", "locks", "rowcount"), UPDATES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_update(database, in_global, sql, parameters, locks, rowcount):
    undone_is_as_before(database, in_global, sql, parameters, locks=locks, rowcount=rowcount)


DELETES = [
    ("DELETE FROM pair WHERE a = 1", None, ["pair:1_x,1_y"], 2),
    ("DELETE FROM pair WHERE b = %s ORDER BY a DESC LIMIT 1", ("x",), ["pair:2_x"], 1),
    ("DELETE p FROM pair AS p JOIN account AS a ON a.id = p.a WHERE a.name = 'bob'", None, ["pair:2_x"], 1),
    ("DELETE FROM pair USING pair JOIN account ON account.id = pair.a WHERE pair.v = 10", None, ["pair:1_x"], 1),
    ("DELETE FROM pair WHERE a = 17", None, [], 0),
    ("DELETE FROM pair", None, ["pair:1_x,1_y,2_x"], 3),
]


@pytest.mark.parametrize(
    ("sql", "parameters", "locks", "rowcount"), DELETES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_delete(database, in_global, sql, parameters, locks, rowcount):
    undone_is_as_before(database, in_global, sql, parameters, locks=locks, rowcount=rowcount)


def test_delete_gives_what_the_user_wants_returned(database, in_global):
    sql = "DELETE FROM pair WHERE a = 1 RETURNING b, v"
    cursor = undone_is_as_before(database, in_global, sql)
    assert sorted(cursor.fetchall()) == [("x", 10), ("y", 20)]


INSERTS = [
    ("INSERT INTO account (name, balance) VALUES ('carl', 5)", None, 1),
    ("INSERT INTO account (name, balance) VALUES (%s, %s), (%s, %s)", ("carl", 5, "dora", 6), 2),
    ("INSERT INTO account VALUES (NULL, 'carl', 5, 'q'), (DEFAULT, 'dora', 6, 'w')", None, 2),
    ("INSERT account SET name = 'carl', id = 77", None, 1),
    ("INSERT INTO account (id, name) VALUES (80, 'carl'), (79, 'dora')", None, 2),
    ("INSERT INTO account (name) SELECT CONCAT('new ', b, a) FROM pair", None, 3),
    ("INSERT IGNORE INTO account (name) VALUES ('ann'), ('carl')", None, 1),
    ("INSERT IGNORE INTO account (name) VALUES ('ann')", None, 0),
    ("INSERT INTO pair VALUES (7, 'q', 1)", None, 1),
    ("INSERT INTO pair (b, a) VALUES (LEFT(UUID(), 20), 3)", None, 1),
    ("INSERT INTO account () VALUES ()", None, 1),
]


@pytest.mark.parametrize(("sql", "parameters", "rowcount"), INSERTS, ids=lambda v: v if isinstance(v, str) else "")
def test_insert(database, in_global, sql, parameters, rowcount):
    undone_is_as_before(database, in_global, sql, parameters, rowcount=rowcount)


def test_the_cursor_says_of_an_insert_what_the_driver_would_say(database, in_global):
    for sql, parameters, _ in INSERTS:
        database.run("TRUNCATE account", "TRUNCATE pair", "INSERT INTO account (name) VALUES ('ann')")
        database.run("INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30)")
        plain = database.plain().cursor()
        plain.execute(sql, parameters)
        database.run("TRUNCATE account", "TRUNCATE pair", "INSERT INTO account (name) VALUES ('ann')")
        database.run("INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30)")
        with in_global(XID):
            ours = database.connect(autocommit=True).cursor()
            ours.execute(sql, parameters)
        database.coordinator.rollback(XID)
        assert (ours.rowcount, ours.lastrowid or 0) == (plain.rowcount, plain.lastrowid or 0), sql


def test_insert_gives_what_the_user_wants_returned(database, in_global):
    sql = "INSERT INTO account (name, balance) VALUES ('carl', 5) RETURNING id, balance AS money"
    cursor = undone_is_as_before(database, in_global, sql)
    assert [column[0] for column in cursor.description] == ["id", "money"]
    assert cursor.fetchall() == ((4, Decimal("5.00")),)


UPSERTS = [
    (
        "INSERT INTO account (name, balance) VALUES ('ann', 7) ON DUPLICATE KEY UPDATE balance = VALUES(balance)",
        None,
        2,
    ),
    ("INSERT INTO account (name, balance) VALUES ('carl', 7) ON DUPLICATE KEY UPDATE balance = 0", None, 1),
    ("INSERT INTO account (name) VALUES (%s), (%s) ON DUPLICATE KEY UPDATE note = 'again'", ("ann", "carl"), 3),
    ("INSERT INTO account (id, name) VALUES (1, 'bob') ON DUPLICATE KEY UPDATE note = 'which'", None, 2),
    ("INSERT INTO pair VALUES (1, 'X', 5) ON DUPLICATE KEY UPDATE v = v + 5", None, 2),
    ("INSERT INTO account SET name = 'ann' ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id), note = 'i'", None, 2),
    ("INSERT INTO account (name) VALUES ('ann') ON DUPLICATE KEY UPDATE note = note", None, 0),
    ("INSERT INTO account (name) VALUES (NULL) ON DUPLICATE KEY UPDATE note = 'never'", None, 1),
]


@pytest.mark.parametrize(("sql", "parameters", "rowcount"), UPSERTS, ids=lambda v: v if isinstance(v, str) else "")
def test_upsert(database, in_global, sql, parameters, rowcount):
    cursor = undone_is_as_before(database, in_global, sql, parameters) if rowcount else None
    if cursor is None:
        with in_global(XID):
            cursor = database.connect(autocommit=True).cursor()
            cursor.execute(sql, parameters)
        database.coordinator.rollback(XID)
    assert cursor.rowcount == rowcount


def test_executemany_is_one_branch(database, in_global):
    before = database.dump()
    connection = database.connect(autocommit=True)
    with in_global(XID):
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO pair (a, b, v) VALUES (%s, %s, %s)", [(9, "a", 1), (9, "b", 2)])
        assert cursor.rowcount == 2
        cursor.executemany("UPDATE pair SET v = %s WHERE a = %s", [(5, 1), (6, 2)])
        assert cursor.rowcount == 3
    assert len(database.coordinator.branches) == 2
    database.coordinator.rollback(XID)
    assert database.dump() == before


REFUSED = [
    ("REPLACE INTO pair VALUES (1, 'x', 1), (1, 'X', 2)", "replace each other"),
    ("REPLACE DELAYED INTO pair VALUES (1, 'x', 1)", "DELAYED"),
    ("UPDATE pair SET a = 5", "changes the primary key column a"),
    ("UPDATE pair SET v = 1 WHERE RAND() < 0.5", r"RAND\(\) chooses rows"),
    ("UPDATE pair SET v = (@n := @n + 1)", "user variable"),
    ("UPDATE pair a JOIN pair b USING (a) SET a.v = 1, b.v = 2", "one table under two names"),
    ("UPDATE account a, pair p SET note = 'x'", "whose columns are set"),
    ("DELETE a, b FROM pair a JOIN pair b ON a.v = b.v", "one table under two names"),
    ("TRUNCATE pair", "commits by itself"),
    ("CREATE TABLE x (a INT)", "commits by itself"),
    ("CALL something()", "rows that AT does not see"),
    ("LOAD DATA INFILE 'x' INTO TABLE pair", "rows that AT does not see"),
    ("SET autocommit = 1", "SET autocommit"),
    ("UPDATE /*!40000 pair */ SET v = 1", "comments that MySQL executes"),
    ("UPDATE pair SET v = 1; UPDATE pair SET v = 2", "several statements"),
    ("UPDATE heap SET v = 1", "the engine MyISAM"),
    ("UPDATE keyless SET v = 1", "no primary key"),
    ("UPDATE seen SET v = 1", "is a VIEW"),
    ("UPDATE pulled SET v = 1", "the trigger pull"),
    ("UPDATE nowhere SET v = 1", "there is no table nowhere"),
    ("UPDATE undo_log SET log_status = 1", "belongs to AT"),
    ("UPDATE mysql.user SET v = 1", "is in the database mysql"),
    ("DELETE FROM parent", "CASCADE rows of child"),
    ("INSERT INTO account (name) VALUES (UPPER('ann')) ON DUPLICATE KEY UPDATE balance = 1", "is not plain"),
    ("INSERT INTO account (name) SELECT 'ann' ON DUPLICATE KEY UPDATE balance = 1", "with SELECT"),
    ("INSERT INTO account (name) VALUES ('ann') ON DUPLICATE KEY UPDATE name = 'eve'", "a unique key of account"),
]


@pytest.fixture
def strange(database):
    database.run(
        "CREATE TABLE heap (id INT PRIMARY KEY, v INT) ENGINE = MyISAM",
        "CREATE TABLE keyless (v INT)",
        "CREATE VIEW seen AS SELECT * FROM pair",
        "CREATE TABLE pulled (id INT PRIMARY KEY, v INT)",
        "CREATE TRIGGER pull BEFORE UPDATE ON pulled FOR EACH ROW SET NEW.v = 7",
        "CREATE TABLE parent (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
    )
    return database


@pytest.mark.parametrize(("sql", "reason"), REFUSED)
def test_what_could_not_be_undone_is_refused(strange, in_global, sql, reason):
    before = strange.dump()
    connection = strange.connect(autocommit=True)
    with in_global(XID), pytest.raises(NotSupported, match=reason):
        connection.cursor().execute(sql)
    assert strange.dump() == before
    assert strange.coordinator.branches == []


def test_the_undo_row_is_as_java_writes_it(database, in_global):
    connection = database.connect(autocommit=True)
    with in_global(XID):
        connection.cursor().execute("UPDATE account SET balance = 7 WHERE id = 1")
    ((xid, branch_id, status, context, info),) = database.undo_rows()
    assert (xid, status, context) == (XID, 0, "serializer=jackson&compressorType=NONE")
    tree = json.loads(info)
    assert tree["branchId"] == branch_id
    ((log,),) = [tree["sqlUndoLogs"][1]]
    ((row,),) = [log["beforeImage"]["rows"][1]]
    fields = [(f["name"], f["keyType"], f["type"], f["value"]) for f in row["fields"][1]]
    assert fields == [
        ("id", "PRIMARY_KEY", -5, ["java.lang.Long", 1]),
        ("balance", "NULL", 3, ["java.math.BigDecimal", 100.00]),
    ]
    assert database.coordinator.branches[0][1].resource_id == (
        f"jdbc:mysql://127.0.0.1:{database.place.port}/{database.place.database}"
    )
    database.coordinator.commit(XID)
    assert database.undo_rows() == []


@pytest.mark.parametrize("name", ["order", "two words", "a`b", "50%", "a.b", "plain"])
def test_names_that_want_quotes(database, in_global, name):
    quoted = "`" + name.replace("`", "``") + "`"
    database.run(f"CREATE TABLE {quoted} (`key` INT PRIMARY KEY, `a % b` INT)", f"INSERT INTO {quoted} VALUES (1, 1)")
    connection = database.connect(autocommit=True)
    with in_global(XID):
        cursor = connection.cursor()
        cursor.execute(f"UPDATE {quoted} SET `a % b` = `a % b` + 1")
        cursor.execute(f"INSERT INTO {quoted.replace('%', '%%')} VALUES (%s, %s)", (2, 2))
    logs = [json.loads(row[-1])["sqlUndoLogs"][1][0] for row in database.undo_rows()]
    assert {log["tableName"] for log in logs} == {name if name == "plain" else quoted}
    assert {log["afterImage"]["tableName"] for log in logs} == {name}
    database.coordinator.rollback(XID)
    assert database.rows(f"SELECT * FROM {quoted}") == [(1, 1)]
