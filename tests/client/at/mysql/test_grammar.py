"""What AT understands of MySQL's statements, without a server."""

from __future__ import annotations

import pytest

from troth.client.sql.dialects.mysql_grammar import parse
from troth.client.sql.dialects.mysql_statement import MySqlStatement, Piece, Source
from troth.client.sql.statement import Verb


def write(sql: str, *, parameterised: bool = True) -> MySqlStatement:
    statement = parse(sql, parameterised=parameterised)
    assert isinstance(statement, MySqlStatement), statement.reason
    return statement


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  -- a comment\n select 1",
        "(SELECT 1) UNION (SELECT 2)",
        "WITH c AS (SELECT 1) SELECT * FROM c",
        "SHOW TABLES",
        "EXPLAIN UPDATE t SET a = 1",
        "SET @x = 1, time_zone = '+00:00'",
        "SET NAMES utf8mb4",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "",
    ],
)
def test_reads(sql: str) -> None:
    assert parse(sql, parameterised=True).verb is Verb.READ


@pytest.mark.parametrize(
    ("sql", "verb", "name"),
    [
        ("BEGIN", Verb.BEGIN, ""),
        ("START TRANSACTION", Verb.BEGIN, ""),
        ("commit", Verb.COMMIT, ""),
        ("ROLLBACK WORK", Verb.ROLLBACK, ""),
        ("ROLLBACK TO SAVEPOINT `a b`", Verb.ROLLBACK_TO, "a b"),
        ("SAVEPOINT x;", Verb.SAVEPOINT, "x"),
        ("RELEASE SAVEPOINT x", Verb.RELEASE, "x"),
    ],
)
def test_local_transactions(sql: str, verb: Verb, name: str) -> None:
    statement = parse(sql, parameterised=True)
    assert (statement.verb, statement.name) == (verb, name)


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT AND CHAIN",
        "ROLLBACK RELEASE",
        "SET autocommit = 0",
        "SET @@session.sql_mode = ''",
        "SET NAMES latin1",
        "SET TRANSACTION READ ONLY",
        "LOCK TABLES t WRITE",
        "DO SLEEP(1)",
        "ANALYZE UPDATE t SET a = 1",
        "REPLACE DELAYED INTO t VALUES (1)",
        "UPDATE t SET a = (@x := 1)",
        "UPDATE t SET a = 1 WHERE b = UUID()",
        "DELETE FROM t ORDER BY NEXTVAL(s) LIMIT 1",
        "UPDATE t, u SET a = 1",
        "UPDATE t, u SET t.a = 1 LIMIT 1",
        "UPDATE (SELECT 1) AS s SET a = 1",
        "UPDATE (t JOIN u) SET t.a = 1",
        "UPDATE t PARTITION (p) SET a = 1",
        "UPDATE t FOR PORTION OF p FROM 1 TO 2 SET a = 1",
        "INSERT DELAYED INTO t VALUES (1)",
        "INSERT INTO t PARTITION (p) VALUES (1)",
        "INSERT INTO t VALUES 1",
        "SELECT /*!40000 1 */",
        "SELECT 1; SELECT 2",
        "SELECT 'open",
        "nonsense",
    ],
)
def test_what_is_not_understood_is_refused_with_a_reason(sql: str) -> None:
    statement = parse(sql, parameterised=True)
    assert statement.verb is Verb.REFUSED
    assert statement.reason
    assert statement.hint


def test_pieces_keep_the_users_text_and_know_their_parameters() -> None:
    statement = write("UPDATE t AS x SET a=%s WHERE b = %s AND c LIKE '%%\\'%%' -- why\n ORDER BY d LIMIT %s")
    assert (statement.table, statement.target, statement.set_columns) == ("t", "x", ("a",))
    assert statement.head == Piece("UPDATE t AS x SET a=%s", (0,))
    assert statement.sources == Piece("t AS x")
    assert statement.where == Piece("b = %s AND c LIKE '%%\\'%%'", (1,))
    assert statement.tail == Piece("ORDER BY d LIMIT %s", (2,))
    assert statement.places == {0, 1, 2}


def test_without_parameters_a_percent_sign_is_only_a_sign() -> None:
    statement = write("UPDATE `50%s` SET a = 7 %s WHERE b LIKE '%s'", parameterised=False)
    assert statement.table == "50%s"
    assert statement.where == Piece("b LIKE '%%s'")
    assert statement.head == Piece("UPDATE `50%%s` SET a = 7 %%s")
    assert write("UPDATE `50%%` SET a = 1").table == "50%"


def test_named_parameters() -> None:
    statement = write("DELETE FROM t WHERE a = %(b c)s AND d = %(e)s")
    assert statement.where == Piece("a = %s AND d = %s", ("b c", "e"))


@pytest.mark.parametrize(
    ("sql", "table", "target"),
    [
        ("UPDATE a x JOIN b USING (k) SET x.v = 1", "a", "x"),
        ("UPDATE a, b AS y SET `y`.v = 1", "b", "y"),
        ("UPDATE a LEFT JOIN (SELECT 1 k) s ON a.k = s.k SET a.v = 1, a.w = 2", "a", "a"),
        ("UPDATE db.a SET db.a.v = 1", "a", "a"),
        ("DELETE x FROM a AS x INNER JOIN b ON x.k = b.k", "a", "x"),
        ("DELETE b.* FROM a STRAIGHT_JOIN b", "b", "b"),
        ("DELETE FROM a USING a, b WHERE a.k = b.k", "a", "a"),
        ("DELETE LOW_PRIORITY QUICK IGNORE FROM a WHERE v", "a", "a"),
        ("WITH c AS (SELECT 1 k) DELETE FROM a WHERE k IN (SELECT k FROM c)", "a", "a"),
    ],
)
def test_which_table_is_written(sql: str, table: str, target: str) -> None:
    statement = write(sql)
    assert (statement.table, statement.target) == (table, target)


def test_rows_of_an_insert() -> None:
    insertion = write("INSERT INTO t (a, `b`) VALUES (%s, f(1, (2))), (DEFAULT, '),(') RETURNING a").insertion
    assert insertion is not None
    assert (insertion.source, insertion.columns) == (Source.VALUES, ("a", "b"))
    assert insertion.rows == (Piece("(%s, f(1, (2)))", (0,)), Piece("(DEFAULT, '),(')"))
    assert insertion.values == ((Piece("%s", (0,)), Piece("f(1, (2))")), (Piece("DEFAULT"), Piece("'),('")))
    assert not insertion.upsert_columns


def test_upserts() -> None:
    sql = "INSERT INTO t VALUES (1, 2) AS new ON DUPLICATE KEY UPDATE a = new.a, t.b = IF(x, 1, 2)"
    insertion = write(sql).insertion
    assert insertion is not None
    assert insertion.upsert_columns == ("a", "b")
    assert insertion.tail.text.startswith("AS new ON DUPLICATE")
    insertion = write("INSERT t SET a = %s, b = (SELECT 1, 2) ON DUPLICATE KEY UPDATE c = 1").insertion
    assert insertion is not None
    assert insertion.values == ((Piece("%s", (0,)), Piece("(SELECT 1, 2)")),)
    assert insertion.upsert_columns == ("c",)
