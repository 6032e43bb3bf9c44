"""What a statement touches besides its rows (at.md §2). Each schedule is also played in the naive way, without what AT
does about it, to see that it would go wrong."""

from __future__ import annotations

import pytest

from troth.client.context import join
from troth.client.errors import LockConflict, NotSupported
from troth.client.sql.dialects.postgres_grammar import parse
from troth.wire.seata.enums import BranchStatus

pytestmark = pytest.mark.engines

T1, T2 = "10.0.0.1:8091:1", "10.0.0.1:8091:2"
FROZEN = BranchStatus.PhaseTwo_RollbackFailed_Unretryable
TABLES = """
CREATE TABLE acc (id int PRIMARY KEY, mail text UNIQUE, n int, f int);
INSERT INTO acc VALUES (1, 'x@y', 1, 1), (3, 'u', 3, 3);
CREATE UNIQUE INDEX acc_part ON acc (n) WHERE f > 0;
CREATE TABLE nn (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
INSERT INTO nn VALUES (1, 1, NULL);
CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE); INSERT INTO parent VALUES (1, 'a'), (2, 'b');
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent, c varchar(9) REFERENCES parent (code));
INSERT INTO child VALUES (1, 1, 'a');
"""


@pytest.fixture
def run(database):
    database.run(TABLES)
    connections = {}

    def executed(xid, sql, *, naive=False):
        connection = connections.setdefault(xid, database.connect(autocommit=True))
        connection.at.phase_one._writer._lock_unique_keys = not naive
        with join(xid):
            connection.execute(sql)

    return executed


UNIQUE_VALUES = {
    "a deleted row's value is inserted": ("DELETE FROM acc WHERE id = 1", "INSERT INTO acc VALUES (2, 'x@y')"),
    "a deleted row's value is set": ("DELETE FROM acc WHERE id = 1", "UPDATE acc SET mail = 'x@y' WHERE id = 3"),
    "a changed value is inserted": ("UPDATE acc SET mail = 'new' WHERE id = 1", "INSERT INTO acc VALUES (2, 'x@y')"),
    "a row that left a partial index": ("UPDATE acc SET f = 0 WHERE id = 1", "INSERT INTO acc VALUES (2, 'z', 1, 1)"),
    "NULLS NOT DISTINCT": ("DELETE FROM nn", "INSERT INTO nn VALUES (2, 1, NULL)"),
    "by an upsert": ("DELETE FROM acc WHERE id = 1",
                     "INSERT INTO acc VALUES (3, 'q', 3, 3) ON CONFLICT (id) DO UPDATE SET mail = 'x@y'"),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), UNIQUE_VALUES.values(), ids=UNIQUE_VALUES)
def test_a_freed_unique_value_is_kept_for_its_undo(database, coordinator, run, first, second):
    before = database.dump()
    run(T1, first)
    with pytest.raises(LockConflict):
        run(T2, second)
    coordinator.rollback(T1)
    assert database.dump() == before


@pytest.mark.parametrize(("first", "second"), UNIQUE_VALUES.values(), ids=UNIQUE_VALUES)
def test_the_naive_way_freezes_and_names_the_row(coordinator, run, first, second):
    run(T1, first, naive=True)
    run(T2, second, naive=True)
    answers = coordinator.try_rollback(T1)
    assert answers[-1].branch_status is FROZEN
    assert "(id='2')" in answers[-1].msg or "(id='3')" in answers[-1].msg


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("UPDATE parent SET code = 'z' WHERE id = 2", "INSERT INTO child VALUES (2, 2, NULL)"),
        ("INSERT INTO parent VALUES (5, 'e')", "INSERT INTO child VALUES (2, 5, NULL), (3, 1, NULL)"),
        ("INSERT INTO parent VALUES (5, 'e')", "INSERT INTO child VALUES (2, NULL, 'e')"),
        ("INSERT INTO parent VALUES (5, 'e')", "UPDATE child SET p = 5"),
    ],
)
def test_a_written_foreign_key_needs_its_parent_free(database, coordinator, run, first, second):
    run(T1, first)
    with pytest.raises(LockConflict, match="foreign key"):
        run(T2, second)
    run(T1, second)  # one's own parent is no obstacle
    coordinator.rollback(T1)
    assert database.rows("SELECT * FROM parent ORDER BY id") == [(1, "a"), (2, "b")]


