"""AT: a database connection whose local transactions are branches of the global transaction they run in.

```python
conn = troth.at.connect("sqlite:////var/lib/shop/stock.db")
with troth.transaction(name="purchase"):
    with conn:
        conn.execute("UPDATE stock SET count = count - ? WHERE commodity = ?", (2, "C00321"))
```
Outside of a global transaction the connection behaves as the driver's own. The database needs the table `undo_log`:
`troth at init URL`, or `init(url)`.

| URL | driver | asyncio driver |
|---|---|---|
| `sqlite:///relative`, `sqlite:////absolute` | sqlite3 | aiosqlite |
| `postgresql://user:password@host:port/database` | psycopg 3 | psycopg 3 |
| `postgresql+asyncpg://…` | | asyncpg |
| `mysql://user:password@host:port/database`, `mariadb://…` | PyMySQL | asyncmy |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from troth.client.drivers.dbapi import Connection
from troth.client.errors import NotSupported
from troth.client.flow import ResourceClient
from troth.client.sql.additive import Floor
from troth.client.sql.dialects.base_guard import ForeignWrite

__all__ = [
    "Connection",
    "ForeignWrite",
    "check",
    "connect",
    "connect_async",
    "foreign_writes",
    "guard",
    "guarded",
    "init",
    "unguard",
]


@dataclass(frozen=True, slots=True)
class _Driver:
    """The modules of `troth.client.drivers` for one database: they are imported when a URL names them first.

    `sync` has `connect`, `asyncio` has `connect_async`, `table` has `init` and `check`.
    """

    sync: str | None
    asyncio: str | None
    table: str


_DRIVERS: Mapping[str, _Driver] = MappingProxyType(
    {
        "sqlite": _Driver("dbapi", "aiosqlite", "sqlite"),
        **dict.fromkeys(("postgresql", "postgres"), _Driver("psycopg", "psycopg_async", "psycopg")),
        "postgresql+asyncpg": _Driver(None, "asyncpg", "psycopg"),
        **dict.fromkeys(("mysql", "mariadb"), _Driver("pymysql", "asyncmy", "pymysql")),
        **dict.fromkeys(("mysql+asyncmy", "mariadb+asyncmy"), _Driver(None, "asyncmy", "pymysql")),
    }
)


def _driver(url: str) -> _Driver:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(f"{url!r} is not a database URL: write sqlite:///relative/path or postgresql://host/database")
    driver = _DRIVERS.get(scheme, _DRIVERS.get(scheme.partition("+")[0]))
    if driver is None:
        raise NotSupported(
            f"AT on {scheme!r} is not supported by this version.", f"It has AT on {', '.join(_DRIVERS)}."
        )
    return driver


def _module(name: str) -> Any:
    return import_module(f"troth.client.drivers.{name}")


def connect(
    url: str,
    *,
    client: ResourceClient | None = None,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Any:
    """The driver's connection under AT, as the driver's own `connect` gives it.

    Args:
        url: which database, as SQLAlchemy spells it (see above).
        client: the client to use; None means the process's default one (`troth.init`).
        additive: hot columns, with the least that must stay in each (None: no floor): `{"stock.count": 0}`. Global
            transactions that only add to them or take from them share their rows (docs/modes/hot-rows.md).
        **driver_options: as `sqlite3.connect`, `psycopg.connect` … take them (`isolation_level`, `autocommit`, …).

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
        ImportError: the driver is not installed; the text says how to install it.
    """
    name = _driver(url).sync
    if name is None:
        raise NotSupported(f"{url.partition(':')[0]} is a driver for asyncio only.", "Use connect_async().")
    return _module(name).connect(url, client, **_hot(additive), **driver_options)


async def connect_async(
    url: str,
    *,
    client: ResourceClient | None = None,
    additive: Mapping[str, Floor] | None = None,
    **driver_options: Any,
) -> Any:
    """`connect` for coroutines: the asyncio driver's connection under AT. Close it when done.

    Raises:
        NotSupported: a database that AT cannot work on, or has no asyncio driver for; the hint says what to do.
        ImportError: the driver is not installed; the text says how to install it.
    """
    name = _driver(url).asyncio
    if name is None:
        raise NotSupported(f"AT has no asyncio driver for {url.partition(':')[0]!r}.", "Use connect() in a thread.")
    return await _module(name).connect_async(url, client, **_hot(additive), **driver_options)


def _hot(additive: Mapping[str, Floor] | None) -> dict[str, Any]:
    return {} if additive is None else {"additive": additive}


def init(url: str, *, hot_rows: bool = False) -> None:
    """Make the undo table in the database, if it is not there. Raises NotSupported, or the driver's errors.

    With `hot_rows` also the table that `additive` columns need (see `connect`).
    """
    table = _module(_driver(url).table)
    table.init(url)
    if hot_rows:
        table.init_hot_rows(url)


def check(url: str) -> list[str]:
    """What is wrong with the undo table, in sentences; empty if nothing is. Raises the driver's errors.

    Without UNIQUE (xid, branch_id) a phase one that comes after its rollback would commit unseen.
    """
    problems: list[str] = _module(_driver(url).table).check(url)
    return problems


def guard(url: str, table: str, *, trust: Sequence[str] = ()) -> None:
    """Have the database record at once what is written to `table` past AT (docs/operations/dirty-writes.md).

    Harmless when repeated. Needs the undo table, and the right to make triggers on `table` (PostgreSQL: its owner's).

    Args:
        url: which database, as for `connect`.
        table: as lock keys call it: on PostgreSQL with its schema, unless that is `public`.
        trust: database users whose writes are not recorded: services of Java on MariaDB and MySQL, say.

    Raises:
        NotSupported: AT does not write to that table, or the database has no users to trust.
        The driver's errors.
    """
    _module("guarding").guard(url, table, trust)


def unguard(url: str, table: str) -> None:
    """End what `guard` began; what is recorded stays. Raises the driver's errors."""
    _module("guarding").unguard(url, table)


def guarded(url: str) -> list[str]:
    """The tables that are guarded. Raises the driver's errors."""
    tables: list[str] = _module("guarding").guarded(url)
    return tables


def foreign_writes(url: str, *, limit: int = 100) -> list[ForeignWrite]:
    """The newest rows that were written past AT to guarded tables, newest first. Raises the driver's errors."""
    found: list[ForeignWrite] = _module("guarding").foreign_writes(url, limit)
    return found
