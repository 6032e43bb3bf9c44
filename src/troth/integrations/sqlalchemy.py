"""SQLAlchemy on AT: engines, sync and async, whose connections are AT's.

```python
engine = troth.integrations.sqlalchemy.create_engine("sqlite:////var/lib/shop/stock.db")
with troth.transaction(name="purchase"), Session(engine) as session, session.begin():
    …

engine = troth.integrations.sqlalchemy.create_async_engine("postgresql+asyncpg://user@host/shop")
async with troth.transaction(name="purchase"), AsyncSession(engine) as session, session.begin():
    …
```
The engine is SQLAlchemy's own; each `commit` of a connection inside a global transaction is a branch of it. An engine
that another part of the program makes is put under AT by `protect(engine)`. Errors of AT (`LockConflict`,
`NotSupported` …) come through as they are, not wrapped in SQLAlchemy's.

After a rollback of the whole, objects that a `Session` still holds show what was undone: SQLAlchemy cannot know of it.
Let the `Session` end with the transaction, or call `session.expire_all()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

try:
    import sqlalchemy
    from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
except ImportError as error:
    raise ImportError("troth's SQLAlchemy engine needs SQLAlchemy: pip install 'troth[sqlalchemy]'") from error

from troth import at
from troth.client.errors import NotSupported
from troth.client.flow import ResourceClient


def create_engine(
    url: str | sqlalchemy.URL, *, client: ResourceClient | None = None, **options: Any
) -> sqlalchemy.Engine:
    """`sqlalchemy.create_engine(url, **options)` on connections under AT.

    Args:
        url: as `troth.at.connect` takes it; the driver is the one that AT has (`postgresql+psycopg`, `mysql+pymysql`).
        client: the client to use; None means the process's default one (`troth.init`).
        **options: as `sqlalchemy.create_engine` takes them, except `creator`.

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    engine = sqlalchemy.create_engine(_with_driver(sqlalchemy.make_url(url), _DRIVERS), **options)
    _listen(engine, client, _connect)
    return engine


def create_async_engine(
    url: str | sqlalchemy.URL, *, client: ResourceClient | None = None, **options: Any
) -> sqlalchemy_asyncio.AsyncEngine:
    """`sqlalchemy.ext.asyncio.create_async_engine(url, **options)` on connections under AT.

    Args:
        url: `sqlite+aiosqlite`, `postgresql+psycopg`, `postgresql+asyncpg`, `mysql+asyncmy`; without a driver the one
            that `troth.at.connect_async` takes for that database.
        client: the client to use; None means the process's default one (`troth.init`).
        **options: as SQLAlchemy takes them, except `async_creator`.

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    place = _with_driver(sqlalchemy.make_url(url), _ASYNC_DRIVERS)
    engine = sqlalchemy_asyncio.create_async_engine(place, **options)
    _check_driver(engine.sync_engine, is_async=True)
    _listen(engine.sync_engine, client, _connect_async)
    return engine


def protect(
    engine: sqlalchemy.Engine | sqlalchemy_asyncio.AsyncEngine, *, client: ResourceClient | None = None
) -> None:
    """Let all connections of an engine be AT's. Call it before the engine is used.

    Raises:
        NotSupported: a driver that AT does not have; the hint names one.
        ValueError: the engine has connections already.
    """
    is_async = isinstance(engine, sqlalchemy_asyncio.AsyncEngine)
    sync_engine = engine.sync_engine if isinstance(engine, sqlalchemy_asyncio.AsyncEngine) else engine
    _check_driver(sync_engine, is_async=is_async)
    checked_out = getattr(sync_engine.pool, "checkedout", None)
    checked_in = getattr(sync_engine.pool, "checkedin", None)
    if (checked_out is not None and checked_out() > 0) or (checked_in is not None and checked_in() > 0):
        raise ValueError("the engine has opened connections already, and these are not under AT: protect it first")
    _listen(sync_engine, client, _connect_async if is_async else _connect)


def _check_driver(engine: sqlalchemy.Engine, *, is_async: bool) -> None:
    known = _ASYNC_DRIVERS if is_async else _DRIVERS
    name = f"{engine.dialect.name}+{engine.dialect.driver}"
    if name not in _SPELLED and name not in known.values():
        choice = ", ".join(sorted({*known.values()}))
        raise NotSupported(f"AT has no {'asyncio ' if is_async else ''}driver {name}.", f"It has {choice}.")


_ADDRESS = frozenset({"host", "port", "user", "username", "password", "passwd", "db", "database", "dbname"})
_DRIVERS = MappingProxyType(
    {
        "sqlite": "sqlite+pysqlite",
        "postgresql": "postgresql+psycopg",
        "mysql": "mysql+pymysql",
        "mariadb": "mariadb+pymysql",
    }
)
_ASYNC_DRIVERS = MappingProxyType(
    {
        "sqlite": "sqlite+aiosqlite",
        "postgresql": "postgresql+psycopg",
        "postgresql+asyncpg": "postgresql+asyncpg",
        "mysql": "mysql+asyncmy",
        "mariadb": "mariadb+asyncmy",
    }
)
_SPELLED = frozenset({"postgresql+psycopg_async"})
"""How SQLAlchemy itself calls the asyncio side of a driver."""

_Connect = Callable[[Any, str, ResourceClient | None, Mapping[str, Any]], Any]


def _with_driver(url: sqlalchemy.URL, drivers: Mapping[str, str]) -> sqlalchemy.URL:
    return url.set(drivername=drivers.get(url.drivername, url.drivername))


def _listen(engine: sqlalchemy.Engine, client: ResourceClient | None, connect: _Connect) -> None:
    place = engine.url
    text = place.render_as_string(hide_password=False)

    def do_connect(dialect: Any, _record: object, _arguments: object, keywords: Mapping[str, Any]) -> Any:
        # What SQLAlchemy's dialect and the user want of a connection is in the keywords beside the address.
        extra = {name: value for name, value in keywords.items() if name not in _ADDRESS and name not in place.query}
        return connect(dialect, text, client, extra)

    sqlalchemy.event.listen(engine, "do_connect", do_connect)


def _connect(_dialect: Any, url: str, client: ResourceClient | None, extra: Mapping[str, Any]) -> Any:
    return at.connect(url, client=client, **extra)


def _connect_async(dialect: Any, url: str, client: ResourceClient | None, extra: Mapping[str, Any]) -> Any:
    """SQLAlchemy's adapter takes its own keywords away and awaits the rest."""

    def open_connection(*_arguments: object, **keywords: Any) -> Any:
        return at.connect_async(url, client=client, **keywords)

    return dialect.loaded_dbapi.connect(async_creator_fn=open_connection, **extra)


def at_creator(url: str, *, client: ResourceClient | None = None, **connect_args: Any) -> Callable[[], Any]:
    """What `sqlalchemy.create_engine(url, creator=…)` takes, for engines that are built in another way.

    As in SQLAlchemy's own dialect, a pooled connection to SQLite may go from thread to thread.
    """
    arguments = {"check_same_thread": False, **connect_args} if url.startswith("sqlite") else connect_args

    def creator() -> Any:
        return at.connect(url, client=client, **arguments)

    return creator
