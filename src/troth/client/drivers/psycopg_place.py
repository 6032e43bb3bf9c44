"""PostgreSQL databases: their URLs, phase two on connections of its own, and the undo table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise ImportError("AT on PostgreSQL needs psycopg 3: pip install 'troth[postgresql]'") from error

from troth.client.drivers.resource import DatabaseUnusable, NoCoordinator, Resource
from troth.client.drivers.running import run
from troth.client.flow import Flow, Parameters, Query, Rows, query
from troth.client.sql.dialects.postgres import (
    PUBLIC,
    PostgresDialect,
    check_undo_table,
    create_undo_table,
    resource_id,
)

R = TypeVar("R")

_SCHEMA = "currentSchema"
_PLAIN_SETTINGS = (
    "-c bytea_output=hex -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=1 -c TimeZone=UTC "
    "-c standard_conforming_strings=on -c xmloption=content"
)
"""With these, what an image says is read as it was written."""
_INTEGERS = frozenset({20, 21, 23, 26})
_BYTEA = 17
_IDLE = psycopg.pq.TransactionStatus.IDLE


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A database: `conninfo` is for libpq; `current_schema` is the search path that the URL names, if it does."""

    conninfo: str
    current_schema: str | None

    @property
    def undo_schema(self) -> str:
        """Where the undo table is: the first schema that the URL names, else `public`."""
        return PUBLIC if self.current_schema is None else self.current_schema.split(",")[0].strip()

    def resource_id(self, info: psycopg.ConnectionInfo) -> str:
        """The database's name at the coordinator, once there is a connection. A unix socket is `localhost`."""
        host = "localhost" if info.host.startswith(("/", "@")) or not info.host else info.host
        return resource_id(host, info.port, info.dbname, self.current_schema)


def parse_url(url: str) -> PostgresUrl:
    """`postgresql://user:password@host:port/database?…`, as libpq and SQLAlchemy spell it.

    `currentSchema=a,b` (as in JDBC URLs) sets the search path; all other options are libpq's.

    Raises:
        ValueError: not such a URL, or an option that libpq does not know.
    """
    scheme, _, rest = url.partition("://")
    address, _, options = rest.partition("?")
    pairs = parse_qsl(options, keep_blank_values=True)
    current = next((value for name, value in pairs if name == _SCHEMA), None)
    kept = urlencode([pair for pair in pairs if pair[0] != _SCHEMA])
    try:
        known = conninfo_to_dict(f"postgresql://{address}{'?' if kept else ''}{kept}")
        if current is not None:
            known["options"] = f"{known.get('options', '')} -c search_path={current.replace(' ', '')}".strip()
        return PostgresUrl(make_conninfo("", **known), current)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"{scheme}://… is not a URL of a PostgreSQL database: {error}".strip()) from error


def rows_of(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> Rows:
    """The result of the last statement as AT reads it: texts, integers and bytes, past all loaders of the user's."""
    result = cursor.pgresult
    status = cursor.statusmessage
    if result is None or not result.nfields:
        return Rows((), [], cursor.rowcount, None, status)
    encoding = cursor.connection.info.encoding
    columns = tuple([(result.fname(place) or b"").decode(encoding) for place in range(result.nfields)])
    types = [result.ftype(place) for place in range(result.nfields)]
    rows: list[tuple[object, ...]] = [
        tuple([_value(result.get_value(row, place), oid, encoding) for place, oid in enumerate(types)])
        for row in range(result.ntuples)
    ]
    return Rows(columns, rows, cursor.rowcount, None, status, result)


def _value(raw: bytes | None, oid: int, encoding: str) -> object:
    if raw is None:
        return None
    if oid in _INTEGERS and raw.lstrip(b"-").isdigit():
        return int(raw)
    if oid == _BYTEA and raw.startswith(b"\\x"):
        return bytes.fromhex(raw[2:].decode("ascii"))
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return raw  # a column of the user's, in binary format: nobody reads it from here


def arguments_of(step: Query) -> tuple[str, Parameters | None]:
    """Text and parameters for psycopg. Without parameters it is sent as it is."""
    if step.parameters or step.as_user:
        return step.sql, step.parameters
    return step.sql.replace("%%", "%"), None


def prepare_of(step: Query) -> bool | None:
    """What only the server's parser sees need not be prepared; for the rest, psycopg decides."""
    return None if step.parameters or step.sql.startswith("\nSELECT") else False


class OwnExecutor:
    """Runs queries on a connection of our own, in autocommit."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection

    def query(self, step: Query) -> Rows:
        """Run it, and fetch everything."""
        if step.sql == "ROLLBACK" and self._connection.info.transaction_status is _IDLE:
            return Rows((), [], -1, None)
        with self._connection.cursor() as cursor:
            sql, parameters = arguments_of(step)
            cursor.execute(sql, parameters)
            while cursor.nextset():
                pass
            return rows_of(cursor)


@contextmanager
def opened(url: PostgresUrl, lock_timeout_s: float = 2.0) -> Iterator[OwnExecutor]:
    """A connection of our own that waits `lock_timeout_s` for a lock; every statement commits by itself."""
    options = conninfo_to_dict(url.conninfo).get("options") or ""
    timeout = f"-c lock_timeout={int(lock_timeout_s * 1000)}"
    conninfo = make_conninfo(url.conninfo, options=f"{options} {_PLAIN_SETTINGS} {timeout}".strip())
    with closing(psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)) as connection:
        yield OwnExecutor(connection)


class PostgresResource(Resource):
    """Phase two of one database. A lock is waited for `lock_timeout_s`, then "later"."""

    def __init__(self, url: PostgresUrl, lock_timeout_s: float = 2.0) -> None:
        super().__init__(lambda: PostgresDialect(url.undo_schema), lambda: opened(url, lock_timeout_s))


def init(url: str) -> None:
    """Make the undo table, if it is not there. Raises ValueError, DatabaseUnusable."""
    place = parse_url(url)
    _run(place, _create(create_undo_table(place.undo_schema)))


def init_hot_rows(url: str) -> None:
    """Make the table of open increments, if it is not there. Raises ValueError, DatabaseUnusable."""
    place = parse_url(url)
    _run(place, _create(PostgresDialect(place.undo_schema).hot_rows.create))


def _create(statements: Iterable[str]) -> Flow[None]:
    for sql in statements:
        yield from query(sql)


def check(url: str) -> list[str]:
    """What is wrong with the undo table, in sentences; empty if nothing is. Raises ValueError, DatabaseUnusable."""
    place = parse_url(url)
    return _run(place, check_undo_table(place.undo_schema))


def _run(url: PostgresUrl, flow: Flow[R]) -> R:
    try:
        with opened(url) as executor:
            return run(flow, executor, NoCoordinator())
    except psycopg.Error as error:
        raise DatabaseUnusable(f"{type(error).__name__}: {error}") from error
