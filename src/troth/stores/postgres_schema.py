"""The schema `troth` in a PostgreSQL database: is it ours, how old is it, and bringing it up to date."""

from __future__ import annotations

from collections.abc import Sequence

from troth.stores.migrations import Migration
from troth.stores.postgres_link import Connection
from troth.stores.store import StoreCorrupt, StoreTooNew

_LOCK = int.from_bytes(b"trth", "big")
"""Advisory lock of whoever makes or changes the schema."""


async def identify(connection: Connection, name: str, newest: int) -> int:
    """The schema version, 0 if there is no schema yet; writes nothing.

    Raises StoreCorrupt for a schema of somebody else's, StoreTooNew for one that a newer troth has migrated.
    """
    objects = await connection.fetchval(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'troth'"
    )
    if objects == 0:
        return 0
    if await connection.fetchval("SELECT to_regclass('troth.schema_version')") is None:
        raise StoreCorrupt(f"{name} has a schema troth that is no store of ours; it was left as it is")
    version = await connection.fetchval("SELECT max(version) FROM troth.schema_version")
    if version is None:
        raise StoreCorrupt(f"{name} is marked as a store of troth, but has no schema version; restore it from a copy")
    if version > newest:
        raise StoreTooNew(
            f"{name} was written by a newer troth (schema {version}, this one knows {newest}): use that version, "
            "or go back to a copy of the database from before the upgrade"
        )
    return int(version)


async def migrate(connection: Connection, name: str, migrations: Sequence[Migration]) -> None:
    """Bring the schema to the newest version in one transaction: all of it or nothing, by one process at a time."""
    newest = migrations[-1].number
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        version = await identify(connection, name, newest)
        for migration in migrations[version:]:
            await connection.execute(migration.sql)
        if version < newest:
            await connection.execute("DELETE FROM troth.schema_version")
            await connection.execute("INSERT INTO troth.schema_version VALUES ($1)", newest)
