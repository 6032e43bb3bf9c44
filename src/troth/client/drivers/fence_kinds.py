"""The users' own connections that a fence or a barrier can live on: what each needs to begin, commit, and run a query.

Where a driver is async its methods give awaitables; whoever runs the flow awaits them (`troth.client.flow.Invoke`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Query, Rows

_MYSQL_IN_TRANSACTION: Final = 1
_ABORTED: Final = (
    "a statement failed and its error was swallowed, so PostgreSQL would answer COMMIT by rolling back: let the error "
    "through, or use a savepoint"
)
_HINT: Final = (
    "Give sqlite3, aiosqlite, psycopg 3, asyncpg, PyMySQL, asyncmy, a SQLAlchemy Session or Connection (or their async "
    "twins), or a redis-py client."
)
_CLASSES: Final = MappingProxyType(
    {
        "asyncpg": frozenset({"Connection", "PoolConnectionProxy"}),
        "asyncmy": frozenset({"Connection"}),
        "sqlalchemy": frozenset({"Session", "Connection", "scoped_session"}),
        "sqlalchemy.async": frozenset({"AsyncSession", "AsyncConnection"}),
    }
)
"""Where a driver's other classes (pools, engines, factories) must not be taken for connections."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One family of connections. `is_open`: whether a transaction is open on it."""

    name: str
    is_async: bool
    begin: Callable[[Any], Any]
    is_open: Callable[[Any], bool]
    commit: Callable[[Any], Any]
    rollback: Callable[[Any], Any]


def kind_of(connection: object) -> Kind | None:
    """None: it is no connection of a kind that is known.

    Raises NotSupported for a connection under AT: its fence row would be a branch of its own, and undone.
    """
    for cls in type(connection).__mro__:
        if cls.__module__.startswith("troth.client.drivers"):
            raise NotSupported("a fence or barrier cannot live on a connection under AT.", "Use the driver's own.")
        top = cls.__module__.partition(".")[0]
        name = f"{top}.async" if cls.__name__.startswith("Async") or cls.__module__.startswith("redis.asyncio") else top
        if name in KINDS and cls.__name__ in _CLASSES.get(name, (cls.__name__,)):
            return KINDS[name]
    return None


def required_kind(connection: object, *, is_async: bool) -> Kind:
    """`kind_of`. Raises NotSupported where there is none, or one for the other sort of function."""
    kind = kind_of(connection)
    if kind is None:
        raise NotSupported(f"a fence or barrier cannot live on a {type(connection).__qualname__}.", _HINT)
    if kind.is_async is not is_async:
        wanted = "an async" if is_async else "a blocking"
        raise NotSupported(f"the function wants {wanted} connection, and `connection` gives the other sort.", _HINT)
    return kind


# --- SQL through the driver ---


def _nothing(_: Any) -> None:
    return None


def _begin_sqlite(connection: Any) -> Any:
    return None if connection.in_transaction else connection.execute("BEGIN")


def _commit_sqlite(connection: Any) -> Any:
    # Not commit(): from Python 3.12 on that does nothing on a connection in autocommit.
    return connection.execute("COMMIT") if connection.in_transaction else None


def _rollback_sqlite(connection: Any) -> Any:
    return connection.execute("ROLLBACK") if connection.in_transaction else None


def _sqlite_is_open(connection: Any) -> bool:
    return bool(connection.in_transaction)


def _begin_psycopg(connection: Any) -> Any:
    return connection.execute("BEGIN") if connection.autocommit else None


def _psycopg_is_open(connection: Any) -> bool:
    return bool(connection.info.transaction_status.name != "IDLE")


def _commit_psycopg(connection: Any) -> Any:
    if connection.info.transaction_status.name == "INERROR":
        raise BranchFailed(_ABORTED)
    return connection.commit()


def _begin_asyncpg(connection: Any) -> Any:
    return connection.execute("BEGIN")


def _asyncpg_is_open(connection: Any) -> bool:
    return bool(connection.is_in_transaction())


async def _commit_asyncpg(connection: Any) -> None:
    if await connection.execute("COMMIT") != "COMMIT":
        raise BranchFailed(_ABORTED)


def _rollback_asyncpg(connection: Any) -> Any:
    return connection.execute("ROLLBACK")


def _begin_pymysql(connection: Any) -> Any:
    return connection.begin()


def _pymysql_is_open(connection: Any) -> bool:
    return bool(connection.server_status & _MYSQL_IN_TRANSACTION)


def _asyncmy_is_open(connection: Any) -> bool:
    return bool(connection.get_transaction_status())


def _sqlalchemy_is_open(connection: Any) -> bool:
    return bool(connection.in_transaction())


def _commit_sqlalchemy(connection: Any) -> None:
    core = connection.connection() if callable(getattr(connection, "connection", None)) else connection
    if core.dialect.name == "postgresql":
        core.exec_driver_sql("SELECT 1")  # fails in a transaction that COMMIT would silently roll back
    connection.commit()


