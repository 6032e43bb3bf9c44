"""Connections to PostgreSQL that are made again when they are lost, and what its errors mean for a coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any, TypeVar

from troth.stores.secrets import without_secrets
from troth.stores.store import BatchRefused, StoreError, StoreUnreachable

try:
    import asyncpg  # type: ignore[import-untyped]
except ImportError as missing:
    raise StoreError(
        "a store at postgresql:// needs the library asyncpg: pip install 'troth[server,asyncpg]'"
    ) from missing

T = TypeVar("T")
Connection = Any
"""asyncpg has no types of its own."""

OLDEST_SERVER = 120_000
_CLOSE_WITHIN_S = 1.0

_SESSION = MappingProxyType(
    {
        "application_name": "troth coordinator",
        "search_path": "pg_catalog",
        "default_transaction_isolation": "read committed",
        # one plan for each statement, and always by index: a table that was empty when its statistics were taken
        # would else be read from end to end by every batch once it is full
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_material": "off",
        "jit": "off",
        # whatever the server's defaults: a batch is cut short by us, and a dead peer's session must end soon
        "statement_timeout": "0",
        "lock_timeout": "0",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
)
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises. An internal error of its own is what a server's last words on an idle connection become:
the next use finds it out of step, before anything is sent."""

_CONTENTS = ("22", "23", "TR")
"""SQLSTATE classes of a batch that is refused for what it says: data, integrity, and ours (schema/postgres)."""
_BROKEN = ("42", "XX")
"""Tables or rights are missing, or the data is damaged: trying again cannot help."""


class Link:
    """One connection for one purpose, used by one caller at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = without_secrets(url)
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def use(self, work: Callable[[Connection], Awaitable[T]], within_s: float | None) -> T:
        """The result of `work` on a sound connection, within `within_s` seconds (None: as long as it takes).

        Raises StoreUnreachable if the connection is lost or the time is over: whether anything was written is not
        known then. Raises StoreError if the server has refused: nothing was written.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(within_s):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await connect(self._url)
                    return await work(self._connection)
            except TimeoutError as late:
                self.drop()
                raise StoreUnreachable(f"{self.name} has not answered within {within_s:.1f} s") from late
            except TROUBLE as error:
                refused = explain(self.name, error)
                if isinstance(refused, StoreUnreachable):
                    self.drop()
                raise refused from error
            except BaseException:  # cut off in the middle, so what the connection would say next is not ours
                self.drop()
                raise

    def drop(self) -> None:
        """Cut the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection in order, or cut it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close(timeout=_CLOSE_WITHIN_S)
        except (*TROUBLE, TimeoutError):
            connection.terminate()


async def connect(url: str) -> Connection:
    """A connection to a server that keeps what it says it has kept. Raises StoreUnreachable with what to change."""
    name = without_secrets(url)
    try:
        connection = await asyncpg.connect(url, server_settings=dict(_SESSION), command_timeout=None)
    except TROUBLE as error:
        raise _cannot_connect(name, error) from error
    except ValueError as error:  # its text may hold a piece of the password
        raise StoreError(_NOT_A_URL) from error
    try:
        await _check_server(connection, name)
    except BaseException:
        connection.terminate()
        raise
    return connection


_NOT_A_URL = (
    "the store URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with characters such as "
    "@ : / # % in the password percent-encoded"
)


async def _check_server(connection: Connection, name: str) -> None:
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS replica,"
        " current_setting('transaction_read_only') AS read_only, current_setting('fsync') AS fsync,"
        " current_setting('full_page_writes') AS full_page_writes,"
        " current_setting('synchronous_commit') AS synchronous_commit"
    )
    if row["version"] < OLDEST_SERVER:
        raise StoreUnreachable(f"{name} is PostgreSQL {row['version'] // 10_000}: a store needs 12 or newer")
    if row["replica"] or row["read_only"] == "on":
        raise StoreUnreachable(
            f"{name} is a replica or read-only: name the primary, or add ?target_session_attrs=primary"
        )
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        if row[setting] == "off":
            raise StoreUnreachable(
                f"{name} runs with {setting} = off, so a power cut takes back what was promised: "
                f"set it to on for this server, database or role"
            )


def _cannot_connect(name: str, error: Exception) -> StoreError:
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith("28"):
        return StoreUnreachable(f"{name} does not let this user in ({error}): check user, password and pg_hba.conf")
    if state == "3D000":
        return StoreUnreachable(f"{name} cannot be opened ({error}): create it with `createdb` first")
    if state == "53300":
        return StoreUnreachable(f"{name} has no connection left ({error}): a coordinator needs three")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return StoreError(_NOT_A_URL)
    return StoreUnreachable(
        f"{name} cannot be reached ({_said(error)}): is the server running, and is this its address?"
    )


def explain(name: str, error: Exception) -> StoreError:
    """The error of ours that says what `error` means for the store at `name`."""
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(_CONTENTS) or isinstance(error, ValueError):  # asyncpg's own refusals are ValueErrors too
        return BatchRefused(f"{name} refuses the batch for its contents: {error}")
    if state == "42501":
        return StoreError(f"{name} does not allow it ({error}): the user must own the schema troth")
    if state.startswith(_BROKEN):
        return StoreError(f"{name} is damaged or not a store of troth ({error}): restore it from a copy")
    if state == "53100":
        return StoreUnreachable(f"the disk of {name} is full: free space ({error})")
    return StoreUnreachable(f"{name} has failed: {_said(error)}")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
