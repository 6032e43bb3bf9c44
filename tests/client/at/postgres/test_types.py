"""Every type survives an undo log exactly, whatever the session's settings and the process's time zone."""

from __future__ import annotations

import time

import psycopg
import pytest

from troth.client.context import join
from troth.client.errors import NotSupported
from troth.client.sql.undo_codec import decode

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:78"

TYPES = """
CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS hstore;
CREATE TYPE mood AS ENUM ('sad', 'it''s, "ok"'); CREATE TYPE place AS (x int, t text, at timestamptz);
CREATE DOMAIN positive AS numeric(10, 3) CHECK (value > 0); CREATE DOMAIN words AS text[];
"""

VALUES = {
    "int2": ["-32768", "7"],
    "int4": ["2147483647", "0"],
    "int8": ["-9223372036854775808", "1"],
    "oid": ["4294967295"],
    "numeric": ["123456789012345678901234567890.123456789", "0.00000001", "1.50", "1E+3", "NaN", "-Infinity"],
    "numeric(10,4)": ["7.5", "-0.0001"],
    "float4": ["1.1", "-0", "3.4028235e+38", "NaN", "-Infinity", "1e-45"],
    "float8": ["0.1", "1e300", "-0", "4.9e-324", "Infinity", "123456789.123456789"],
    "text": ["", "it's \"quoted\" \\ %s %% \t\n ü 🐘", "{a,b}"],
    "varchar(20)": ["trailing  ", "x"],
    "char(5)": ["ab", "", "abcde"],
    '"char"': ["c"],
    "name": ["some_name"],
    "citext": ["MiXed"],
    "bool": ["t", "f"],
    "date": ["2024-02-29", "0001-01-01", "infinity", "0044-03-15 BC", "20240-01-01", "1970-01-01"],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00", "12:34:56.7"],
    "timetz": ["12:00:00.5+05:30", "00:00:00-12"],
    "timestamp": ["2024-03-31 02:30:00", "2024-10-27 02:30:00.123456", "1900-01-01 00:00:00", "-infinity",
                  "1969-12-31 23:59:59.999999", "2024-01-01 00:00:00.001", "294276-12-31 23:59:59"],
    "timestamp(3)": ["2024-01-01 10:00:00.123"],
    "timestamptz": ["2024-03-31 02:30:00+01", "1880-01-01 00:00:00+00", "infinity", "2024-06-01 00:00:00.000001-08",
                    "0099-01-01 00:00:00+00 BC"],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-00:00:01", "24 hours"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "bytea": ["\\x", "\\x00ff5c27"],
    "json": ['{"b": 1,   "a": [1.0, "ü\\n"], "b": 2}', "null"],
    "jsonb": ['{"b": 1.00, "a": null}', '"\\u00fc"'],
    "xml": ["<a>1</a>"],
    "int4[]": ["{1,NULL,-3}", "{}", "{{1,2},{3,4}}", "[0:1]={5,6}"],
    "text[]": ['{"a,b","c\\"d",NULL,"NULL",""}'],
    "timestamptz[]": ['{"2024-01-01 00:00:00+00"}'],
    "words": ['{a,"b c"}'],
    "positive": ["1.5"],
    "mood": ["sad", "it's, \"ok\""],
    "mood[]": ["{sad}"],
    "place": ['(1,"a ""b"", c","2024-01-01 00:00:00+00")'],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1/64"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit(4)": ["1010"],
    "bit(1)": ["1"],
    "varbit": ["", "10101"],
    "money": ["12.34", "-0.01"],
    "point": ["(1.5,-2)"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(0,0),(1,1)]"],
    "int4range": ["[1,5)", "empty"],
    "tstzrange": ['["2024-01-01 00:00:00+00",)'],
    "int4multirange": ["{[1,3),[5,7)}"],
    "tsvector": ["'a':1 'b c':2A"],
    "tsquery": ["'a' & !'b'"],
    "pg_lsn": ["16/B374D848"],
    "regclass": ["pg_class"],
    "hstore": ['"a"=>"1", "b"=>NULL'],
}  # fmt: skip


@pytest.fixture
def kinds(database):
    database.run(TYPES)
    columns = ", ".join(f"c{place} {name}" for place, name in enumerate(VALUES))
    database.run(f"CREATE TABLE kinds (id int PRIMARY KEY, {columns})")
    rows = max(map(len, VALUES.values()))
    for row in range(rows):
        values = [texts[row % len(texts)] for texts in VALUES.values()]
        casts = ", ".join(f"%s::{name}" for name in VALUES)
        database._plain.execute(f"INSERT INTO kinds VALUES ({row}, {casts})", values)
    database.run("INSERT INTO kinds VALUES (100)")
    return database


