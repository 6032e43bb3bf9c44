"""What others do between image and effect (at.md §1), and the end of local transactions (§3)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from troth.client.context import join
from troth.client.errors import BranchFailed, LockConflict, NotSupported
from troth.client.sql.undo_codec import decode
from troth.wire.seata.enums import BranchStatus

pytestmark = pytest.mark.engines

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


@contextmanager
def held(database, sql: str) -> Iterator[None]:
    """Another local transaction runs `sql` and commits at the end, when somebody waits for it."""
    with psycopg.connect(database.url) as other:
        other.execute(sql)
        started = threading.Event()
        thread = threading.Thread(target=_commit_when_waited_for, args=(database, other, started))
        thread.start()
        started.wait(10)
        yield
        thread.join(10)
        assert not thread.is_alive()


def _commit_when_waited_for(database, other, started):
    started.set()
    with psycopg.connect(database.url, autocommit=True) as look:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        deadline = time.monotonic() + 10
        while look.execute(waits).fetchone() == (0,) and time.monotonic() < deadline:
            time.sleep(0.01)
    other.commit()


CASES = {
    "value changes": ("UPDATE account SET balance = 1000 WHERE id = 1",
                      "UPDATE account SET name = 'u' WHERE balance >= 50", {"1", "2"}),
    "row leaves": ("UPDATE account SET balance = 0 WHERE id = 1",
                   "UPDATE account SET name = 'u' WHERE balance >= 50", {"2"}),
    "row enters": ("UPDATE account SET balance = CASE id WHEN 1 THEN 1000 ELSE 77 END WHERE id IN (1, 3)",
                   "UPDATE account SET name = 'u' WHERE balance >= 50", {"1", "2"}),
    "row is deleted": ("DELETE FROM account WHERE id = 1",
                       "UPDATE account SET name = 'u' WHERE balance >= 50", {"2"}),
    "key changes": ("UPDATE account SET id = 9 WHERE id = 1",
                    "UPDATE account SET name = 'u' WHERE balance >= 50", {"9", "2"}),
    "key changes under a join": ("UPDATE account SET id = 2 + 7, balance = 1 WHERE id = 2",
                                 "UPDATE account SET name = p.b FROM pair p WHERE p.a = account.id AND p.b = 'x'",
                                 {"1"}),
    "delete, row enters": ("UPDATE account SET balance = CASE id WHEN 1 THEN 1000 ELSE 77 END WHERE id IN (1, 3)",
                           "DELETE FROM account WHERE balance >= 50", {"1", "2"}),
    "delete, key changes": ("UPDATE account SET id = 9 WHERE id = 1",
                            "DELETE FROM account WHERE balance >= 50", {"9", "2"}),
    "upsert, row comes": ("INSERT INTO account (id, name) VALUES (8, 'other')",
                          "INSERT INTO account (id, name) VALUES (8, 'u') ON CONFLICT (id) DO UPDATE SET name = 'u'",
                          {"8"}),
}  # fmt: skip


@pytest.mark.parametrize(("others", "mine", "keys"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("autocommit", [True, False])
def test_every_changed_row_has_its_image(database, coordinator, others, mine, keys, autocommit):
    connection = database.connect(autocommit=autocommit)
    plain = database.dump()
    with join(A), held(database, others):
        count = connection.execute(mine).rowcount
        connection.commit()
    assert count == len(keys)
    assert database.dump() != plain
    assert set((coordinator.lock_texts[0] or "").removeprefix("account:").split(",")) == keys
    (_, _, _, context, info) = database.undo_rows()[0]
    images = decode(str(context), bytes(info)).sql_undo_logs
    assert {
        str(row.key[0].value) for log in images for row in (log.before if log.before.rows else log.after).rows
    } == keys

    coordinator.rollback(A)
    database_after = database.dump()
    with psycopg.connect(database.url) as raw:
        raw.execute("TRUNCATE account")
        raw.execute("INSERT INTO account VALUES (1, 'ann', 100, '\\x00ff'), (2, 'bob', 50.5, NULL), (3, NULL, -1, '')")
        raw.execute(others)
        raw.commit()
    assert database_after == database.dump()


def test_serialisation_failures_are_passed_on(database):
    connection = database.connect()
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with join(A):
        assert connection.execute("SELECT count(*) FROM account").fetchone() == (3,)
        database.run("UPDATE account SET balance = 1 WHERE id = 1")
        with pytest.raises(psycopg.errors.SerializationFailure):
            connection.execute("UPDATE account SET name = 'x' WHERE id = 1")
        connection.rollback()


def test_lock_conflict_in_autocommit_waits_outside_of_the_local_transaction(database, coordinator):
    one, other = database.connect(autocommit=True), database.connect(autocommit=True)
    with join(A):
        one.execute("UPDATE account SET balance = 1 WHERE id = 1")
    with join(B):
        with pytest.raises(LockConflict):
            other.execute("UPDATE account SET balance = 2 WHERE id = 1")
        assert other.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        coordinator.commit(A)
        other.execute("UPDATE account SET balance = 2 WHERE id = 1")
    coordinator.rollback(B)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(1,)]


def test_lock_conflict_at_commit_rolls_back(database, coordinator):
    one, other = database.connect(), database.connect()
    with join(A):
        one.execute("UPDATE account SET balance = 1 WHERE id = 1")
        one.commit()
    with join(B):
        other.execute("UPDATE account SET balance = 2 WHERE id = 1")
        with pytest.raises(LockConflict):
            other.commit()
        assert other.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    coordinator.rollback(A)


@pytest.mark.parametrize("bad", ["SELECT 1/0", "INSERT INTO account VALUES (1)", "nonsense"])
def test_a_swallowed_error_does_not_commit(database, coordinator, bad):
    before = database.dump()
    connection = database.connect()
    with join(A):
        connection.execute("UPDATE account SET balance = 7 WHERE id = 1")
        with pytest.raises((psycopg.Error, NotSupported)):
            connection.execute(bad)
        if bad == "nonsense":  # refused by AT: the local transaction is as it was
            connection.rollback()
            return
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        with pytest.raises(BranchFailed, match="aborted"):
            connection.commit()
    assert database.dump() == before
    assert coordinator.reports == [BranchStatus.PhaseOne_Failed]
    coordinator.rollback(A)
    assert database.dump() == before


def test_a_swallowed_error_of_the_only_write(database):
    connection = database.connect()
    with join(A):
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO account VALUES (1)")
        with pytest.raises(BranchFailed, match="ROLLBACK"):
            connection.commit()
        connection.execute("UPDATE account SET name = 'again' WHERE id = 1")
        connection.commit()
    assert database.rows("SELECT name FROM account WHERE id = 1") == [("again",)]


def test_deferred_constraint_fails_at_commit(database, coordinator):
    database.run("ALTER TABLE pair ADD FOREIGN KEY (a) REFERENCES account DEFERRABLE INITIALLY DEFERRED")
    connection = database.connect()
    with join(A):
        connection.execute("INSERT INTO pair VALUES (77, 'x', 1)")
        with pytest.raises(BranchFailed, match="foreign key"):
            connection.commit()
    assert coordinator.reports == [BranchStatus.PhaseOne_Failed]
    assert database.undo_rows() == []


def test_rollback_before_a_late_phase_one(database, coordinator):
    """The guard row makes the late COMMIT fail."""
    before = database.dump()
    connection = database.connect()
    coordinator.before_answer = lambda _: coordinator.try_rollback(A)
    with join(A):
        connection.execute("UPDATE account SET balance = 7 WHERE id = 1")
        with pytest.raises(BranchFailed, match="ux_undo_log"):
            connection.commit()
    assert database.dump() == before


def test_select_for_update_checks_the_global_lock(database, coordinator):
    one, other = database.connect(), database.connect()
    with join(A):
        one.execute("UPDATE account SET balance = 1 WHERE id = 1")
        one.commit()
    with join(B):
        for autocommit in (False, True):
            other.rollback()
            other.autocommit = autocommit
            rows = other.execute("SELECT name AS n, 1 AS one FROM account t WHERE t.id = %s FOR UPDATE", (2,))
            assert rows.fetchall() == [("bob", 1)]
            assert [column.name for column in rows.description] == ["n", "one"]
            with pytest.raises(LockConflict):
                other.execute("SELECT * FROM account WHERE id < 3 ORDER BY id LIMIT 5 FOR UPDATE")
        other.execute("UPDATE account SET name = 'mine' WHERE id = 2")
        with pytest.raises(NotSupported, match="more than one table"):
            other.execute("SELECT 1 FROM account, pair FOR UPDATE")
    coordinator.commit(A)
    with join(B):
        assert other.execute("SELECT balance FROM account WHERE id = 1 FOR UPDATE").fetchone() == (1,)
