"""XA on PostgreSQL whose branches take AT's row locks: connections of AT, which prepare where AT commits."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from troth.client.drivers import psycopg as at_psycopg
from troth.client.drivers import psycopg_async as at_psycopg_async
from troth.client.drivers.psycopg_place import PostgresUrl, parse_url
from troth.client.drivers.psycopg_work import AtWork
from troth.client.drivers.served import Database
from troth.client.drivers.xa_resource import postgres_resource
from troth.client.drivers.xa_work import check_server
from troth.client.flow import ResourceClient, query
from troth.client.modes.at import LockRetry
from troth.client.modes.at_write import Writer
from troth.client.modes.xa_row_locks import RowLockingPhaseOne
from troth.wire.seata.enums import BranchType

_SETTING = "SELECT current_setting('max_prepared_transactions')"


class RowLockingWork(AtWork):
    """As `under`, AT's work on the same connection; but the database is served as XA's, and COMMIT prepares."""

    def __init__(self, url: PostgresUrl, under: AtWork, client: ResourceClient | None) -> None:
        super().__init__(url, under._info, client, lambda settle: settle)
        self._database = Database(self.resource_id, BranchType.XA, postgres_resource(url))
        writer = Writer(self._dialect, expects=self._dialect)
        self.phase_one = RowLockingPhaseOne(self._dialect, self.resource_id, writer, LockRetry())


def connect(url: str, client: ResourceClient | None = None, **driver_options: Any) -> at_psycopg.Connection:
    """Open the database. `driver_options` go to `psycopg.connect`.

    Raises:
        NotSupported: the server keeps no prepared transactions; the text has the fix.
    """
    connection = at_psycopg.connect(url, client, **driver_options)
    try:
        setting = connection.at_flow(query(_SETTING)).rows[0][0]
        connection.rollback()
        check_server(setting)
        connection.at = RowLockingWork(parse_url(url), connection.at, client)
        connection.at.announce()
    except BaseException:
        connection.close()
        raise
    return connection


async def connect_async(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Any:
    """`connect` for coroutines: `postgresql://…` by psycopg, `postgresql+asyncpg://…` by asyncpg."""
    by_asyncpg = url.startswith("postgresql+asyncpg:")
    place = _asyncpg("asyncpg_place").parse_url(url).place if by_asyncpg else parse_url(url)
    opener = _asyncpg("asyncpg") if by_asyncpg else at_psycopg_async
    connection = await opener.connect_async(url, client, **driver_options)
    try:
        setting = (await connection.at_flow(query(_SETTING))).rows[0][0]
        if not by_asyncpg:
            await connection.rollback()
        check_server(setting)
        connection.at = RowLockingWork(place, connection.at, client)
        connection.at.announce()
    except BaseException:
        await connection.close()
        raise
    return connection


def _asyncpg(module: str) -> Any:
    """asyncpg need not be installed."""
    return import_module(f"troth.client.drivers.{module}")
