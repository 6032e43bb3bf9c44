"""Where a MySQL or MariaDB database is, what it is called at the coordinator, and how it is opened by PyMySQL."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

try:
    import pymysql
    from pymysql.constants import CLIENT, COMMAND, FIELD_TYPE
except ImportError as error:
    raise ImportError("AT on MySQL and MariaDB needs PyMySQL: pip install 'troth[mysql]'") from error

from troth.client.drivers.resource import Resource
from troth.client.errors import NotSupported
from troth.client.flow import Later, Parameters, Query, Rows
from troth.client.sql.dialects.mysql import MySqlDialect

_PORT: Final = 3306
_IN_TRANSACTION, _AUTOCOMMIT = 0x1, 0x2
"""Bits of the server's status."""
DEADLOCK: Final = 1213
"""The number of a deadlock: its victim has no local transaction any more."""
MULTI_STATEMENTS_ON, MULTI_STATEMENTS_OFF = 0, 1
"""Arguments of COM_SET_OPTION."""

_FLAGS = MappingProxyType({"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False})


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _FLAGS[text.lower()]


_OPTIONS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        **dict.fromkeys(("charset", "unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password"), str),
        **dict.fromkeys(("ssl_verify_cert", "ssl_verify_identity", "ssl_disabled", "autocommit"), _flag),
        **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), int),
    }
)
_OWN_OPTIONS = ("resource_id", "jvm_timezone")
_TLS_OPTIONS = frozenset(name for name in _OPTIONS if name.startswith("ssl_")) | {"ssl"}
_SHARED_WITH_PHASE_TWO = frozenset(_OPTIONS) - _TLS_OPTIONS - {"autocommit"} | {"server_public_key", "auth_plugin_map"}


@dataclass(frozen=True, slots=True)
class MySqlPlace:
    """A database on a server, and how its URL says to open it."""

    scheme: str
    host: str
    port: int
    user: str | None
    password: str = field(repr=False)
    database: str
    options: Mapping[str, object]
    own: Mapping[str, str]

    @property
    def resource_id(self) -> str:
        """`jdbc:mysql://host:port/database`, or `jdbc:mariadb:…` for `mariadb://`: what Java clients call it."""
        return self.own.get("resource_id", f"jdbc:{self.scheme}://{self.host}:{self.port}/{self.database}")

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of the JVMs that share the undo log; None: that of this process."""
        name = self.own.get("jvm_timezone")
        return None if name is None else ZoneInfo(name)

    def dialect(self, *, counts_found: bool = False) -> MySqlDialect:
        """The dialect of connections to it."""
        return MySqlDialect(self.database, counts_found=counts_found, zone=self.zone)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `pymysql.connect` takes."""
        login = {} if self.user is None else {"user": self.user, "password": self.password}
        where = {"host": self.host, "port": self.port, "database": self.database, "charset": "utf8mb4"}
        return {**where, **login, **self.options, **given}


def parse_url(url: str) -> MySqlPlace:
    """`mysql://user:password@host:port/database`, `mariadb://…`, options behind `?`.

    Besides PyMySQL's own options: `resource_id` (what Java calls the database, where that is not the URL) and
    `jvm_timezone` (`Asia/Shanghai`; the time zone of Java clients that share the undo log).

    Raises:
        NotSupported: no database is named.
        ValueError: an option that is not known.
    """
    parts = urlsplit(url)
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise NotSupported("AT needs to know which database.", "Write mysql://user:password@host:3306/database.")
    options: dict[str, object] = {}
    own: dict[str, str] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in _OWN_OPTIONS:
            own[name] = text
        elif name in _OPTIONS:
            options[name] = _OPTIONS[name](text)
        else:
            raise ValueError(f"the option {name}={text} of a MySQL URL is not known")
    return _place(parts, database, options, own)


def _place(parts: SplitResult, database: str, options: dict[str, object], own: dict[str, str]) -> MySqlPlace:
    return MySqlPlace(
        scheme=parts.scheme.partition("+")[0],
        host=parts.hostname or "localhost",
        port=parts.port or _PORT,
        user=None if parts.username is None else unquote(parts.username),
        password=unquote(parts.password or ""),
        database=database,
        options=MappingProxyType(options),
        own=MappingProxyType(own),
    )


# --- queries ---