def test_a_parent_that_a_stranger_refers_to_freezes_and_is_named(database, coordinator, run):
    run(T1, "INSERT INTO parent VALUES (5, 'e')")
    database.run("INSERT INTO child VALUES (7, 5, NULL)")
    answer = coordinator.try_rollback(T1)[-1]
    assert answer.branch_status is FROZEN
    assert "child" in answer.msg
    assert "'id': 7" in answer.msg


def test_a_child_whose_parent_has_gone_freezes_and_is_named(database, coordinator, run):
    run(T1, "DELETE FROM child")
    database.run("DELETE FROM parent WHERE id = 1")
    answer = coordinator.try_rollback(T1)[-1]
    assert answer.branch_status is FROZEN
    assert "child(id='1')" in answer.msg
    assert 'not present in table "parent"' in answer.msg


def test_undo_takes_no_rows_of_others_along(database, coordinator, run):
    """A cascade that was declared behind the statement: undo would delete the child with the parent."""
    run(T1, "INSERT INTO parent VALUES (5, 'e')")
    database.run(
        "CREATE TABLE late (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE); "
        "INSERT INTO late VALUES (1, 5)"
    )
    answer = coordinator.try_rollback(T1)[-1]
    assert answer.branch_status is FROZEN
    assert "late" in answer.msg
    assert database.rows("SELECT id FROM late") == [(1,)]


ODD_PARTITIONS = {
    "trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM acc; RETURN NEW; END'; "
    "CREATE TRIGGER tr AFTER UPDATE ON p1 FOR EACH ROW EXECUTE FUNCTION f()",
    "unique key": "CREATE UNIQUE INDEX ON p1 (v)",
    "foreign key": "ALTER TABLE p1 ADD FOREIGN KEY (v) REFERENCES parent",
}


@pytest.mark.parametrize("script", ODD_PARTITIONS.values(), ids=ODD_PARTITIONS)
def test_a_partition_with_something_of_its_own_is_refused(database, run, script):
    database.run(
        "CREATE TABLE p (a int PRIMARY KEY, v int) PARTITION BY RANGE (a); "
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 1)"
    )
    run(T1, "UPDATE p SET v = 2")
    database.run(script)
    with pytest.raises(NotSupported, match="partition p1"):
        run(T1, "UPDATE p SET v = 1")


FUNCTIONS = """
CREATE FUNCTION takes(i int) RETURNS int LANGUAGE sql AS 'DELETE FROM acc WHERE id = i RETURNING id';
CREATE FUNCTION asks(i int) RETURNS text LANGUAGE sql STABLE AS 'SELECT mail FROM acc WHERE id = i';
CREATE SCHEMA shop; CREATE FUNCTION shop."Odd"() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM acc; RETURN 1; END';
"""


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT takes(1)",
        "SELECT * FROM takes(1)",
        'SELECT shop . "Odd" ()',
        "UPDATE child SET p = takes(id)",
        "INSERT INTO child SELECT takes(1)",
        "WITH x AS (SELECT takes(3)) SELECT count(*) FROM x",
        "SELECT id FROM parent WHERE takes(id) IS NULL FOR UPDATE",
        "SELECT lo_create(0)",
    ],
)
def test_a_function_that_may_write_is_refused(database, coordinator, run, sql):
    database.run(FUNCTIONS)
    before = database.dump()
    for _ in range(2):
        with pytest.raises(NotSupported, match="VOLATILE"):
            run(T1, sql)
    assert database.dump() == before
    assert coordinator.branches == []


def test_a_function_that_reads_is_not(database, coordinator, run):
    database.run(FUNCTIONS)
    run(T1, "SELECT asks(1), count(*), now(), random() FROM acc")
    run(T1, "UPDATE acc SET mail = upper(asks(id)) WHERE length(asks(id)) > 0")
    coordinator.rollback(T1)
    with join(T1), database.connect() as connection:
        with connection.cursor("named") as cursor:
            assert cursor.execute("SELECT count(*) FROM acc").fetchone() == (2,)
            with pytest.raises(NotSupported):
                cursor.execute("SELECT takes(1)")
        with pytest.raises(NotSupported):
            list(connection.cursor().stream("SELECT takes(1)"))


def test_a_statement_is_parsed_once(database, monkeypatch, run):
    parsed = []
    monkeypatch.setattr("troth.client.sql.dialects.postgres.parse", lambda sql: parsed.append(sql) or parse(sql))
    for _ in range(5):
        run(T1, "UPDATE acc SET n = 5 WHERE id = 1")
    assert parsed == ["UPDATE acc SET n = 5 WHERE id = 1"]
