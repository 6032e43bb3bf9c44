"""Each timeline of docs/modes/isolation.md, on real databases and a real coordinator."""

# ruff: noqa: PT012 - what is raised at the end rolls the whole block back

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

import troth
from troth.client.context import join
from troth.client.errors import BranchFailed, LockConflict, NotSupported
from troth.wire.seata.messages import GlobalLockQueryRequest

pytestmark = pytest.mark.engines


class Undo(Exception):
    """Ends a global transaction by rolling it back."""


@contextmanager
def undone():
    """A global transaction that is rolled back at the end."""
    with pytest.raises(Undo), troth.transaction() as tx:
        yield tx
        raise Undo


@contextmanager
def aside():
    """What another caller does meanwhile: outside of the transaction that is open here."""
    with join(None):
        yield


# --- dirty read ---


def test_dirty_read_is_possible_by_default(shop):
    writer, reader = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with undone():
        writer.set(0)
        with aside(), troth.transaction():
            assert reader.balance() == 0
    assert shop.balance() == 100


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_dirty_read_under_read_committed(shop, autocommit):
    writer, reader = shop.connect(autocommit=True), shop.connect(autocommit=autocommit)
    with undone() as tx:
        writer.set(0)
        with aside(), troth.transaction(isolation="read_committed"):
            with pytest.raises(LockConflict) as refused:
                reader.balance()
            assert "account:1" in str(refused.value)
            assert reader.balance(2) == 50  # nobody holds that row
            reader.rollback()
        with join(tx.xid, isolation="read_committed"):  # one's own writes are seen
            assert reader.balance() == 0
            reader.rollback()
    with troth.transaction(isolation=troth.Isolation.READ_COMMITTED):
        assert reader.balance() == 100
        reader.rollback()


def test_no_dirty_read_by_for_update(shop):
    if shop.engine == "sqlite":
        pytest.skip("SQLite has no SELECT … FOR UPDATE")
    writer, reader = shop.connect(autocommit=True), shop.connect()
    with undone():
        writer.set(0)
        with aside(), troth.transaction(), pytest.raises(LockConflict):
            reader.balance(tail=" FOR UPDATE")
        with aside(), troth.global_lock(), pytest.raises(LockConflict):
            reader.balance(tail=" FOR UPDATE")
        reader.rollback()


# --- dirty write ---


def test_no_dirty_write_between_global_transactions(shop):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with undone():
        one.set(0)
        with aside(), undone(), pytest.raises(LockConflict):
            other.set(7)
    assert shop.balance() == 100


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_dirty_write_under_global_lock(shop, autocommit):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=autocommit)
    with undone():
        one.set(0)
        with aside(), troth.global_lock():
            with pytest.raises(LockConflict) as refused:
                other.set(7)
                other.commit()
            assert "global_lock" in str(refused.value)
            other.set(9, account=2)
            other.commit()
    assert (shop.balance(), shop.balance(2)) == (100, 9)
    with troth.global_lock():
        other.set(7)
        other.commit()
    assert shop.balance() == 7
    assert shop.run("SELECT count(*) FROM undo_log") == [(0,)]


# --- lost update ---


def test_lost_update_is_possible_by_default(shop):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with troth.transaction():
        seen = one.balance()
        with aside(), troth.transaction():
            other.set(other.balance() + 10)
        one.set(seen + 1)
    assert shop.balance() == 101


def test_no_lost_update_under_read_committed_in_one_local_transaction(shop):
    """The rows read stay locked in the database until the local transaction ends, so the second writer waits."""
    one, other = shop.connect(), shop.connect(autocommit=True)
    shop_is_locked = "database is locked|lock timeout|Lock wait timeout"
    with troth.transaction(isolation="read_committed"):
        seen = one.balance()
        with aside(), troth.transaction():
            _wait_briefly(other)
            with pytest.raises(Exception, match=shop_is_locked):
                other.set(0)
        one.set(seen + 1)
        one.commit()
    assert shop.balance() == 101


def _wait_briefly(connection):
    match connection.shop.engine:
        case "postgresql":
            connection.raw.execute("SET lock_timeout = '50ms'")
        case "mysql":
            connection.raw._raw.query("SET innodb_lock_wait_timeout = 1")
        case _:
            connection.raw.execute("PRAGMA busy_timeout = 50")


# --- non-repeatable read ---


def test_non_repeatable_read_between_local_transactions(shop):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with troth.transaction(isolation="read_committed"):
        assert one.balance() == 100
        with aside(), troth.transaction():
            other.set(1)
        assert one.balance() == 1  # each is committed, and they differ


# --- write skew ---


def test_write_skew_is_possible_at_every_level_unless_both_rows_are_written(shop):
    """Both read ann + bob = 150 ≥ 100 and each takes 100 from another row; the read rows are locked by neither."""
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with troth.transaction(isolation="read_committed"):
        assert sum(row[0] for row in one.run("SELECT balance FROM account")) == 150
        with aside(), troth.transaction(isolation="read_committed"):
            assert sum(row[0] for row in other.run("SELECT balance FROM account")) == 150
            other.set(-50, account=2)
        one.set(0)
    assert (shop.balance(), shop.balance(2)) == (0, -50)


