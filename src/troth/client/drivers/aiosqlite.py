"""aiosqlite under AT.

aiosqlite runs a synchronous connection on a thread of its own; here that is one under AT. Whole flows run on that
thread, so a cancelled task never leaves one half done: as with aiosqlite itself, what was started is finished. All
that has to be added is the xid: a call runs in the context of the task that made it.
"""

from __future__ import annotations

import contextvars
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar, cast

try:
    import aiosqlite
except ImportError as error:
    raise ImportError("AT on asyncio needs aiosqlite: pip install 'troth[aiosqlite]'") from error

from troth.client.drivers import dbapi
from troth.client.flow import ResourceClient

R = TypeVar("R")

_ROWS_PER_CHUNK = 64

if not hasattr(aiosqlite.Connection, "_execute"):
    # Without it the xid would not reach the connection's thread, and writes would pass by AT in silence.
    raise ImportError(f"AT does not know this aiosqlite ({aiosqlite.__version__}): it has no Connection._execute")


class AsyncConnection(aiosqlite.Connection):
    """`aiosqlite.Connection` under AT."""

    async def _execute(self, fn: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        context = contextvars.copy_context()
        return cast("R", await super()._execute(context.run, fn, *args, **kwargs))  # type: ignore[no-untyped-call]


async def connect_async(url: str, client: ResourceClient | None = None, **driver_options: Any) -> AsyncConnection:
    """Open the file under AT. `driver_options` go to `sqlite3.connect`, and `iter_chunk_size` to aiosqlite."""
    chunk = driver_options.pop("iter_chunk_size", _ROWS_PER_CHUNK)

    def connector() -> sqlite3.Connection:
        # aiosqlite wants no more of it than what a connection can do.
        return cast("sqlite3.Connection", dbapi.connect(url, client, **driver_options))

    connection = AsyncConnection(connector, chunk)
    await connection
    return connection
