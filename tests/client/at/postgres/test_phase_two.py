"""Phase two on a real PostgreSQL (at.md §4), and what a statement touches besides its rows (§2)."""

from __future__ import annotations

import json
import time

import psycopg
import pytest

from troth.client.context import join
from troth.client.errors import LockConflict, NotSupported
from troth.client.sql.undo_codec import decode, encode
from troth.wire.seata.enums import BranchStatus

pytestmark = pytest.mark.engines

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"
FROZEN, LATER = BranchStatus.PhaseTwo_RollbackFailed_Unretryable, BranchStatus.PhaseTwo_RollbackFailed_Retryable


@pytest.fixture
def change(database):
    connection = database.connect()

    def run(*statements: str, xid: str = A) -> None:
        with join(xid):
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return run


def test_commit_deletes_undo_rows_in_one_batch(database, coordinator, change):
    for number in range(5):
        change(f"UPDATE account SET balance = {number} WHERE id = 1")
    assert len(database.undo_rows()) == 5
    coordinator.commit(A)
    assert database.undo_rows() == []
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(4,)]


def test_several_branches_on_the_same_rows_and_idempotence(database, coordinator, change):
    before = database.dump()
    change("UPDATE account SET balance = 1 WHERE id = 1", "DELETE FROM account WHERE id = 2")
    change("INSERT INTO account (id, name) VALUES (2, 'again')", "UPDATE account SET balance = balance + 1")
    change("DELETE FROM account")
    branches = list(coordinator.branches)
    coordinator.rollback(A)
    assert database.dump() == before
    coordinator.branches = branches
    coordinator.rollback(A)
    assert database.dump() == before


def test_dirty_row_freezes(database, coordinator, change):
    change("UPDATE account SET balance = 1 WHERE id = 1")
    database.run("UPDATE account SET balance = 2 WHERE id = 1")
    (answer,) = coordinator.try_rollback(A)
    assert answer.branch_status is FROZEN
    for part in ("account(id='1')", "before '100.00'", "after '1.00'", "now '2.00'"):
        assert part in answer.msg
    database.run("UPDATE account SET balance = 1 WHERE id = 1")
    coordinator.rollback(A)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(100,)]


def test_row_that_is_restored_already(database, coordinator, change):
    change("UPDATE account SET balance = 1 WHERE id = 1", "DELETE FROM account WHERE id = 2")
    database.run("UPDATE account SET balance = 100 WHERE id = 1")
    coordinator.rollback(A)
    assert database.rows("SELECT count(*) FROM account") == [(3,)]


def test_taken_unique_value_freezes_and_names_the_row(database, coordinator, change):
    database.run("CREATE TABLE u (id int PRIMARY KEY, e text UNIQUE); INSERT INTO u VALUES (1, 'x@y')")
    change("DELETE FROM u WHERE id = 1")
    assert coordinator.lock_texts == ["u:1;u#u_e_key:x@y"]
    database.run("INSERT INTO u VALUES (2, 'x@y')")
    (answer,) = coordinator.try_rollback(A)
    assert answer.branch_status is FROZEN
    assert "row u(id='2') has ('e',) = ['x@y'] (u_e_key)" in answer.msg


def test_others_take_no_freed_unique_value(database, coordinator, change):
    database.run("CREATE TABLE u (id int PRIMARY KEY, e text UNIQUE); INSERT INTO u VALUES (1, 'x@y')")
    change("UPDATE u SET e = 'new' WHERE id = 1")
    with pytest.raises(LockConflict):
        change("INSERT INTO u VALUES (2, 'x@y')", xid=B)


def test_locked_row_is_asked_again(database, coordinator, change):
    change("UPDATE account SET balance = 1 WHERE id = 1")
    with psycopg.connect(database.url) as other:
        other.execute("SELECT * FROM account WHERE id = 1 FOR UPDATE")
        started = time.monotonic()
        (answer,) = coordinator.try_rollback(A)
        assert answer.branch_status is LATER
        assert 1 < time.monotonic() - started < 10
    coordinator.rollback(A)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(100,)]


