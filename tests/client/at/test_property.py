"""Random statements on real files: under AT the database does what it does without, and a rollback restores it all."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import troth.at
from troth.client.context import join
from troth.client.errors import NotSupported

XID = "10.0.0.1:8091:9"

SCHEMA = """
CREATE TABLE t (id INTEGER PRIMARY KEY, r REAL, s TEXT, b BLOB, n NUMERIC, i INT, x);
CREATE TABLE w (a, b TEXT COLLATE NOCASE, v, u, PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE UNIQUE INDEX w_u ON w (u);
CREATE TABLE k (r REAL PRIMARY KEY NOT NULL, "odd "" name" VARCHAR(10) UNIQUE, c CHAR(3) DEFAULT 'dd');
"""

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(["1", "1.0", "a", "A", "a ", "x,y;z", "%", ""]),
    st.binary(max_size=4),
)
few = st.one_of(st.integers(0, 4), st.sampled_from(["a", "A", "b", 1.0, "1"]))
reals = st.one_of(st.integers(0, 4), st.sampled_from([0.5, 2.0, 1e300]))


def statement(sql: str, *parameters: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[str, tuple[object, ...]]]:
    return st.tuples(st.just(sql), st.tuples(*parameters))


statements = st.one_of(
    statement("INSERT INTO t (r, s, b, n, i, x) VALUES (?, ?, ?, ?, ?, ?)", *[values] * 6),
    statement("INSERT OR IGNORE INTO t (id, x) VALUES (?, ?), (?, ?)", st.integers(0, 5), values, st.none(), values),
    statement("INSERT INTO t (x) SELECT x FROM t WHERE id < ? UNION ALL SELECT ?", st.integers(0, 4), values),
    statement("UPDATE t SET r = ?, s = ?, b = ?, n = ?, i = ?, x = ? WHERE id % 2 = ?", *[values] * 6, few),
    statement("UPDATE t SET x = (SELECT count(*) FROM w), s = hex(s) || quote(?2) WHERE id <> ?1", few, few),
    statement("DELETE FROM t WHERE id = ? OR x = ?", st.integers(0, 8), few),
    statement("INSERT INTO w VALUES (?, ?, ?, ?)", few, few, values, values),
    statement("INSERT OR IGNORE INTO w (a, b, u) VALUES (?, ?, ?), (?, ?, ?)", few, few, few, few, few, few),
    statement("REPLACE INTO w (a, b, u) VALUES (?, ?, ?), (?, ?, ?)", few, few, few, few, few, few),
    statement("INSERT OR REPLACE INTO w SELECT a, b || 'x', v, u FROM w WHERE u > ?", few),
    statement("INSERT INTO w VALUES (?, ?, ?, ?) ON CONFLICT (a, b) DO UPDATE SET u = excluded.u, v = 'up' "
              "ON CONFLICT (u) DO UPDATE SET v = coalesce(v, '') || 'on u'", few, few, values, few),
    statement("INSERT INTO w SELECT a, b, 1, 2 FROM w WHERE 1 ON CONFLICT DO UPDATE SET v = ? WHERE u < ?", few, few),
    statement("REPLACE INTO k VALUES (?, ?, ?)", reals, few, values),
    statement("REPLACE INTO t (id, x) VALUES (?, ?), (NULL, ?)", few, values, values),
    statement("UPDATE w SET v = ?, u = NULL WHERE b = ?", values, few),
    statement("UPDATE OR IGNORE w SET u = ? WHERE a = ?", few, few),
    statement("UPDATE w SET u = a + ? WHERE typeof(a) = 'integer'", st.integers(0, 3)),
    statement("DELETE FROM w WHERE b < ?", few),
    statement("INSERT INTO k VALUES (?, ?, ?)", reals, few, values),
    statement('UPDATE k SET "odd "" name" = ?, c = ? WHERE r > ?', values, values, reals),
    statement('UPDATE k SET "odd "" name" = "odd "" name" + 1', ),
    statement("DELETE FROM k WHERE r <= ?", reals),
)  # fmt: skip
steps = st.lists(st.one_of(statements, statements, statements, st.just("commit"), st.just("rollback")), max_size=14)


def play(connection, program) -> list[object]:
    """Run a program; what each step gave, or which constraint it broke."""
    seen: list[object] = []
    for step in program:
        if step == "commit":
            connection.commit()
        elif step == "rollback":
            connection.rollback()
        else:
            seen.append(one(connection, step))
    connection.commit()
    return seen


def one(connection, step) -> object:
    changes = connection.total_changes
    try:
        cursor = connection.execute(*step)
    except sqlite3.IntegrityError as error:
        return str(error)
    return cursor.rowcount, connection.total_changes - changes


def content(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as raw:
        found: list[object] = []
        for table in ("t", "w", "k"):
            names = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            quoted = ['"' + name.replace('"', '""') + '"' for name in names]
            columns = ", ".join(f"{name}, typeof({name})" for name in quoted)
            found.append(sorted(map(repr, raw.execute(f"SELECT {columns} FROM {table}"))))
        return found


def fill(path: Path, program) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript("PRAGMA synchronous = OFF;" + SCHEMA)
        play(raw, program)


few_examples = settings(
    max_examples=50, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("isolation_level", ["", None])
@few_examples
@given(filling=steps, program=steps)
def test_like_without_at_and_undone_by_rollback(coordinator, isolation_level, filling, program):
    like_without_at_and_undone(coordinator, isolation_level, filling, program)


@pytest.mark.soak
@pytest.mark.parametrize("isolation_level", ["", None])
@settings(few_examples, max_examples=3000)
@given(filling=steps, program=steps)
def test_like_without_at_and_undone_by_rollback_many(coordinator, isolation_level, filling, program):
    like_without_at_and_undone(coordinator, isolation_level, filling, program)


def like_without_at_and_undone(coordinator, isolation_level, filling, program):
    with tempfile.TemporaryDirectory() as directory:
        plain, under_at = Path(directory, "plain.db"), Path(directory, "at.db")
        fill(plain, filling)
        fill(under_at, filling)
        before = content(under_at)
        assert before == content(plain)
        troth.at.init(f"sqlite:///{under_at}")

        with closing(sqlite3.connect(plain, isolation_level=isolation_level)) as raw:
            raw.execute("PRAGMA synchronous = OFF")
            expected = play(raw, program)
        connection = troth.at.connect(f"sqlite:///{under_at}", client=coordinator, isolation_level=isolation_level)
        connection.execute("PRAGMA synchronous = OFF")
        with closing(connection), join(XID):
            assert [x if isinstance(x, str) else x[0] for x in play(connection, program)] == [
                x if isinstance(x, str) else x[0] for x in expected
            ]
        assert content(under_at) == content(plain)

        coordinator.rollback(XID)
        assert content(under_at) == before
        with closing(sqlite3.connect(under_at)) as raw:
            assert raw.execute("SELECT count(*) FROM undo_log").fetchone() == (0,)


def test_null_in_a_primary_key_is_refused(database):
    database.run("CREATE TABLE loose (k TEXT PRIMARY KEY, v)")
    connection = database.connect()
    with join(XID), pytest.raises(NotSupported, match="NULL in its primary key"):
        connection.execute("INSERT INTO loose VALUES (NULL, 1)")
    assert database.rows("SELECT * FROM loose") == []
