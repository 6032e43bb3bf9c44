"""SQLAlchemy on AT: a sync engine whose connections are AT's.

```python
engine = troth.integrations.sqlalchemy.create_engine("sqlite:////var/lib/shop/stock.db")
with troth.transaction(name="purchase"), Session(engine) as session, session.begin():
    …
```
The engine is SQLAlchemy's own; each `commit` of a connection inside a global transaction is a branch of it. Errors of
AT (`LockConflict`, `NotSupported` …) come through as they are, not wrapped in SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

try:
    import sqlalchemy
except ImportError as error:
    raise ImportError("troth's SQLAlchemy engine needs SQLAlchemy: pip install 'troth[sqlalchemy]'") from error

from troth import at
from troth.client.flow import ResourceClient


def create_engine(
    url: str | sqlalchemy.URL,
    *,
    client: ResourceClient | None = None,
    connect_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> sqlalchemy.Engine:
    """`sqlalchemy.create_engine(url, **options)` on connections under AT.

    Args:
        url: as `troth.at.connect` takes it; the driver is the one that AT has (`postgresql+psycopg`, `mysql+pymysql`).
        client: the client to use; None means the process's default one (`troth.init`).
        connect_args: as the driver's own `connect` takes them.
        **options: as `sqlalchemy.create_engine` takes them, except `creator`.

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    place = _with_driver(sqlalchemy.make_url(url))
    engine = sqlalchemy.create_engine(place, connect_args=dict(connect_args or {}), **options)
    text = place.render_as_string(hide_password=False)

    def connect(_dialect: object, _record: object, _arguments: object, keywords: Mapping[str, Any]) -> Any:
        # What SQLAlchemy's dialect wants of a connection (adapters, flags) is in the keywords beside the address.
        if place.get_backend_name() == "sqlite":
            return at_creator(text, client=client, **(connect_args or {}))()
        extra = {name: value for name, value in keywords.items() if name not in _ADDRESS and name not in place.query}
        return at.connect(text, client=client, **extra)

    sqlalchemy.event.listen(engine, "do_connect", connect)
    return engine


_ADDRESS = frozenset({"host", "port", "user", "username", "password", "passwd", "db", "database", "dbname"})
_DRIVERS = MappingProxyType(
    {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
)


def _with_driver(url: sqlalchemy.URL) -> sqlalchemy.URL:
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def at_creator(url: str, *, client: ResourceClient | None = None, **connect_args: Any) -> Callable[[], Any]:
    """What `sqlalchemy.create_engine(url, creator=…)` takes, for engines that are built in another way.

    As in SQLAlchemy's own dialect, a pooled connection to SQLite may go from thread to thread.
    """
    arguments = {"check_same_thread": False, **connect_args} if url.startswith("sqlite") else connect_args

    def creator() -> Any:
        return at.connect(url, client=client, **arguments)

    return creator
