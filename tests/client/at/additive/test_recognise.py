"""Which statements are additive, by their text alone; and sums that keep every digit."""

from __future__ import annotations

from decimal import Decimal

import pytest

from troth.client.sql.additive import Addition, HotColumns, difference, recognise
from troth.client.sql.dialects.mysql_additive import MYSQL_HOT_ROWS
from troth.client.sql.dialects.postgres_additive import postgres_hot_rows
from troth.client.sql.dialects.sqlite_additive import SQLITE_HOT_ROWS

_N_BY_ID = Addition(("n",), ("id",))
_POSTGRES = postgres_hot_rows("public", "undo_log")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE t SET n = n + ? WHERE id = ?", _N_BY_ID),
        ("update t set n=n-5 where id=:id;", _N_BY_ID),
        ("UPDATE main.t AS x SET n = x.n - ? WHERE x.id = 'a'", _N_BY_ID),
        ('UPDATE "t" SET "n" = ("t"."n" - ?) WHERE "t"."id" = ?', _N_BY_ID),
        ("UPDATE t SET n = n - ?, m = m + ? WHERE (a = ?) AND b = 'x'", Addition(("n", "m"), ("a", "b"))),
        ("UPDATE t SET n = n + 1 WHERE id = 1 RETURNING n * 2", _N_BY_ID),
        ("UPDATE t SET n = ? WHERE id = ?", None),
        ("UPDATE t SET n = n * 2 WHERE id = ?", None),
        ("UPDATE t SET n = ? + n WHERE id = ?", None),
        ("UPDATE t SET n = m + ? WHERE id = ?", None),
        ("UPDATE t SET n = n + m WHERE id = ?", None),
        ("UPDATE t SET n = n + ? + 1 WHERE id = ?", None),
        ("UPDATE t SET n = n + abs(?) WHERE id = ?", None),
        ("UPDATE t SET n = n + 1, n = n + 1 WHERE id = ?", None),
        ("UPDATE t SET n = n + 1, name = 'x' WHERE id = ?", None),
        ("UPDATE t SET n = n + 1", None),
        ("UPDATE t SET n = n + 1 WHERE id > ?", None),
        ("UPDATE t SET n = n + 1 WHERE id = ? OR id = ?", None),
        ("UPDATE t SET n = n + 1 WHERE id IN (?)", None),
        ("UPDATE t SET n = n + 1 WHERE id = (SELECT 1)", None),
        ("UPDATE t SET n = n + 1 WHERE id = other", None),
        ("UPDATE t SET n = n + 1 FROM u WHERE id = ?", None),
        ("UPDATE OR IGNORE t SET n = n + 1 WHERE id = ?", None),
        ("WITH x AS (SELECT 1) UPDATE t SET n = n + 1 WHERE id = ?", None),
        ("DELETE FROM t WHERE id = ?", None),
        ("INSERT INTO t VALUES (1)", None),
        ("", None),
    ],
)
def test_recognised_exactly(sql: str, expected: Addition | None) -> None:
    assert recognise(SQLITE_HOT_ROWS.tokenize(sql, True)) == expected


def test_as_each_framework_writes_it() -> None:
    psycopg = "UPDATE t SET n=(t.n - %(n_1)s::INTEGER) WHERE t.id = %(id_1)s::INTEGER"
    assert recognise(_POSTGRES.tokenize(psycopg, True)) == _N_BY_ID
    assert recognise(_POSTGRES.tokenize('UPDATE "t" SET "n" = ("t"."n" + %s) WHERE "t"."id" = %s', True)) == _N_BY_ID
    assert (
        recognise(MYSQL_HOT_ROWS.tokenize("UPDATE `t` SET `n` = (`t`.`n` - %s) WHERE `t`.`id` = %s", True)) == _N_BY_ID
    )
    assert recognise(MYSQL_HOT_ROWS.tokenize("UPDATE t SET n = n - 1 WHERE id = 1", False)) == _N_BY_ID


def test_columns_of_postgres_have_a_case() -> None:
    assert recognise(_POSTGRES.tokenize('UPDATE t SET "N" = n + 1 WHERE id = 1', True)) is None
    assert recognise(_POSTGRES.tokenize('UPDATE t SET N = "n" + 1 WHERE id = 1', True)) == _N_BY_ID


def test_a_difference_keeps_every_digit() -> None:
    assert difference("12345678901234567890123456.00", "12345678901234567890123455.99") == Decimal("-0.01")
    assert difference(2**70, 2**70 + 1) == 1
    assert difference(Decimal("1.50"), Decimal("1.25")) == Decimal("-0.25")


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, 1), (1, None), (1, 1.0), (1.5, 2.5), ("1", "x"), ("1", "NaN"), (True, False), (b"1", b"2"), ("0", "1e40")],
)
def test_no_exact_difference(before: object, after: object) -> None:
    assert difference(before, after) is None


def test_columns_are_given_by_table_and_floor() -> None:
    columns = HotColumns({"Stock.Count": 0, "shop.stock.count": Decimal("1.5"), "stock.seen": None})
    assert columns.of_table("stock") == {"count": 0, "seen": None}
    assert columns.of_table("shop.stock") == {"count": Decimal("1.5")}
    assert columns.of_table("other") == {}


@pytest.mark.parametrize("given", [{"count": 0}, {"t.": 0}, {".n": 0}, {"t.n": True}, {"t.n": Decimal("NaN")}])
def test_what_is_no_hot_column_is_said(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="additive"):
        HotColumns(given)