def test_no_write_skew_if_both_write_what_they_read(shop):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with troth.transaction():
        one.run("UPDATE account SET balance = balance")
        with aside(), pytest.raises(LockConflict), troth.transaction():
            other.run("UPDATE account SET balance = balance")
        one.set(0)
    assert (shop.balance(), shop.balance(2)) == (0, 50)


# --- what the levels refuse, and what they let pass ---


def test_reads_that_cannot_be_checked_are_refused(shop):
    reader = shop.connect(autocommit=True)
    with troth.transaction(isolation="read_committed"):
        for text in (
            "SELECT a.balance FROM account a JOIN note n ON n.id = a.id",
            "SELECT balance FROM account UNION ALL SELECT id FROM note",
            "SELECT a.balance FROM account a, note n",
        ):
            with pytest.raises(NotSupported, match="read_committed"):
                reader.run(text)
        with pytest.raises(NotSupported, match="2 sets of parameters"):
            reader.raw.cursor().executemany(shop.sql("SELECT balance FROM account WHERE id = %s"), [(1,), (2,)])
        assert reader.run("SELECT 1") == [(1,)]
        reader.run("SELECT name FROM sqlite_master" if shop.engine == "sqlite" else
                   "SELECT table_name FROM information_schema.tables")  # fmt: skip
    assert reader.run("SELECT count(*) FROM account a, note n") == [(0,)]


def test_checked_reads_give_what_plain_ones_give(shop):
    reader = shop.connect(autocommit=True)
    texts = [
        ("SELECT * FROM account ORDER BY id", ()),
        (
            "SELECT a.owner AS who, a.balance + 1 FROM account AS a WHERE a.balance > %s ORDER BY a.id DESC LIMIT 1",
            (10,),
        ),
        ("SELECT owner FROM account WHERE id IN (SELECT id FROM account WHERE balance >= %s) ORDER BY id;", (50,)),
        ("SELECT owner FROM account WHERE id = 77 -- none", ()),
    ]
    if shop.engine != "postgresql":  # there the database refuses to lock what is folded
        texts.append(("SELECT count(*), sum(balance) FROM account WHERE balance >= %s", (50,)))
    for text, given in texts:
        with troth.transaction(isolation="read_committed"):
            assert reader.run(text, *given) == shop.run(text, *given), text


def test_an_aggregate_shows_no_row_that_is_held(shop):
    if shop.engine == "postgresql":
        pytest.skip("PostgreSQL locks no rows of an aggregate, and says so")
    writer, reader = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with undone():
        writer.set(0)
        with aside(), troth.transaction(isolation="read_committed"):
            with pytest.raises(LockConflict):
                reader.run("SELECT sum(balance) FROM account")
            assert reader.run("SELECT sum(balance) FROM account WHERE id > 1") == [(50,)]


def test_a_locking_read_that_the_database_refuses_leaves_nothing_open(shop):
    reader = shop.connect(autocommit=True)
    with troth.transaction(isolation="read_committed"):
        with pytest.raises(Exception, match=r"(?i)nothing"):
            reader.run("SELECT nothing FROM account")
        assert reader.balance() == 100
    shop.run("UPDATE account SET balance = 1")  # nobody holds a lock


# --- the scopes ---


def test_the_level_is_that_of_the_scope_around_the_same_transaction(shop):
    writer, reader = shop.connect(autocommit=True), shop.connect(autocommit=True)
    with undone():
        writer.set(0)
        with aside(), troth.transaction(isolation="read_committed") as tx:
            with join(tx.xid), pytest.raises(LockConflict):
                reader.balance()
            with join(tx.xid, isolation="read_uncommitted"):
                assert reader.balance() == 0
            with troth.transaction(propagation=troth.Propagation.REQUIRES_NEW):
                assert reader.balance() == 0
            with join(None):
                assert reader.balance() == 0


def test_global_lock_as_a_decorator_and_inside_a_transaction(shop):
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)

    @troth.global_lock
    def write(balance):
        other.set(balance)
        return troth.current_xid()

    @troth.global_lock(isolation="read_committed")
    def read():
        return other.balance()

    with undone() as tx:
        one.set(0)
        assert write(5) == tx.xid  # a part of it, so it is undone with it
        with aside():
            with pytest.raises(LockConflict):
                write(7)
            with pytest.raises(LockConflict):
                read()
    assert (write(8), read()) == (None, 8)


def test_a_local_transaction_left_open_by_global_lock_is_rolled_back_and_told(shop):
    one = shop.connect()
    with pytest.raises(BranchFailed, match="not committed"), troth.global_lock():
        one.set(0)
    one.commit()
    assert shop.balance() == 100


def test_a_row_is_waited_for_under_global_lock(shop):
    """In autocommit the statement is tried again; here the holder ends behind the first question."""
    one, other = shop.connect(autocommit=True), shop.connect(autocommit=True)
    held, release = threading.Event(), threading.Event()

    def hold():
        with troth.transaction():
            one.set(1)
            held.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    tell, asked = shop.client.tell, []

    def tell_and_end(message):
        answer = tell(message)
        if isinstance(message, GlobalLockQueryRequest):
            asked.append(answer.lockable)
            release.set()
            holder.join(20)
        return answer

    with pytest.MonkeyPatch.context() as patched, troth.global_lock():
        patched.setattr(shop.client, "tell", tell_and_end)
        other.set(2)
    assert (asked[0], asked[-1]) == (False, True)
    assert shop.balance() == 2