async def _acommit_sqlalchemy(connection: Any) -> None:
    await connection.run_sync(_commit_sqlalchemy)


def _redis_is_open(_: Any) -> bool:
    return True  # what is queued is sent all at once, or not at all


def _commit(connection: Any) -> Any:
    return connection.commit()


def _rollback(connection: Any) -> Any:
    return connection.rollback()


_SQLITE: Final = (_begin_sqlite, _sqlite_is_open, _commit_sqlite, _rollback_sqlite)
_PSYCOPG: Final = (_begin_psycopg, _psycopg_is_open, _commit_psycopg, _rollback)
_ASYNCPG: Final = (_begin_asyncpg, _asyncpg_is_open, _commit_asyncpg, _rollback_asyncpg)
_SQLALCHEMY: Final = (_nothing, _sqlalchemy_is_open, _commit_sqlalchemy, _rollback)
_SQLALCHEMY_ASYNC: Final = (_nothing, _sqlalchemy_is_open, _acommit_sqlalchemy, _rollback)
_REDIS: Final = (_nothing, _redis_is_open, _nothing, _nothing)

KINDS: Final = MappingProxyType(
    {
        "sqlite3": Kind("sqlite", False, *_SQLITE),
        "aiosqlite": Kind("sqlite", True, *_SQLITE),
        "psycopg": Kind("postgresql", False, *_PSYCOPG),
        "psycopg.async": Kind("postgresql", True, *_PSYCOPG),
        "asyncpg": Kind("postgresql", True, *_ASYNCPG),
        "pymysql": Kind("mysql", False, _begin_pymysql, _pymysql_is_open, _commit, _rollback),
        "asyncmy": Kind("mysql", True, _begin_pymysql, _asyncmy_is_open, _commit, _rollback),
        "sqlalchemy": Kind("sqlalchemy", False, *_SQLALCHEMY),
        "sqlalchemy.async": Kind("sqlalchemy", True, *_SQLALCHEMY_ASYNC),
        "redis": Kind("redis", False, *_REDIS),
        "redis.async": Kind("redis", True, *_REDIS),
    }
)
"""By the module that a connection's class comes from."""


def run_query(kind: Kind, connection: Any, step: Query) -> Rows:
    """Run it on a blocking connection."""
    if kind.name == "sqlalchemy":
        return _run_on_core(connection, step)
    with closing(connection.cursor()) as cursor:
        cursor.execute(_spelled(kind, step.sql), tuple(step.parameters))
        found = cursor.fetchall() if cursor.description else ()
        return _rows(found, cursor.rowcount)


async def arun_query(kind: Kind, connection: Any, step: Query) -> Rows:
    """`run_query` on an async connection."""
    if kind.name == "sqlalchemy":
        done: Rows = await connection.run_sync(_run_on_core, step)
        return done
    if kind is KINDS["asyncpg"]:
        return await _run_on_asyncpg(connection, step)
    if kind is KINDS["asyncmy"]:
        cursor = connection.cursor()
        await cursor.execute(_spelled(kind, step.sql), tuple(step.parameters))
    else:
        cursor = await connection.execute(_spelled(kind, step.sql), tuple(step.parameters))
    try:
        found = await cursor.fetchall() if cursor.description else ()
        return _rows(found, cursor.rowcount)
    finally:
        await cursor.close()


async def _run_on_asyncpg(connection: Any, step: Query) -> Rows:
    sql = step.sql
    for number in range(len(step.parameters)):
        sql = sql.replace("?", _place("numeric_dollar", number), 1)
    statement = await connection.prepare(sql)
    found = await statement.fetch(*step.parameters)
    count = statement.get_statusmsg().rpartition(" ")[2]
    return _rows(found, int(count) if count.isdecimal() else -1)


def _rows(found: Iterable[Any], rowcount: int) -> Rows:
    """Plain tuples, whatever row factory the user has set."""
    rows = [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in found]
    return Rows((), rows, rowcount, None)


def _spelled(kind: Kind, sql: str) -> str:
    return sql if kind.name == "sqlite" else sql.replace("?", "%s")


# --- SQL through SQLAlchemy ---


def _run_on_core(connection: Any, step: Query) -> Rows:
    """`connection` is a Session or a Core Connection."""
    core = connection.connection() if callable(getattr(connection, "connection", None)) else connection
    if core.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise NotSupported(
            "the fence needs a transaction, and this connection is in AUTOCOMMIT.", "Use another engine."
        )
    kind_of(core.connection.dbapi_connection)  # refuses one under AT
    sql, style = step.sql, core.dialect.paramstyle
    for number in range(len(step.parameters)):
        sql = sql if style == "qmark" else sql.replace("?", _place(style, number), 1)
    result = core.exec_driver_sql(sql, tuple(step.parameters))
    return _rows(result.fetchall() if result.returns_rows else (), result.rowcount)


def _place(style: str, number: int) -> str:
    if style.startswith("numeric"):
        return f"{'$' if style.endswith('dollar') else ':'}{number + 1}"
    return "%s"