DECODERS: Mapping[int, Callable[[Any], object]] = MappingProxyType(
    {
        **dict.fromkeys((FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int),
        **dict.fromkeys((FIELD_TYPE.INT24, FIELD_TYPE.YEAR), int),
        **dict.fromkeys((FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE), float),
        **dict.fromkeys((FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL), Decimal),
    }
)
"""How images read what the server sends; the rest stays text or bytes."""


class MySqlExecutor:
    """Runs the queries of a flow on `raw`, on cursors of its own. `raw` is a PyMySQL connection (`Any`: its type stubs
    know less than it has).

    What is postponed goes to the server in one text with the next query; the server stops at the first error.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._postponed: list[tuple[Query, Later]] = []
        self._takes_several = bool(raw.client_flag & CLIENT.MULTI_STATEMENTS)
        self.in_transaction = False
        """PyMySQL hears of it in answers without rows only; after rows it is worked out (`note`)."""

    def postpone(self, step: Query) -> Later:
        """Keep it for the next `query`; where the connection takes one statement at a time, run it now."""
        if not self._takes_several:
            return Later(self.query(step))
        self._postponed.append((step, Later()))
        return self._postponed[-1][1]

    def flush(self) -> None:
        """Run what is postponed. (RELEASE of a savepoint can wait until something else comes.)"""
        if any(not step.sql.startswith("RELEASE ") for step, _ in self._postponed):
            self.query(Query("DO 0"))

    def drop_postponed(self) -> None:
        """The local transaction is over: nothing of it is to be run any more."""
        self._postponed.clear()

    def query(self, step: Query) -> Rows:
        """Run it, and fetch everything.

        The user's own statement gives its rows twice: as images have values, and (`native`) as the user's converters
        make them.
        """
        if step.sql == "ROLLBACK":
            self.drop_postponed()
        steps = [*self._postponed, (step, Later())]
        self._postponed.clear()
        raw = self._raw
        decoders, use_unicode = raw.decoders, raw.use_unicode
        raw.use_unicode = True
        cursor = pymysql.cursors.Cursor(raw)
        try:
            # A line of its own for each `;`: a comment of the user's may end the line before.
            text = "\n;\n".join(cursor.mogrify(one.sql, arguments_of(one.parameters)) for one, _ in steps)
            for number, (one, later) in enumerate(steps):
                raw.decoders = {} if one.as_user else DECODERS
                if not number:
                    cursor.execute(text)
                elif not cursor.nextset():
                    raise RuntimeError(f"{len(steps)} statements gave {number} results")
                later.rows = self._rows(cursor, one, decoders)
        except Exception as error:
            self.note_error(error)
            raise
        finally:
            raw.decoders, raw.use_unicode = decoders, use_unicode
        return steps[-1][1].answer

    def _rows(self, cursor: Any, step: Query, decoders: Mapping[int, Callable[[Any], object]]) -> Rows:
        """The result that the cursor is at."""
        rows = list(cursor.fetchall())
        self.note(gave_rows=cursor.description is not None)
        columns = tuple(column[0] for column in cursor.description or ())
        if not step.as_user or not columns:
            return Rows(columns, rows, cursor.rowcount, cursor.lastrowid)
        types = [column[1] for column in cursor.description or ()]
        native = converted(rows, types, decoders)
        return Rows(columns, converted(rows, types, DECODERS), cursor.rowcount, cursor.lastrowid, native=native)

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Inside, the server refuses a text of several statements."""
        if not self._takes_several:
            yield
            return
        self._set_option(MULTI_STATEMENTS_OFF)
        try:
            yield
        finally:
            if self._raw.open:
                self._set_option(MULTI_STATEMENTS_ON)

    def _set_option(self, option: int) -> None:
        self._raw._execute_command(COMMAND.COM_SET_OPTION, struct.pack("<H", option))
        self._raw._read_packet()

    def note(self, *, gave_rows: bool) -> None:
        """A statement was executed on the connection."""
        if not gave_rows:
            self.in_transaction = bool(self._raw.server_status & _IN_TRANSACTION)
        elif not self.is_autocommit:
            self.in_transaction = True

    def note_error(self, error: BaseException) -> None:
        """A statement has failed: after a deadlock, or without a connection, there is no local transaction any more."""
        if not self._raw.open or (error.args and error.args[0] == DEADLOCK):
            self.in_transaction = False

    @property
    def is_autocommit(self) -> bool:
        """Whether the server commits each statement by itself, where no transaction was begun."""
        return bool(self._raw.server_status & _AUTOCOMMIT)


def arguments_of(parameters: Parameters) -> Any:
    return parameters if isinstance(parameters, Mapping) else tuple(parameters)


def converted(
    rows: list[tuple[Any, ...]], types: list[int], decoders: Mapping[int, Callable[[Any], object]]
) -> list[tuple[object, ...]]:
    converters = [decoders.get(number) for number in types]
    return [
        tuple(
            value if value is None or converter is None else converter(value)
            for value, converter in zip(row, converters, strict=True)
        )
        for row in rows
    ]


# --- connections of our own ---

_SESSION: Final = (
    "SET SESSION innodb_lock_wait_timeout = {wait_s}, lock_wait_timeout = {wait_s}, time_zone = '+00:00', "
    # Zero dates and a counter's 0 come back as they were; a value that does not fit any more does not.
    "sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES', "
    "foreign_key_checks = 1"
)
_ISOLATION: Final = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""Looking for an undo row that is not there must not lock the gap in which others write theirs."""
_WAIT_S: Final = 2


def arguments_like(place: MySqlPlace, given: Mapping[str, Any], raw: Any) -> dict[str, Any]:
    """What opens a connection like `raw`, which was opened at `place` with the options `given`.

    Its TLS context is used again: to make one takes longer than all the rest.
    """
    secure = raw.ssl and raw.server_capabilities & CLIENT.SSL
    shared = shared_with_phase_two(place, given)
    return {**shared, "ssl": raw.ctx} if secure else {**shared, "ssl_disabled": True}


@contextmanager
def opened(arguments: Mapping[str, Any], wait_s: int = _WAIT_S) -> Iterator[MySqlExecutor]:
    """A connection of our own; every statement commits by itself, and waits for locks only shortly."""
    raw = pymysql.connect(**{**arguments, "autocommit": True, "client_flag": CLIENT.MULTI_STATEMENTS})
    try:
        executor = MySqlExecutor(raw)
        executor.query(Query(_SESSION.format(wait_s=wait_s)))
        executor.query(Query(_ISOLATION))
        yield executor
    finally:
        if raw.open:
            raw.close()


def shared_with_phase_two(place: MySqlPlace, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of what opened a connection, all that one of our own is opened with, too; without TLS."""
    known = {**place.arguments(given), "charset": "utf8mb4"}
    names = _SHARED_WITH_PHASE_TWO | {"host", "port", "database", "user", "password"}
    return {name: value for name, value in known.items() if name in names}


class MySqlResource(Resource):
    """Phase two of one database; `arguments` are what `pymysql.connect` takes."""

    def __init__(self, place: MySqlPlace, arguments: Mapping[str, Any]) -> None:
        super().__init__(place.dialect, lambda: opened(arguments))
