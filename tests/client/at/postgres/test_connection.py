"""psycopg's connection as its users know it, under AT."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, namedtuple_row
from typer.testing import CliRunner

import troth.at
from troth.cli import at
from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

XID, OTHER = "10.0.0.1:8091:3", "10.0.0.1:8091:4"


def test_outside_everything_is_psycopgs(database, coordinator):
    connection = database.connect()
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE x (a int); INSERT INTO x VALUES (1)")
        with cursor.copy("COPY x FROM STDIN") as copy:
            copy.write_row((2,))
        cursor.executemany("INSERT INTO x VALUES (%s) RETURNING a", [(3,), (4,)], returning=True)
        assert [list(result) for result in cursor.results()] == [[(3,)], [(4,)]]
    with connection.pipeline():
        connection.execute("UPDATE x SET a = a + 1")
    connection.commit()
    assert database.rows("SELECT a FROM x ORDER BY a") == [(2,), (3,), (4,), (5,)]
    assert coordinator.messages == []


def test_with_connection_commits_and_closes(database, coordinator):
    with join(XID), database.connect() as connection:
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
    assert connection.closed
    assert coordinator.lock_texts == ["account:1"]
    with join(XID), pytest.raises(ZeroDivisionError), database.connect() as connection:  # noqa: PT012
        connection.execute("UPDATE account SET balance = 2 WHERE id = 1")
        raise ZeroDivisionError
    assert len(coordinator.branches) == 1
    coordinator.rollback(XID)


@pytest.mark.parametrize("autocommit", [False, True])
def test_transaction_blocks_and_savepoints(database, coordinator, autocommit):
    before = database.dump()
    connection = database.connect(autocommit=autocommit)
    with join(XID):
        with connection.transaction():
            connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with pytest.raises(ZeroDivisionError), connection.transaction():  # noqa: PT012
                connection.execute("UPDATE account SET balance = 1 WHERE id = 2")
                raise ZeroDivisionError
            with connection.transaction("named") as inner:
                connection.execute("UPDATE account SET balance = 1 WHERE id = 3")
                raise psycopg.Rollback(inner)
            with connection.transaction():
                connection.execute("DELETE FROM pair WHERE a = 2")
            with pytest.raises(psycopg.ProgrammingError):
                connection.commit()
        assert coordinator.lock_texts == ["account:1;pair:2_x"]
        with connection.transaction() as outer:
            connection.execute("UPDATE account SET balance = 1 WHERE id = 2")
            with connection.transaction():
                raise psycopg.Rollback(outer)
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM pair")
    assert len(coordinator.branches) == 1
    assert database.rows("SELECT id, balance FROM account ORDER BY id") == [(1, 1), (2, 50.5), (3, -1)]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_a_block_around_the_global_transaction_is_refused(database):
    connection = database.connect()
    with connection.transaction():
        with join(XID), pytest.raises(NotSupported, match="before the global"):
            connection.execute("UPDATE account SET balance = 1")
        raise psycopg.Rollback


def test_reads_before_the_first_write_are_fine_writes_are_not(database, coordinator):
    connection = database.connect()
    connection.execute("SELECT * FROM account")
    with join(XID):
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        connection.commit()
    assert len(coordinator.branches) == 1
    connection.execute("UPDATE account SET name = 'outside' WHERE id = 2")
    with join(XID), pytest.raises(NotSupported, match="before the global one"):
        connection.execute("UPDATE account SET balance = 1 WHERE id = 3")
    connection.commit()
    coordinator.rollback(XID)
    assert database.rows("SELECT name, balance FROM account WHERE id < 3 ORDER BY id") == [
        ("ann", 100),
        ("outside", 50.5),
    ]


def test_savepoints_by_sql(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(XID):
        connection.execute("SELECT 1")
        connection.execute("SAVEPOINT first")
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        connection.execute("ROLLBACK TO first")
        connection.execute("UPDATE account SET balance = 1 WHERE id = 2")
        connection.execute("SAVEPOINT second")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO account VALUES (1)")
        connection.execute("ROLLBACK TO SAVEPOINT second")
        connection.execute("UPDATE account SET balance = 1 WHERE id = 3")
        connection.execute("COMMIT")
    assert coordinator.lock_texts == ["account:2,3"]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_executemany(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(XID):
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO pair VALUES (%s, %s, %s)", [(7, "a", 1), (8, "b", 2), (9, "c", 3)])
        assert cursor.rowcount == 3
        with pytest.raises(psycopg.ProgrammingError):
            cursor.fetchall()
        with pytest.raises(NotSupported):
            cursor.executemany("INSERT INTO pair VALUES (%s, 'x')", [(7,)], returning=True)
        cursor.executemany("UPDATE pair SET v = v + %(d)s WHERE a = %(a)s", [{"d": 1, "a": 7}, {"d": 1, "a": 7}])
        connection.commit()
    assert database.rows("SELECT v FROM pair WHERE a = 7") == [(3,)]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_row_factories_fetching_and_binary(database):
    connection = database.connect(row_factory=dict_row)
    with join(XID):
        cursor = connection.execute("UPDATE account SET balance = 3 RETURNING id, balance")
        assert cursor.fetchone() == {"id": 1, "balance": 3}
        assert cursor.rownumber == 1
        assert list(cursor) == [{"id": 2, "balance": 3}, {"id": 3, "balance": 3}]
        cursor.scroll(0, "absolute")
        assert [row["id"] for row in cursor.fetchmany(2)] == [1, 2]
        with connection.cursor(row_factory=namedtuple_row, binary=True) as cursor:
            row = cursor.execute("UPDATE account SET data = %b WHERE id = %s RETURNING *", (b"\1", 2)).fetchone()
            assert (row.id, row.name, row.data) == (2, "bob", b"\1")
        with connection.cursor(row_factory=class_row(dict)) as cursor:
            assert cursor.execute("DELETE FROM pair WHERE a = 2 RETURNING a, v").fetchall() == [{"a": 2, "v": 30}]
        connection.rollback()


def test_queries_of_psycopg_sql(database, coordinator):
    connection = database.connect()
    with join(XID):
        query = sql.SQL("UPDATE {} SET {} = %s WHERE id = {}").format(
            sql.Identifier("account"), sql.Identifier("name"), sql.Literal(1)
        )
        connection.execute(query, ("q",))
        connection.execute(b"UPDATE account SET name = 'b' WHERE id = 2")
        connection.commit()
    assert coordinator.lock_texts == ["account:1,2"]


def declare(connection, query):
    with connection.cursor("declared") as cursor:
        cursor.execute(query)


def test_what_would_write_past_at_is_refused(database):
    connection = database.connect()
    with join(XID):
        for refused in (
            lambda: connection.cursor().copy("COPY account FROM STDIN").__enter__(),
            lambda: connection.pipeline().__enter__(),
            lambda: connection.tpc_begin("x"),
            lambda: list(connection.cursor().stream("DELETE FROM account RETURNING 1")),
            lambda: declare(connection, "SELECT * FROM account FOR UPDATE"),
            lambda: connection.execute("DROP TABLE account"),
            lambda: connection.execute("TRUNCATE account"),
            lambda: connection.execute("DO $$ BEGIN DELETE FROM account; END $$"),
            lambda: connection.execute("UPDATE account SET id = 5 WHERE id = 1"),
            lambda: connection.execute("MERGE INTO account USING pair ON false WHEN MATCHED THEN DELETE"),
            lambda: connection.execute("WITH x AS (DELETE FROM account RETURNING 1) SELECT * FROM x"),
            lambda: connection.execute("UPDATE account SET name = '%s' WHERE id = %s", (1,)),
            lambda: connection.execute("UPDATE undo_log SET log_status = 1"),
        ):
            with pytest.raises((NotSupported, psycopg.ProgrammingError)):
                refused()
            assert connection.info.transaction_status.name in ("IDLE", "INTRANS")
        with connection.cursor().copy("COPY account TO STDOUT") as copy:
            assert len(list(copy.rows())) == 3
        with connection.cursor("named") as server_side:
            assert len(server_side.execute("SELECT * FROM account").fetchall()) == 3
        assert [row[0] for row in connection.cursor().stream("SELECT id FROM account ORDER BY 1")] == [1, 2, 3]
        connection.commit()
    connection.cursor_factory = psycopg.ClientCursor
    with pytest.raises(NotSupported):
        connection.cursor()


TABLES = {
    "no primary key": "CREATE TABLE t (a int)",
    "trigger": "CREATE TABLE t (a int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NULL; END'; CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "is not an ordinary table": "CREATE VIEW t AS SELECT id AS a FROM account",
    "inherit": "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE t2 () INHERITS (t)",
    "has rules": "CREATE TABLE t (a int PRIMARY KEY); CREATE RULE r AS ON UPDATE TO t DO ALSO DELETE FROM account",
    "is a partition": "CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a); "
    "CREATE TABLE t PARTITION OF p DEFAULT",
    "CASCADE": "CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE); "
    "CREATE TABLE c (b int REFERENCES t (b) ON DELETE CASCADE)",
    "over an expression": "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE UNIQUE INDEX ON t (lower(b))",
    "exclusion": "CREATE TABLE t (a int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
    "in a unique key": "CREATE TABLE t (a jsonb PRIMARY KEY)",
    "differ in case": 'CREATE TABLE t (a int PRIMARY KEY, "A" int)',
}


@pytest.mark.parametrize(("reason", "script"), TABLES.items(), ids=TABLES)
def test_tables_that_at_does_not_write_to(database, reason, script):
    database.run(script)
    connection = database.connect()
    with join(XID):
        with pytest.raises(NotSupported, match=reason) as caught:
            connection.execute("DELETE FROM t")
        assert caught.value.hint
        connection.rollback()
        connection.execute("UPDATE account SET name = 'x'")
        connection.commit()


def test_temporary_tables_and_row_security(database):
    database.run(
        "CREATE TABLE secured (a int PRIMARY KEY); ALTER TABLE secured ENABLE ROW LEVEL SECURITY; "
        "ALTER TABLE secured FORCE ROW LEVEL SECURITY; DROP ROLE IF EXISTS poor; CREATE ROLE poor; "
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO poor; GRANT USAGE ON SCHEMA public TO poor"
    )
    connection = database.connect()
    connection.execute("CREATE TEMP TABLE account (id int PRIMARY KEY)")
    connection.commit()
    with join(XID):
        with pytest.raises(NotSupported, match="temporary"):
            connection.execute("INSERT INTO account VALUES (1)")
        connection.rollback()
        connection.execute("SET ROLE poor")
        with pytest.raises(NotSupported, match="row security"):
            connection.execute("INSERT INTO secured VALUES (1)")
        connection.rollback()
    database.run("DROP OWNED BY poor; DROP ROLE poor")


def test_partitioned_tables(database, coordinator):
    database.run(
        "CREATE TABLE p (a int PRIMARY KEY, v int) PARTITION BY RANGE (a); "
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p DEFAULT; "
        "INSERT INTO p VALUES (1, 1), (2, 2), (11, 11)"
    )
    before = database.dump()
    connection = database.connect()
    with join(XID):
        assert connection.execute("UPDATE p SET v = v + 1").rowcount == 3
        assert connection.execute("DELETE FROM p WHERE a IN (2, 11)").rowcount == 2
        connection.execute("INSERT INTO p VALUES (5, 5), (50, 50)")
        with pytest.raises(NotSupported, match="partitioned"):
            connection.execute("INSERT INTO p VALUES (5) ON CONFLICT (a) DO UPDATE SET v = 1")
        connection.commit()
    coordinator.rollback(XID)
    assert database.dump() == before


def test_schemas_names_and_search_path(database, coordinator):
    database.run(
        'CREATE SCHEMA shop; CREATE TABLE shop.account (id int PRIMARY KEY, "Odd ""100%"" name" int); '
        'INSERT INTO shop.account VALUES (1, 1); CREATE TABLE "Weird, t:x" (id int PRIMARY KEY, v int); '
        'INSERT INTO "Weird, t:x" VALUES (1, 1)'
    )
    before = database.dump()
    connection = database.connect()
    with join(XID):
        connection.execute('UPDATE shop.account SET "Odd ""100%" " name" = 2'.replace('" "', '""'))
        connection.execute("SET search_path = shop, public")
        connection.execute('UPDATE account SET "Odd ""100%%"" name" = %s', (3,))
        connection.execute("SET search_path = public")
        connection.execute("UPDATE account SET balance = 3 WHERE id = 1")
        connection.execute('UPDATE "Weird, t:x" SET v = 2')
        connection.commit()
    assert coordinator.lock_texts == ["Weird%2C t%3Ax:1;account:1;shop.account:1"]
    coordinator.rollback(XID)
    assert database.dump() == before


def test_current_schema_in_the_url(database, coordinator):
    database.run("CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY)")
    url = f"{database.url}?currentSchema=shop,public"
    assert troth.at.check(url) == ["there is no table undo_log in the schema shop"]
    troth.at.init(url)
    troth.at.init(url)
    assert troth.at.check(url) == []
    connection = troth.at.connect(url, client=coordinator)
    assert connection.resource_id.endswith("?currentSchema=shop!public")
    with join(XID), connection:
        connection.execute("INSERT INTO t VALUES (1)")
    assert coordinator.lock_texts == ["shop.t:1"]
    assert database.rows("SELECT count(*) FROM shop.undo_log") == [(1,)]
    coordinator.rollback(XID)
    assert database.rows("SELECT count(*) FROM shop.t") == [(0,)]


def test_resource_id_and_check(database, coordinator):
    connection = database.connect()
    info = connection.info
    assert connection.resource_id == f"jdbc:postgresql://127.0.0.1:{info.port}/{info.dbname}"
    database.run("ALTER TABLE undo_log DROP CONSTRAINT ux_undo_log")
    assert "UNIQUE (xid, branch_id)" in troth.at.check(database.url)[0]
    with join(XID), pytest.raises(NotSupported, match="UNIQUE"):
        connection.execute("UPDATE account SET balance = 0")


def test_schema_changes_between_transactions_are_seen(database, coordinator):
    connection = database.connect()
    for column in ("one", "two"):
        with join(XID):
            connection.execute("UPDATE account SET name = 'x' WHERE id = 1")
            connection.execute("DELETE FROM account WHERE id = 2")
            connection.commit()
        coordinator.rollback(XID)
        database.run(f"ALTER TABLE account ADD COLUMN {column} int DEFAULT 7")
    assert database.rows("SELECT one, two FROM account WHERE id = 2") == [(7, 7)]
    database.run("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
                 "CREATE TRIGGER tr BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION f()")  # fmt: skip
    with join(XID), pytest.raises(NotSupported, match="trigger"):
        connection.execute("UPDATE account SET name = 'x'")


def test_changing_the_global_transaction_in_the_middle_is_refused(database):
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        with join(OTHER), pytest.raises(NotSupported, match=XID):
            connection.execute("UPDATE account SET balance = 1 WHERE id = 2")
        connection.rollback()


def test_many_local_transactions_on_one_connection(database, coordinator):
    """psycopg prepares what it has seen five times."""
    before = database.dump()
    connection = database.connect()
    with join(XID):
        for number in range(12):
            connection.execute("UPDATE account SET balance = %s WHERE id = 1", (number,))
            connection.execute("SELECT 1")
            connection.commit()
    assert len(coordinator.branches) == 12
    coordinator.rollback(XID)
    assert database.dump() == before


def test_an_abandoned_local_transaction_is_rolled_back(database, coordinator):
    connection = database.connect()
    with pytest.raises(ZeroDivisionError), join(XID):  # noqa: PT012
        connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        raise ZeroDivisionError
    connection.abandon(XID)
    assert connection.info.transaction_status.name == "IDLE"
    connection.execute("UPDATE account SET balance = 2 WHERE id = 1")
    connection.commit()
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(2,)]


def test_command_line(database):
    runner = CliRunner()
    database.run("DROP TABLE undo_log")
    assert runner.invoke(at.app, ["check", database.url]).exit_code == 1
    for command in ("init", "init", "check"):
        result = runner.invoke(at.app, [command, database.url])
        assert result.exit_code == 0, result.stderr
    away = "postgresql://nobody@127.0.0.1:1/x"
    result = runner.invoke(at.app, ["check", away])
    assert result.exit_code == 1
    assert "refused" in result.stderr
    assert runner.invoke(at.app, ["check", "postgresql://h/d?what=1"]).exit_code == 1
