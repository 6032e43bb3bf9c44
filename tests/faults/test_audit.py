"""The audit sees what it is there for: each wrong that could be left, planted by hand."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bank_audit import Audit, audit
from bank_databases import Database
from bank_settings import BANKS

MOVED = (
    ("lite", "INSERT INTO entry VALUES ('1-a', 1, -10)"),
    ("lite", "UPDATE account SET balance = balance - 10 WHERE id = 1"),
    ("post", "INSERT INTO entry VALUES ('1-a', 2, 10)"),
    ("post", "UPDATE account SET balance = balance + 10 WHERE id = 2"),
)
NOTES = ({"id": "1-a", "source": ["lite", 1], "target": ["post", 2], "amount": 10}, {"id": "1-a", "xid": "h:1:7"})


@pytest.fixture(scope="module")
def empty_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "empty.db"
    Database(f"sqlite:///{path}").create()
    return path


@pytest.fixture
def databases(tmp_path: Path, empty_bank: Path) -> dict[str, Database]:
    """Three SQLite files stand for the three kinds: the audit's SQL is the same."""
    for name in BANKS:
        shutil.copy(empty_bank, tmp_path / f"{name}.db")
    return {name: Database(f"sqlite:///{tmp_path}/{name}.db") for name in BANKS}


def change(databases: dict[str, Database], *statements: tuple[str, str]) -> None:
    for bank, sql in statements:
        with closing(sqlite3.connect(databases[bank].url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(sql)


def judge(databases: dict[str, Database], tmp_path: Path, told: str | None) -> Audit:
    journal = tmp_path / "journal"
    notes = [*NOTES, *([{"id": "1-a", "told": told, "why": ""}] if told else [])]
    journal.write_text("".join(json.dumps(note) + "\n" for note in notes))
    return audit(databases, [journal], "1-")


@pytest.mark.parametrize("told", ["committed", "unknown", None])
def test_what_is_there_as_told_is_right(databases: dict[str, Database], tmp_path: Path, told: str | None) -> None:
    change(databases, *MOVED)
    found = judge(databases, tmp_path, told)
    assert found.wrong == []
    assert (found.transfers, getattr(found, told or "unheard")) == (1, 1)


@pytest.mark.parametrize("told", ["undone", "unknown", None])
def test_what_is_not_there_as_told_is_right(databases: dict[str, Database], tmp_path: Path, told: str | None) -> None:
    assert judge(databases, tmp_path, told).wrong == []


UNDO = "INSERT INTO undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "


@pytest.mark.parametrize(
    ("told", "planted", "complaint"),
    [
        ("committed", (), "told committed and is not there"),
        ("undone", MOVED, "told undone and is there"),
        ("committed", MOVED[:2], "half done"),
        ("unknown", MOVED[2:], "half done"),
        ("committed", MOVED[:3], "post: account"),
        ("committed", (*MOVED, ("maria", "UPDATE account SET balance = balance + 1 WHERE id = 9")), "sum over all"),
        ("committed", (*MOVED, ("maria", "INSERT INTO entry VALUES ('1-zz', 1, 0)")), "nobody asked for it"),
        ("committed", (*MOVED, ("maria", "DELETE FROM account WHERE id = 9")), "maria: account"),
        ("unexpected", (), "unexpected"),
        ("undone", (("lite", UNDO + "VALUES (1, 'h:1:8', '', x'', 0, '', '')"),), "log_status 0"),
        ("committed", (*MOVED, ("lite", UNDO + "VALUES (1, 'h:1:7', '', x'', 1, '', '')")), "undo row of h:1:7"),
    ],
)
def test_each_wrong_is_seen(
    databases: dict[str, Database],
    tmp_path: Path,
    told: str,
    planted: tuple[tuple[str, str], ...],
    complaint: str,
) -> None:
    change(databases, *planted)
    wrong = judge(databases, tmp_path, told).wrong
    assert any(complaint in line for line in wrong), wrong
