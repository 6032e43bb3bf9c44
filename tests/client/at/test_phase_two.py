"""Phase two: idempotent, guarded, and frozen with a reason where rows are not what the branch left."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from troth.client.context import join
from troth.client.drivers.sqlite import SqliteResource
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode
from troth.wire.seata.messages import BranchCommitRequest, BranchRollbackRequest

XID = "10.0.0.1:8091:5"
FROZEN = BranchStatus.PhaseTwo_RollbackFailed_Unretryable
LATER = BranchStatus.PhaseTwo_RollbackFailed_Retryable
UNDONE = BranchStatus.PhaseTwo_Rollbacked


@pytest.fixture
def change(database):
    """Runs statements as one branch of XID."""

    def run(*statements, foreign_keys=False):
        connection = database.connect()
        connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        with join(XID), connection:
            for sql in statements:
                connection.execute(sql)

    return run


def roll_back(coordinator, branch_id=1000, resource=None):
    resource = resource or next(iter(coordinator.handlers))
    return coordinator.handlers[resource].rollback(BranchRollbackRequest(XID, branch_id, BranchType.AT, resource))


def test_rollback_twice(database, coordinator, change):
    before = database.dump()
    change("UPDATE account SET balance = 0")
    assert roll_back(coordinator).branch_status is UNDONE
    assert roll_back(coordinator).branch_status is UNDONE
    assert database.dump() == before


def test_rollback_without_an_undo_row_leaves_a_guard(database, coordinator, change):
    change("UPDATE account SET balance = 0")
    assert roll_back(coordinator, 7).branch_status is UNDONE
    assert roll_back(coordinator, 7).branch_status is UNDONE
    (guard,) = [row for row in database.undo_rows() if row[1] == 7]
    assert guard == (XID, 7, 1, "serializer=jackson&compressorType=NONE", b"{}")


def test_commit_twice_and_in_batches(database, coordinator):
    connection = database.connect(isolation_level=None)
    with join(XID):
        for value in range(5):
            connection.execute("UPDATE account SET balance = ?", (value,))
    resource = connection.resource_id
    requests = [BranchCommitRequest(XID, 1000 + i, BranchType.AT, resource) for i in range(900)]
    for _ in range(2):
        answers = coordinator.handlers[resource].commit(requests)
        assert {answer.branch_status for answer in answers} == {BranchStatus.PhaseTwo_Committed}
        assert [answer.branch_id for answer in answers] == [request.branch_id for request in requests]
    assert database.undo_rows() == []


def test_dirty_row_freezes_with_before_after_and_now(database, coordinator, change):
    change("UPDATE account SET balance = 90 WHERE id = 1")
    database.run("UPDATE account SET balance = 80 WHERE id = 1")
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert answer.result_code is ResultCode.Failed
    assert "account(id=1)" in answer.msg
    assert "balance: before 100.0, after 90.0, now 80.0" in answer.msg
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(80.0,)]
    assert len(database.undo_rows()) == 1


def test_column_that_the_statement_did_not_set_may_change(database, coordinator, change):
    change("UPDATE account SET balance = 90 WHERE id = 1")
    database.run("UPDATE account SET name = 'other' WHERE id = 1")
    assert roll_back(coordinator).branch_status is UNDONE
    assert database.rows("SELECT name, balance FROM account WHERE id = 1") == [("other", 100.0)]


def test_storage_class_counts(database, coordinator, change):
    change("UPDATE pair SET v = 1 WHERE a = 2")
    database.run("UPDATE pair SET v = '1' WHERE a = 2")
    assert roll_back(coordinator).branch_status is FROZEN


@pytest.mark.parametrize(
    ("statement", "by_hand"),
    [
        ("UPDATE account SET balance = 90 WHERE id = 1", "UPDATE account SET balance = 100 WHERE id = 1"),
        ("INSERT INTO account (id) VALUES (7)", "DELETE FROM account WHERE id = 7"),
        ("DELETE FROM account WHERE id = 3", "INSERT INTO account VALUES (3, NULL, -1, x'')"),
    ],
)
def test_undone_by_hand_already(database, coordinator, change, statement, by_hand):
    before = database.dump()
    change(statement)
    database.run(by_hand)
    assert roll_back(coordinator).branch_status is UNDONE
    assert database.dump() == before
    assert database.undo_rows() == []


@pytest.mark.parametrize(
    ("statement", "by_hand", "said"),
    [
        ("INSERT INTO account (id) VALUES (7)", "UPDATE account SET name = 'x' WHERE id = 7", "now 'x'"),
        ("DELETE FROM account WHERE id = 3", "INSERT INTO account (id) VALUES (3)", "now None"),
        ("UPDATE account SET balance = 0 WHERE id = 1", "DELETE FROM account WHERE id = 1", "now (no row)"),
    ],
)
def test_other_dirty_rows(database, coordinator, change, statement, by_hand, said):
    change(statement)
    database.run(by_hand)
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert said in answer.msg


def test_frozen_undoes_nothing_at_all(database, coordinator, change):
    change("UPDATE account SET balance = 0 WHERE id = 1", "UPDATE account SET balance = 0 WHERE id = 2")
    database.run("UPDATE account SET balance = 7 WHERE id = 1")
    before = database.dump()
    assert roll_back(coordinator).branch_status is FROZEN
    assert database.dump() == before


def test_unique_key_in_the_way_freezes_and_names_the_row(database, coordinator, change):
    database.run("CREATE UNIQUE INDEX by_name ON account (name)")
    change("DELETE FROM account WHERE id = 1")
    database.run("INSERT INTO account (id, name) VALUES (44, 'ann')")
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert "account(id=44)" in answer.msg
    assert "by_name" in answer.msg


def test_unique_values_that_move_are_undone_in_reverse(database, coordinator, change):
    database.run(
        """CREATE TABLE seat (id INTEGER PRIMARY KEY, n INTEGER UNIQUE);
        INSERT INTO seat VALUES (5, 1), (4, 2), (3, 3), (2, 4), (1, 5);"""
    )
    before = database.dump()
    change(
        "UPDATE seat SET n = n + 1 WHERE id > 0", "UPDATE seat SET n = n - 10", "DELETE FROM seat WHERE id IN (1, 3)"
    )
    assert roll_back(coordinator).branch_status is UNDONE, roll_back(coordinator).msg
    assert database.dump() == before


FAMILY = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, up REFERENCES parent);
CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE);
CREATE TABLE ward (id INTEGER PRIMARY KEY, p REFERENCES parent);
"""


