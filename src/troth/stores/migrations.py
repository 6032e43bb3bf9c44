"""Numbered SQL files, applied in order and all at once, and the version that a database is at."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from troth.stores.store import StoreCorrupt, StoreError, StoreTooNew

APPLICATION_ID = int.from_bytes(b"trth", "big")
"""What `PRAGMA application_id` says of a database of ours, so that nobody else's is taken for one."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `number` is the version that the database is at afterwards."""

    number: int
    sql: str


def load_migrations(engine: str) -> tuple[Migration, ...]:
    """The files `schema/<engine>/NNNN_name.sql`, in order; raises StoreError if a number is missing or doubled."""
    folder = resources.files("troth.stores").joinpath("schema", engine)
    found = sorted(
        (Migration(int(entry.name.partition("_")[0]), entry.read_text("utf-8")) for entry in folder.iterdir()),
        key=lambda migration: migration.number,
    )
    numbers = [migration.number for migration in found]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise StoreError(f"this installation of troth is damaged: its {engine} schema files are numbered {numbers}")
    return tuple(found)


def identify(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """The schema version of the database, 0 if it is empty; writes nothing.

    Raises StoreCorrupt for somebody else's database, StoreTooNew for one that a newer troth has migrated.
    """
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == 0 and version == 0 and objects == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise StoreCorrupt(
            f"{path} is a SQLite database, but not a store of troth; it was left as it is. Name another file."
        )
    if version > newest:
        raise StoreTooNew(
            f"{path} was written by a newer troth (schema {version}, this one knows {newest}): use that version, "
            "or go back to a copy of the file from before the upgrade"
        )
    if version == 0:
        raise StoreCorrupt(f"{path} is marked as a store of troth, but has no schema version; restore it from a copy")
    return version


def migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Migration]) -> None:
    """Bring a database from `version` to the newest schema in one transaction: all of it or nothing."""
    pending = [migration for migration in migrations if migration.number > version]
    if not pending:
        return
    script = ["BEGIN IMMEDIATE;", f"PRAGMA application_id = {APPLICATION_ID};"]
    script += [migration.sql for migration in pending]
    script += [f"PRAGMA user_version = {pending[-1].number};", "COMMIT;"]
    try:
        connection.executescript("\n".join(script))
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
