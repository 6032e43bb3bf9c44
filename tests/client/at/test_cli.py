"""`troth at` and `troth undo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from troth.cli import at, undo

RUNNER = CliRunner()
LINES = [
    line
    for line in (Path(__file__).parents[1] / "sql/data/undo_log.jsonl").read_text().splitlines()
    if "rollback_info_hex" in json.loads(line)
]


def test_init_and_check(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    missing = RUNNER.invoke(at.app, ["check", url])
    assert missing.exit_code == 1
    for _ in range(2):
        assert RUNNER.invoke(at.app, ["init", url]).exit_code == 0
    good = RUNNER.invoke(at.app, ["check", url])
    assert (good.exit_code, good.stdout) == (0, f"{url}: undo_log is as AT needs it\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("DROP TABLE undo_log", "no table undo_log"),
        ("DROP TABLE undo_log; CREATE TABLE undo_log (xid, branch_id)", "no column context"),
        ("DROP TABLE undo_log; CREATE TABLE undo_log (xid, branch_id, UNIQUE (xid))", "no UNIQUE (xid, branch_id)"),
    ],
)
def test_check_says_what_is_wrong(database, script, said):
    database.run(script)
    result = RUNNER.invoke(at.app, ["check", database.url])
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize("command", ["init", "check"])
@pytest.mark.parametrize("url", ["sqlite:///:memory:", "nonsense", "sqlite:////no/such/directory/x.db", "mysql://h/d"])
def test_urls_that_do_not_work(command, url):
    result = RUNNER.invoke(at.app, [command, url])
    assert result.exit_code == 1
    assert result.stderr.startswith(url)


def test_decode_and_encode():
    decoded = RUNNER.invoke(undo.app, ["decode"], input="\n".join(LINES) + "\n\n")
    assert decoded.exit_code == 0, decoded.output
    shown = [json.loads(line) for line in decoded.stdout.splitlines()]
    assert len(shown) == len(LINES)
    assert list(shown[0]) == ["name", "xid", "branch_id", "log_status", "context", "undo_log", "rollback_info_text"]
    assert shown[0]["undo_log"]["sqlUndoLogs"][0]["sqlType"] == "INSERT"

    encoded = RUNNER.invoke(undo.app, ["encode"], input=decoded.stdout)
    assert encoded.exit_code == 0, encoded.output
    for line, original in zip(map(json.loads, encoded.stdout.splitlines()), map(json.loads, LINES), strict=True):
        assert (line["context"], line["xid"]) == (original["context"], original["xid"])
        if "ZIP" not in line["context"] or "GZIP" in line["context"]:
            assert line["rollback_info_hex"] == original["rollback_info_hex"]


def test_encode_from_the_text():
    original = json.loads(LINES[0])
    row = {key: original[key] for key in ("context", "rollback_info_text")}
    encoded = RUNNER.invoke(undo.app, ["encode"], input=json.dumps(row))
    assert json.loads(encoded.stdout)["rollback_info_hex"] == original["rollback_info_hex"]


@pytest.mark.parametrize("command", ["decode", "encode"])
def test_bad_lines_are_reported_and_the_rest_is_read(command):
    bad = ["{", "[]", '{"context": "serializer=kryo", "rollback_info_hex": "7b7d", "undo_log": {}}', '{"context": 1}']
    good = LINES[1]
    if command == "encode":
        good = RUNNER.invoke(undo.app, ["decode"], input=good).stdout
    result = RUNNER.invoke(undo.app, [command], input="\n".join([*bad, good]))
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [set(line["error"]) for line in lines[:4]] == [{"reason", "offset"}] * 4
    assert "context" in lines[4]


@pytest.mark.parametrize("command", ["init", "check"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(command, scheme):
    refused = RUNNER.invoke(at.app, [command, f"{scheme}://u:secret@127.0.0.1:1/x"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"{scheme}://u:***@127.0.0.1:1/x: ")
    assert "secret" not in refused.output