def test_server_away_is_asked_again(database, coordinator, change, monkeypatch):
    change("UPDATE account SET balance = 1 WHERE id = 1")
    with monkeypatch.context() as patched:
        patched.setattr(psycopg, "connect", lambda *a, **k: (_ for _ in ()).throw(psycopg.OperationalError("away")))
        assert coordinator.try_rollback(A)[0].branch_status is LATER
    coordinator.rollback(A)


KEYS = """
CREATE TABLE k (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, u int UNIQUE, d int, g int GENERATED ALWAYS AS (d * 2)
  STORED UNIQUE, s int UNIQUE DEFERRABLE, n int, UNIQUE NULLS NOT DISTINCT (n), boss int REFERENCES k);
INSERT INTO k (u, d, s, n) VALUES (3, 1, 1, 1), (2, 2, 2, NULL), (1, 3, 3, 3);
UPDATE k SET boss = 1;
"""

KEY_STATEMENTS = [
    "UPDATE k SET u = u + 1",
    "UPDATE k SET s = 4 - s",
    "UPDATE k SET d = d + 10",
    "UPDATE k SET n = coalesce(n, 0) + 10",
    "DELETE FROM k",
    "DELETE FROM k WHERE u = 2",
    "INSERT INTO k (u) OVERRIDING SYSTEM VALUE VALUES (10)",
    "INSERT INTO k (id, u, n, boss) OVERRIDING SYSTEM VALUE VALUES (20, 10, 20, 21), (21, 11, 21, 20)",
    "INSERT INTO k (id, u, n) OVERRIDING SYSTEM VALUE VALUES (1, 7, 9) ON CONFLICT (id) DO UPDATE SET u = 9, d = 77",
    "INSERT INTO k (u, n) VALUES (3, 50), (60, 60) ON CONFLICT (u) DO UPDATE SET u = 100",
]


@pytest.mark.parametrize("statement", KEY_STATEMENTS)
def test_keys_identities_and_generated_columns(database, coordinator, change, statement):
    database.run(KEYS)
    if statement == KEY_STATEMENTS[6]:
        database.run("DELETE FROM k WHERE n IS NULL")
    before = database.dump()
    change(statement)
    assert database.dump() != before
    coordinator.rollback(A)
    assert database.dump() == before


def test_identity_always_is_not_updated(database, change):
    database.run("CREATE TABLE i (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY); INSERT INTO i VALUES (1)")
    with pytest.raises(NotSupported, match="IDENTITY"):
        change("UPDATE i SET n = DEFAULT")


def test_freed_and_taken_in_one_upsert(database, coordinator, change):
    """The update frees the value that the insert takes, so the undo has to go the other way round."""
    database.run("CREATE TABLE f (id int PRIMARY KEY, u int UNIQUE); INSERT INTO f VALUES (1, 5)")
    before = database.dump()
    change("INSERT INTO f VALUES (1, 0), (2, 5) ON CONFLICT (id) DO UPDATE SET u = 6")
    coordinator.rollback(A)
    assert database.dump() == before


CHILD = """
CREATE TABLE parent (id int PRIMARY KEY, v int); INSERT INTO parent VALUES (1, 1), (2, 2);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent); INSERT INTO child VALUES (1, 1);
"""


def test_a_written_foreign_key_needs_its_parent_free(database, coordinator, change):
    database.run(CHILD)
    change("UPDATE parent SET v = 9 WHERE id = 2")
    with pytest.raises(LockConflict, match="foreign key"):
        change("INSERT INTO child VALUES (2, 2)", xid=B)
    change("INSERT INTO child VALUES (3, 1)", xid=B)
    coordinator.rollback(B)
    coordinator.rollback(A)


def test_undo_that_a_foreign_key_forbids_freezes(database, coordinator, change):
    database.run(CHILD)
    change("INSERT INTO parent VALUES (3, 3)")
    database.run("INSERT INTO child VALUES (9, 3)")
    (answer,) = coordinator.try_rollback(A)
    assert answer.branch_status is FROZEN
    assert "child" in answer.msg