def test_undo_of_an_insert_does_not_cascade(database, coordinator, change):
    database.run(FAMILY)
    change("INSERT INTO parent VALUES (1, NULL)", foreign_keys=True)
    database.run("INSERT INTO child VALUES (10, 1)")
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert "child{'id': 10, 'p': 1}" in answer.msg
    assert database.rows("SELECT id FROM child") == [(10,)]


def test_foreign_key_in_the_way_freezes_and_names_the_row(database, coordinator, change):
    database.run(FAMILY)
    change("INSERT INTO parent VALUES (1, NULL)", foreign_keys=True)
    database.run("INSERT INTO ward VALUES (10, 1)")
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert "ward(rowid=10)" in answer.msg
    assert database.rows("SELECT id FROM parent") == [(1,)]


def test_rows_that_refer_to_each_other_come_back_in_any_order(database, coordinator, change):
    database.run(
        """CREATE TABLE tree (id INTEGER PRIMARY KEY, up REFERENCES tree);
        INSERT INTO tree VALUES (2, NULL), (1, 2), (3, 1), (0, 3);"""
    )
    before = database.dump()
    change("DELETE FROM tree WHERE id >= 0", foreign_keys=True)
    assert roll_back(coordinator).branch_status is UNDONE
    assert database.dump() == before


def test_locked_database_is_asked_again(database, coordinator, change):
    change("UPDATE account SET balance = 0")
    resource = next(iter(coordinator.handlers))
    coordinator.handlers[resource] = SqliteResource(str(database.path), timeout_s=0.01)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        answer = roll_back(coordinator)
        assert answer.branch_status is LATER
        assert "locked" in answer.msg
        (committed,) = coordinator.handlers[resource].commit([BranchCommitRequest(XID, 1000, BranchType.AT, resource)])
        assert committed.branch_status is BranchStatus.PhaseTwo_CommitFailed_Retryable
        raw.execute("ROLLBACK")
    assert roll_back(coordinator).branch_status is UNDONE


def test_file_that_is_gone_is_not_made_anew(database, coordinator, change):
    change("UPDATE account SET balance = 0")
    database.close()
    moved = database.path.rename(database.path.with_suffix(".away"))
    assert roll_back(coordinator).branch_status is LATER
    assert not database.path.exists()
    moved.rename(database.path)
    assert roll_back(coordinator).branch_status is UNDONE


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ("context = 'serializer=kryo&compressorType=NONE'", "kryo"),
        ("rollback_info = x'7b'", "JSON"),
        ("rollback_info = replace(rollback_info, '\"branchId\":1000', '\"branchId\":1001')", "1001"),
        ("rollback_info = replace(rollback_info, 'account', 'nothing')", "nothing"),
    ],
)
def test_undo_row_that_cannot_be_read_freezes(database, coordinator, change, update, said):
    change("UPDATE account SET balance = 0")
    database.run(f"UPDATE undo_log SET {update}")
    answer = roll_back(coordinator)
    assert answer.branch_status is FROZEN
    assert said in answer.msg


def test_compressed_undo_row_of_another_writer(database, coordinator, change):
    import gzip

    before = database.dump()
    change("UPDATE account SET balance = 0")
    ((_, _, _, _, info),) = database.undo_rows()
    with closing(sqlite3.connect(database.path)) as raw:
        raw.execute(
            "UPDATE undo_log SET context = 'serializer=jackson&compressorType=GZIP&map=1', rollback_info = ?",
            (gzip.compress(info),),
        )
        raw.commit()
    assert roll_back(coordinator).branch_status is UNDONE
    assert database.dump() == before


def test_old_undo_rows_are_deleted(database, coordinator, change):
    change("UPDATE account SET balance = 0")
    handler = next(iter(coordinator.handlers.values()))
    roll_back(coordinator, 55)
    database.run(
        "UPDATE undo_log SET log_created = strftime('%Y-%m-%d %H:%M:%f', 'now', '-8 days') WHERE branch_id = 55"
    )
    handler.delete_undo_logs(7)
    assert [row[1] for row in database.undo_rows()] == [1000]


def test_unique_values_are_freed_before_they_are_taken(database, coordinator):
    """Also where the rows of an image stand in another order than the one in which the statement went through them."""
    database.run(
        "CREATE TABLE numbered (id INTEGER PRIMARY KEY, u INT UNIQUE); INSERT INTO numbered VALUES (1,3), (2,2), (3,1)"
    )
    before = database.dump()
    connection = database.connect()
    with join(XID):
        connection.execute("UPDATE numbered SET u = u + 1")
        connection.commit()
    ((info,),) = database.rows("SELECT rollback_info FROM undo_log")
    log = json.loads(info)
    for image in ("beforeImage", "afterImage"):
        log["sqlUndoLogs"][1][0][image]["rows"][1].reverse()
    with closing(sqlite3.connect(database.path)) as raw:
        raw.execute("UPDATE undo_log SET rollback_info = ?", (json.dumps(log).encode(),))
        raw.commit()
    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []
