"""DTM's barrier: what was done of a branch is a row beside the business data, in one local transaction with it.

One unique key (gid, branch_id, op, barrier_id) answers three things. A call that comes twice is done once. A reversal
(cancel, compensate, rollback) first inserts the row of what it reverses: if that row was not there, there is nothing to
reverse. And the original that comes later finds its row taken. Rows and algorithm are those of DTM's clients, so
services in Go and Python share a table; where they answer a late original with success, it is refused here (`LateTry`),
since whoever called it would take it for done.

Every flow inserts first, and inserts in the order of the unique key: two reversals side by side would otherwise be a
deadlock on InnoDB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from troth.client.errors import BranchFailed
from troth.client.flow import Flow, Invoke, query
from troth.client.modes.fence import LateTry
from troth.client.modes.missing_table import explained

ORIGIN: Final = MappingProxyType({"cancel": "try", "compensate": "action", "rollback": "action"})
"""What an op reverses."""
MESSAGE_BRANCH: Final = "00"
MESSAGE_OP: Final = "msg"
MESSAGE_ID: Final = "01"
"""The row of a message's local transaction; its check-back looks for it."""

_LENGTHS: Final = MappingProxyType({"trans_type": 45, "gid": 128, "branch_id": 128, "op": 45})
_LONGEST_ID: Final = 45
_TABLE: Final = re.compile(r"\w+(\.\w+)?", re.ASCII)
_REVERSALS: Final = MappingProxyType(
    {origin: frozenset(op for op, reversed_ in ORIGIN.items() if reversed_ == origin) for origin in ORIGIN.values()}
)


class AlreadyDone(BranchFailed):
    """The local transaction of this message was done by an earlier call; nothing was done by this one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which call of which branch it is. Raises ValueError where DTM's table could not tell it from another."""

    trans_type: str
    gid: str
    branch_id: str
    op: str

    def __post_init__(self) -> None:
        for name, longest in _LENGTHS.items():
            check_text(name, getattr(self, name), longest)

    def __str__(self) -> str:
        return f"{self.op} of branch {self.branch_id} in {self.gid}"


def check_text(name: str, text: str, longest: int) -> None:
    """Raises ValueError. (MySQL's INSERT IGNORE would cut it, and take two of one beginning for the same.)"""
    if not text or len(text) > longest or not text.isprintable() or text.rstrip() != text:
        raise ValueError(f"a barrier's {name} has 1 to {longest} visible letters, and no blank at its end: {text!r}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row of a branch and barrier id."""

    op: str
    reason: str


class Barrier(Protocol):
    """What remembers. Each flow works inside a transaction that the caller begins and commits."""

    def insert(self, mark: Mark, op: str, barrier_id: str) -> Flow[bool]:
        """Put the row (op, barrier_id) there for the reason `mark.op`; whether it is new."""
        ...

    def recorded(self, mark: Mark, barrier_id: str) -> Flow[list[Recorded]]:
        """The rows of `mark`'s branch and this id."""
        ...


class Door(Protocol):
    """A connection and the barrier on it. Its methods may give awaitables."""

    @property
    def connection(self) -> Any:
        """For the user's function."""
        ...

    @property
    def barrier(self) -> Barrier:
        """What remembers."""
        ...

    def open(self) -> Any:
        """Get the connection."""
        ...

    def begin(self, mark: Mark, barrier_id: str) -> Any:
        """Begin a transaction. Raises BranchFailed: one is open already."""
        ...

    def commit(self) -> Any:
        """Commit. Raises BranchFailed: the user's function has ended the transaction itself."""
        ...

    def rollback(self) -> Any:
        """Roll back."""
        ...

    def close(self) -> Any:
        """Give the connection back."""
        ...


def guarded(mark: Mark, barrier_id: str, door: Door, work: Callable[[Any], Any]) -> Flow[Any]:
    """`work(connection)` in one local transaction with the barrier, if it may run; what it returns, or None.

    Raises:
        LateTry: it has been reversed before it came. Nothing was done.
        AlreadyDone: the local transaction of a message, the second time.
        Exception: of `work` or the database; rolled back, and nothing is marked as done, unless it was COMMIT that
            failed: then it is not known.
    """
    result = None
    runs = yield from entered(mark, barrier_id, door)
    try:
        if runs:
            result = yield Invoke(work, (door.connection,))
    except BaseException as error:
        yield from left(door, error)
        raise
    yield from left(door, None)
    return result


def entered(mark: Mark, barrier_id: str, door: Door) -> Flow[bool]:
    """The first half of `guarded`: a transaction is open, and whether the work is to be done. Raises as `guarded`."""
    check_text("barrier_id", barrier_id, _LONGEST_ID)
    yield Invoke(door.open)
    try:
        yield Invoke(door.begin, (mark, barrier_id))
        try:
            return (yield from passes(door.barrier, mark, barrier_id))
        except BaseException as error:
            yield from _roll_back(door, error)
            raise
    except BaseException:
        yield Invoke(door.close)
        raise


def left(door: Door, error: BaseException | None) -> Flow[None]:
    """The second half: commit, or roll back because of `error`; the connection is given back."""
    try:
        if error is not None:
            yield from _roll_back(door, error)
            return
        try:
            yield Invoke(door.commit)
        except BaseException as failed:
            yield from _roll_back(door, failed)
            raise
    finally:
        yield Invoke(door.close)


def passes(barrier: Barrier, mark: Mark, barrier_id: str) -> Flow[bool]:
    """Whether the work of `mark` is to be done. Raises LateTry, AlreadyDone."""
    origin = ORIGIN.get(mark.op)
    new: dict[str, bool] = {}
    for op in sorted({mark.op, origin or mark.op}):
        new[op] = yield from barrier.insert(mark, op, barrier_id)
    if origin is not None and new[origin]:
        return False
    if new[mark.op]:
        return True
    _check_repeated(mark, barrier_id, (yield from barrier.recorded(mark, barrier_id)))
    return False


def _check_repeated(mark: Mark, barrier_id: str, rows: list[Recorded]) -> None:
    """It has been done, which is well, unless it was reversed, too."""
    own = next((row for row in rows if row.op == mark.op), None)
    if own is None:
        raise BranchFailed(
            f"the barrier's table takes the {mark} ({barrier_id}) for another: its columns compare without regard to "
            "case (`troth dtm check URL`)"
        )
    reversals = sorted({row.op for row in rows} & _REVERSALS.get(mark.op, frozenset()))
    if own.reason != mark.op or reversals:
        by = own.reason if own.reason != mark.op else reversals[0]
        raise LateTry(f"the {mark} was reversed ({by}) before it came")
    if mark.op == MESSAGE_OP:
        raise AlreadyDone(f"the local transaction of message {mark.gid} has been done before")


def check_back(barrier: Barrier, gid: str) -> Flow[bool]:
    """Whether the local transaction of message `gid` was committed. If not, it will never be: its row is taken now."""
    mark = Mark(MESSAGE_OP, gid, MESSAGE_BRANCH, "rollback")
    yield from barrier.insert(mark, MESSAGE_OP, MESSAGE_ID)
    rows = yield from barrier.recorded(mark, MESSAGE_ID)
    return any(row.op == MESSAGE_OP and row.reason == MESSAGE_OP for row in rows)


def answered_check_back(gid: str, door: Door) -> Flow[bool]:
    """`check_back` in a transaction of its own."""
    yield Invoke(door.open)
    try:
        yield Invoke(door.begin, (Mark(MESSAGE_OP, gid, MESSAGE_BRANCH, MESSAGE_OP), MESSAGE_ID))
        done = yield from check_back(door.barrier, gid)
    except BaseException as error:
        yield from left(door, error)
        raise
    yield from left(door, None)
    return done


def _roll_back(door: Door, error: BaseException) -> Flow[None]:
    try:
        yield Invoke(door.rollback)
    except Exception as second:  # noqa: BLE001 - the first error is the one to raise
        error.add_note(f"troth: ROLLBACK said: {second}")


# --- the table ---


@dataclass(frozen=True, slots=True)
class BarrierDialect:
    """How one database spells it. `{t}` is the table, `{s}` its schema."""

    name: str
    table: str
    insert: str
    tail: str
    create: tuple[str, ...]


_COLUMNS = ("trans_type", "gid", "branch_id", "op", "barrier_id", "reason")
_KEY = "(gid, branch_id, op, barrier_id)"
_TEXTS = "trans_type VARCHAR(45), gid VARCHAR(128), branch_id VARCHAR(128), op VARCHAR(45), barrier_id VARCHAR(45), "
_TEXTS += "reason VARCHAR(45), "
_NOTHING = f" ON CONFLICT {_KEY} DO NOTHING"

DIALECTS: Final = MappingProxyType(
    {
        "sqlite": BarrierDialect(
            "sqlite",
            "barrier",
            "INSERT INTO",
            _NOTHING,
            (
                f"CREATE TABLE IF NOT EXISTS {{t}} (id INTEGER PRIMARY KEY AUTOINCREMENT, {_TEXTS}"
                "create_time TIMESTAMP DEFAULT CURRENT_TIMESTAMP, update_time TIMESTAMP DEFAULT CURRENT_TIMESTAMP, "
                f"CONSTRAINT uniq_barrier UNIQUE {_KEY})",
            ),
        ),
        "postgresql": BarrierDialect(
            "postgresql",
            "dtm_barrier.barrier",
            "INSERT INTO",
            _NOTHING,
            (
                "CREATE SCHEMA IF NOT EXISTS {s}",
                "CREATE SEQUENCE IF NOT EXISTS {t}_seq",
                f"CREATE TABLE IF NOT EXISTS {{t}} (id BIGINT PRIMARY KEY DEFAULT nextval('{{t}}_seq'), {_TEXTS}"
                "create_time TIMESTAMP(0) WITH TIME ZONE DEFAULT now(), "
                f"update_time TIMESTAMP(0) WITH TIME ZONE DEFAULT now(), CONSTRAINT uniq_barrier UNIQUE {_KEY})",
            ),
        ),
        "mysql": BarrierDialect(
            "mysql",
            "dtm_barrier.barrier",
            "INSERT IGNORE INTO",
            "",
            (
                "CREATE DATABASE IF NOT EXISTS {s}",
                f"CREATE TABLE IF NOT EXISTS {{t}} (id BIGINT PRIMARY KEY AUTO_INCREMENT, {_TEXTS}"
                "create_time DATETIME DEFAULT now(), update_time DATETIME DEFAULT now(), KEY (create_time), "
                f"KEY (update_time), UNIQUE KEY {_KEY}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
            ),
        ),
    }
)


class SqlBarrier:
    """`Barrier` on a table of one database.

    `table`: another than DTM's own name for it (`name`, or `schema.name`). Raises ValueError if it is none.
    """

    def __init__(self, dialect: BarrierDialect, table: str | None = None) -> None:
        self.table = table or dialect.table
        if not _TABLE.fullmatch(self.table):
            raise ValueError(f"{self.table!r} is no name of a table: letters, digits, _, with or without its schema")
        self._dialect = dialect

    def insert(self, mark: Mark, op: str, barrier_id: str) -> Flow[bool]:
        """See `Barrier.insert`."""
        sql = f"{self._dialect.insert} {self.table} ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"
        values = (mark.trans_type, mark.gid, mark.branch_id, op, barrier_id, mark.op)
        done = yield from explained(query(sql + self._dialect.tail, values), self.table, "troth dtm init URL")
        return done.rowcount == 1

    def recorded(self, mark: Mark, barrier_id: str) -> Flow[list[Recorded]]:
        """See `Barrier.recorded`. What the database takes for equal, and is not, is left out."""
        sql = f"SELECT gid, branch_id, barrier_id, op, reason FROM {self.table} "
        sql += "WHERE gid = ? AND branch_id = ? AND barrier_id = ?"
        found = yield from query(sql, (mark.gid, mark.branch_id, barrier_id))
        wanted = [mark.gid, mark.branch_id, barrier_id]
        return [Recorded(str(row[3]), str(row[4])) for row in found.rows if list(row[:3]) == wanted]

    def clean_up(self, age_s: int) -> Flow[int]:
        """Delete rows older than `age_s`; how many. DTM keeps no mark of what has ended: it is your promise."""
        before = {
            "sqlite": f"datetime('now', '-{age_s:d} seconds')",
            "postgresql": f"now() - interval '{age_s:d} seconds'",
            "mysql": f"now() - INTERVAL {age_s:d} SECOND",
        }[self._dialect.name]
        done = yield from query(f"DELETE FROM {self.table} WHERE create_time < {before}")
        return done.rowcount

    def create(self) -> Flow[None]:
        """Make the table with its schema, where they are not there."""
        schema = self.table.rpartition(".")[0]
        for sql in self._dialect.create:
            if schema or "{s}" not in sql:
                yield from query(sql.format(t=self.table, s=schema))

    def check(self) -> Flow[list[str]]:
        """What is wrong with the table, in sentences. It leaves nothing behind, if the caller rolls back."""
        try:
            yield from query(f"SELECT {', '.join(_COLUMNS)}, create_time FROM {self.table} WHERE gid = ''")
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own; the database's text says it
            return [f"{self.table} cannot be read: {error}"]
        if self._dialect.name == "mysql":
            problems = yield from self._check_engine()
            if problems:
                return problems
        probe = Mark("msg", "troth:check", "00", "Probe")
        yield from self.insert(probe, probe.op, "01")
        if (yield from self.insert(probe, probe.op, "01")):
            return [f"{self.table} has no unique key {_KEY}: a call that comes twice would be done twice"]
        if not (yield from self.insert(probe, probe.op.lower(), "01")):
            fix = f"ALTER TABLE {self.table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            return [f"{self.table} takes gids that differ in case only for one: {fix}"]
        return []

    def _check_engine(self) -> Flow[list[str]]:
        schema, _, name = self.table.rpartition(".")
        sql = "SELECT engine FROM information_schema.tables WHERE table_name = ? AND table_schema = "
        found = yield from query(sql + ("?" if schema else "DATABASE()"), (name, schema) if schema else (name,))
        if [str(row[0]).lower() for row in found.rows] != ["innodb"]:
            return [f"{self.table} is not an InnoDB table: work that fails would leave its row"]
        return []
