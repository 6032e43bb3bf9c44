"""Which statement is it, and which text chooses its rows."""

from __future__ import annotations

import pytest

from troth.client.sql.dialects.sqlite import SqliteDialect
from troth.client.sql.dialects.sqlite_grammar import parse
from troth.client.sql.statement import ParameterCountError, Verb


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("", Verb.READ),
        (" -- nothing\n", Verb.READ),
        ("SELECT 1", Verb.READ),
        ("select 'INSERT INTO t' -- ; DELETE FROM t", Verb.READ),
        ("VALUES (1)", Verb.READ),
        ("EXPLAIN QUERY PLAN DELETE FROM t", Verb.READ),
        ("WITH a AS (SELECT 1), b(x) AS NOT MATERIALIZED (SELECT 2) SELECT * FROM a", Verb.READ),
        ("WITH RECURSIVE replace AS (SELECT 1) DELETE FROM t", Verb.DELETE),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", Verb.INSERT),
        ("PRAGMA table_info(t)", Verb.READ),
        ("pragma main.user_version", Verb.READ),
        ("PRAGMA foreign_keys = ON", Verb.READ),
        ("PRAGMA user_version = 3", Verb.REFUSED),
        ("PRAGMA optimize", Verb.REFUSED),
        ("BEGIN", Verb.BEGIN),
        ("begin exclusive transaction;", Verb.BEGIN),
        ("END TRANSACTION", Verb.COMMIT),
        ("ROLLBACK TRANSACTION", Verb.ROLLBACK),
        ("ROLLBACK TRANSACTION TO x", Verb.ROLLBACK_TO),
        ("SAVEPOINT [a b]", Verb.SAVEPOINT),
        ("RELEASE savepoint", Verb.RELEASE),
        ("INSERT INTO t (a) VALUES (';')", Verb.INSERT),
        ("INSERT INTO t SELECT * FROM a JOIN b ON conflict.x = 1", Verb.REFUSED),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", Verb.INSERT),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING ON CONFLICT DO UPDATE SET a = 1", Verb.INSERT),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) WHERE b DO UPDATE SET a = 1", Verb.INSERT),
        ("DELETE FROM t; SELECT 1", Verb.REFUSED),
        ("DELETE FROM t;;", Verb.DELETE),
        ("DELETE FROM t WHERE a = 'x", Verb.REFUSED),
        ("DELETE FROM t WHERE a = '\0'", Verb.REFUSED),
        ("DELETE t", Verb.REFUSED),
        ("UPDATE t WHERE 1", Verb.REFUSED),
        ("WITH a SELECT 1", Verb.REFUSED),
        ("UPDATE t SET a = 1 FROM b FULL JOIN c WHERE 1", Verb.REFUSED),
        ("CREATE TABLE t (a)", Verb.REFUSED),
        ("/* comment", Verb.READ),
        ("\\d", Verb.REFUSED),
    ],
)
def test_verb(sql, verb):
    statement = parse(sql)
    assert statement.verb is verb, statement.reason
    assert (verb is Verb.REFUSED) == bool(statement.reason)


def test_refusals_say_why_and_what_to_do():
    error = parse("UPDATE OR REPLACE t SET a = 1").refusal()
    assert "REPLACE" in error.reason
    assert error.hint


@pytest.mark.parametrize(
    ("sql", "columns", "replaces"),
    [
        ("REPLACE INTO t VALUES (1)", (), True),
        ("INSERT OR REPLACE INTO t SELECT 1 RETURNING a", (), True),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING", (), False),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET (b, \"C c\") = (1, 2), d = max(1, 2) WHERE e = 3",
         ("b", "C c", "d"), False),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1 ON CONFLICT DO UPDATE SET c = 1 RETURNING *",
         ("b", "c"), False),
    ],
)  # fmt: skip
def test_what_an_insert_may_change(sql, columns, replaces):
    statement = parse(sql)
    assert (statement.verb, statement.table) == (Verb.INSERT, "t")
    assert (statement.set_columns, statement.upsert, statement.replaces) == (columns, bool(columns), replaces)


@pytest.mark.parametrize(
    ("sql", "schema", "table", "columns", "alias"),
    [
        ("UPDATE t SET a = 1, \"B c\" = (SELECT x FROM y WHERE z), [d]=max(1,2)", None, "t", ("a", "B c", "d"), None),
        ("UPDATE main.`q``t` AS z NOT INDEXED SET (a, b) = (1, 2), c = 3", "main", "q`t", ("a", "b", "c"), "z"),
        ('UPDATE "a""b" INDEXED BY i SET a = CASE WHEN 1 THEN 2 END', None, 'a"b', ("a",), None),
    ],
)  # fmt: skip
def test_target_of_an_update(sql, schema, table, columns, alias):
    statement = parse(sql)
    assert (statement.schema, statement.table, statement.set_columns, statement.image.alias) == (
        schema,
        table,
        columns,
        alias,
    )


def texts(sql, parameters):
    image = parse(sql).image
    return image.texts(named=isinstance(parameters, dict)), image.parameters(parameters)


def test_image_takes_the_users_words_and_their_parameters():
    sql = (
        "WITH c AS (SELECT ?) UPDATE t SET a = ?, b = ? FROM c "
        "WHERE d = ? AND e IN (SELECT f FROM g WHERE h = ?) RETURNING ?"
    )
    assert texts(sql, (1, 2, 3, 4, 5, 6)) == (
        ("WITH c AS (SELECT ?1)", "c", "WHERE d = ?2 AND e IN (SELECT f FROM g WHERE h = ?3)"),
        [1, 4, 5],
    )


def test_numbered_and_named_placeholders():
    assert texts("UPDATE t SET a = ?2 WHERE b = ?1 AND c = ?", (1, 2, 3)) == (
        ("", "", "WHERE b = ?1 AND c = ?2"),
        [1, 3],
    )
    assert texts("DELETE FROM t WHERE a = :x AND b = @y AND c = :x", (1, 2)) == (
        ("", "", "WHERE a = ?1 AND b = ?2 AND c = ?3"),
        [1, 2, 1],
    )
    named = {"x": 1, "y": 2}
    assert texts("DELETE FROM t WHERE a = :x AND b = $y", named) == (("", "", "WHERE a = :x AND b = $y"), named)


def test_placeholders_in_strings_and_comments_are_none():
    assert texts("DELETE FROM t WHERE a = '?' AND b = \"?\" /* ? */ AND c = ? -- ?", (1,)) == (
        ("", "", "WHERE a = '?' AND b = \"?\" /* ? */ AND c = ?1"),
        [1],
    )


def test_too_few_parameters():
    with pytest.raises(ParameterCountError):
        texts("DELETE FROM t WHERE a = ? AND b = ?", (1,))


def test_returning_goes_before_comments_and_semicolon():
    assert parse("DELETE FROM t ; -- done").returning("x") == "DELETE FROM t\n RETURNING x"
    assert parse("DELETE FROM t RETURNING *").returning("x") == "DELETE FROM t RETURNING *\n, x"


def test_parsed_statements_are_remembered_in_bounds():
    dialect = SqliteDialect()
    first = dialect.parse("SELECT 0")
    assert dialect.parse("SELECT 0") is first
    for number in range(600):
        dialect.parse(f"SELECT {number + 1}")
    assert dialect.parse("SELECT 0") is not first
    assert len(dialect._parsed) == 512
