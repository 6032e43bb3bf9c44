"""A branch of an XA transaction of DTM's style: prepared in its database when it is called, ended when called again.

A row of the barrier is part of the prepared work, and a rollback inserts the same row: work that comes after its
rollback finds it and is refused, and a rollback that overtakes the work waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Flow, Invoke, query
from troth.client.modes.barrier import Mark, SqlBarrier
from troth.client.modes.dtm import Kind, Link, register
from troth.client.modes.fence import LateTry

ACTION: Final = "action"
_ROW: Final = "01"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What stands in an SQL literal, and fits into MySQL's 64 bytes."""
_MYSQL_NOTA: Final = 1397
_POSTGRES_UNDEFINED: Final = "42704"

Work = Callable[[Any], Any]


class Door(Protocol):
    """A connection in autocommit, of its own for this branch."""

    @property
    def connection(self) -> Any:
        """For the user's function."""
        ...

    @property
    def sql(self) -> SqlBarrier:
        """The barrier."""
        ...

    @property
    def database(self) -> str:
        """`postgresql` or `mysql`."""
        ...

    def open(self) -> Any:
        """Get the connection."""
        ...

    def close(self) -> Any:
        """Close it."""
        ...


def name_of(gid: str, branch_id: str) -> str:
    """The database's name of the branch. Raises ValueError: it could not be one."""
    name = f"{gid}-{branch_id}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an XA branch: 64 letters, digits, _ . : - at most")
    return name


def prepared(link: Link, gid: str, branch_id: str, phase_two_url: str, door: Door, work: Work) -> Flow[Any]:
    """Phase one: `work(connection)`, registered and prepared; what `work` returned.

    Raises:
        LateTry: the branch was rolled back, or prepared, before this came.
        BranchFailed: the database has prepared nothing.
        Exception: of `work`, the coordinator or the database; nothing is left.
    """
    name, mark = name_of(gid, branch_id), Mark(Kind.XA.value, gid, branch_id, ACTION)
    yield Invoke(door.open)
    try:
        spelled = _spelled(door.database, name)
        yield from query(spelled.start)
        try:
            if not (yield from door.sql.insert(mark, ACTION, _ROW)):
                raise LateTry(f"the {mark} was ended before it came, or has come before")
            result = yield Invoke(work, (door.connection,))
            yield from register(link, gid, Kind.XA, branch_id, {"url": phase_two_url})
            for sql in spelled.prepare:
                yield from query(sql)
            yield from _verify(door, name)
        except BaseException as error:
            yield from _undo(spelled.undo, error)
            raise
        return result
    finally:
        yield Invoke(door.close)


def ended(gid: str, branch_id: str, op: str, door: Door) -> Flow[None]:
    """Phase two: `op` is `commit` or `rollback`; what has ended already stays so.

    Raises:
        BranchFailed: to be committed, and neither prepared nor committed: somebody has to look.
        Exception: of the database; asked again, it goes on.
    """
    name = name_of(gid, branch_id)
    yield Invoke(door.open)
    try:
        spelled = _spelled(door.database, name)
        found = yield from _end(spelled.commit if op == "commit" else spelled.rollback)
        mark = Mark(Kind.XA.value, gid, branch_id, op)
        if op == "rollback":
            yield from door.sql.insert(mark, ACTION, _ROW)  # waits for work that is about to prepare
            return
        if found:
            return
        rows = yield from door.sql.recorded(mark, _ROW)
        if not any(row.op == ACTION and row.reason == ACTION for row in rows):
            raise BranchFailed(f"the {mark} cannot be done: this database has not prepared it")
    finally:
        yield Invoke(door.close)


class _Spelled:
    """How one database spells it."""

    def __init__(self, database: str, name: str) -> None:
        if database == "postgresql":
            self.start, self.prepare, self.undo = "BEGIN", [f"PREPARE TRANSACTION '{name}'"], ["ROLLBACK"]
            self.commit, self.rollback = f"COMMIT PREPARED '{name}'", f"ROLLBACK PREPARED '{name}'"
        else:
            self.start, self.prepare = f"XA START '{name}'", [f"XA END '{name}'", f"XA PREPARE '{name}'"]
            self.undo = [f"XA END '{name}'", f"XA ROLLBACK '{name}'"]
            self.commit, self.rollback = f"XA COMMIT '{name}'", f"XA ROLLBACK '{name}'"


def _spelled(database: str, name: str) -> _Spelled:
    if database not in ("postgresql", "mysql"):
        raise NotSupported(f"XA cannot work on {database}.", "It works on PostgreSQL, MySQL and MariaDB.")
    return _Spelled(database, name)


def _verify(door: Door, name: str) -> Flow[None]:
    """PostgreSQL answers PREPARE of a failed transaction with success, and has rolled it back."""
    if door.database != "postgresql":
        return
    sql = "SELECT 1 FROM pg_prepared_xacts WHERE gid = ? AND database = current_database()"
    if not (yield from query(sql, (name,))).rows:
        raise BranchFailed(f"PostgreSQL has not prepared {name}: a statement had failed, and its error was swallowed")


def _undo(statements: list[str], error: BaseException) -> Flow[None]:
    for sql in statements:
        try:
            yield from query(sql)
        except Exception as second:  # noqa: BLE001 - the first error is the one to raise; closing ends the rest
            error.add_note(f"troth: {sql} said: {second}")


def _end(sql: str) -> Flow[bool]:
    """Whether it was there."""
    try:
        yield from query(sql)
    except Exception as error:
        if getattr(error, "sqlstate", None) == _POSTGRES_UNDEFINED or error.args[:1] == (_MYSQL_NOTA,):
            return False
        raise
    return True
