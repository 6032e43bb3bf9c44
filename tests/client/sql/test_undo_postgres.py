"""Undo rows that Java wrote in PostgreSQL (captured by tests/interop/capture_undo_postgres.py) decode and encode."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from troth.client.sql.undo_codec import decode, encode
from troth.client.sql.undo_json import from_plain, to_plain

FILE = Path(__file__).parent / "data" / "undo_log_postgres.jsonl"
LINES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
ROWS = [pytest.param(line, id=line["name"]) for line in LINES if "rollback_info_hex" in line]


@pytest.mark.parametrize("row", ROWS)
def test_row(row: dict) -> None:
    stored = bytes.fromhex(row["rollback_info_hex"])
    log = decode(row["context"], stored)
    assert (log.xid, log.branch_id) == (row["xid"], row["branch_id"])
    assert encode(row["context"], log) == stored
    assert from_plain(json.loads(to_plain(log), parse_float=Decimal)) == log


def test_every_row_of_the_file_is_tested() -> None:
    without = {line["name"] for line in LINES if "rollback_info_hex" not in line}
    assert len(ROWS) + len(without) == len(LINES)
    assert without == {
        "update.no_rows",
        "update.xml",
        "delete.xml",
        "insert.string_key_comma",
        "insert.string_key_semicolon",
    }
