"""Values go into an undo log and come back exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.client.sql.undo import BranchUndoLog, Field, Row, SqlUndoLog, TableRecords
from troth.client.sql.undo_codec import decode, encode
from troth.client.sql.values import Typed, ValueNotSupported, from_sql, java_double_text, to_sql

JACKSON = "serializer=jackson&compressorType=NONE"
sql_values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@given(sql_values)
def test_round_trip_through_an_undo_log(value):
    field = Field("v", "NULL", 12, from_sql(value))
    log = BranchUndoLog(
        "x", 1, (SqlUndoLog("INSERT", "t", TableRecords("t", ()), TableRecords("t", (Row((field,)),))),)
    )
    back = to_sql(decode(JACKSON, encode(JACKSON, log)).sql_undo_logs[0].after.rows[0].fields[0].value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1.0"),
        (100.0, "100.0"),
        (0.1, "0.1"),
        (0.001, "0.001"),
        (0.00012, "1.2E-4"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (12345678.9, "1.23456789E7"),
        (-1.5e300, "-1.5E300"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_doubles_as_java_writes_them(number, text):
    assert java_double_text(number) == text


@given(st.floats(allow_nan=False))
def test_doubles_are_read_back(number):
    assert float(java_double_text(number)) == number


def test_integers_as_java_types_them():
    assert from_sql(2**31 - 1) == 2**31 - 1
    assert from_sql(2**31) == Typed("java.lang.Long", 2**31)
    assert from_sql(True) == 1


@pytest.mark.parametrize(
    "value",
    [Typed("java.sql.Timestamp", [1, 2]), Typed("[B", "no base64!"), Typed("java.lang.Long", 2**63), 2**64,
     Typed("java.math.BigDecimal", Decimal("1.5"))],
)  # fmt: skip
def test_what_sqlite_cannot_hold_is_refused(value):
    with pytest.raises(ValueNotSupported):
        to_sql(value)


def test_values_of_other_types_are_refused():
    with pytest.raises(ValueNotSupported, match="Decimal"):
        from_sql(Decimal(1))
