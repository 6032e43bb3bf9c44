"""XA: a database connection whose local transactions are prepared in the database, and end with the global one.

```python
conn = troth.xa.connect("postgresql://shop@db/stock")
with troth.transaction(name="purchase"):
    conn.execute("UPDATE stock SET count = count - %s WHERE commodity = %s", (2, "C00321"))
    conn.commit()   # prepares; the coordinator commits or rolls back
```
Outside of a global transaction the connection behaves as the driver's own.

| URL | driver | asyncio driver |
|---|---|---|
| `postgresql://user:password@host:port/database` | psycopg 3 | psycopg 3 |
| `postgresql+asyncpg://…` | | asyncpg |
| `mysql://user:password@host:port/database`, `mariadb://…` | PyMySQL | |
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from troth.client.errors import NotSupported
from troth.client.flow import ResourceClient

__all__ = ["connect", "connect_async"]

_SYNC: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("postgresql", "postgres", "postgresql+psycopg"), "xa_psycopg"),
        **dict.fromkeys(("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"), "xa_pymysql"),
    }
)
_ASYNCIO: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("postgresql", "postgres", "postgresql+psycopg"), "xa_psycopg_async"),
        "postgresql+asyncpg": "xa_asyncpg",
    }
)


def _module(url: str, drivers: Mapping[str, str], other: str, lock_rows: bool) -> Any:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(f"{url!r} is not a database URL: write postgresql://host/database or mysql://host/database")
    if scheme not in drivers:
        raise NotSupported(
            f"XA has no such driver for {scheme!r}.", f"It has {', '.join(drivers)} here; see {other}()."
        )
    name = drivers[scheme]
    if lock_rows:
        name = "xa_pymysql_rows" if name == "xa_pymysql" else "xa_row_locks"
    return import_module(f"troth.client.drivers.{name}")


def connect(url: str, *, client: ResourceClient | None = None, lock_rows: bool = False, **driver_options: Any) -> Any:
    """The driver's connection under XA, as the driver's own `connect` gives it.

    Args:
        url: which database, as SQLAlchemy spells it (see above).
        client: the client to use; None means the process's default one (`troth.init`).
        lock_rows: branches take AT's row locks, too, so that AT and XA may work on the same tables. Then only
            statements that AT understands are taken, and the database needs AT's undo table (docs/modes/xa.md).
        **driver_options: as `psycopg.connect`, `pymysql.connect` take them.

    Raises:
        NotSupported: a database or server that XA cannot work on; the text has the fix.
        ImportError: the driver is not installed; the text says how to install it.
    """
    return _module(url, _SYNC, "connect_async", lock_rows).connect(url, client, **driver_options)


async def connect_async(
    url: str, *, client: ResourceClient | None = None, lock_rows: bool = False, **driver_options: Any
) -> Any:
    """`connect` for coroutines: the asyncio driver's connection under XA. Close it when done. Raises as `connect`."""
    return await _module(url, _ASYNCIO, "connect", lock_rows).connect_async(url, client, **driver_options)
