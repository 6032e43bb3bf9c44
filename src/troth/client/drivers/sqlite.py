"""SQLite files: opening them, running queries on them, and phase two (`SqliteResource`)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import parse_qsl, quote

from troth.client.drivers.resource import NoCoordinator, Resource
from troth.client.drivers.running import run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, Rows, query
from troth.client.sql.dialects.sqlite import (
    CREATE_UNDO_TABLE,
    MINIMUM_VERSION,
    SqliteDialect,
    check_undo_table,
    resource_id,
)
from troth.client.sql.dialects.sqlite_additive import SQLITE_HOT_ROWS

R = TypeVar("R")

_FLAGS = MappingProxyType({"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False})


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A database file and how its URL says to open it."""

    path: str
    options: Mapping[str, object]

    @property
    def resource_id(self) -> str:
        """`jdbc:sqlite:/abs/path`. Links are followed, so that one file has one name; a comma would split a list."""
        return resource_id(os.path.realpath(self.path).replace(",", "%2C"))


def parse_url(url: str) -> SqliteUrl:
    """A SQLite URL as SQLAlchemy spells it: `sqlite:///relative`, `sqlite:////absolute`, options behind `?`.

    Raises:
        NotSupported: a database in memory, which phase two cannot reach; or another kind of database.
        ValueError: not such a URL, or an option that is not known.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"{url!r} is not a database URL: write sqlite:///relative/path or sqlite:////absolute/path")
    if scheme.partition("+")[0] != "sqlite":
        raise NotSupported(f"AT on {scheme!r} is not supported by this version.", "It has AT on sqlite://.")
    database, _, options = rest.partition("?")
    if database and not database.startswith("/"):
        raise ValueError(f"{url!r} has a host, and SQLite has none: write three slashes before the path")
    path = database[1:]
    if path in ("", ":memory:") or path.startswith("file:"):
        raise NotSupported(
            f"AT cannot work on {url!r}: phase two runs on connections of its own, and needs a file they can open.",
            "Use a file, for example sqlite:////tmp/test.db.",
        )
    chosen = dict(_option(name, text) for name, text in parse_qsl(options, keep_blank_values=True))
    # Absolute from here on: the program may change its directory before the resource is registered.
    return SqliteUrl(os.path.abspath(path), chosen)


def _option(name: str, text: str) -> tuple[str, object]:
    match name:
        case "timeout":
            return name, float(text)
        case "detect_types" | "cached_statements":
            return name, int(text)
        case "isolation_level":
            return name, text
        case "check_same_thread" if text.lower() in _FLAGS:
            return name, _FLAGS[text.lower()]
        case _:
            raise ValueError(f"the option {name}={text} of a SQLite URL is not known")


def check_version() -> None:
    """Raises NotSupported where the SQLite library is too old."""
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise NotSupported(
            f"AT needs SQLite {needed}, and Python brings {sqlite3.sqlite_version}.", "Use a newer Python or SQLite."
        )


class SqliteExecutor:
    """Runs the queries of a flow on `raw`. The user's own statement runs on the user's cursor."""

    def __init__(self, raw: sqlite3.Connection, user_cursor: sqlite3.Cursor | None = None) -> None:
        self._raw = raw
        self._user_cursor = user_cursor

    def query(self, step: Query) -> Rows:
        """Run it, and fetch everything as plain tuples."""
        if step.as_user and self._user_cursor is not None:
            return self._run(self._user_cursor, step)
        with closing(self._raw.cursor()) as cursor:
            return self._run(cursor, step)

    def _run(self, cursor: sqlite3.Cursor, step: Query) -> Rows:
        row_factory, cursor.row_factory = cursor.row_factory, None
        try:
            cursor.execute(step.sql, step.parameters)
            rows = cursor.fetchall()
        finally:
            cursor.row_factory = row_factory
        columns = tuple(column[0] for column in cursor.description or ())
        return Rows(columns, rows, cursor.rowcount, cursor.lastrowid)


@contextmanager
def opened(path: str, timeout_s: float, mode: str = "rw") -> Iterator[SqliteExecutor]:
    """A connection of our own; every statement commits by itself. The file must exist, unless `mode` is `rwc`."""
    uri = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as raw:
        yield SqliteExecutor(raw)


def run_on_file(path: str, flow: Flow[R], *, create: bool, timeout_s: float = 5.0) -> R:
    """Run a flow that needs no coordinator on a connection of its own. `create`: make the file if it is not there."""
    with opened(path, timeout_s, mode="rwc" if create else "rw") as executor:
        return run(flow, executor, NoCoordinator())


def init(url: str) -> None:
    """Make the undo table in the file, which is made too if it is not there."""
    check_version()
    run_on_file(parse_url(url).path, _create(), create=True)


def init_hot_rows(url: str) -> None:
    """Make the table of open increments in the file."""
    run_on_file(parse_url(url).path, _create(SQLITE_HOT_ROWS.create), create=False)


def _create(statements: Iterable[str] = CREATE_UNDO_TABLE) -> Flow[None]:
    for sql in statements:
        yield from query(sql)


def check(url: str) -> list[str]:
    """What is wrong with the undo table, in sentences; empty if nothing is."""
    check_version()
    return run_on_file(parse_url(url).path, check_undo_table(), create=False)


class SqliteResource(Resource):
    """Phase two of one database file. A lock is waited for `timeout_s`, then "later"."""

    def __init__(self, path: str, timeout_s: float = 2.0) -> None:
        file = os.path.abspath(path)
        super().__init__(SqliteDialect, lambda: opened(file, timeout_s))
