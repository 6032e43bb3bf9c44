"""`troth at check --sql`: what AT will say to a file of statements, before it is run."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from troth.cli import at
from troth.client.sql.script import statements

RUNNER = CliRunner()

FILE = """-- a comment; with a semicolon
SELECT 'a;b' FROM account;

UPDATE account SET name = 'it''s; fine' WHERE id = 1 ;
/* two
lines */ DELETE FROM loose;
  ALTER TABLE account ADD COLUMN x INTEGER;
UPDATE account SET id = 5 WHERE id = 1;;
DELETE FROM parent WHERE id = 1;
INSERT INTO nowhere VALUES (1)"""
LINES = [2, 4, 6, 7, 8, 9, 10]


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "shop.sql"
    made.write_text(FILE)
    return str(made)


def check(*arguments, **options):
    return RUNNER.invoke(at.app, ["check", *arguments], **options)


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite", "mariadb"])
def test_by_the_text_alone(file, dialect):
    told = check("--sql", file, "--dialect", dialect, "--json")
    verdicts = [json.loads(line) for line in told.stdout.splitlines()]
    assert [verdict["line"] for verdict in verdicts] == LINES
    assert [verdict["line"] for verdict in verdicts if not verdict["accepted"]] == [7]
    assert verdicts[3]["reason"]
    assert verdicts[1]["kind"] == "UPDATE"
    assert told.exit_code == 1


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_with_the_tables_of_a_database(file, shop, kind):
    database = shop(kind)
    names = ("child", "parent", "loose")
    database.run(
        *(f"DROP TABLE IF EXISTS {name}" for name in names),
        "CREATE TABLE loose (a INTEGER)",
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, p INTEGER, FOREIGN KEY (p) REFERENCES parent (id) "
        "ON DELETE CASCADE)",
    )
    before = database.dump()
    told = check("--sql", file, "--db", database.url)
    assert told.exit_code == 1, told.output
    refused = [line.split(":")[1] for line in told.stdout.splitlines() if ": REFUSED: " in line]
    # SQLite checks foreign keys only on connections that ask for it, and this one is nobody's.
    assert refused == (["6", "7", "8", "10"] if kind == "sqlite" else ["6", "7", "8", "9", "10"])
    assert "primary key" in told.stdout
    assert told.stdout.splitlines()[-1] == f"7 statements, {len(refused)} refused"
    assert database.dump() == before
    database.run(*(f"DROP TABLE {name}" for name in names))


def test_exit_status(file, tmp_path):
    good = check("--sql", "-", "--dialect", "sqlite", input="UPDATE a SET b = ? WHERE c = 1; SELECT 1")
    assert good.exit_code == 0
    assert good.stdout.splitlines()[0] == "<stdin>:1: ok: UPDATE a SET b = ? WHERE c = 1"
    for wrong in ((), ("--sql", file), ("--sql", file, "--dialect", "sqlite", "--db", "sqlite:///x"), ("x", "--json")):
        assert check(*wrong).exit_code == 2
    assert check("--sql", file, "--dialect", "oracle").exit_code == 1
    assert check("--sql", str(tmp_path / "none.sql"), "--dialect", "sqlite").exit_code == 1
    gone = check("--sql", file, "--db", f"sqlite:///{tmp_path}/none.db")
    assert (gone.exit_code, gone.stdout) == (1, "")
    password = check("--sql", file, "--db", "postgresql://u:secret@127.0.0.1:1/x")
    assert password.exit_code == 1
    assert "secret" not in password.output


@pytest.mark.parametrize(
    ("dialect", "text", "found"),
    [
        (
            "postgresql",
            "DO $x$ a; b $x$; SELECT E'\\';'; SELECT ';'",
            ["DO $x$ a; b $x$", "SELECT E'\\';'", "SELECT ';'"],
        ),
        ("mysql", 'SELECT "a\\";"; # c;\nSELECT `;`', ['SELECT "a\\";"', "SELECT `;`"]),
        ("sqlite", "SELECT [;];;\n;SELECT 1 -- end;", ["SELECT [;]", "SELECT 1 -- end;"]),
        (
            "sqlite",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET c = CASE WHEN 1 THEN 2 END; DELETE FROM c; END; SELECT 1",  # noqa: E501
            [
                "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET c = CASE WHEN 1 THEN 2 END; DELETE FROM c; END",
                "SELECT 1",
            ],
        ),
        ("mysql", "CREATE PROCEDURE p() BEGIN IF 1 THEN SELECT 1; END IF; END; SELECT 2", None),
        ("postgresql", "BEGIN; SELECT 1; END; ", ["BEGIN", "SELECT 1", "END"]),
    ],
)
def test_statements(dialect, text, found):
    made = [part.sql for part in statements(text, dialect)]
    assert made == (
        ["CREATE PROCEDURE p() BEGIN IF 1 THEN SELECT 1; END IF; END", "SELECT 2"] if found is None else found
    )
