"""Each statement of `statement_cases`: as on the bare driver and undone without a trace; or refused, nothing done."""

from __future__ import annotations

import re
import runpy
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from troth.client.context import join
from troth.client.errors import NotSupported

XID = "10.0.0.1:8091:7"
CASES = runpy.run_path(str(Path(__file__).with_name("statement_cases.py")))["CASES"]
KINDS = {kind: [case for case in CASES if case[3].split(":")[0] == kind] for kind in ("works", "absent", "refused")}


def ids(kind):
    return [f"{case[0]}-{place}" for place, case in enumerate(KINDS[kind])]


def play(connection, steps):
    """What each step shows of itself."""
    shown = []
    for step in steps if isinstance(steps, list) else [steps]:
        sql, parameters = (step, ()) if isinstance(step, str) else step
        if isinstance(parameters, list):
            cursor = connection.executemany(sql, parameters)
        else:
            cursor = connection.execute(sql, parameters)
        rows = cursor.fetchall()
        # The bare driver does not count behind a WITH, nor before all RETURNING rows are fetched.
        shown.append((cursor.description, rows, cursor.rowcount if "WITH" not in sql else None))
    return shown


@pytest.fixture
def prepared(database):
    def prepare(setup):
        for script in [setup] if isinstance(setup, str) else setup:
            database.run(script)

    return prepare


@pytest.mark.parametrize("isolation_level", ["", None])
@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["works"], ids=ids("works"))
def test_works(database, coordinator, prepared, tmp_path, name, setup, steps, outcome, isolation_level):
    prepared(setup)
    before = database.dump()
    shutil.copy(database.path, tmp_path / "plain.db")
    with closing(sqlite3.connect(tmp_path / "plain.db", isolation_level=isolation_level)) as plain:
        expected = play(plain, steps)
        plain.commit()
    connection = database.connect(isolation_level=isolation_level)
    with join(XID):
        assert play(connection, steps) == expected
        connection.commit()
    after = database.dump()
    assert after != before
    real, database.path = database.path, tmp_path / "plain.db"
    assert database.dump() == after
    database.path = real
    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["absent"], ids=ids("absent"))
def test_absent(database, prepared, name, setup, steps, outcome):
    prepared(setup)
    with closing(sqlite3.connect(database.path)) as plain, pytest.raises(sqlite3.Error):
        play(plain, steps)
    with join(XID), pytest.raises((sqlite3.Error, NotSupported)):
        play(database.connect(), steps)


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["refused"], ids=ids("refused"))
def test_refused(database, coordinator, prepared, name, setup, steps, outcome):
    prepared(setup)
    before = database.dump()
    connection = database.connect(isolation_level=None)
    with join(XID), pytest.raises(NotSupported, match=re.escape(outcome.removeprefix("refused: "))) as caught:
        play(connection, steps)
    assert caught.value.hint
    assert not connection.in_transaction
    assert database.dump() == before
    assert coordinator.branches == []
