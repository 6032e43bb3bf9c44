"""What others do between the image and the statement, and while a branch is undone."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from fixtures_coordinator import until
from troth.client.errors import BranchFailed, NotSupported
from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import BranchRollbackRequest

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:1"
READ_COMMITTED = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
FROZEN = BranchStatus.PhaseTwo_RollbackFailed_Unretryable
LATER = BranchStatus.PhaseTwo_RollbackFailed_Retryable
UNDONE = BranchStatus.PhaseTwo_Rollbacked


class Between:
    """Does something just before the connection runs the first statement that `when` accepts."""

    def __init__(self, connection, when, what):
        self.connection, self.when, self.what = connection, when, what
        self.original = connection._raw.query
        self.done = 0
        connection._raw.query = self.query

    def query(self, sql, unbuffered=False):
        text = sql.decode() if isinstance(sql, bytes) else sql
        if self.when(text) and not self.done:
            self.done += 1
            self.what()
        return self.original(sql, unbuffered)


@pytest.fixture
def prices(database):
    database.run(
        "CREATE TABLE price (id INT PRIMARY KEY, kind INT, cents INT, u INT UNIQUE)",
        "INSERT INTO price VALUES (1, 1, 100, 10), (2, 1, 200, 20), (3, 2, 300, 30)",
    )
    return database


def connection_to(database):
    return database.connect(init_command=READ_COMMITTED, autocommit=True)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO price VALUES (4, 1, 400, 40)",
        "UPDATE price SET kind = 1 WHERE id = 3",
        "UPDATE price SET kind = 1, id = 9 WHERE id = 3",
    ],
)
@pytest.mark.parametrize("sql", ["UPDATE price SET cents = 0 WHERE kind = 1", "DELETE FROM price WHERE kind = 1"])
def test_a_row_that_enters_after_the_image_is_not_touched(prices, in_global, change, sql):
    connection = connection_to(prices)
    between = Between(connection, lambda text: text.startswith(sql[:12]), lambda: prices.run(change))
    with in_global(XID):
        connection.cursor().execute(sql)
    assert between.done == 1
    assert prices.coordinator.lock_texts[0].startswith("price:1,2")
    expected = {"INS": (4, 400), "UPD": (9 if "id = 9" in change else 3, 300)}[change[:3]]
    assert expected in prices.rows("SELECT id, cents FROM price")
    prices.coordinator.rollback(XID)
    assert prices.rows("SELECT id, cents FROM price WHERE id IN (1, 2) ORDER BY id") == [(1, 100), (2, 200)]
    assert expected in prices.rows("SELECT id, cents FROM price")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE price JOIN cut ON cut.kind = price.kind SET price.cents = price.cents - cut.n, cut.n = 0",
        "UPDATE cut LEFT JOIN price ON cut.kind = price.kind SET price.cents = price.cents - cut.n, cut.n = 0",
        "DELETE price, cut FROM price JOIN cut USING (kind)",
    ],
)
def test_rows_that_enter_a_join_of_several_written_tables_are_not_touched(prices, in_global, sql):
    """New rows on either side, and one that joins a row that is imaged."""
    prices.run("CREATE TABLE cut (id INT PRIMARY KEY, kind INT, n INT)", "INSERT INTO cut VALUES (1, 1, 5), (2, 7, 9)")
    before = prices.dump()
    connection = connection_to(prices)

    def enter():
        prices.run(
            "INSERT INTO price VALUES (4, 1, 400, 40), (5, 3, 500, 50)", "INSERT INTO cut VALUES (3, 1, 1), (4, 3, 2)"
        )

    between = Between(connection, lambda text: sql[:12] in text and "COALESCE" in text, enter)
    with in_global(XID):
        connection.cursor().execute(sql)
    assert between.done == 1
    assert prices.dump() != before
    assert prices.rows("SELECT id, cents FROM price WHERE id > 3 ORDER BY id") == [(4, 400), (5, 500)]
    assert prices.rows("SELECT id, n FROM cut WHERE id > 2 ORDER BY id") == [(3, 1), (4, 2)]
    prices.coordinator.rollback(XID)
    prices.run("DELETE FROM price WHERE id > 3", "DELETE FROM cut WHERE id > 2")
    assert prices.dump() == before


def test_an_upsert_whose_row_comes_meanwhile_is_done_again(prices, in_global):
    connection = connection_to(prices)
    sql = "INSERT INTO price VALUES (7, 1, 1, 70) ON DUPLICATE KEY UPDATE cents = cents + 1"
    between = Between(
        connection,
        lambda text: text.startswith("INSERT INTO price"),
        lambda: prices.run("INSERT INTO price VALUES (7, 5, 500, 77)"),
    )
    with in_global(XID):
        connection.cursor().execute(sql)
    assert between.done == 1
    assert prices.rows("SELECT * FROM price WHERE id = 7") == [(7, 5, 501, 77)]
    prices.coordinator.rollback(XID)
    assert prices.rows("SELECT * FROM price WHERE id = 7") == [(7, 5, 500, 77)]


def test_a_statement_that_shifts_unique_values_is_undone(prices, in_global):
    before = prices.dump()
    with in_global(XID):
        connection_to(prices).cursor().execute("UPDATE price SET u = u + 10 ORDER BY u DESC")
    assert prices.dump() != before
    prices.coordinator.rollback(XID)
    assert prices.dump() == before


def test_a_new_column_is_seen(prices, in_global):
    connection = connection_to(prices)
    with in_global(XID):
        connection.cursor().execute("UPDATE price SET cents = 1 WHERE id = 1")
    prices.coordinator.commit(XID)
    prices.run("ALTER TABLE price ADD COLUMN extra VARCHAR(9) DEFAULT 'e'")
    before = prices.dump()
    with in_global(XID):
        connection.cursor().execute("DELETE FROM price WHERE id = 1")
    prices.coordinator.rollback(XID)
    assert prices.dump() == before
    prices.run("CREATE TRIGGER t BEFORE UPDATE ON price FOR EACH ROW SET NEW.cents = 5")
    with in_global(XID), pytest.raises(NotSupported, match="trigger"):
        connection.cursor().execute("UPDATE price SET cents = 1 WHERE id = 1")


def test_a_deadlock_ends_the_local_transaction(prices, in_global):
    connection = prices.connect()
    with closing(prices.plain(autocommit=False)) as other, in_global(XID):
        cursor = connection.cursor()
        cursor.execute("UPDATE price SET cents = 1 WHERE id = 1")
        other.cursor().execute("UPDATE price SET cents = 2 WHERE id IN (2, 3)")
        other.cursor().execute("UPDATE account SET note = 'heavier, so that it is not the victim'")
        thread = threading.Thread(target=other.cursor().execute, args=("UPDATE price SET cents = 2 WHERE id = 1",))
        thread.start()
        waiting = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        until(lambda: prices.rows(waiting), 10, "the other waits for row 1")
        with pytest.raises(Exception, match="Deadlock"):
            cursor.execute("UPDATE price SET cents = 1 WHERE id = 2")
        thread.join()
        other.rollback()
        with pytest.raises(BranchFailed, match="by itself"):
            connection.commit()
    assert prices.coordinator.branches == []
    assert prices.rows("SELECT cents FROM price WHERE id = 1") == [(100,)]


def roll_back(database, branch_id=1000):
    (handler,) = database.coordinator.handlers.values()
    return handler.rollback(BranchRollbackRequest(XID, branch_id, BranchType.AT, "", None))


def test_a_row_that_is_locked_is_undone_later(prices, in_global):
    with in_global(XID):
        connection_to(prices).cursor().execute("UPDATE price SET cents = 1 WHERE id = 1")
    with closing(prices.plain(autocommit=False)) as other:
        other.cursor().execute("SELECT * FROM price WHERE id = 1 FOR UPDATE")
        answer = roll_back(prices)
        assert answer.branch_status is LATER
        assert "Lock wait timeout" in answer.msg
    assert roll_back(prices).branch_status is UNDONE
    assert prices.rows("SELECT cents FROM price WHERE id = 1") == [(100,)]


def test_a_row_that_somebody_changed_freezes_the_branch(prices, in_global):
    with in_global(XID):
        connection_to(prices).cursor().execute("UPDATE price SET cents = 1")
    prices.run("UPDATE price SET cents = 77 WHERE id = 2")
    before = prices.dump()
    answer = roll_back(prices)
    assert answer.branch_status is FROZEN
    assert "price(id=2) was changed by somebody else: cents: before 200, after 1, now 77" in answer.msg
    assert prices.dump() == before
    prices.run("UPDATE price SET cents = 200 WHERE id = 2")  # as before: nothing to do for this row
    assert roll_back(prices).branch_status is UNDONE
    assert prices.rows("SELECT cents FROM price ORDER BY id") == [(100,), (200,), (300,)]
    assert roll_back(prices).branch_status is UNDONE


def test_a_unique_key_that_is_taken_freezes_the_branch(prices, in_global):
    with in_global(XID):
        connection_to(prices).cursor().execute("DELETE FROM price WHERE id = 1")
    prices.run("INSERT INTO price VALUES (50, 1, 1, 10)")
    answer = roll_back(prices)
    assert answer.branch_status is FROZEN
    assert "row price(id=50) has" in answer.msg


def test_an_undo_never_takes_children_with_it(prices, in_global):
    prices.run("CREATE TABLE part (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES price (id) ON DELETE CASCADE)")
    with in_global(XID):
        connection_to(prices).cursor().execute("INSERT INTO price VALUES (60, 1, 1, 60)")
    prices.run("INSERT INTO part VALUES (1, 60)")
    answer = roll_back(prices)
    assert answer.branch_status is FROZEN
    assert "refers to it" in answer.msg
    assert prices.rows("SELECT * FROM part") == [(1, 60)]


def test_what_was_written_without_foreign_keys_is_undone_without_them(prices, in_global):
    prices.run(
        "CREATE TABLE part (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES price (id))",
        "SET STATEMENT foreign_key_checks = 0 FOR INSERT INTO part VALUES (1, 99)",
    )
    before = prices.dump()
    connection = connection_to(prices)
    connection.cursor().execute("SET foreign_key_checks = 0")
    with in_global(XID):
        connection.cursor().execute("DELETE FROM part")
    assert "foreignKeys=OFF" in str(prices.undo_rows()[0][3])
    assert roll_back(prices).branch_status is UNDONE
    assert prices.dump() == before


def test_a_rollback_that_comes_first_leaves_a_guard(prices, in_global):
    connection = connection_to(prices)
    prices.coordinator.before_answer = lambda request: roll_back(prices)
    with in_global(XID), pytest.raises(BranchFailed):
        connection.cursor().execute("UPDATE price SET cents = 1")
    assert [row[2] for row in prices.undo_rows()] == [1]
    assert prices.rows("SELECT cents FROM price ORDER BY id") == [(100,), (200,), (300,)]


def test_a_foreign_serializer_freezes_the_branch(prices, in_global):
    with in_global(XID):
        connection_to(prices).cursor().execute("UPDATE price SET cents = 1")
    prices.run("UPDATE undo_log SET context = 'serializer=kryo&compressorType=NONE'")
    answer = roll_back(prices)
    assert answer.branch_status is FROZEN
    assert "kryo" in answer.msg
    assert len(prices.undo_rows()) == 1
