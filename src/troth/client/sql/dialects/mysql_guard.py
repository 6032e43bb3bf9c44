"""Guards on MySQL and MariaDB: triggers that run with the rights of who made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from troth.client.sql.dialects.base_guard import GUARD, LONGEST_KEY, text, trigger_name
from troth.client.sql.dialects.mysql_types import Family, family, quote
from troth.client.sql.tables import Column, Table

MARK_ON: Final = "SET @troth_writes = 'at'"
MARK_OFF: Final = "SET @troth_writes = NULL"

_OPERATIONS = ("INSERT", "UPDATE", "DELETE")
_AS_HEX = (Family.BINARY, Family.BIT)


class MySqlGuards:
    """See `Guards`; of tables of `database`."""

    names_users = True

    def __init__(self, database: str) -> None:
        self._database = quote(database)
        self._records = f"{self._database}.{GUARD}"
        inside = f"_SCHEMA = {_string(database)}"
        self.is_there = f"SELECT 1 FROM information_schema.TABLES WHERE TABLE{inside} AND TABLE_NAME = '{GUARD}'"
        self.guarded = (
            f"SELECT DISTINCT EVENT_OBJECT_TABLE FROM information_schema.TRIGGERS WHERE TRIGGER{inside} "
            f"AND LEFT(TRIGGER_NAME, {len(GUARD) + 1}) = '{GUARD}_' ORDER BY EVENT_OBJECT_TABLE"
        )

    def create(self, table: Table, trusted: Sequence[str]) -> tuple[str, ...]:
        """A trigger for each operation."""
        records = (
            f"CREATE TABLE IF NOT EXISTS {self._records} (id BIGINT AUTO_INCREMENT PRIMARY KEY, "
            "noticed_at DATETIME(6) NOT NULL, operation VARCHAR(8) NOT NULL, table_name VARCHAR(64) NOT NULL, "
            f"row_key VARCHAR({LONGEST_KEY}) NOT NULL, db_user VARCHAR(400) NOT NULL, origin VARCHAR(100) NOT NULL) "
            "ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"
        )
        triggers = (self._trigger(table, operation, trusted) for operation in _OPERATIONS)
        return (records, *self.drop(table.name), *triggers)

    def drop(self, name: str) -> tuple[str, ...]:
        """Drop the triggers."""
        names = (trigger_name(operation, name) for operation in _OPERATIONS)
        return tuple(f"DROP TRIGGER IF EXISTS {self._database}.{name}" for name in names)

    def drop_rest(self) -> tuple[str, ...]:
        """There is nothing else."""
        return ()

    def records(self, limit: int) -> str:
        """SELECT of the newest records."""
        return (
            "SELECT CONCAT(REPLACE(CAST(noticed_at AS CHAR), ' ', 'T'), 'Z'), operation, "
            f"CONCAT(table_name, ':', row_key), db_user, origin FROM {self._records} ORDER BY id DESC LIMIT {limit}"
        )

    def _trigger(self, table: Table, operation: str, trusted: Sequence[str]) -> str:
        row = "NEW" if operation == "INSERT" else "OLD"
        parts = ", ".join(_spelled(f"{row}.{quote(name)}", table.column(name)) for name in table.key)
        users = ", ".join(map(_string, trusted))
        passes = f" AND SUBSTRING_INDEX(USER(), '@', 1) NOT IN ({users})" if users else ""
        return (
            f"CREATE TRIGGER {self._database}.{trigger_name(operation, table.name)} AFTER {operation} "
            f"ON {table.source} FOR EACH ROW INSERT INTO {self._records} "
            "(noticed_at, operation, table_name, row_key, db_user, origin) "
            f"SELECT UTC_TIMESTAMP(6), '{operation}', {_string(table.name)}, "
            f"LEFT(CONCAT_WS('_', {parts}), {LONGEST_KEY}), USER(), CONCAT('connection ', CONNECTION_ID()) "
            f"FROM (SELECT 1) AS one WHERE @troth_writes IS NULL{passes}"
        )


def _string(value: str) -> str:
    return text(value.replace("\\", "\\\\")).replace("%", "%%")


def _spelled(value: str, column: Column) -> str:
    return f"CONCAT('x', LOWER(HEX({value})))" if family(column) in _AS_HEX else value
