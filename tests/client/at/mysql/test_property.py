"""Random statements: under AT the database does what it does without, and a rollback restores it all."""

from __future__ import annotations

from contextlib import closing

import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from troth.client.context import join

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:9"

SCHEMA = (
    "CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, f FLOAT, d DOUBLE, s VARCHAR(40), b VARBINARY(40), "
    "n DECIMAL(20,5), i INT, at DATETIME(3), g INT AS (i + 1) VIRTUAL, touched TIMESTAMP(6) NULL "
    "ON UPDATE CURRENT_TIMESTAMP(6))",
    "CREATE TABLE w (a INT, b VARCHAR(10), v VARCHAR(40), u INT UNIQUE, PRIMARY KEY (b, a))",
    "CREATE TABLE k (r DOUBLE PRIMARY KEY, `odd `` 50%% name` VARCHAR(10) UNIQUE, c CHAR(3) DEFAULT 'dd')",
)
ODD = "`odd `` 50%% name`"

texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
words = st.sampled_from(["a", "A", "b", "a ", "ä", "x,y;z", "%", "", "it's"])
few = st.integers(0, 4)
numbers = st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1))
floats = st.one_of(st.none(), st.floats(-(2.0**100), 2.0**100, width=32))
doubles = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
decimals = st.one_of(st.none(), st.decimals(-(10**14), 10**14, places=5, allow_nan=False))
moments = st.one_of(st.none(), st.sampled_from(["2026-03-29 02:30:00.123", "1000-01-01", "2024-02-29 23:59:59.999"]))
data = st.one_of(st.none(), st.binary(max_size=8))
reals = st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e300, 0.1])
ROW = [floats, doubles, texts, data, decimals, numbers, moments]


def statement(sql, *parameters):
    return st.tuples(st.just(sql), st.tuples(*parameters))


statements = st.one_of(
    statement("INSERT INTO t (f, d, s, b, n, i, at) VALUES (%s, %s, %s, %s, %s, %s, %s)", *ROW),
    statement("INSERT IGNORE INTO t (id, s) VALUES (%s, %s), (%s, %s)", few, texts, st.integers(1, 9), texts),
    statement("INSERT INTO t (s, i) SELECT s, %s FROM t WHERE id < %s", few, few),
    statement("UPDATE t SET f = %s, d = %s, s = %s, b = %s, n = %s, i = %s, at = %s WHERE id %% 2 = %s", *ROW, few),
    statement("UPDATE t SET i = (SELECT COUNT(*) FROM w), s = CONCAT(HEX(s), %s) WHERE id <> %s", words, few),
    statement("UPDATE t JOIN w ON w.a = t.id SET t.s = w.v WHERE w.b < %s", words),
    statement("UPDATE t SET i = id WHERE i IS NULL ORDER BY id DESC LIMIT %s", few),
    statement("DELETE FROM t WHERE id = %s OR i = %s", few, numbers),
    statement("INSERT INTO w VALUES (%s, %s, %s, %s)", few, words, texts, few),
    statement("INSERT IGNORE INTO w (a, b, u) VALUES (%s, %s, %s), (%s, %s, %s)", few, words, few, few, words, few),
    statement("INSERT INTO w VALUES (%s, %s, %s, NULL), (%s, %s, %s, NULL) "
              "ON DUPLICATE KEY UPDATE v = CONCAT(COALESCE(v, ''), 'x')", few, words, texts, few, words, texts),
    statement("INSERT INTO w (a, b, u) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE v = VALUES(a)", few, words, few),
    statement("REPLACE INTO w (a, b, u) VALUES (%s, %s, %s)", few, words, few),
    statement("REPLACE INTO w SELECT a + 1, b, v, NULL FROM w AS x WHERE u = %s", few),
    statement("REPLACE INTO k VALUES (%s, %s, 'abc')", reals, words),
    statement("REPLACE INTO t (id, s) VALUES (%s, %s)", few, texts),
    statement("UPDATE w SET v = %s, u = NULL WHERE b = %s", texts, words),
    statement("UPDATE IGNORE w SET u = %s WHERE a = %s", few, few),
    statement("UPDATE w SET u = u + %s WHERE u IS NOT NULL ORDER BY u DESC", few),
    statement("DELETE w FROM w JOIN t ON t.id = w.a WHERE w.b >= %s", words),
    statement("DELETE FROM w WHERE b < %s LIMIT 2", words),
    statement("INSERT INTO k VALUES (%s, %s, 'abc')", reals, words),
    statement(f"UPDATE k SET {ODD} = %s, c = 'q%%' WHERE r > %s", words, reals),
    statement("DELETE FROM k WHERE r <= %s", reals),
)  # fmt: skip
steps = st.lists(st.one_of(statements, statements, statements, st.just("commit"), st.just("rollback")), max_size=14)


def play(connection, program):
    """Run a program; what each step gave, or which error."""
    seen = []
    cursor = connection.cursor()
    for step in program:
        if step == "commit":
            connection.commit()
        elif step == "rollback":
            connection.rollback()
        else:
            try:
                cursor.execute(*step)
            except (pymysql.err.IntegrityError, pymysql.err.DataError, pymysql.err.OperationalError) as error:
                seen.append(error.args)
            else:
                seen.append(cursor.rowcount)
    connection.commit()
    return seen


def content(database):
    found = {}
    for table, shown in (
        ("t", "id, f * 1e0, d, HEX(s), HEX(b), n, i, CAST(at AS CHAR), g"),
        ("w", "a, HEX(b), HEX(v), u"),
        ("k", f"r, HEX({ODD.replace('%%', '%')}), HEX(c)"),
    ):
        found[table] = sorted(map(repr, database.rows(f"SELECT {shown} FROM {table}")))
    return found


@pytest.fixture
def databases(new_database):
    return new_database(), new_database()


few_examples = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("autocommit", [False, True])
@few_examples
@given(filling=steps, program=steps)
def test_like_without_at_and_undone_by_rollback(databases, coordinator, autocommit, filling, program):
    like_without_at_and_undone(databases, coordinator, autocommit, filling, program)


@pytest.mark.soak
@pytest.mark.parametrize("autocommit", [False, True])
@settings(few_examples, max_examples=1500)
@given(filling=steps, program=steps)
def test_like_without_at_and_undone_by_rollback_many(databases, coordinator, autocommit, filling, program):
    like_without_at_and_undone(databases, coordinator, autocommit, filling, program)


def like_without_at_and_undone(databases, coordinator, autocommit, filling, program):
    plain, under_at = databases
    for database in databases:
        database.run("DROP TABLE IF EXISTS t, w, k", *(sql.replace("%%", "%") for sql in SCHEMA))
        with closing(database.plain(autocommit=False)) as raw:
            play(raw, filling)
    before = content(under_at)
    assert before == content(plain)
    with closing(plain.plain(autocommit=autocommit)) as raw:
        expected = play(raw, program)
    connection = under_at.connect(autocommit=autocommit)
    with closing(connection), join(XID):
        assert play(connection, program) == expected
    assert content(under_at) == content(plain)
    coordinator.rollback(XID)
    assert content(under_at) == before
    assert under_at.undo_rows() == []
