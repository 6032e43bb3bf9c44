"""SQLite: text, types and errors. What it says of its tables is in `sqlite_catalogue`.

SQLite has one writer: under BEGIN IMMEDIATE nothing changes between the before image and the user's statement (at.md
§1), so images are plain SELECTs. The keys that a statement really hit are asked of the statement itself (RETURNING).
"""

from __future__ import annotations

from collections import OrderedDict

from troth.client.flow import Flow, query
from troth.client.sql.dialects import sqlite_catalogue
from troth.client.sql.dialects.base import Fault
from troth.client.sql.dialects.sqlite_grammar import parse
from troth.client.sql.statement import Statement
from troth.client.sql.tables import Refusal, Table

UNDO_TABLE = "undo_log"
MINIMUM_VERSION = (3, 37, 0)
"""RETURNING came with 3.35, `pragma_table_list` with 3.37."""

CREATE_UNDO_TABLE = (
    """CREATE TABLE IF NOT EXISTS main.undo_log (
  branch_id     BIGINT       NOT NULL,
  xid           VARCHAR(128) NOT NULL,
  context       VARCHAR(128) NOT NULL,
  rollback_info BLOB         NOT NULL,
  log_status    INT          NOT NULL,
  log_created   DATETIME     NOT NULL,
  log_modified  DATETIME     NOT NULL,
  CONSTRAINT ux_undo_log PRIMARY KEY (xid, branch_id)
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS main.ix_log_created ON undo_log (log_created)",
)
"""WITHOUT ROWID, so that writing it does not change what `last_insert_rowid()` tells the user."""

UNDO_COLUMNS = ("branch_id", "xid", "context", "rollback_info", "log_status", "log_created", "log_modified")
_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
_PARSED_STATEMENTS = 512
_LONGEST_KEPT = 20_000


def resource_id(path: str) -> str:
    """The resource id of the database file at the absolute `path`, as a JDBC URL."""
    return f"jdbc:sqlite:{path}"


class SqliteDialect:
    """`Dialect` of SQLite. One per connection: it remembers the statements that it has parsed, in bounds."""

    begin = "BEGIN IMMEDIATE"
    insert_undo = (
        "INSERT INTO main.undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
        f"VALUES (?, ?, ?, ?, ?, {_NOW}, {_NOW})"
    )
    select_undo = "SELECT context, rollback_info, log_status FROM main.undo_log WHERE xid = ? AND branch_id = ?"
    delete_old_undo = "DELETE FROM main.undo_log WHERE log_created < strftime('%Y-%m-%d %H:%M:%f', 'now', ?)"

    def __init__(self) -> None:
        self._parsed: OrderedDict[str, Statement] = OrderedDict()

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        return f"DELETE FROM main.undo_log WHERE (xid, branch_id) IN (VALUES {', '.join(['(?, ?)'] * count)})"

    def parse(self, sql: str) -> Statement:
        """What `sql` is; the last 512 texts are remembered."""
        known = self._parsed.get(sql)
        if known is not None:
            self._parsed.move_to_end(sql)
            return known
        statement = parse(sql)
        if len(sql) <= _LONGEST_KEPT:
            self._parsed[sql] = statement
            if len(self._parsed) > _PARSED_STATEMENTS:
                self._parsed.popitem(last=False)
        return statement

    def quote(self, name: str) -> str:
        """`name` in double quotes."""
        return sqlite_catalogue.quote(name)

    def source(self, table: str) -> str:
        """The table of the main database: neither a CTE nor a temporary table can stand in for it."""
        return f"main.{self.quote(table)}"

    def catalogue_version(self) -> Flow[object]:
        """The schema cookies of the main and the temporary database (which may hold triggers)."""
        main = yield from query("PRAGMA main.schema_version")
        temporary = yield from query("PRAGMA temp.schema_version")
        return (main.rows, temporary.rows)

    def foreign_keys_enforced(self) -> Flow[bool]:
        """`PRAGMA foreign_keys`."""
        answer = yield from query("PRAGMA foreign_keys")
        return bool(answer.rows and answer.rows[0][0])

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """`PRAGMA foreign_keys = …`, which does nothing inside a local transaction."""
        yield from query(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with `main.undo_log`, in sentences (at.md §4)."""
        return (yield from check_undo_table())

    def defer_foreign_keys(self) -> Flow[None]:
        """`PRAGMA defer_foreign_keys`, which ends with the local transaction."""
        yield from query("PRAGMA defer_foreign_keys = ON")

    def broken_foreign_keys(self, table: str) -> Flow[str | None]:
        """The first row that `PRAGMA foreign_key_check` shows for `table` or one that refers to it."""
        return (yield from sqlite_catalogue.broken_foreign_keys(table))

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of `schema.name`, or why AT does not write to it."""
        return (yield from sqlite_catalogue.read_table(schema, name))

    def fault(self, error: BaseException) -> Fault:
        """By the driver's `sqlite_errorname`, its extended result code."""
        name = getattr(error, "sqlite_errorname", None)
        if not isinstance(name, str):
            return Fault.OTHER
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Fault.BUSY
        return Fault.CONSTRAINT if name.startswith("SQLITE_CONSTRAINT") else Fault.OTHER


def check_undo_table() -> Flow[list[str]]:
    """What is wrong with the undo table, in sentences; empty if nothing is (at.md §4)."""
    columns = yield from query("SELECT name FROM pragma_table_info('undo_log', 'main')")
    names = {str(row[0]).lower() for row in columns.rows}
    if not names:
        return ["there is no table undo_log"]
    problems = [f"undo_log has no column {name}" for name in UNDO_COLUMNS if name not in names]
    unique = yield from query(
        "SELECT name FROM pragma_index_list('undo_log', 'main') WHERE \"unique\" = 1 AND partial = 0"
    )
    for (index,) in unique.rows:
        keyed = yield from query("SELECT name FROM pragma_index_info(?, 'main')", (index,))
        if {str(row[0]).lower() for row in keyed.rows} == {"xid", "branch_id"}:
            return problems
    return [*problems, "undo_log has no UNIQUE (xid, branch_id): a late phase one would not meet its guard row"]
