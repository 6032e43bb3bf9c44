"""Guards on SQLite: triggers of the file, so they see every program that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from troth.client.sql.dialects.base_guard import GUARD, LONGEST_KEY, text, trigger_name
from troth.client.sql.dialects.sqlite_catalogue import quote
from troth.client.sql.tables import Table

_MARK: Final = f"{GUARD}_mark"
MARK_ON: Final = f"UPDATE main.{_MARK} SET is_at = 1"
"""Within a local transaction that takes it back before its COMMIT: nobody else ever sees it."""
MARK_OFF: Final = f"UPDATE main.{_MARK} SET is_at = 0"

_RECORDS: Final = (
    f"CREATE TABLE IF NOT EXISTS main.{GUARD} (id INTEGER PRIMARY KEY, noticed_at TEXT NOT NULL, "
    "operation TEXT NOT NULL, table_name TEXT NOT NULL, row_key TEXT NOT NULL)"
)
_MARKS: Final = (
    f"CREATE TABLE IF NOT EXISTS main.{_MARK} (id INTEGER PRIMARY KEY CHECK (id = 1), is_at INTEGER NOT NULL)"
)
_OPERATIONS = ("INSERT", "UPDATE", "DELETE")


class SqliteGuards:
    """See `Guards`. A REPLACE is recorded as an INSERT (SQLite fires no DELETE trigger for it by default)."""

    names_users = False
    is_there = f"SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = '{GUARD}'"
    guarded = (
        "SELECT DISTINCT tbl_name FROM main.sqlite_master "
        f"WHERE type = 'trigger' AND name LIKE '{GUARD}!_%' ESCAPE '!' ORDER BY tbl_name"
    )

    def create(self, table: Table, trusted: Sequence[str]) -> tuple[str, ...]:
        """A trigger for each operation."""
        del trusted  # there are no users
        made = [_RECORDS, _MARKS, f"INSERT OR IGNORE INTO main.{_MARK} VALUES (1, 0)", *self.drop(table.name)]
        return (*made, *(_trigger(table, operation) for operation in _OPERATIONS))

    def drop(self, name: str) -> tuple[str, ...]:
        """Drop the triggers."""
        return tuple(f"DROP TRIGGER IF EXISTS main.{trigger_name(operation, name)}" for operation in _OPERATIONS)

    def drop_rest(self) -> tuple[str, ...]:
        """The mark is no more needed."""
        return (f"DROP TABLE IF EXISTS main.{_MARK}",)

    def records(self, limit: int) -> str:
        """SELECT of the newest records."""
        return (
            f"SELECT noticed_at, operation, table_name || ':' || row_key, '', '' FROM main.{GUARD} "
            f"ORDER BY id DESC LIMIT {limit}"
        )


def _trigger(table: Table, operation: str) -> str:
    row = "NEW" if operation == "INSERT" else "OLD"
    key = " || '_' || ".join(_spelled(f"{row}.{quote(name)}") for name in table.key)
    return (
        f"CREATE TRIGGER main.{trigger_name(operation, table.name)} AFTER {operation} ON {quote(table.name)} "
        f"FOR EACH ROW WHEN (SELECT is_at FROM {_MARK}) = 0 BEGIN "
        f"INSERT INTO {GUARD} (noticed_at, operation, table_name, row_key) "
        f"VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), '{operation}', {text(table.name)}, "
        f"substr({key}, 1, {LONGEST_KEY})); END"
    )


def _spelled(value: str) -> str:
    return f"coalesce(CASE typeof({value}) WHEN 'blob' THEN 'x' || lower(hex({value})) ELSE {value} END, '')"
