"""Random tables of random types and keys on MariaDB: committed, they are as without AT; rolled back, as before."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal

import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:11"

KEYS = {
    "int": [1, -2, 3, 40],
    "bigint unsigned": [2**64 - 1, 0, 5, 2**63],
    "tinyint(1)": [0, 1, 7, -1],
    "decimal(12,3)": [Decimal("1.100"), Decimal("-0.001"), 0, Decimal("999999999.999")],
    "varchar(9)": ["x", "X", "x ", "ä", "", "a,b;c", "it's %s"],
    "varchar(9) collate utf8mb4_bin": ["x", "X", "x ", "%2C", "_", "\\"],
    "char(4)": ["a", "A", "ab", "", "ß"],
    "varbinary(9)": [b"", b"\x00", b"\xff,;", b"a"],
    "binary(3)": [b"\x00\x01\x02", b"abc", b"\xff\xff\xff"],
    "datetime(3)": ["2024-02-29 23:59:59.999", "1000-01-01 00:00:00", "9999-12-31 00:00:00.001"],
    "timestamp(6)": ["2024-03-30 02:30:00.000001", "1970-01-02 00:00:00", "2038-01-18 00:00:00.5"],
    "date": ["2024-02-29", "1000-01-01", "9999-12-31"],
    "time(2)": ["-838:59:59", "00:00:00", "12:00:00.01", "838:59:58.99"],
    "year": [1901, 2024, 2155],
    "bit(9)": [b"\x01\xff", b"\x00\x00", b"\x00\x01"],
    "enum('sad','it''s, ok')": ["sad", "it's, ok"],
    "set('a','b','c')": ["", "a", "a,c", "a,b,c"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "inet6": ["::1", "10.0.0.1", "2001:db8::ff"],
}
VALUES = KEYS | {
    "float": [0.5, -1e30, 3.25],
    "double": [0.1, -1.7976931348623157e308, 5e-300, 0],
    "text": ["", "ünï 'q' %s \\ \x00", "x" * 300],
    "json": ['{"a": [1, null]}', "[]"],
    "blob": [b"", b"\x00\xff'\\"],
    "mediumint unsigned": [0, 2**24 - 1],
}
NAMES = ["id", "Name", "größe", "a `q", "select", "100%", "x_y", "from"]
FLOATS = ("float", "double")
INCORRECT_VALUE = 1292


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


@st.composite
def programs(draw):
    """A table, its columns, its rows, and statements with their parameters, cut into local transactions."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=2))
    others = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4))
    types = keys + others
    names = draw(st.permutations(NAMES))[: len(types)]
    table = quoted(draw(st.sampled_from(["t", "T odd", "100%;"])))
    lines = [
        f"{quoted(name)} {kind} {'NOT NULL' if place < len(keys) else 'NULL'}"
        for place, (name, kind) in enumerate(zip(names, types, strict=True))
    ]
    lines.append(f"PRIMARY KEY ({', '.join(map(quoted, names[: len(keys)]))})")
    if draw(st.booleans()) and others[0] in KEYS:
        lines.append(f"UNIQUE KEY `u %%` ({quoted(names[len(keys)])})")
    create = f"CREATE TABLE {table} ({', '.join(lines)}) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"

    def value(place):
        chosen = st.sampled_from(VALUES[types[place]])
        return draw(chosen if place < len(keys) else st.one_of(st.none(), chosen))

    def row():
        return [value(place) for place in range(len(types))]

    def statement():
        place = draw(st.integers(len(keys), len(types) - 1))
        chosen = draw(st.integers(0, len(types) - 1))
        # A text beside bits is compared as a number or as bits, as the server's plan has it, so it is made a number.
        mark = "CAST(CONV(HEX(%s), 16, 10) AS UNSIGNED)" if types[chosen].startswith("bit") else "%s"
        where, change = f"{quoted(names[chosen])} = {mark}", f"{quoted(names[place])} = %s"
        marks = f"({', '.join(['%s'] * len(types))})"
        match draw(st.integers(0, 11)):
            case 0:
                return f"DELETE FROM {table} WHERE {where}", [value(chosen)]
            case 1:
                return f"DELETE FROM {table} ORDER BY {quoted(names[0])} LIMIT 1", []
            case 2 | 3:
                return f"UPDATE {table} SET {change} WHERE {where}", [value(place), value(chosen)]
            case 4:
                return f"UPDATE {table} SET {change} ORDER BY {quoted(names[0])} DESC LIMIT 2", [value(place)]
            case 5:
                sql = f"INSERT INTO {table} VALUES {marks} ON DUPLICATE KEY UPDATE {change}"
                return sql, [*row(), value(place)]
            case 6:
                return f"REPLACE INTO {table} VALUES {marks}", row()
            case 7:
                return f"INSERT IGNORE INTO {table} VALUES {marks}, {marks}", [*row(), *row()]
            case 8:
                return f"INSERT INTO {table} VALUES {marks}, {marks}", [*row(), *row()]
            case _:
                return f"INSERT INTO {table} VALUES {marks}", row()

    def many(least):
        return [statement() for _ in range(draw(st.integers(least, 8)))]

    parts = [many(1) for _ in range(draw(st.integers(1, 3)))]
    return create, table, dict(zip(names, types, strict=True)), many(0), parts


