"""SQLAlchemy on XA: engines, sync and async, whose connections are XA's.

```python
engine = troth.integrations.sqlalchemy_xa.create_async_engine("postgresql+asyncpg://user@host/shop")
async with troth.transaction(name="purchase"), AsyncSession(engine) as session, session.begin():
    …
```
The engine is SQLAlchemy's own; each `commit` of a connection inside a global transaction prepares a branch of it.
SQLAlchemy's own two-phase calls (`Session(twophase=True)`) are not needed, and refused inside a global transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

try:
    import sqlalchemy
    from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
except ImportError as error:
    raise ImportError("troth's SQLAlchemy engine needs SQLAlchemy: pip install 'troth[sqlalchemy]'") from error

from troth import xa
from troth.client.flow import ResourceClient

_ADDRESS = frozenset({"host", "port", "user", "username", "password", "passwd", "db", "database", "dbname"})
_DRIVERS = MappingProxyType(
    {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
)
_ASYNC_DRIVERS = MappingProxyType({"postgresql": "postgresql+psycopg"})


def create_engine(
    url: str | sqlalchemy.URL, *, client: ResourceClient | None = None, **options: Any
) -> sqlalchemy.Engine:
    """`sqlalchemy.create_engine(url, **options)` on connections under XA.

    Args:
        url: as `troth.xa.connect` takes it; the driver is the one that XA has (`postgresql+psycopg`, `mysql+pymysql`).
        client: the client to use; None means the process's default one (`troth.init`).
        **options: as `sqlalchemy.create_engine` takes them, except `creator`.

    Raises (when it connects):
        NotSupported: a database or server that XA cannot work on.
    """
    engine = sqlalchemy.create_engine(_with_driver(sqlalchemy.make_url(url), _DRIVERS), **options)
    text = engine.url.render_as_string(hide_password=False)

    def do_connect(_dialect: Any, _record: object, _arguments: object, keywords: Mapping[str, Any]) -> Any:
        return xa.connect(text, client=client, **_extra(keywords, engine.url))

    sqlalchemy.event.listen(engine, "do_connect", do_connect)
    return engine


def create_async_engine(
    url: str | sqlalchemy.URL, *, client: ResourceClient | None = None, **options: Any
) -> sqlalchemy_asyncio.AsyncEngine:
    """`create_engine` for coroutines: `postgresql+psycopg` (also without a driver) and `postgresql+asyncpg`."""
    place = _with_driver(sqlalchemy.make_url(url), _ASYNC_DRIVERS)
    engine = sqlalchemy_asyncio.create_async_engine(place, **options)
    text = place.render_as_string(hide_password=False)

    def open_connection(*_arguments: object, **keywords: Any) -> Any:
        return xa.connect_async(text, client=client, **keywords)

    def do_connect(dialect: Any, _record: object, _arguments: object, keywords: Mapping[str, Any]) -> Any:
        # SQLAlchemy's adapter takes its own keywords away and awaits the rest.
        return dialect.loaded_dbapi.connect(async_creator_fn=open_connection, **_extra(keywords, place))

    sqlalchemy.event.listen(engine.sync_engine, "do_connect", do_connect)
    return engine


def _with_driver(url: sqlalchemy.URL, drivers: Mapping[str, str]) -> sqlalchemy.URL:
    return url.set(drivername=drivers.get(url.drivername, url.drivername))


def _extra(keywords: Mapping[str, Any], place: sqlalchemy.URL) -> dict[str, Any]:
    """What SQLAlchemy's dialect and the user want of a connection, beside the address."""
    return {name: value for name, value in keywords.items() if name not in _ADDRESS and name not in place.query}
