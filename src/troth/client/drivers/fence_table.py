"""The table `tcc_fence_log` of a database that a URL names: made, checked, cleaned up; and connections to it."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, TypeVar

from troth.client.drivers.fence import BlockingDoor, Connect
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.drivers.sqlite import parse_url
from troth.client.errors import NotSupported
from troth.client.flow import Flow
from troth.client.modes.fence import Branch, SqlFence

R = TypeVar("R")

_DRIVERS: Final = MappingProxyType(
    {
        "sqlite": "sqlite",
        "postgresql": "psycopg_place",
        "postgres": "psycopg_place",
        "mysql": "pymysql_places",
        "mariadb": "pymysql_places",
    }
)
_NOBODY: Final = Branch("", 0, "")


def connection_to(url: str) -> Connect:
    """What gives a new connection of the plain driver (sqlite3, psycopg 3, PyMySQL) to the database.

    Raises:
        NotSupported: a database that the fence is not written for.
        ImportError: the driver is not installed; the text says how to install it.
    """
    scheme, separator, _ = url.partition("://")
    name = _DRIVERS.get(scheme.partition("+")[0])
    if not separator or name is None:
        raise NotSupported(f"TCC has no fence on {scheme!r}.", f"It has one on {', '.join(_DRIVERS)}, and on Redis.")
    if name == "sqlite":
        return functools.partial(sqlite3.connect, parse_url(url).path)
    place: Any = import_module(f"troth.client.drivers.{name}")
    parsed = place.parse_url(url)
    if name == "psycopg_place":
        connect: Connect = functools.partial(place.psycopg.connect, parsed.conninfo)
        return connect
    return functools.partial(place.pymysql.connect, **parsed.arguments({}))


def init(url: str) -> None:
    """Make the table, if it is not there. Raises the driver's errors."""
    _run(url, lambda fence: fence.create(), keep=True)


def check(url: str) -> list[str]:
    """What is wrong with the table, in sentences; empty if nothing is. Raises the driver's errors."""
    return _run(url, lambda fence: fence.check(), keep=False)


def clean_up(url: str, older_than: timedelta) -> int:
    """Delete the rows of branches that ended longer ago; how many. Raises the driver's errors."""
    return _run(url, lambda fence: fence.clean_up(older_than // timedelta(seconds=1)), keep=True)


def _run(url: str, flow: Callable[[SqlFence], Flow[R]], *, keep: bool) -> R:
    door = BlockingDoor(connection_to(url))
    door.open()
    try:
        door.begin(_NOBODY)
        result = run(flow(door.sql), door, NoCoordinator())
        if keep:
            door.commit()
        elif door.kind.is_open(door.connection):
            door.rollback()
    finally:
        door.close()
    return result
