"""Guards of tables (`troth at guard`): put there, taken away and read on connections of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from troth.client.drivers.checking import dialect_of, opened_database
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, query
from troth.client.sql.dialects.base import Dialect
from troth.client.sql.dialects.base_guard import ForeignWrite
from troth.client.sql.dialects.postgres_catalogue import PARTITIONED
from troth.client.sql.tables import Refusal

R = TypeVar("R")


def guard(url: str, table: str, trusted: Sequence[str]) -> None:
    """See `troth.at.guard`."""
    _on(url, lambda dialect: _guard(dialect, table, trusted))


def unguard(url: str, table: str) -> None:
    """See `troth.at.unguard`."""
    _on(url, lambda dialect: _unguard(dialect, table))


def guarded(url: str) -> list[str]:
    """See `troth.at.guarded`."""
    return _on(url, _guarded)


def foreign_writes(url: str, limit: int) -> list[ForeignWrite]:
    """See `troth.at.foreign_writes`."""
    return _on(url, lambda dialect: _foreign_writes(dialect, limit))


def _on(url: str, flow: Callable[[Dialect], Flow[R]]) -> R:
    with opened_database(dialect_of(url.partition("://")[0]), url) as (executor, dialect):
        return run(flow(dialect), executor, NoCoordinator())


def _guard(dialect: Dialect, name: str, trusted: Sequence[str]) -> Flow[None]:
    if trusted and not dialect.guards.names_users:
        raise NotSupported("this database has no users, so none can be trusted.", "Leave --trust out.")
    problems = yield from dialect.check_undo_table()
    if problems:
        raise NotSupported(f"AT cannot work on this database: {'; '.join(problems)}.", "Run `troth at init URL`.")
    table = yield from dialect.undone_table(name)
    if isinstance(table, Refusal):
        raise NotSupported(f"AT does not write to {name} anyway: {table.reason}", table.hint)
    if PARTITIONED in table.traits:
        raise NotSupported(f"{name} has partitions, and a guard would make them differ.", "Guard ordinary tables.")
    yield from _in_one(dialect, dialect.guards.create(table, trusted))


def _unguard(dialect: Dialect, name: str) -> Flow[None]:
    known = yield from _guarded(dialect)
    real = name if name in known else next((one for one in known if one.lower() == name.lower()), name)
    yield from _in_one(dialect, dialect.guards.drop(real))
    if not (yield from _guarded(dialect)):
        yield from _in_one(dialect, dialect.guards.drop_rest())


def _in_one(dialect: Dialect, statements: Iterable[str]) -> Flow[None]:
    """In one local transaction, where DDL can be; MySQL commits each by itself, so a failure may leave a part."""
    yield from query(dialect.begin)
    try:
        for sql in statements:
            yield from query(sql)
    except BaseException:
        yield from query("ROLLBACK")
        raise
    yield from query("COMMIT")


def _guarded(dialect: Dialect) -> Flow[list[str]]:
    found = yield from query(dialect.guards.guarded)
    return [str(row[0]) for row in found.rows]


def _foreign_writes(dialect: Dialect, limit: int) -> Flow[list[ForeignWrite]]:
    if not (yield from query(dialect.guards.is_there)).rows:
        return []
    found = yield from query(dialect.guards.records(limit))
    return [ForeignWrite(*map(str, row)) for row in found.rows]
