"""Undo rows that Java Seata wrote on MariaDB, undone here: the statements are run past AT, Java's row is put beside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import BranchRollbackRequest

pytestmark = pytest.mark.engines

DATA = Path(__file__).parents[2] / "sql" / "data" / "undo_log.jsonl"
LINES = [json.loads(line) for line in DATA.read_text().splitlines()]
ROWS = [pytest.param(line, id=f"{line['driver'][:7]}-{line['name']}") for line in LINES if "rollback_info_hex" in line]

TABLES = (
    "CREATE TABLE kinds (id BIGINT AUTO_INCREMENT PRIMARY KEY, ti TINYINT, bo TINYINT(1), si SMALLINT, i INT, "
    "iu INT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED, de DECIMAL(12,4), f FLOAT, d DOUBLE, c CHAR(4), v VARCHAR(100), "
    "t TEXT, b1 BIT(1), b8 BIT(8), dt DATE, tm TIME, dtm DATETIME(3), ts TIMESTAMP(6) NULL, yr YEAR, "
    "bin VARBINARY(16), bl BLOB, js JSON)",
    "CREATE TABLE pair (a BIGINT, b VARCHAR(20), v INT, PRIMARY KEY (a, b))",
    "CREATE TABLE word (k VARCHAR(40) PRIMARY KEY, v INT)",
    "INSERT INTO kinds (id, ti, bo, si, i, iu, bi, bu, de, f, d, c, v, t, b1, b8, dt, tm, dtm, ts, yr, bin, bl, js) "
    "VALUES (1, -5, 1, 300, -70000, 4000000000, 9007199254740993, 18446744073709551615, 12345.6789, 1.5, 2.25, 'ab', "
    "'héllo 数据', 'text', b'1', 165, '2026-01-02', '03:04:05', '2026-01-02 03:04:05.678', "
    "'2026-01-02 03:04:05.678901', 2026, x'00FF10', x'DEADBEEF00', '{\"a\": [1, null]}')",
    "INSERT INTO kinds (id) VALUES (2)",
    "INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30)",
    "INSERT INTO word VALUES ('plain', 1), ('with:colon', 2), ('with_under', 4)",
)


@pytest.mark.parametrize("row", ROWS)
def test_what_java_did_is_undone(new_database, row):
    database = new_database()
    database.run("SET GLOBAL time_zone = '+00:00'", *TABLES)
    before = database.dump()
    counted = re.search(r"kinds:(\d+)", row["register"][0]["lock_keys"])
    if counted is not None and row["name"].startswith("insert"):
        database.run(f"ALTER TABLE kinds AUTO_INCREMENT = {counted[1]}")
    database.run(*row["sql"])
    assert database.dump() != before
    with database.plain() as raw, raw.cursor() as cursor:
        cursor.execute(
            "INSERT INTO undo_log VALUES (%s, %s, %s, %s, %s, NOW(6), NOW(6))",
            (row["branch_id"], row["xid"], row["context"], bytes.fromhex(row["rollback_info_hex"]), row["log_status"]),
        )
    database.connect("&jvm_timezone=UTC")
    (handler,) = database.coordinator.handlers.values()
    answer = handler.rollback(BranchRollbackRequest(row["xid"], row["branch_id"], BranchType.AT, "", None))
    assert answer.branch_status is BranchStatus.PhaseTwo_Rollbacked, answer.msg
    assert database.dump() == before
    assert database.undo_rows() == []
