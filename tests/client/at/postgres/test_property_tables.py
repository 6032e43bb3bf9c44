"""Random tables of random types and keys: committed, they are as without AT; rolled back, as before, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import troth.at
from troth.client.context import join

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:11"

KEYS = {
    "int": ["1", "-2", "3", "40"],
    "bigint": ["9223372036854775807", "0", "5", "6"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000",
             "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "text": ["", "a,b;c", "Straße 100% _", "'\"\\"],
    "varchar(9)": ["x", "x ", "_", "%2C"],
    "char(4)": ["a", "b", "ab", ""],
    "bytea": ["\\x", "\\x00", "\\xff2c3b", "\\x61"],
    "timestamptz": ["2024-10-27 02:30:00+02", "2024-10-27 02:30:00+01", "infinity", "1900-01-01 00:00:00.000001+00"],
    "timestamp(3)": ["2024-01-01 00:00:00.123", "-infinity", "2024-01-01 00:00:00", "0044-03-15 00:00:00 BC"],
    "date": ["2024-02-29", "infinity", "0001-01-01", "1970-01-01"],
    "time": ["24:00:00", "00:00:00", "12:00:00.000001", "12:00:00"],
    "numeric": ["1.10", "0", "-7.5", "NaN"],
    "inet": ["10.0.0.1", "10.0.0.1/8", "::1", "10.0.0.2"],
    "boolean": ["t", "f"],
    "mood": ["sad", "it's, \"ok\""],
    "positive": ["1.5", "2", "3.25", "9"],
}  # fmt: skip
VALUES = KEYS | {
    "jsonb": ['{"a": [1, null]}', "null", '"ü"'],
    "json": ['{"b": 1,  "b": 2}', "[]"],
    "int[]": ["{1,NULL}", "{{1},{2}}", "{}"],
    "text[]": ['{"a,b",NULL,"NULL"}'],
    "int4range": ["[1,5)", "empty", "(,3]"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
    "interval": ["1 mon -1 days 00:00:00.000001", "0"],
    "money": ["12.34", "-0.01"],
    "bit(3)": ["101", "000"],
    "varbit": ["", "1"],
    "float8": ["NaN", "-0", "4.9e-324", "0.1"],
    "timetz": ["12:00:00.5+05:30"],
    "point": ["(1.5,-2)"],
    "pairing": ['(1,"a ""b"" c")', "(,)"],
}
NAMES = ["id", "Name", "größe", 'a "q"', "select", "100%", "x_y", "from"]
TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'it''s, "ok"');
CREATE DOMAIN positive AS numeric(8, 2) CHECK (value > 0);
CREATE TYPE pairing AS (a int, b text);
"""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


@st.composite
def programs(draw):
    """A table, its rows, and statements with their parameters, cut into local transactions."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=2))
    others = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))
    types = keys + others
    names = draw(st.permutations(NAMES))[: len(types)]
    unique = draw(st.booleans()) and others[0] in KEYS
    table = draw(st.sampled_from(["t", "T odd", "100%;"]))
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(names, types, strict=True))
    key = ", ".join(map(quoted, names[: len(keys)]))
    extra = f", UNIQUE ({quoted(names[len(keys)])})" if unique else ""
    create = f"CREATE TABLE {quoted(table)} ({columns}, PRIMARY KEY ({key}){extra})".replace("%%", "%")

    def value(place):
        chosen = st.sampled_from(VALUES[types[place]])
        return draw(chosen if place < len(keys) else st.one_of(st.none(), chosen))

    def statement():
        kind = draw(st.sampled_from(["insert", "insert", "insert", "update", "update", "delete", "upsert"]))
        place = draw(st.integers(len(keys), len(types) - 1))
        where = f"{quoted(names[0])} = %s::{types[0]}"
        if kind == "delete":
            return f"DELETE FROM {quoted(table)} WHERE {where}", [value(0)]
        if kind == "update":
            change = f"{quoted(names[place])} = %s::{types[place]}"
            return f"UPDATE {quoted(table)} SET {change} WHERE {where}", [value(place), value(0)]
        marks = ", ".join(f"%s::{kind}" for kind in types)
        sql = f"INSERT INTO {quoted(table)} VALUES ({marks})"
        if kind == "upsert":
            sql += f" ON CONFLICT ({key}) DO UPDATE SET {quoted(names[place])} = excluded.{quoted(names[place])}"
        return sql, [value(n) for n in range(len(types))]

    def many():
        return [statement() for _ in range(draw(st.integers(1, 8)))]

    return create, quoted(table).replace("%%", "%"), many(), [many() for _ in range(draw(st.integers(1, 3)))]


def play(connection, statements) -> list[object]:
    """The row counts, or the errors, each statement in a savepoint of its own."""
    seen: list[object] = []
    for sql, parameters in statements:
        connection.execute("SAVEPOINT one")
        try:
            seen.append(connection.execute(sql, parameters).rowcount)
        except psycopg.Error as error:
            connection.execute("ROLLBACK TO one")
            seen.append(error.sqlstate)
    connection.commit()
    return seen


@pytest.fixture(scope="module")
def urls(new_postgres_database: Callable[[], str]) -> list[str]:
    made = [new_postgres_database(), new_postgres_database()]
    for url in made:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
            connection.execute(TYPES)
    troth.at.init(made[1])
    return made


def check(urls, coordinator, program, *, committed: bool) -> None:
    create, table, filling, parts = program
    with psycopg.connect(urls[0]) as plain, psycopg.connect(urls[1]) as look:

        def content(connection):
            rows = connection.execute(f"SELECT x::text FROM {table} x").fetchall()
            connection.commit()
            return sorted(str(row[0]) for row in rows)

        try:
            for connection in (plain, look):
                connection.execute(create)
                play(connection, filling)
            before = content(look)
            with troth.at.connect(urls[1], client=coordinator) as connection, join(XID):
                for part in parts:
                    assert play(connection, part) == play(plain, part)
            assert content(look) == content(plain)
            if committed:
                coordinator.commit(XID)
                assert content(look) == content(plain)
            else:
                coordinator.rollback(XID)
                assert content(look) == before
        finally:
            for connection in (plain, look):
                connection.rollback()
                connection.execute(f"DROP TABLE IF EXISTS {table}")


def often(count: int):
    suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, phases=[Phase.generate], suppress_health_check=suppressed)


@often(40)
@given(programs(), st.booleans())
def test_random_tables(urls, coordinator, program, committed):
    check(urls, coordinator, program, committed=committed)


@pytest.mark.soak
@often(3000)
@given(programs(), st.booleans())
def test_many_random_tables(urls, coordinator, program, committed):
    check(urls, coordinator, program, committed=committed)