def test_parents_and_children_in_one_branch(database, coordinator, change):
    database.run(CHILD)
    before = database.dump()
    change("DELETE FROM child", "DELETE FROM parent", "INSERT INTO parent VALUES (7, 7)",
           "INSERT INTO child VALUES (7, 7)")  # fmt: skip
    coordinator.rollback(A)
    assert database.dump() == before


def _rewritten(database, edit) -> None:
    (_, branch_id, _, context, info) = database.undo_rows()[0]
    text = json.loads(bytes(info))
    edit(text)
    log = json.dumps(text).encode()
    decode(str(context), log)
    database._plain.execute("UPDATE undo_log SET rollback_info = %s WHERE branch_id = %s", (log, branch_id))


def test_rows_of_java(database, coordinator, change):
    """What the JDBC driver gives for these types, as Jackson writes it; no texts of ours beside the values."""
    database.run("CREATE TABLE j (id int PRIMARY KEY, ts timestamp, tz timestamptz, d date, t time, js jsonb, a int[], "
                 "s text[], n numeric, l int8)")  # fmt: skip
    database.run("INSERT INTO j VALUES (1, '2024-01-01 10:00:00.123456', '2024-01-01 10:00:00.5+00', '2024-02-29', "
                 "'03:04:05', '{\"a\": 1}', '{1,NULL}', '{\"a b\",\"c\\\"d\"}', 7.25, 5)")  # fmt: skip
    before = database.dump()
    change("DELETE FROM j")

    def edit(tree):
        for field in tree["sqlUndoLogs"][1][0]["beforeImage"]["rows"][1][0]["fields"][1]:
            field.pop("text", None)
            array = {"@class": "org.apache.seata.rm.datasource.sql.serial.SerialArray", "baseType": 4}
            if field["name"] == "a":
                field["value"] = array | {"baseTypeName": "int4", "elements": ["[Ljava.lang.Object;", [1, None]]}
            if field["name"] == "s":
                field["value"] = array | {"baseTypeName": "text", "elements": ["[Ljava.lang.Object;", ["a b", 'c"d']]}

    _rewritten(database, edit)
    coordinator.rollback(A)
    assert database.dump() == before


def test_unknown_serializer_freezes_and_is_kept(database, coordinator, change):
    change("UPDATE account SET balance = 1 WHERE id = 1")
    database.run("UPDATE undo_log SET context = 'serializer=kryo&compressorType=NONE'")
    (answer,) = coordinator.try_rollback(A)
    assert answer.branch_status is FROZEN
    assert "kryo" in answer.msg
    assert len(database.undo_rows()) == 1


def test_compressed_undo_rows_are_read(database, coordinator, change):
    before = database.dump()
    change("UPDATE account SET balance = 1 WHERE id = 1")
    (_, branch_id, _, context, info) = database.undo_rows()[0]
    zipped = "serializer=jackson&compressorType=ZIP"
    database._plain.execute(
        "UPDATE undo_log SET context = %s, rollback_info = %s WHERE branch_id = %s",
        (zipped, encode(zipped, decode(str(context), bytes(info))), branch_id),
    )
    coordinator.rollback(A)
    assert database.dump() == before


def test_old_undo_rows_are_deleted(database, coordinator, change):
    change("UPDATE account SET balance = 1 WHERE id = 1")
    resource = next(iter(coordinator.handlers.values()))
    resource.delete_undo_logs(7)
    assert len(database.undo_rows()) == 1
    database.run("UPDATE undo_log SET log_created = now() - interval '8 days'")
    resource.delete_undo_logs(7)
    assert database.undo_rows() == []


def test_large_statements(database, coordinator, change):
    before = database.dump()
    change("INSERT INTO account (id, name) SELECT i, 'n' || i FROM generate_series(10, 620) i",
           "UPDATE account SET balance = id", "DELETE FROM account WHERE id % 2 = 0")  # fmt: skip
    coordinator.rollback(A)
    assert database.dump() == before
