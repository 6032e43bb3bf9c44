"""Each statement of `statement_cases`: as on the bare driver and undone without a trace; or refused, nothing done."""

from __future__ import annotations

import re
import runpy
from contextlib import closing
from pathlib import Path

import pymysql
import pytest

from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

NOT_BY_XA = ("CREATE", "TRUNCATE", "LOAD")
"""What an XA branch cannot do either, by its first word."""
XID = "10.0.0.1:8091:7"
CASES = runpy.run_path(str(Path(__file__).with_name("statement_cases.py")))["CASES"]
KINDS = {kind: [case for case in CASES if case[3].split(":")[0] == kind] for kind in ("works", "absent", "refused")}


def ids(kind):
    return [f"{case[0]}-{place}" for place, case in enumerate(KINDS[kind])]


def play(connection, steps):
    """What each step shows of itself."""
    shown = []
    with connection.cursor() as cursor:
        for step in steps if isinstance(steps, list) else [steps]:
            sql, parameters = (step, None) if isinstance(step, str) else step
            if isinstance(parameters, list):
                cursor.executemany(sql, parameters)
            else:
                cursor.execute(sql, parameters)
            names = cursor.description and [column[0] for column in cursor.description]
            shown.append((names, cursor.rowcount, cursor.lastrowid or 0, cursor.fetchall() if names else None))
    return shown


def prepare(database, setup):
    for statement in [setup] if isinstance(setup, str) else setup:
        database.run(statement)


@pytest.fixture(scope="module")
def _reused():
    return {}


@pytest.fixture
def emptied(new_database, coordinator, _reused):
    """Two databases of this module, without tables but the undo log: to make one takes long."""
    if not _reused:
        _reused["two"] = new_database(), new_database()
    for database in _reused["two"]:
        database.coordinator = coordinator
        names = [row[0] for row in database.rows("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'")]
        for sql in (
            "DELETE FROM undo_log",
            "DROP VIEW IF EXISTS seen",
            *(f"DROP TABLE {name}" for name in sorted(names, key="kid".__ne__)),
        ):
            if sql != "DROP TABLE undo_log":
                database.run(sql)
    return _reused["two"]


# Autocommit is what takes most branches; an explicit local transaction differs in nothing but when it commits.
@pytest.mark.parametrize("autocommit", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["works"], ids=ids("works"))
def test_works(emptied, coordinator, name, setup, steps, outcome, autocommit):
    bare, database = emptied
    prepare(bare, setup)
    prepare(database, setup)
    before = database.dump()
    with closing(bare.plain(autocommit=autocommit)) as plain:
        expected = play(plain, steps)
        plain.commit()
    connection = database.connect(autocommit=autocommit)
    with join(XID):
        assert play(connection, steps) == expected
        connection.commit()
    assert database.dump() == bare.dump()
    assert database.dump() != before or name == "SELECT … FOR UPDATE"
    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["absent"], ids=ids("absent"))
def test_absent(emptied, name, setup, steps, outcome):
    _, database = emptied
    prepare(database, setup)
    with closing(database.plain()) as plain, pytest.raises(pymysql.err.ProgrammingError):
        play(plain, steps)
    with join(XID), pytest.raises((pymysql.err.ProgrammingError, NotSupported)):
        play(database.connect(autocommit=True), steps)


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["refused"], ids=ids("refused"))
def test_refused(emptied, coordinator, name, setup, steps, outcome):
    _, database = emptied
    prepare(database, setup)
    before = database.dump()
    reason = re.escape(outcome.removeprefix("refused: "))
    with join(XID), pytest.raises(NotSupported, match=reason) as caught:
        play(database.connect(autocommit=True), steps)
    first = steps if isinstance(steps, str) else steps[0] if isinstance(steps[0], str) else steps[0][0]
    assert ("troth.xa.connect()" in caught.value.hint) == (first.split()[0] not in NOT_BY_XA)
    assert database.dump() == before
    assert coordinator.branches == []
