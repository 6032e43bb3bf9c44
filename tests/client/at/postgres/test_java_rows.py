"""Beside Java on one database: what its AT wrote (`undo_log_postgres.jsonl`) is what we write, and we can undo it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

import troth.at
from troth.client.context import join
from troth.client.sql.undo_codec import decode
from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import BranchRollbackRequest

pytestmark = pytest.mark.engines

DATA = Path(__file__).parents[2] / "sql" / "data"
LINES = [json.loads(line) for line in (DATA / "undo_log_postgres.jsonl").read_text(encoding="utf-8").splitlines()]
ROWS = [line for line in LINES if line.get("rollback_info_hex")]
XID = "10.0.0.1:8091:5"

LOSSY = {"ti", "tz"}
"""Java keeps whole seconds of a time, and no zone: its own rollback loses them. An undo of ours that would, freezes."""
OURS = {"iv", "ar", "ta"}
"""Java's classes for these are not written by us (but read): a text stands there."""


@pytest.fixture
def tables(database):
    database.run("DROP TABLE account, pair; SET search_path = public")
    database.run((DATA / "undo_log_postgres.sql").read_text(encoding="utf-8"))
    yield database
    database.run("DROP SCHEMA other CASCADE")


def url_of(database, line) -> str:
    schema = line["resource_id"].partition("currentSchema=")[2].replace("!", ",")
    return f"{database.url}?currentSchema={schema}" if schema else database.url


def fields(log):
    return [
        [(field.name, field.key_type, field.type, field.value) for field in sorted(row.fields, key=lambda f: f.name)]
        for sql in log.sql_undo_logs
        for row in (*sql.before.rows, *sql.after.rows)
    ]


@pytest.mark.parametrize("line", ROWS, ids=[line["name"] for line in ROWS])
def test_ours_is_as_javas(tables, coordinator, line):
    url = url_of(tables, line)
    troth.at.init(url)
    connection = troth.at.connect(url, client=coordinator)
    with join(XID), connection:
        for statement in line["sql"]:
            connection.execute(statement)
    name = connection.resource_id.partition("?")[2]
    assert name == line["resource_id"].partition("?")[2]
    theirs = sorted(part for row in line["register"] for part in row["lock_keys"].split(";"))
    assert sorted(coordinator.lock_texts[0].split(";")) == theirs

    schema = "other." if "currentSchema" in url else ""
    ((context, info),) = tables.rows(f"SELECT context, rollback_info FROM {schema}undo_log")
    mine = decode(context, bytes(info))
    java = decode(line["context"], bytes.fromhex(line["rollback_info_hex"]))
    assert [log.sql_type for log in mine.sql_undo_logs] == [log.sql_type for log in java.sql_undo_logs]
    assert [log.table for log in mine.sql_undo_logs] == [log.table for log in java.sql_undo_logs]
    assert {log.table_name for log in mine.sql_undo_logs} <= {
        *(log.table for log in java.sql_undo_logs),
        '"Mixed Case"',
    }
    for one, other in zip(fields(mine), fields(java), strict=True):
        given = {field[0] for field in other}
        for field, theirs in zip([field for field in one if field[0] in given], other, strict=True):
            if field[0] in LOSSY | OURS and field[3] is not None:
                assert field[:3] == theirs[:3]
            else:
                assert field == theirs


@pytest.mark.parametrize("line", ROWS, ids=[line["name"] for line in ROWS])
def test_we_undo_what_java_wrote(tables, coordinator, line):
    before = tables.dump()
    url = url_of(tables, line)
    troth.at.init(url)
    resource = troth.at.connect(url, client=coordinator)
    schema = "other" if "currentSchema" in url else "public"
    with psycopg.connect(tables.url, options=f"-c search_path={schema}") as plain:
        for statement in line["sql"]:
            plain.execute(statement)
        plain.execute(
            "INSERT INTO undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
            "VALUES (%s, %s, %s, %s, 0, now(), now())",
            (line["branch_id"], line["xid"], line["context"], bytes.fromhex(line["rollback_info_hex"])),
        )
    assert tables.dump() != before
    handler = coordinator.handlers[resource.resource_id]
    resource.close()
    request = BranchRollbackRequest(line["xid"], line["branch_id"], BranchType.AT, resource.resource_id, None)
    answer = handler.rollback(request)
    lossy = [(name, value) for row in fields(decode(line["context"], bytes.fromhex(line["rollback_info_hex"])))
             for name, _, _, value in row if name in LOSSY and value is not None]  # fmt: skip
    if lossy and answer.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Unretryable:
        assert "was changed by somebody else" in answer.msg
        return
    assert answer.branch_status is BranchStatus.PhaseTwo_Rollbacked, answer
    after = tables.dump()
    if lossy:
        assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    else:
        assert after == before
