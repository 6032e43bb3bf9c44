"""MySQL and MariaDB by asyncmy: how it is opened, and how it runs the queries of a flow."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

try:
    import asyncmy
except ImportError as error:
    raise ImportError("this way to MySQL and MariaDB needs asyncmy: pip install 'troth[asyncmy]'") from error

from asyncmy.connection import Connection as PlainConnection
from asyncmy.constants import CLIENT, COMMAND
from asyncmy.cursors import Cursor as PlainCursor

from troth.client.drivers.pymysql_places import (
    DEADLOCK,
    DECODERS,
    MULTI_STATEMENTS_OFF,
    MULTI_STATEMENTS_ON,
    MySqlPlace,
    arguments_of,
    converted,
    shared_with_phase_two,
)
from troth.client.flow import Later, Query, Rows

_NEEDED = ("_result", "server_status", "next_result", "_execute_command", "read_packet", "connected")
if not all(hasattr(PlainConnection, name) for name in _NEEDED):
    raise ImportError("AT does not know this asyncmy: it needs 0.2.18 or later")

_IN_TRANSACTION, _AUTOCOMMIT = 0x1, 0x2
"""Bits of the server's status."""
_SAME: Final = frozenset({"charset", "unix_socket", "autocommit", "connect_timeout", "read_timeout"})
_TLS: Mapping[str, str] = MappingProxyType(
    {"ssl_ca": "ca", "ssl_cert": "cert", "ssl_key": "key", "ssl_verify_identity": "check_hostname"}
)


def arguments_for(place: MySqlPlace, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `asyncmy.connect` takes. Raises ValueError for an option of the URL that has no counterpart there."""
    tls: dict[str, object] = {}
    found: dict[str, Any] = {}
    for name, value in place.options.items():
        if name in _SAME:
            found[name] = value
        elif name in _TLS:
            tls[_TLS[name]] = value
        elif name == "ssl_verify_cert":
            tls["verify_mode"] = "required" if value else "none"
        elif name != "ssl_disabled":
            raise ValueError(f"the option {name}={value} of a URL has no counterpart in asyncmy")
    if tls and not place.options.get("ssl_disabled"):
        found["ssl"] = tls
    login = {} if place.user is None else {"user": place.user, "password": place.password}
    where = {"host": place.host, "port": place.port, "database": place.database, "charset": "utf8mb4"}
    made = {**where, **login, **found, **given}
    made["client_flag"] = made.get("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    return made


def arguments_like(place: MySqlPlace, given: Mapping[str, Any], raw: Any) -> dict[str, Any]:
    """What opens a PyMySQL connection for phase two as `raw` was opened, with its TLS context if it has one."""
    shared = shared_with_phase_two(place, given)
    return {**shared, "ssl": raw._ssl_context} if raw._tls_established else {**shared, "ssl_disabled": True}


class Executor:
    """Runs the queries of a flow on `raw`, an asyncmy connection. See `MySqlExecutor`, which does so by PyMySQL."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._mogrify = PlainCursor(raw, False, None).mogrify
        self._postponed: list[tuple[Query, Later]] = []
        self.in_transaction = False

    def postpone(self, step: Query) -> Later:
        """Keep it for the next `query`."""
        self._postponed.append((step, Later()))
        return self._postponed[-1][1]

    async def flush(self) -> None:
        """Run what is postponed. (RELEASE of a savepoint can wait until something else comes.)"""
        if any(not step.sql.startswith("RELEASE ") for step, _ in self._postponed):
            await self.query(Query("DO 0"))

    def drop_postponed(self) -> None:
        """The local transaction is over: nothing of it is to be run any more."""
        self._postponed.clear()

    async def query(self, step: Query) -> Rows:
        """Run it, and fetch everything; the user's own statement gives its rows twice, as `MySqlExecutor` does."""
        if step.sql == "ROLLBACK":
            self.drop_postponed()
        steps = [*self._postponed, (step, Later())]
        self._postponed.clear()
        raw = self._raw
        decoders, use_unicode = raw._decoders, raw._use_unicode
        raw._use_unicode = True
        try:
            # A line of its own for each `;`: a comment of the user's may end the line before.
            text = "\n;\n".join(self._mogrify(one.sql, arguments_of(one.parameters)) for one, _ in steps)
            for number, (one, later) in enumerate(steps):
                raw._decoders = {} if one.as_user else dict(DECODERS)
                if not number:
                    await raw.query(text)
                elif raw._result.has_next:
                    await raw.next_result()
                else:
                    raise RuntimeError(f"{len(steps)} statements gave {number} results")
                later.rows = self._rows(one, decoders)
        except BaseException as error:
            self.note_error(error)
            raise
        finally:
            raw._decoders, raw._use_unicode = decoders, use_unicode
        return steps[-1][1].answer

    def _rows(self, step: Query, decoders: Mapping[int, Callable[[Any], object]]) -> Rows:
        """The result that the connection has read last."""
        result = self._raw._result
        self.note()
        rows = [tuple(row) for row in result.rows or ()]
        columns = tuple(column[0] for column in result.description or ())
        if not step.as_user or not columns:
            return Rows(columns, rows, result.affected_rows, result.insert_id)
        types = [column[1] for column in result.description or ()]
        native = converted(rows, types, decoders)
        counted = result.affected_rows, result.insert_id
        return Rows(columns, converted(rows, types, DECODERS), *counted, native=native)

    @asynccontextmanager
    async def one_by_one(self) -> AsyncIterator[None]:
        """Inside, the server refuses a text of several statements."""
        await self._set_option(MULTI_STATEMENTS_OFF)
        try:
            yield
        finally:
            if self._raw.connected:
                await self._set_option(MULTI_STATEMENTS_ON)

    async def _set_option(self, option: int) -> None:
        await self._raw._execute_command(COMMAND.COM_SET_OPTION, struct.pack("<H", option))
        await self._raw.read_packet()

    def note(self) -> None:
        """A statement was executed on the connection. (asyncmy itself takes a status of 0 for none.)"""
        result = self._raw._result
        if result is not None and not result.unbuffered_active:  # that one has the status behind its last row
            self._raw.server_status = result.server_status
        gave_rows = result is not None and bool(result.description)
        self.in_transaction = bool(self._raw.server_status & _IN_TRANSACTION) or (gave_rows and not self.is_autocommit)

    def note_error(self, error: BaseException) -> None:
        """A statement has failed: after a deadlock, or without a connection, there is no local transaction any more."""
        if not self._raw.connected or (error.args and error.args[0] == DEADLOCK):
            self.in_transaction = False

    @property
    def is_autocommit(self) -> bool:
        """Whether the server commits each statement by itself, where no transaction was begun."""
        return bool(self._raw.server_status & _AUTOCOMMIT)


__all__ = ["Executor", "arguments_for", "arguments_like", "asyncmy"]
