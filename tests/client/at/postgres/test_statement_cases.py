"""Each statement of `statement_cases`: as on the bare driver, and undone; or refused, with nothing done."""

from __future__ import annotations

import runpy
from pathlib import Path

import psycopg
import pytest

from troth.client.context import join
from troth.client.errors import NotSupported

pytestmark = pytest.mark.engines

NOT_BY_XA = ("CREATE", "ALTER")
"""What an XA branch cannot do either, by its first word."""
XID = "10.0.0.1:8091:7"
_LISTED = runpy.run_path(str(Path(__file__).with_name("statement_cases.py")))
CASES, TABLES = _LISTED["CASES"], _LISTED["TABLES"]
KINDS = {kind: [case for case in CASES if case[3].split(":")[0] == kind] for kind in ("works", "absent", "refused")}


def ids(kind):
    return [f"{case[0]}-{place}" for place, case in enumerate(KINDS[kind])]


def steps_of(given):
    for step in given if isinstance(given, list) else [given]:
        yield (step, None) if isinstance(step, str) else step


def play(connection, given):
    """What each step shows of itself. Keys that the database makes up by chance are not compared."""
    shown = []
    with connection.cursor() as cursor:
        for sql, parameters in steps_of(given):
            if isinstance(parameters, list):
                cursor.executemany(sql, parameters)
            else:
                cursor.execute(sql, parameters)
            rows = sorted(map(repr, cursor.fetchall())) if cursor.description else None
            shown.append(
                (cursor.rowcount, cursor.statusmessage, cursor.description and [*map(tuple, cursor.description)], rows)
            )
    return shown


def dump_in(connection):
    names = [row[0] for row in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' "
             "AND relnamespace = 'public'::regnamespace AND relname NOT IN ('undo_log', 'g')").fetchall()]  # fmt: skip
    return {
        name: sorted(str(row[0]) for row in connection.execute(f"SELECT (to_jsonb(t) - 'at')::text FROM {name} t"))
        for name in names
    }


@pytest.fixture
def prepared(database):
    def prepare(setup):
        database.run(TABLES)
        for script in [setup] if isinstance(setup, str) else setup:
            if script:
                database.run(script)

    return prepare


def sequences(database):
    return database.rows(
        "SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), "
        "last_value IS NOT NULL FROM pg_sequences"
    )


@pytest.mark.parametrize("autocommit", [False, pytest.param(True, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["works"], ids=ids("works"))
def test_works(database, coordinator, prepared, name, setup, steps, outcome, autocommit):
    prepared(setup)
    before, positions = database.dump(), sequences(database)
    with psycopg.connect(database.url) as plain:
        expected = play(plain, steps)
        after = dump_in(plain)
        plain.rollback()
    for sequence, value, called in positions:
        database.rows("SELECT setval(%s, %s, %s)", sequence, value, called)

    connection = database.connect(autocommit=autocommit)
    with join(XID):
        if autocommit and "SAVEPOINT" in name:
            connection.execute("BEGIN")
        assert play(connection, steps) == expected
        if connection.info.transaction_status.name == "INTRANS":
            connection.commit()
    with psycopg.connect(database.url) as plain:
        assert dump_in(plain) == after
    coordinator.rollback(XID)
    assert database.dump() == before
    assert database.undo_rows() == []


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["absent"], ids=ids("absent"))
def test_absent(database, prepared, name, setup, steps, outcome):
    prepared(setup)
    with psycopg.connect(database.url) as plain, pytest.raises(psycopg.errors.SyntaxError):
        play(plain, steps)
    with join(XID), database.connect() as connection:
        with pytest.raises((psycopg.errors.SyntaxError, NotSupported)):
            play(connection, steps)
        connection.rollback()


@pytest.mark.parametrize(("name", "setup", "steps", "outcome"), KINDS["refused"], ids=ids("refused"))
def test_refused(database, coordinator, prepared, name, setup, steps, outcome):
    prepared(setup)
    before = database.dump()
    connection = database.connect(autocommit=True)
    with join(XID), pytest.raises(NotSupported) as caught:
        play(connection, steps)
    assert outcome.removeprefix("refused: ") in str(caught.value)
    first = steps if isinstance(steps, str) else steps[0] if isinstance(steps[0], str) else steps[0][0]
    assert ("troth.xa.connect()" in caught.value.hint) == (first.split()[0] not in NOT_BY_XA)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert database.dump() == before
    assert coordinator.branches == []
