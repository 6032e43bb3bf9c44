"""Random branches, random strangers: what `force before` and `keep` leave behind is what they say, row by row."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import troth
from troth.client.drivers.sqlite import SqliteResource
from troth.wire.seata.private import BranchReport, Inquiry

Table = dict[int, tuple[int, str | None]]
KEYS = range(1, 7)


@pytest.fixture
def coordinator() -> Iterator[None]:
    with troth.embedded():
        yield


def content(raw: sqlite3.Connection) -> Table:
    return {key: (n, note) for key, n, note in raw.execute("SELECT id, n, note FROM t")}


def statement(chance: random.Random, table: Table) -> str:
    """One that changes something, on a table that is as `table`."""
    present, absent = sorted(table), [key for key in KEYS if key not in table]
    kind = chance.choice(["update n", "update note", "delete", "insert"])
    if absent and (kind == "insert" or not present):
        return f"INSERT INTO t VALUES ({chance.choice(absent)}, {chance.randrange(100)}, NULL)"
    key = chance.choice(present)
    if kind == "delete":
        return f"DELETE FROM t WHERE id = {key}"
    if kind == "update note":
        return f"UPDATE t SET note = 'w{chance.randrange(100)}' WHERE id = {key}"
    return f"UPDATE t SET n = n + {chance.randrange(1, 50)} WHERE id >= {key}"


def branch(url: str, raw: sqlite3.Connection, chance: random.Random) -> tuple[str, int]:
    """Several statements in one local transaction, committed; xid and branch id."""
    with closing(troth.at.connect(url)) as connection:
        xid = troth.current_xid()
        assert xid is not None
        for _ in range(chance.randrange(1, 7)):
            connection.execute(statement(chance, _seen(connection)))
        connection.commit()
    ((branch_id,),) = raw.execute("SELECT branch_id FROM undo_log WHERE xid = ?", (xid,)).fetchall() or [(0,)]
    return xid, branch_id


def _seen(connection: troth.at.Connection) -> Table:
    rows = connection.execute("SELECT id, n, note FROM t").fetchall()
    return {key: (n, note) for key, n, note in rows}


def play(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = directory / f"{seed}.db"
    url = f"sqlite:///{file}"
    troth.at.init(url)
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        raw.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INT NOT NULL, note TEXT)")
        raw.executemany("INSERT INTO t VALUES (?, ?, NULL)", [(key, 10 * key) for key in KEYS if chance.random() < 0.7])
        before = content(raw)
        scope = troth.transaction(name="random")

        def undone() -> None:
            with scope:
                decide(raw, chance, before, branch(url, raw, chance))
                raise ZeroDivisionError  # the rollback finds the branch ended already

        with pytest.raises(ZeroDivisionError):
            undone()


def decide(raw: sqlite3.Connection, chance: random.Random, before: Table, which: tuple[str, int]) -> None:
    after = content(raw)
    for _ in range(chance.randrange(4)):
        raw.execute(statement(chance, content(raw)))
    now = content(raw)
    resource = SqliteResource(str(raw.execute("PRAGMA database_list").fetchone()[2]))
    looked = resource.inquire(*which, Inquiry())
    assert content(raw) == now, "looking has changed something"
    rows = {int(row.row.rpartition(":")[2]): row for row in looked.rows}
    check_report(looked, before, after, now)
    choices = {row.row: chance.choice(["force-before", "keep"]) for row in rows.values() if row.verdict == "dirty"}
    seen = {row.row: row.now_digest for row in rows.values()}
    done = resource.inquire(*which, Inquiry("resolve", choices, seen=seen))
    if not done.ended:
        assert "can not be made again" in (done.refused or ""), done
        assert content(raw) == now, "refused, and yet something was changed"
        return
    expected = dict(now)
    for key, row in rows.items():
        if row.verdict != "done" and choices.get(row.row) != "keep":
            expected.pop(key, None)
            if key in before:
                expected[key] = merged(key, row.columns and {one.name for one in row.columns}, before, now)
    assert content(raw) == expected
    again = resource.inquire(*which, Inquiry("resolve", others="force-before"))
    assert (again.state, again.ended, content(raw)) == ("gone", True, expected), "a repeated decision changes nothing"


def check_report(looked: BranchReport, before: Table, after: Table, now: Table) -> None:
    for row in looked.rows:
        key = int(row.row.rpartition(":")[2])
        assert row.exists == (key in before, key in after, key in now), row
        for one in row.columns:
            place = {"id": None, "n": 0, "note": 1}[one.name]
            if place is not None:
                shown = [None if key not in table else table[key][place] for table in (before, after, now)]
                texts = [None if value is None else str(value) for value in shown]
                assert [one.before, one.after, one.now] == texts, (row, before, after, now)


def merged(key: int, columns: set[str], before: Table, now: Table) -> tuple[int, str | None]:
    """The columns of the image as before; the others, which the branch did not set, as they are now."""
    if key not in now:
        return before[key]
    names = ("n", "note")
    values = [before[key][place] if name in columns else now[key][place] for place, name in enumerate(names)]
    return values[0], values[1]  # type: ignore[return-value]


@pytest.mark.parametrize("first", [0, 10])
def test_decisions_leave_what_they_say(coordinator: None, tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 10):
        print("seed", seed)
        play(tmp_path, seed)


@pytest.mark.soak
def test_decisions_leave_what_they_say_in_many_worlds(coordinator: None, tmp_path: Path) -> None:
    for seed in range(1000, 1300):
        print("seed", seed)
        play(tmp_path, seed)
