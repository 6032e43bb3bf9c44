"""Java undoes what Python wrote, and is gone, in columns of every type: the rows are as they were, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from shop import Shop

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.demo import plain

pytestmark = pytest.mark.engines

TYPES = {
    "tinyint_": ("TINYINT", "-5", "7"),
    "boolean_": ("TINYINT(1)", "1", "0"),
    "smallint_": ("SMALLINT UNSIGNED", "65535", "0"),
    "mediumint_": ("MEDIUMINT", "-8388608", "1"),
    "int_": ("INT", "-70000", "0"),
    "intu": ("INT UNSIGNED", "2147483647", "1"),
    "bigint_": ("BIGINT", "9007199254740993", "-9223372036854775808"),
    "bigintu": ("BIGINT UNSIGNED", "9223372036854775807", "0"),
    "decimal_": ("DECIMAL(30,10)", "12345678901234567890.1234567890", "-0.0000000001"),
    "float_": ("FLOAT", "1.5", "0.1"),
    "double_": ("DOUBLE", "1e-300", "2.2250738585072014e-308"),
    "char_": ("CHAR(8)", "'ab'", "''"),
    "varchar_": ("VARCHAR(100)", "'héllo 数据 🙂 ''\\\\ \\n'", "NULL"),
    "text_": ("TEXT", "'text'", "''"),
    "latin": ("VARCHAR(20) CHARACTER SET latin1", "'é'", "'e'"),
    "bit1": ("BIT(1)", "b'1'", "b'0'"),
    "bit8": ("BIT(8)", "165", "0"),
    "date_": ("DATE", "'2026-01-02'", "'1890-01-01'"),
    "time_": ("TIME", "'03:04:05'", "'23:59:59'"),
    "time6": ("TIME(6)", "'03:04:05'", "'00:00:00'"),
    "datetime_": ("DATETIME", "'2026-01-02 03:04:05'", "'9999-12-31 23:59:59'"),
    "datetime6": ("DATETIME(6)", "'2026-01-02 03:04:05.678901'", "NULL"),
    "timestamp_": ("TIMESTAMP(6) NULL", "'2026-01-02 03:04:05.678901'", "'1970-01-02 00:00:00.000001'"),
    "binary_": ("BINARY(4)", "x'00FF1000'", "x'00000000'"),
    "varbinary_": ("VARBINARY(16)", "x'00FF10'", "x''"),
    "blob_": ("BLOB", "x'DEADBEEF00'", "NULL"),
    "json_": ("JSON", "'{\\\"a\\\": [1, null]}'", "'[]'"),
    "enum_": ("ENUM('small','large')", "'large'", "'small'"),
    "set_": ("SET('a','b','c')", "'a,c'", "''"),
    "inet_": ("INET6", "'2001:db8::1'", "'::'"),
    "uuid_": ("UUID", "'123e4567-e89b-12d3-a456-426655440000'", "'00000000-0000-0000-0000-000000000000'"),
}
"""Column: its type, a value, and what Python makes of it. Java cannot undo its own YEAR, unsigned numbers that are none
of its own long, and fractions of TIME: so those are not asked of it."""
WITH_TEXT = ("date_", "datetime_", "datetime6", "timestamp_")
SECONDS_ONLY = ("datetime6", "timestamp_")
"""Java loses the fraction, in its own undo logs too; ours carry it beside Java's value, where Java reads past it."""

FRACTION, NO_FRACTION = b"678901".hex(), b"000000".hex()


@pytest.fixture(autouse=True)
def python(coordinator: CoordinatorProcess) -> Iterator[None]:
    """Our client beside Java's."""
    troth.init(coordinator=coordinator.address, application="python-shop")
    yield
    troth.close()


def make_table(shop: Shop, column: str) -> str:
    """A table of the one column, and three rows."""
    name = f"kind_{column}"
    value = TYPES[column][1]
    with closing(plain.connect(shop.url)) as db:
        db.cursor().execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, {column} {TYPES[column][0]})")
        db.cursor().execute(f"INSERT INTO {name} VALUES (1, {value}), (2, {value}), (3, NULL)")
    return name


def dump(shop: Shop, table: str, column: str) -> list[tuple[int, str | None]]:
    """The rows as the database has them, so that nothing is lost in reading."""
    with closing(plain.connect(shop.url)) as db, closing(db.cursor()) as cursor:
        cursor.execute(f"SELECT id, hex(concat({column})) FROM {table} ORDER BY id")
        return list(cursor.fetchall())


def undo_log(shop: Shop, xid: str) -> str:
    """The one undo log of the transaction, as JSON."""
    with closing(plain.connect(shop.url)) as db, closing(db.cursor()) as cursor:
        cursor.execute("SELECT rollback_info FROM undo_log WHERE xid = %s", (xid,))
        ((info,),) = cursor.fetchall()
    return bytes(info).decode()


@pytest.mark.parametrize("column", TYPES)
def test_java_undoes_what_python_did_to_a_column(mariadb_shop: Shop, column: str) -> None:
    shop, (_, value, other) = mariadb_shop, TYPES[column]
    table = make_table(shop, column)
    before = dump(shop, table, column)
    xid = shop.java.call("begin")
    with troth.join(xid), closing(troth.at.connect(shop.url)) as db:
        cursor = db.cursor()
        cursor.execute(f"UPDATE {table} SET {column} = {other} WHERE id = 1")
        cursor.execute(f"DELETE FROM {table} WHERE id = 2")
        cursor.execute(f"UPDATE {table} SET {column} = {value} WHERE id = 3")
        cursor.execute(f"INSERT INTO {table} VALUES (4, {value})")
        db.commit()
    assert dump(shop, table, column) != before
    assert ('"text":' in undo_log(shop, xid)) == (column in WITH_TEXT)
    troth.close()
    shop.java.call("rollback", xid=xid)
    until(lambda: shop.java.call("status", xid=xid) == "Rollbacked")
    assert shop.undo_logs(xid) == 0
    if column in SECONDS_ONLY:
        before = [(key, value and value[: -len(FRACTION)] + NO_FRACTION) for key, value in before]
    assert dump(shop, table, column) == before