SETTINGS = {
    "plain": "",
    "odd": "-c TimeZone=Asia/Kolkata -c bytea_output=escape -c extra_float_digits=3 -c IntervalStyle=iso_8601 "
    "-c lc_monetary=C -c xmloption=document",
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_every_type(kinds, coordinator, options):
    before = kinds.dump()
    connection = kinds.connect(options=options)
    sets = ", ".join(f"c{place} = NULL" for place in range(len(VALUES)))
    with join(XID):
        connection.execute("DELETE FROM kinds WHERE id %% 2 = %s", (0,))
        connection.execute(f"UPDATE kinds SET {sets} WHERE id = 1")
        connection.commit()
        _rewrite(connection, kinds)
        connection.execute("UPDATE kinds SET c0 = c0 - 1 WHERE id = 3")
        connection.commit()
    assert kinds.dump() != before
    coordinator.rollback(XID)
    assert kinds.dump() == before


def _rewrite(connection, kinds):
    """An update that sets each column to another row's value."""
    sets = ", ".join(f"c{place} = o.c{place}" for place in range(len(VALUES)))
    connection.execute(f"UPDATE kinds k SET {sets} FROM kinds o WHERE k.id = 5 AND o.id = 3")


def test_every_type_inserted(kinds, coordinator):
    before = kinds.dump()
    connection = kinds.connect(options=SETTINGS["odd"])
    columns = ", ".join(f"c{place}" for place in range(len(VALUES)))
    with join(XID):
        connection.execute(f"INSERT INTO kinds (id, {columns}) SELECT id + 1000, {columns} FROM kinds")
        connection.commit()
    coordinator.rollback(XID)
    assert kinds.dump() == before


def test_another_time_zone_in_phase_two(kinds, coordinator, monkeypatch):
    before = kinds.dump()
    try:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        connection = kinds.connect()
        with join(XID):
            connection.execute("DELETE FROM kinds")
            connection.commit()
        monkeypatch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        coordinator.rollback(XID)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert kinds.dump() == before


def test_values_are_as_java_has_them(database, coordinator, monkeypatch):
    database.run(
        "CREATE TABLE j (id int8 PRIMARY KEY, i int, s int2, n numeric(10,4), f float4, d float8, b bool, c char(3), "
        "u uuid, y bytea, da date, ti time, ts timestamp, tz timestamptz, js jsonb, v varchar(9))"
    )
    try:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        with join(XID), database.connect() as connection:
            connection.execute(
                "INSERT INTO j VALUES (1, 2, 3, 7.5, 1.1, 0.1, true, 'a', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', "
                "'\\x01', '2024-01-01', '03:04:05', '2024-01-01 00:00:00.000001', '2024-01-01 00:00:00+00', '[1]', 'v')"
            )
    finally:
        monkeypatch.undo()
        time.tzset()
    (_, _, _, context, info) = database.undo_rows()[0]
    assert context == "serializer=jackson&compressorType=NONE"
    text = bytes(info).decode()
    for part in (
        '"name":"id","keyType":"PRIMARY_KEY","type":-5,"value":["java.lang.Long",1]',
        '"name":"i","keyType":"NULL","type":4,"value":2',
        '"type":5,"value":3',
        '"type":2,"value":["java.math.BigDecimal",7.5000]',
        '"type":7,"value":["java.lang.Float",1.1]',
        '"type":8,"value":0.1',
        '"type":-7,"value":true',
        '"type":1,"value":"a  "',
        '"type":1111,"value":["java.util.UUID","a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]',
        '"type":-2,"value":["[B","AQ=="]',
        '"type":91,"value":["java.sql.Date",1704063600000]',
        '"type":92,"value":["java.sql.Time","03:04:05"]',
        '"type":93,"value":["java.sql.Timestamp",[1704063600000,1000]]',
        '"type":93,"value":["java.sql.Timestamp",1704067200000]',
        '"type":1111,"value":{"@class":"org.postgresql.util.PGobject","type":"jsonb","value":"[1]","null":false}',
        '"type":12,"value":"v"',
    ):
        assert part in text, part
    assert decode(context, bytes(info)).sql_undo_logs[0].table_name == "j"


@pytest.mark.parametrize(
    "setting", ["DateStyle = 'SQL, DMY'", "IntervalStyle = sql_standard", "extra_float_digits = 0",
                "standard_conforming_strings = off"],
)  # fmt: skip
def test_settings_under_which_texts_are_not_exact_are_refused(database, setting):
    connection = database.connect(autocommit=True)
    connection.execute(f"SET {setting}")
    with join(XID), pytest.raises(NotSupported, match="set it"):
        connection.execute("UPDATE account SET balance = 0")
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
