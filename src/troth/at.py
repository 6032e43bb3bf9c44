"""AT: a database connection whose local transactions are branches of the global transaction they run in.

```python
conn = troth.at.connect("sqlite:////var/lib/shop/stock.db")
with troth.transaction(name="purchase"):
    with conn:
        conn.execute("UPDATE stock SET count = count - ? WHERE commodity = ?", (2, "C00321"))
```
Outside of a global transaction the connection behaves as the driver's own. The database needs the table `undo_log`:
`troth at init URL`, or `init(url)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from troth.client.drivers import dbapi
from troth.client.drivers.dbapi import Connection
from troth.client.drivers.sqlite import check_version, parse_url, run_on_file
from troth.client.flow import Flow, ResourceClient, query
from troth.client.sql.dialects.sqlite import CREATE_UNDO_TABLE, check_undo_table

if TYPE_CHECKING:
    from troth.client.drivers.aiosqlite import AsyncConnection

try:
    from troth.client.drivers import aiosqlite as _asyncio_driver
except ImportError as error:
    _asyncio_driver = None  # type: ignore[assignment]
    _MISSING = str(error)
else:
    _MISSING = ""

__all__ = ["Connection", "check", "connect", "connect_async", "init"]


def connect(url: str, *, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """The driver's connection under AT: PEP 249, as `sqlite3.connect` gives it.

    Args:
        url: `sqlite:///relative` or `sqlite:////absolute`, as SQLAlchemy spells it.
        client: the client to use; None means the process's default one (`troth.init`).
        **driver_options: as `sqlite3.connect` takes them (`isolation_level`, `timeout`, …).

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    return dbapi.connect(parse_url(url), client, **driver_options)


async def connect_async(url: str, *, client: ResourceClient | None = None, **driver_options: Any) -> AsyncConnection:
    """The asyncio driver's connection under AT: as `await aiosqlite.connect(…)` gives it. Close it when done.

    Raises:
        ImportError: aiosqlite is not installed.
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    if _asyncio_driver is None:
        raise ImportError(_MISSING)
    return await _asyncio_driver.connect(parse_url(url), client, **driver_options)


def init(url: str) -> None:
    """Make the undo table in the database, if it is not there. Raises NotSupported, or the driver's errors."""
    check_version()
    run_on_file(parse_url(url).path, _create(), create=True)


def _create() -> Flow[None]:
    for sql in CREATE_UNDO_TABLE:
        yield from query(sql)


def check(url: str) -> list[str]:
    """What is wrong with the undo table, in sentences; empty if nothing is. Raises the driver's errors.

    Without UNIQUE (xid, branch_id) a phase one that comes after its rollback would commit unseen.
    """
    check_version()
    return run_on_file(parse_url(url).path, check_undo_table(), create=False)
