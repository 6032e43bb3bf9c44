"""What an additive statement leaves behind, how it is undone, and what makes it exclusive: on each database."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

import troth
from troth.client.context import join
from troth.wire.seata.enums import BranchStatus
from troth.wire.seata.lock_wait import ModeRegisterRequest

everywhere = pytest.mark.everywhere
TAKE = "UPDATE stock SET count = count - ? WHERE id = ?"
ADD = "UPDATE stock SET count = count + ? WHERE id = ?"


def modes(sharing: Any) -> list[tuple[str | None, bool]]:
    return [(request.lock_key, isinstance(request, ModeRegisterRequest)) for request in sharing.registered]


@everywhere
def test_two_transactions_share_a_row(hot: Any, sharing: Any) -> None:
    one, other = hot.connect(sharing), hot.connect(sharing)
    with join("x:1:1"):
        assert hot.execute(one, TAKE, 3, 1).rowcount == 1
    with join("x:1:2"):
        hot.execute(other, TAKE, 4, 1)
    assert hot.count() == 3
    assert hot.contexts() == ["serializer=troth-delta"] * 2
    assert hot.reserved() == []
    sharing.rollback("x:1:1")
    assert hot.count() == 6
    sharing.commit("x:1:2")
    assert hot.count() == 6
    assert hot.is_clean()
    assert modes(sharing) == [("stock:1", True)] * 2


def test_rolled_back_in_any_order(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    for number, (sql, amount) in enumerate([(ADD, 5), (TAKE, 3), (ADD, 2), (TAKE, 1)]):
        with join(f"x:1:{number}"):
            hot.execute(connection, sql, amount, 1)
    assert hot.count() == 13
    for number in (1, 3, 0, 2):
        sharing.rollback(f"x:1:{number}")
    assert hot.count() == 10
    assert hot.is_clean()


def test_below_the_floor_is_refused(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    with join("x:1:1"):
        with pytest.raises(troth.FloorReached, match=r"stock:1: count is 10; 11 cannot be taken, since 0 must stay"):
            hot.execute(connection, TAKE, 11, 1)
        hot.execute(connection, TAKE, 10, 1)
    sharing.rollback("x:1:1")
    assert hot.count() == 10


@everywhere
def test_open_increments_of_others_are_reserved(hot: Any, sharing: Any) -> None:
    """Stock 0, +5 open, −5: were it let through, the rollback of the +5 would leave −5 (at.md §6)."""
    one, other = hot.connect(sharing), hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(one, ADD, 5, 2)
    assert hot.reserved() == [("stock:2", "count", 5)]
    with join("x:1:2"), pytest.raises(troth.FloorReached) as caught:
        hot.execute(other, TAKE, 5, 2)
    refused = caught.value
    assert (refused.key, refused.column, refused.value, refused.reserved) == ("stock:2", "count", 5, 5)
    assert (refused.wanted, refused.floor, refused.may_pass) == (5, 0, True)
    assert hot.count(2) == 5
    sharing.commit("x:1:1")
    assert hot.reserved() == []
    with join("x:1:2"):
        hot.execute(other, TAKE, 5, 2)
    sharing.commit("x:1:2")
    assert hot.count(2) == 0


def test_ones_own_increments_are_not_reserved(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, ADD, 5, 2)
        hot.execute(connection, TAKE, 5, 2)
        with pytest.raises(troth.FloorReached):
            hot.execute(connection, TAKE, 1, 2)
    sharing.rollback("x:1:1")
    assert hot.count(2) == 0
    assert hot.is_clean()


def test_a_local_transaction_of_several_statements_is_one_sum_a_row(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing, autocommit=False)
    with join("x:1:1"):
        hot.execute(connection, ADD, 5, 1)
        hot.execute(connection, TAKE, 2, 1)
        hot.execute(connection, "UPDATE stock SET count = count - ?, sold = sold + ? WHERE id = ?", 4, 4, 1)
        hot.execute(connection, ADD, 7, 2)
        connection.commit()
    assert hot.reserved() == [("stock:1", "sold", 4), ("stock:2", "count", 7)]
    assert modes(sharing) == [("stock:1,2", True)]
    sharing.rollback("x:1:1")
    assert hot.rows("SELECT count, sold FROM stock ORDER BY id") == [(10, 0), (0, 0), (None, 0)]
    assert hot.is_clean()


@everywhere
def test_other_changes_beside_it_are_a_branch_of_their_own(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing, autocommit=False)
    with join("x:1:1"):
        hot.execute(connection, TAKE, 2, 1)
        hot.execute(connection, "INSERT INTO stock VALUES (?, ?, ?, ?, ?)", 9, "lid", 1, 0, 0)
        hot.execute(connection, TAKE, 1, 9)
        connection.commit()
    assert modes(sharing) == [("stock:9", False), ("stock:1", True)]
    assert hot.contexts() == ["serializer=jackson", "serializer=troth-delta"]
    sharing.rollback("x:1:1")
    assert hot.rows("SELECT id, count FROM stock ORDER BY id") == [(1, 10), (2, 0), (3, None)]
    assert hot.is_clean()


def test_refused_rows_of_the_second_branch_leave_nothing(hot: Any, sharing: Any) -> None:
    one, other = hot.connect(sharing), hot.connect(sharing, autocommit=False)
    with join("x:1:1"):
        hot.execute(one, "UPDATE stock SET name = ? WHERE id = ?", "mug", 1)
    with join("x:1:2"):
        hot.execute(other, "UPDATE stock SET name = ? WHERE id = ?", "jug", 2)
        hot.execute(other, TAKE, 2, 1)
        with pytest.raises(troth.LockConflict):
            other.commit()
    assert sharing.reports == [BranchStatus.PhaseOne_Failed]
    assert hot.rows("SELECT name, count FROM stock WHERE id < 3 ORDER BY id") == [("mug", 10), ("pot", 0)]
    sharing.rollback("x:1:2")
    assert hot.rows("SELECT name FROM stock WHERE id = 2") == [("pot",)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE stock SET count = 5 WHERE id = 1",
        "UPDATE stock SET count = count * 2 WHERE id = 1",
        "UPDATE stock SET count = count - 1 WHERE id = 1 AND count > 0",
        "UPDATE stock SET count = count - 1, name = 'x' WHERE id = 1",
        "UPDATE stock SET other = other + 1 WHERE id = 1",
        "UPDATE stock SET count = count - 1, other = other + 1 WHERE id = 1",
        "UPDATE stock SET count = count - 1 WHERE name = 'cup'",
        "UPDATE stock SET count = count - 1 WHERE id = 3",
    ],
)
def test_anything_else_is_exclusive(hot: Any, sharing: Any, sql: str) -> None:
    before = hot.rows("SELECT * FROM stock ORDER BY id")
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, sql)
    assert [adds for _, adds in modes(sharing)] in ([False], [])
    assert "serializer=troth-delta" not in hot.contexts()
    sharing.rollback("x:1:1")
    assert hot.rows("SELECT * FROM stock ORDER BY id") == before


def test_adders_and_an_exclusive_writer_exclude_each_other(hot: Any, sharing: Any) -> None:
    one, other = hot.connect(sharing), hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(one, TAKE, 1, 1)
    with join("x:1:2"), pytest.raises(troth.LockConflict):
        hot.execute(other, "UPDATE stock SET name = ? WHERE id = ?", "mug", 1)
    sharing.commit("x:1:1")
    with join("x:1:2"):
        hot.execute(other, "UPDATE stock SET name = ? WHERE id = ?", "mug", 1)
    with join("x:1:3"), pytest.raises(troth.LockConflict):
        hot.execute(one, TAKE, 1, 1)
    assert hot.count() == 9


@everywhere
def test_decimals_and_keys_of_two_columns(hot: Any, sharing: Any) -> None:
    amount, left = (7, 57) if hot.engine == "sqlite" else (Decimal("7.25"), Decimal("57.25"))
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, "UPDATE account SET balance = balance + ? WHERE b = ? AND a = ?", amount, 1, "y,;")
    assert hot.one("SELECT balance FROM account WHERE a = 'y,;'") == left
    assert hot.reserved() == [("account:y%2C%3B_1", "balance", amount)]
    with join("x:1:2"):
        hot.execute(connection, "UPDATE account SET balance = balance - ? WHERE a = ? AND b = ?", 60, "y,;", 1)
    sharing.rollback("x:1:1")
    assert hot.one("SELECT balance FROM account WHERE a = 'y,;'") == -10
    sharing.rollback("x:1:2")
    assert hot.one("SELECT balance FROM account WHERE a = 'y,;'") == 50
    assert hot.is_clean()


def test_a_row_that_is_gone_freezes(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, TAKE, 1, 1)
    hot.run("DELETE FROM stock WHERE id = 1")
    (answer,) = sharing.try_rollback("x:1:1")
    assert answer.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Unretryable
    assert "count -1 cannot be taken back: row stock(id=" in (answer.msg or "")
    hot.run("INSERT INTO stock VALUES (1, 'cup', 20, 0, 0)")
    sharing.rollback("x:1:1")
    assert hot.count() == 21


def test_a_counter_that_is_no_number_any_more_freezes(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, TAKE, 1, 1)
    hot.run("UPDATE stock SET count = NULL WHERE id = 1")
    (answer,) = sharing.try_rollback("x:1:1")
    assert answer.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Unretryable


def test_a_coordinator_without_the_mode_gets_images(hot: Any, sharing: Any) -> None:
    """As towards a real Seata server: exclusive, and an undo log that Java can read. The floor holds all the same."""
    sharing.shares_rows = False
    connection = hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(connection, TAKE, 3, 1)
        with pytest.raises(troth.FloorReached):
            hot.execute(connection, TAKE, 8, 1)
    assert modes(sharing) == [("stock:1", False)]
    assert hot.contexts() == ["serializer=jackson"]
    sharing.rollback("x:1:1")
    assert hot.count() == 10


def test_without_the_table_it_is_refused_with_a_hint(hot: Any, sharing: Any) -> None:
    hot.run("DROP TABLE troth_hot_rows")
    connection = hot.connect(sharing)
    with join("x:1:1"), pytest.raises(troth.NotSupported, match=r"troth at init --hot-rows"):
        hot.execute(connection, TAKE, 1, 1)
    assert hot.count() == 10


def test_a_column_that_cannot_be_hot_is_named(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing, additive={"stock.count": 0, "stock.name": 0})
    with join("x:1:1"), pytest.raises(troth.NotSupported, match=r"stock\.name"):
        hot.execute(connection, TAKE, 1, 1)
    connection = hot.connect(sharing, additive={"stock.count": 0, "stock.cuont": 0})
    with join("x:1:1"), pytest.raises(troth.NotSupported, match="no column cuont"):
        hot.execute(connection, TAKE, 1, 1)


@everywhere
def test_old_increments_go_with_old_undo_rows(hot: Any, sharing: Any) -> None:
    connection = hot.connect(sharing)
    for number in (1, 2):
        with join(f"x:1:{number}"):
            hot.execute(connection, ADD, number, 1)
    day = {"sqlite": "datetime('now', '-9 days')", "postgres": "now() - interval '9 days'"}
    then = day.get(hot.engine, "NOW() - INTERVAL 9 DAY")
    hot.run(f"UPDATE undo_log SET log_created = {then} WHERE xid = 'x:1:1'")
    hot.run(f"UPDATE troth_hot_rows SET created = {then} WHERE xid = 'x:1:1'")
    (handler,) = sharing.handlers.values()
    handler.delete_undo_logs(7)
    assert hot.reserved() == [("stock:1", "count", 2)]


@pytest.mark.parametrize("engine", [pytest.param("mariadb", marks=pytest.mark.engines)], indirect=True)
def test_an_old_view_does_not_hide_increments(hot: Any, sharing: Any) -> None:
    """REPEATABLE READ: what was read before must not make the sum of open increments an old one."""
    one, other = hot.connect(sharing, autocommit=False), hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(one, "SELECT * FROM stock").fetchall()
        with join("x:1:2"):
            hot.execute(other, ADD, 5, 2)
        with pytest.raises(troth.FloorReached):
            hot.execute(one, TAKE, 5, 2)
        one.rollback()


@pytest.mark.parametrize("engine", [pytest.param("mariadb", marks=pytest.mark.engines)], indirect=True)
def test_the_second_decrement_sees_new_increments_too(hot: Any, sharing: Any) -> None:
    one, other = hot.connect(sharing, autocommit=False), hot.connect(sharing)
    with join("x:1:1"):
        hot.execute(one, TAKE, 1, 1)
        with join("x:1:2"):
            hot.execute(other, ADD, 5, 2)
        with pytest.raises(troth.FloorReached):
            hot.execute(one, TAKE, 5, 2)
        one.rollback()
