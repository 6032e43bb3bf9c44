"""Local transactions inside a global one: who begins and ends them, locks, savepoints, failures."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from troth.client.context import join
from troth.client.errors import BranchFailed, CoordinatorUnavailable, LockConflict, NotInitialised, NotSupported
from troth.wire.seata.enums import BranchStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    GlobalLockQueryRequest,
)

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"
SET = "UPDATE account SET balance = ? WHERE id = 1"


def balance(database):
    return database.rows("SELECT balance FROM account WHERE id = 1")[0][0]


def test_several_statements_are_one_branch(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(A), connection:
        connection.execute("INSERT INTO account (id, name) VALUES (9, 'nine')")
        connection.execute("UPDATE account SET name = 'ten' WHERE id = 9")
        connection.execute("UPDATE pair SET v = 0 WHERE a = 1")
        connection.execute("DELETE FROM account WHERE id IN (1, 9)")
        connection.execute("INSERT INTO account (id, name) VALUES (1, 'again')")
    assert coordinator.lock_texts == ["account:9,1;pair:1_x,1_y"]
    assert coordinator.branches[0][1].application_data == '{"autoCommit":false}'
    coordinator.rollback(A)
    assert database.dump() == before


def test_several_local_commits_on_the_same_rows(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(A):
        for value in (1, 2, 3):
            connection.execute(SET, (value,))
            connection.commit()
    assert len(coordinator.branches) == 3
    coordinator.rollback(A)
    assert database.dump() == before


def test_autocommit_is_a_branch_per_statement(database, coordinator):
    before = database.dump()
    connection = database.connect(isolation_level=None)
    with join(A):
        connection.execute(SET, (1,))
        assert not connection.in_transaction
        connection.execute(SET, (2,))
    assert [request.application_data for _, request in coordinator.branches] == [None, None]
    coordinator.rollback(A)
    assert database.dump() == before


def test_users_own_begin_and_commit(database, coordinator):
    connection = database.connect(isolation_level=None)
    with join(A):
        connection.execute("BEGIN")
        connection.execute(SET, (1,))
        connection.execute(SET, (2,))
        assert coordinator.branches == []
        connection.execute("COMMIT")
        assert coordinator.lock_texts == ["account:1"]
        connection.execute("BEGIN IMMEDIATE TRANSACTION")
        connection.execute(SET, (3,))
        connection.execute("ROLLBACK")
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("COMMIT")
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
    assert len(coordinator.branches) == 1
    assert balance(database) == 2.0


def test_with_block_rolls_back_on_an_exception(database, coordinator):
    connection = database.connect()
    with join(A), pytest.raises(sqlite3.OperationalError), connection:
        connection.execute(SET, (1,)).execute("SELECT nothing")
    assert balance(database) == 100.0
    assert coordinator.messages == []


def test_conflict_in_an_explicit_transaction_rolls_back_and_frees_the_file(database, coordinator):
    one, two = database.connect(), database.connect()
    with join(A), one:
        one.execute(SET, (1,))
    with join(B):
        two.execute("UPDATE account SET balance = 5 WHERE id = 1")
        with pytest.raises(LockConflict) as caught:
            two.commit()
        assert caught.value.key == "account:1"
        assert not two.in_transaction
        assert balance(database) == 1.0
        database.run("UPDATE account SET name = 'free' WHERE id = 3")
        coordinator.commit(A)
        two.execute(SET, (5,))
        two.commit()
    assert balance(database) == 5.0


def test_conflict_tells_row_holder_and_age_where_the_coordinator_does(database, coordinator):
    coordinator.says = f"row account:2 is held by xid = {A} for 1500 ms"
    one, two = database.connect(isolation_level=None), database.connect(isolation_level=None)
    with join(A):
        one.execute("UPDATE account SET name = 'x'")
    with join(B), pytest.raises(LockConflict) as caught:
        two.execute("UPDATE account SET name = 'y'")
    assert (caught.value.key, caught.value.holder, caught.value.age) == ("account:2", A, timedelta(milliseconds=1500))


def test_conflict_in_autocommit_is_tried_again_and_leaves_nothing_open(database, coordinator):
    one, two = database.connect(isolation_level=None), database.connect(isolation_level=None)
    with join(A):
        one.execute(SET, (1,))
    coordinator.messages.clear()
    with join(B), pytest.raises(LockConflict):
        two.execute("UPDATE account SET balance = balance + 1 WHERE id = 1")
    tries = [message for message in coordinator.messages if type(message) is BranchRegisterRequest]
    assert len(tries) == coordinator.settings.lock_retry_times
    assert not two.in_transaction


def test_conflict_that_ends_while_waiting(database, coordinator, monkeypatch):
    """The wait is outside of the local transaction, and the row is imaged anew behind it."""
    one, two = database.connect(isolation_level=None), database.connect(isolation_level=None)
    with join(A):
        one.execute(SET, (1,))
    monkeypatch.setattr("troth.client.drivers.running.time.sleep", lambda delay_s: coordinator.rollback(A))
    with join(B):
        two.execute("UPDATE account SET balance = balance + 1 WHERE id = 1")
    assert balance(database) == 101.0
    coordinator.rollback(B)
    assert balance(database) == 100.0


def test_rows_deleted_by_an_open_transaction_are_not_taken_by_another(database, coordinator):
    """SQLite gives a deleted highest rowid again; the row lock stops it."""
    one, two = database.connect(isolation_level=None), database.connect()
    with join(A):
        one.execute("DELETE FROM account WHERE id = 3")
    with join(B):
        assert two.execute("INSERT INTO account (name) VALUES ('three')").lastrowid == 3
        with pytest.raises(LockConflict):
            two.commit()
    coordinator.rollback(A)


def test_row_that_a_foreign_key_refers_to_must_be_free(database, coordinator):
    database.run(
        "CREATE TABLE card (id INTEGER PRIMARY KEY, owner REFERENCES account, a, b, FOREIGN KEY (a, b) REFERENCES pair)"
    )
    one, two = database.connect(isolation_level=None), database.connect(isolation_level=None)
    two.execute("PRAGMA foreign_keys = ON")
    with join(A):
        one.execute("INSERT INTO account (id) VALUES (7)")
    with join(B):
        with pytest.raises(LockConflict, match="foreign key"):
            two.execute("INSERT INTO card (owner) VALUES (7)")
        two.execute("INSERT INTO card (owner, a, b) VALUES (1, 1, 'x')")
        two.execute("UPDATE card SET owner = NULL")
    queries = [m.lock_key for m in coordinator.messages if isinstance(m, GlobalLockQueryRequest)]
    assert queries == ["account:7"] * 3 + ["account:1;pair:1_x"]
    coordinator.rollback(A)
    coordinator.rollback(B)


def test_local_transaction_begun_before_the_global_one_is_refused(database):
    connection = database.connect()
    connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
    with join(A), pytest.raises(NotSupported, match="before the global"):
        connection.execute(SET, (2,))
    connection.rollback()


@pytest.mark.parametrize("other", [None, B])
def test_global_transaction_that_changes_in_the_middle_is_refused(database, coordinator, other):
    connection = database.connect()
    with join(A):
        connection.execute(SET, (1,))
    with join(other):
        with pytest.raises(NotSupported, match="belongs to the global transaction"):
            connection.execute(SET, (2,))
        assert connection.execute("SELECT balance FROM account WHERE id = 1").fetchone() == (1.0,)
        with pytest.raises(NotSupported, match="belongs to the global transaction"):
            connection.commit()
        assert not connection.in_transaction
    assert balance(database) == 100.0
    assert coordinator.branches == []


def test_savepoints(database, coordinator):
    before = database.dump()
    connection = database.connect()
    with join(A):
        connection.execute("SAVEPOINT first")
        connection.execute(SET, (1,))
        connection.execute('SAVEPOINT "Inner"')
        connection.execute("DELETE FROM pair")
        connection.execute("SAVEPOINT deep")
        connection.execute("DELETE FROM account WHERE id = 2")
        connection.execute("ROLLBACK TO SAVEPOINT inner")
        connection.execute("INSERT INTO pair VALUES (8, 'z', 0)")
        connection.execute("RELEASE inner")
        connection.execute("RELEASE SAVEPOINT first")
        assert connection.in_transaction
        connection.commit()
    assert coordinator.lock_texts == ["account:1;pair:8_z"]
    coordinator.rollback(A)
    assert database.dump() == before


def test_savepoint_that_would_commit_by_its_release_is_refused(database):
    connection = database.connect(isolation_level=None)
    with join(A), pytest.raises(NotSupported, match="RELEASE commits"):
        connection.execute("SAVEPOINT s")


def test_savepoint_undone_wholly_leaves_no_branch(database, coordinator):
    connection = database.connect(isolation_level=None)
    with join(A):
        connection.execute("BEGIN")
        connection.execute("SAVEPOINT s")
        connection.execute(SET, (1,))
        connection.execute("ROLLBACK TO s")
        connection.execute("COMMIT")
    assert coordinator.branches == []


def test_statement_that_fails_leaves_the_rest_of_the_transaction(database, coordinator):
    connection = database.connect()
    with join(A):
        connection.execute(SET, (1,))
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO account (id) VALUES (2)")
        with pytest.raises(NotSupported):
            connection.execute("UPDATE account SET id = 9")
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("UPDATE account SET nothing = 9")
        connection.commit()
    assert coordinator.lock_texts == ["account:1"]


@pytest.mark.parametrize("isolation_level", ["", None])
def test_unreachable_coordinator_rolls_back(database, coordinator, isolation_level):
    connection = database.connect(isolation_level=isolation_level)
    coordinator.error = CoordinatorUnavailable("no link")
    with join(A), pytest.raises(CoordinatorUnavailable), connection:
        connection.execute(SET, (1,))
    assert not connection.in_transaction
    assert balance(database) == 100.0
    assert database.undo_rows() == []


def test_refused_registration_rolls_back(database, coordinator):
    connection = database.connect()
    code = TransactionExceptionCode.GlobalTransactionNotActive
    coordinator._register = lambda message: BranchRegisterResponse(ResultCode.Failed, "too late", code)
    with join(A), pytest.raises(BranchFailed, match=r"too late \(GlobalTransactionNotActive\)"), connection:
        connection.execute(SET, (1,))
    assert balance(database) == 100.0


def test_rollback_that_overtakes_phase_one(database, coordinator):
    """The guard row stops a branch whose global transaction is rolled back while it commits."""
    connection = database.connect()
    guard = "INSERT INTO undo_log VALUES (1000, ?, 'serializer=jackson', x'7b7d', 1, '2026-01-01', '2026-01-01')"
    with join(A):
        connection.execute(SET, (1,))
        # Written by this very connection, since its BEGIN IMMEDIATE holds the file.
        connection._raw.execute(guard, (A,))
        with pytest.raises(BranchFailed, match="could not be committed"):
            connection.commit()
    assert coordinator.reports == [BranchStatus.PhaseOne_Failed]
    assert balance(database) == 100.0


def test_commit_that_the_database_refuses_is_reported(database, coordinator):
    database.run("CREATE TABLE kid (id INTEGER PRIMARY KEY, p REFERENCES account DEFERRABLE INITIALLY DEFERRED)")
    connection = database.connect()
    connection.execute("PRAGMA foreign_keys = ON")
    with join(A):
        connection.execute("INSERT INTO kid VALUES (1, 99)")
        with pytest.raises(BranchFailed, match="FOREIGN KEY"):
            connection.commit()
    report = coordinator.messages[-1]
    assert isinstance(report, BranchReportRequest)
    assert (report.xid, report.branch_id, report.status) == (A, 1000, BranchStatus.PhaseOne_Failed)
    assert database.rows("SELECT * FROM kid") == []
    assert not connection.in_transaction


def test_report_that_fails_does_not_hide_the_first_error(database, coordinator):
    connection = database.connect()
    coordinator.before_answer = lambda request: setattr(coordinator, "error", CoordinatorUnavailable("gone"))
    with join(A):
        connection.execute(SET, (1,))
        connection._raw.execute("DROP TABLE undo_log")
        with pytest.raises(BranchFailed, match="undo_log") as caught:
            connection.commit()
    assert "gone" in "".join(caught.value.__cause__.__notes__)


def test_database_that_ends_the_local_transaction_by_itself(database, coordinator):
    connection = database.connect()
    with join(A):
        for use in (connection.commit, lambda: connection.execute(SET, (2,)), lambda: connection.execute("BEGIN")):
            connection.execute(SET, (1,))
            connection._raw.rollback()
            with pytest.raises(BranchFailed, match="by itself"):
                use()
        connection.execute(SET, (3,))
        connection.commit()
    assert len(coordinator.branches) == 1


def test_setting_isolation_level_would_commit(database):
    connection = database.connect()
    with join(A):
        connection.execute(SET, (1,))
        with pytest.raises(NotSupported, match="isolation_level"):
            connection.isolation_level = None
        connection.rollback()
        connection.isolation_level = None
    assert connection.isolation_level is None


def test_close_rolls_back(database, coordinator):
    connection = database.connect()
    with join(A):
        connection.execute(SET, (1,))
        connection.close()
    assert balance(database) == 100.0


def test_without_a_client_writes_are_refused_inside_a_global_transaction(database):
    import troth.at

    connection = troth.at.connect(database.url)
    with join(A), pytest.raises(NotInitialised):
        connection.execute(SET, (1,))
    assert not connection.in_transaction
    connection.execute(SET, (1,))
    connection.close()


class InterruptedCommit(sqlite3.Connection):
    """Ctrl-C arrives while COMMIT runs: the signal's exception is raised behind it."""

    def cursor(self, *args, **options):
        return super().cursor(InterruptedCursor)


class InterruptedCursor(sqlite3.Cursor):
    def execute(self, sql, parameters=()):
        super().execute(sql, parameters)
        if sql == self.connection.interrupts:
            raise KeyboardInterrupt
        return self


@pytest.mark.parametrize(("behind", "branches"), [("BEGIN IMMEDIATE", 0), ("COMMIT", 1)])
def test_an_interrupt_goes_on_and_leaves_nothing_open(database, coordinator, behind, branches):
    before = database.dump()
    connection = database.connect(isolation_level=None, factory=InterruptedCommit)
    connection.interrupts = behind
    with join(A), pytest.raises(KeyboardInterrupt):
        connection.execute(SET, (1,))
    assert not connection.in_transaction
    assert len(coordinator.branches) == branches
    coordinator.rollback(A)
    assert database.dump() == before
