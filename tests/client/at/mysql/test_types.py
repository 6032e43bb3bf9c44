"""Every column type comes back as it was, from UPDATE, DELETE and INSERT; images say what Java says."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

pytestmark = pytest.mark.engines

XID = "127.0.0.1:8091:43"

TYPES = [
    ("TINYINT", ["-128", "127", "NULL"]),
    ("TINYINT(1)", ["0", "1", "5", "-3"]),
    ("TINYINT UNSIGNED", ["255"]),
    ("SMALLINT", ["-32768"]),
    ("MEDIUMINT UNSIGNED", ["16777215"]),
    ("INT", ["-2147483648", "2147483647"]),
    ("INT UNSIGNED", ["4294967295"]),
    ("INT ZEROFILL", ["7"]),
    ("BIGINT", ["-9223372036854775808", "9223372036854775807"]),
    ("BIGINT UNSIGNED", ["18446744073709551615", "0"]),
    ("BOOLEAN", ["TRUE", "FALSE"]),
    ("BIT(1)", ["b'0'", "b'1'"]),
    ("BIT(12)", ["b'101010101010'", "b'1'"]),
    ("BIT(64)", ["18446744073709551615"]),
    ("DECIMAL(30,10)", ["12345678901234567890.0123456789", "-0.0000000001", "0"]),
    ("NUMERIC(5)", ["-99999"]),
    ("FLOAT", ["0.1", "-3.4028235e38", "1.17549e-38", "16777217", "0"]),
    ("DOUBLE", ["0.1", "1.7976931348623157e308", "-4.9e-300", "12345678901234567"]),
    ("CHAR(5)", ["''", "'a'", "'abcde'", "'ü'"]),
    ("VARCHAR(50)", ["'a '", "''", "'it''s \\\\ 50% \\n \\0 😀'", "'1'"]),
    ("VARCHAR(50) CHARACTER SET latin1", ["'ü'"]),
    ("VARCHAR(50) COLLATE utf8mb4_bin", ["'A'"]),
    ("TINYTEXT", ["'t'"]),
    ("MEDIUMTEXT", ["REPEAT('x', 70000)"]),
    ("LONGTEXT", ["'{}'"]),
    ("JSON", ["'{\"a\": [1, 2.50, null]}'"]),
    ("ENUM('a','b,c','d''e')", ["'b,c'", "'d''e'"]),
    ("SET('x','y','z')", ["'x,z'", "''"]),
    ("BINARY(4)", ["x'00ff'", "x'01020304'"]),
    ("VARBINARY(16)", ["x''", "x'00ff27'"]),
    ("BLOB", ["x'deadbeef00'", "''"]),
    ("LONGBLOB", ["REPEAT(x'80', 5000)"]),
    ("DATE", ["'2024-02-29'", "'1000-01-01'", "'9999-12-31'", "'0000-00-00'", "'2024-00-00'", "'1582-10-10'"]),
    ("TIME", ["'03:04:05'", "'-838:59:59'", "'838:59:59'", "'00:00:00'"]),
    ("TIME(6)", ["'03:04:05.000001'", "'-00:00:00.5'", "'03:04:05'"]),
    ("DATETIME", ["'2026-01-02 03:04:05'", "'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'1000-01-01'"]),
    ("DATETIME(3)", ["'2026-01-02 03:04:05.678'"]),
    ("DATETIME(6)", ["'2026-03-29 02:30:00.123456'", "'1969-12-31 23:59:59.999999'"]),
    ("TIMESTAMP NULL", ["'2026-01-02 03:04:05'", "'1970-01-02 00:00:00'", "'2038-01-18 00:00:00'", "0", "NULL"]),
    ("TIMESTAMP(6) NULL", ["'2026-01-02 03:04:05.678901'", "'2026-10-25 02:30:00.5'"]),
    ("YEAR", ["2026", "1901", "2155", "0"]),
    ("UUID", ["'123e4567-e89b-12d3-a456-426655440000'"]),
    ("INET6", ["'2001:db8::ff00:42:8329'"]),
    ("INET4", ["'192.0.2.1'"]),
    ("POINT", ["ST_GeomFromText('POINT(1 2.5)')"]),
    ("GEOMETRY", ["ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))', 4326)"]),
]
ALL = [pytest.param(kind, values, id=kind) for kind, values in TYPES]
LOOSE = "SET SESSION sql_mode = ''"


@pytest.fixture
def changed(new_database, in_global):
    """Make a table of one type, let AT change it by each kind of statement, roll back, and compare."""

    def change(kind, values, zone="+00:00", query=""):
        database = new_database()
        rows = ", ".join(f"({number}, {value})" for number, value in enumerate(values, 1))
        with closing(database.plain()) as raw, raw.cursor() as cursor:
            cursor.execute(LOOSE)
            cursor.execute(f"CREATE TABLE t (id INT PRIMARY KEY, c {kind}, n INT DEFAULT 0)")
            cursor.execute(f"INSERT INTO t (id, c) VALUES {rows}")
        before = database.dump()
        connection = database.connect(query, init_command=LOOSE, autocommit=True)
        cursor = connection.cursor()
        cursor.execute("SET SESSION time_zone = %s", (zone,))
        for sql in (
            f"INSERT INTO t (id, c) VALUES (100, {values[0]})",
            *(f"UPDATE t SET c = {value}, n = n + 1 WHERE c IS NULL OR id > 0" for value in values),
            "UPDATE t SET c = DEFAULT, n = 7",
            "DELETE FROM t",
            f"INSERT INTO t (id, c) SELECT id + 200, {values[-1]} FROM seq",
        ):
            if "seq" in sql:
                database.run("CREATE TABLE IF NOT EXISTS seq (id INT PRIMARY KEY)", "REPLACE INTO seq VALUES (1), (2)")
            with in_global(XID):
                cursor.execute(sql)
        logs = [json.loads(row[-1]) for row in database.undo_rows()]
        database.coordinator.rollback(XID)
        database.run("DROP TABLE IF EXISTS seq")
        assert database.dump() == before
        return logs

    return change


@pytest.mark.parametrize(("kind", "values"), ALL)
def test_a_type_survives_the_undo_log(changed, kind, values):
    changed(kind, values)


TEMPORAL = [pytest.param(kind, values, id=kind) for kind, values in TYPES if kind.startswith(("DATE", "TIME", "YEAR"))]


@pytest.mark.parametrize(("kind", "values"), TEMPORAL)
def test_dates_survive_other_time_zones(changed, kind, values):
    changed(kind, values, zone="-07:30", query="&jvm_timezone=Europe/Berlin")


def field_of(log, name):
    rows = log["sqlUndoLogs"][1][0]["afterImage"]["rows"][1]
    ((field,),) = [[field for field in rows[0]["fields"][1] if field["name"] == name]]
    return field["type"], field["value"]


JAVA = [
    ("TINYINT", "1", -6, 1),
    ("TINYINT(1)", "1", -7, True),
    ("SMALLINT", "300", 5, 300),
    ("INT", "-70000", 4, -70000),
    ("INT UNSIGNED", "4000000000", 4, ["java.lang.Long", 4000000000]),
    ("BIGINT", "5", -5, ["java.lang.Long", 5]),
    ("BIGINT UNSIGNED", "6", -5, ["java.math.BigInteger", 6]),
    ("DECIMAL(12,4)", "7.5", 3, ["java.math.BigDecimal", 7.5]),
    ("FLOAT", "1.1", 7, ["java.lang.Float", 1.1]),
    ("DOUBLE", "0.1", 8, 0.1),
    ("CHAR(4)", "'zz'", 1, "zz"),
    ("VARCHAR(9)", "'新'", 12, "新"),
    ("TEXT", "'tt'", -1, "tt"),
    ("BIT(1)", "0", -7, False),
    ("BIT(8)", "165", -7, ["[B", "pQ=="]),
    ("DATE", "'2025-12-31'", 91, ["java.sql.Date", 1767139200000]),
    ("TIME", "'23:59:59'", 92, ["java.sql.Time", "23:59:59"]),
    ("DATETIME(3)", "'2025-12-31 23:59:59.001'", 93, ["java.time.LocalDateTime", 1767225599001]),
    ("TIMESTAMP(6)", "'2025-12-31 23:59:59.000001'", 93, ["java.sql.Timestamp", [1767225599000, 1000]]),
    ("YEAR", "1999", 91, ["java.sql.Date", 915148800000]),
    ("VARBINARY(9)", "x'01'", -3, ["[B", "AQ=="]),
    ("BLOB", "x'02'", -4, ["[B", "Ag=="]),
    ("JSON", "'[1]'", -1, "[1]"),
]


@pytest.mark.parametrize(("kind", "value", "number", "java"), [pytest.param(*row, id=row[0]) for row in JAVA])
def test_values_are_written_as_java_writes_them(changed, kind, value, number, java):
    logs = changed(kind, [value], query="&jvm_timezone=UTC")
    assert field_of(logs[0], "c") == (number, java)
