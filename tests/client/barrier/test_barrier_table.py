"""`troth dtm init`, `check` and `clean` on real databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from barrier_banks import Bank
from typer.testing import CliRunner

from troth.cli.main import app
from troth.client.barrier import Barrier

PLACES = (
    "sqlite",
    pytest.param("psycopg", marks=(pytest.mark.engines, pytest.mark.soak)),
    pytest.param("pymysql", marks=(pytest.mark.engines, pytest.mark.soak)),
)


def troth_dtm(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["dtm", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize("kind", PLACES)
def test_a_table_is_made_and_found_right(new_bank: Callable[[str], Bank], kind: str) -> None:
    bank = new_bank(kind)
    assert troth_dtm("init", bank.url)[0] == 0
    status, said = troth_dtm("check", bank.url)
    assert status == 0, said
    assert "pass" not in said or "***" in said
    assert bank.records("troth:check") == []


@pytest.mark.parametrize("kind", PLACES)
def test_a_missing_table_is_told(new_bank: Callable[[str], Bank], kind: str) -> None:
    status, said = troth_dtm("check", new_bank(kind).url, "--table", "no_such_barrier")
    assert status == 1
    assert "cannot be read" in said
    assert "troth dtm init" in said


@pytest.mark.parametrize("kind", PLACES)
def test_a_table_without_its_key_is_told(new_bank: Callable[[str], Bank], kind: str) -> None:
    bank = new_bank(kind)
    bank.write("DROP TABLE IF EXISTS loose_barrier")
    bank.write(f"CREATE TABLE loose_barrier AS SELECT * FROM {bank.table} WHERE gid = ''")
    status, said = troth_dtm("check", bank.url, "--table", "loose_barrier")
    assert status == 1
    assert "unique" in said.lower()


@pytest.mark.engines
@pytest.mark.soak
def test_dtms_own_table_on_mysql_is_told_to_confuse_gids(new_bank: Callable[[str], Bank]) -> None:
    """Its script leaves the collation to the server, which looks at no case: a gid `a` bars the gid `A`."""
    bank = new_bank("pymysql")
    bank.write("DROP TABLE IF EXISTS cased")
    bank.write(f"CREATE TABLE cased LIKE {bank.table}")
    bank.write("ALTER TABLE cased CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    status, said = troth_dtm("check", bank.url, "--table", "cased")
    assert status == 1
    assert "utf8mb4_bin" in said


def test_old_rows_are_deleted_and_young_ones_stay(new_bank: Callable[[str], Bank]) -> None:
    bank = new_bank("sqlite")
    for gid in ("old", "young"):
        bank.call(Barrier(gid, "01", "try", "tcc"), bank.take)
    bank.write("UPDATE barrier SET create_time = '2020-01-01 00:00:00' WHERE gid = 'old'")
    status, said = troth_dtm("clean", bank.url, "--older-than-days", "30")
    assert (status, "1 rows deleted" in said) == (0, True)
    assert bank.records("old") == []
    assert len(bank.records("young")) == 1