def one(connection, statement) -> object:
    """The row count, or the error's number."""
    with closing(connection.cursor()) as cursor:
        try:
            return cursor.execute(*statement)
        except pymysql.Error as error:
            return error.args[0]


def content(raw, table, columns) -> list[str]:
    shown = ", ".join(
        f"{quoted(name)} * 1e0" if kind in FLOATS else f"HEX({quoted(name)}), CAST({quoted(name)} AS CHAR)"
        for name, kind in columns.items()
    )
    with closing(raw.cursor()) as cursor:
        cursor.execute(f"SELECT {shown} FROM {table}".replace("%%", "%"))
        return sorted(map(repr, cursor.fetchall()))


@pytest.fixture
def databases(new_database):
    return new_database(), new_database()


def check(databases, coordinator, program, *, committed: bool) -> None:
    create, table, columns, filling, parts = program
    without, under_at = databases
    for database in databases:
        database.run(create.replace("%%", "%"))
    try:
        with (
            closing(without.plain(autocommit=False)) as plain,
            closing(under_at.plain(init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")) as look,
            closing(under_at.connect()) as connection,
        ):
            for statement in filling:
                assert one(plain, statement) == one(look, statement)
            plain.commit()
            before = content(look, table, columns)
            with join(XID):
                for part in parts:
                    for statement in part:
                        try:
                            got = one(connection, statement)
                        except NotSupported as refusal:
                            if "ON DUPLICATE KEY" not in refusal.reason:
                                raise
                            continue  # for the row that it has met; nothing of it has happened
                        bare = one(plain, statement)
                        # A comparison that a bare UPDATE takes for an error finds no row in the SELECT before it.
                        assert got == bare or (got, bare) == (0, INCORRECT_VALUE), statement
                    connection.commit()
                    plain.commit()
            assert content(look, table, columns) == content(plain, table, columns)
            if committed:
                coordinator.commit(XID)
            else:
                coordinator.rollback(XID)
                assert content(look, table, columns) == before
            assert under_at.undo_rows() == []
    finally:
        for database in databases:
            database.run(f"DROP TABLE {table}".replace("%%", "%"))


def often(count: int):
    suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, phases=[Phase.generate], suppress_health_check=suppressed)


@often(20)
@given(programs(), st.booleans())
def test_random_tables(databases, coordinator, program, committed):
    check(databases, coordinator, program, committed=committed)


@pytest.mark.soak
@often(2000)
@given(programs(), st.booleans())
def test_many_random_tables(databases, coordinator, program, committed):
    check(databases, coordinator, program, committed=committed)
