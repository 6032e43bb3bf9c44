"""Which statement is it, in PostgreSQL's grammar and psycopg's placeholders."""

from __future__ import annotations

import pytest

from troth.client.sql.dialects.postgres import PostgresDialect
from troth.client.sql.dialects.postgres_grammar import parse
from troth.client.sql.statement import ParameterCountError, Verb, compose


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("", Verb.READ),
        ("SELECT 'UPDATE t' -- ; DELETE FROM t", Verb.READ),
        ("SELECT $$a;b$$::text, $x$ $$ ; $x$, E'\\'; ', \"a;b\", j @> '{}', a[1:2], 1.5e3, .5, 1..2", Verb.READ),
        ("SELECT 7 %% 4, '100%%' /* 5%% */", Verb.READ),
        ("WITH RECURSIVE a(x) AS NOT MATERIALIZED (SELECT 1), b AS (VALUES (1)) TABLE a", Verb.READ),
        ("EXPLAIN UPDATE t SET a = 1", Verb.READ),
        ("SET search_path = shop", Verb.READ),
        ("COPY t TO STDOUT", Verb.READ),
        ("SELECT substring(a FROM 1 FOR 2) FROM t", Verb.READ),
        ("SELECT a FROM t AS x WHERE b = %s ORDER BY a LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED", Verb.LOCKING_READ),
        ("SELECT a FROM t, u FOR SHARE", Verb.REFUSED),
        ("SELECT a FROM t JOIN u USING (b) FOR UPDATE", Verb.REFUSED),
        ("SELECT a INTO x FROM t", Verb.REFUSED),
        ("INSERT INTO t VALUES (%s) ON CONFLICT (a) WHERE b DO UPDATE SET a = 1 RETURNING a", Verb.INSERT),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", Verb.INSERT),
        ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", Verb.REFUSED),
        ("UPDATE ONLY s.t * AS x SET a = 1", Verb.UPDATE),
        ("UPDATE t SET a = 1 WHERE CURRENT OF c", Verb.REFUSED),
        ("DELETE FROM t USING u WHERE t.a = u.a;", Verb.DELETE),
        ("DELETE FROM t USING u RETURNING *", Verb.REFUSED),
        ("DELETE FROM t; DELETE FROM t", Verb.REFUSED),
        ("DELETE FROM t WHERE a = '%s'", Verb.REFUSED),
        ("DELETE FROM t -- %s", Verb.REFUSED),
        ("DELETE FROM t WHERE a = $1", Verb.REFUSED),
        ("DELETE FROM t WHERE a = 5 % 3", Verb.REFUSED),
        ("DELETE FROM t /* /* nested */ */", Verb.REFUSED),
        ("DELETE FROM t WHERE a = 'open", Verb.REFUSED),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", Verb.REFUSED),
        ("CALL p()", Verb.REFUSED),
        ("DO $$ BEGIN END $$", Verb.REFUSED),
        ("EXPLAIN (ANALYZE) DELETE FROM t", Verb.REFUSED),
        ("COPY t FROM STDIN", Verb.REFUSED),
        ("COPY (DELETE FROM t RETURNING a) TO STDOUT", Verb.REFUSED),
        ("CREATE TABLE t (a int)", Verb.REFUSED),
        ("TRUNCATE t", Verb.REFUSED),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE", Verb.BEGIN),
        ("END", Verb.COMMIT),
        ("COMMIT AND CHAIN", Verb.REFUSED),
        ("COMMIT PREPARED 'x'", Verb.REFUSED),
        ("ABORT", Verb.ROLLBACK),
        ("ROLLBACK WORK TO SAVEPOINT a", Verb.ROLLBACK_TO),
        ("SAVEPOINT a", Verb.SAVEPOINT),
        ("RELEASE SAVEPOINT a", Verb.RELEASE),
        ("PREPARE TRANSACTION 'x'", Verb.REFUSED),
        ("whatever", Verb.REFUSED),
    ],
)
def test_verb(sql, verb):
    statement = parse(sql)
    assert statement.verb is verb, statement.reason
    assert (verb is Verb.REFUSED) == bool(statement.reason)


@pytest.mark.parametrize(
    ("sql", "schema", "table", "columns", "alias"),
    [
        ('UPDATE T SET a = 1, "B c" = (SELECT x FROM y WHERE z), arr[1] = 2, c.d = 3', None, "t",
         ("a", "B c", "arr", "c"), None),
        ('UPDATE "S""x".Tab z SET (a, b) = (1, %s), E = 3 FROM u', 'S"x', "tab", ("a", "b", "e"), "z"),
        ("INSERT INTO s.t AS x (a) VALUES (1) ON CONFLICT DO UPDATE SET (b, c) = ROW (1, 2) WHERE x.a = 1", "s", "t",
         ("b", "c"), None),
    ],
)  # fmt: skip
def test_target(sql, schema, table, columns, alias):
    statement = parse(sql)
    found = (statement.schema, statement.table, statement.set_columns, statement.image.alias)
    assert found == (schema, table, columns, alias)


def test_compose():
    image = parse("UPDATE t AS x SET a = %s, b = %s WHERE c = %s AND 1 = 7 %% %s RETURNING *, %s").image
    pieces = (image.where, " | ", image.assignments, " | ", image.returning)
    sql, parameters = compose((1, 2, 3, 4, 5), lambda _: "%s", *pieces)
    assert sql == "c = %s AND 1 = 7 %% %s | a = %s, b = %s |  x.*, %s"
    assert parameters == [3, 4, 1, 2, 5]
    with pytest.raises(ParameterCountError):
        compose((1, 2), lambda _: "%s", image.where)
    named = parse("UPDATE t SET a = %(x)s WHERE b = %(y)s").image
    assert compose({"x": 1, "y": 2}, lambda _: "%s", named.where) == ("b = %(y)s", {"x": 1, "y": 2})


def test_without_parameters_a_percent_is_only_a_sign():
    dialect = PostgresDialect()
    statement = dialect.parse("UPDATE t SET a = '%s' WHERE b LIKE '5%' AND c = 7 % 4", parameterised=False)
    assert statement.verb is Verb.UPDATE
    assert statement.image.where.text == "b LIKE '5%%' AND c = 7 %% 4"
