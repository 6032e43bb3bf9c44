"""SQLite: text, types and errors. `sqlite_catalogue` reads its tables, `sqlite_images` takes images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from troth.client.flow import Flow, Parameters, query
from troth.client.sql.dialects import sqlite_catalogue, sqlite_images, sqlite_reads, sqlite_upserts
from troth.client.sql.dialects.base import Fault, select_matching
from troth.client.sql.dialects.parsed import Parsed
from troth.client.sql.dialects.sqlite_additive import SQLITE_HOT_ROWS
from troth.client.sql.dialects.sqlite_grammar import parse
from troth.client.sql.dialects.sqlite_guard import MARK_OFF, MARK_ON, SqliteGuards
from troth.client.sql.dialects.sqlite_lockkeys import lock_part
from troth.client.sql.image import Images, Key, Outcome
from troth.client.sql.statement import Statement
from troth.client.sql.tables import Column, Refusal, Table
from troth.client.sql.undo import Field, RowChange, State
from troth.client.sql.values import from_sql, to_sql

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
FOREIGN_KEYS = "foreignKeys"
"""Key of an undo row's `context`: `ON` where the connection checked foreign keys, so that phase two does too."""


def resource_id(path: str) -> str:
    """The resource id of the database file at the absolute `path`, as a JDBC URL."""
    return f"jdbc:sqlite:{path}"


class SqliteDialect:
    """`Dialect` of SQLite."""

    begin = "BEGIN IMMEDIATE"
    errors_abort = False
    other_mode = ""
    hot_rows = SQLITE_HOT_ROWS
    guards = SqliteGuards()
    insert_undo = (
        "INSERT INTO main.undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
        f"VALUES (?, ?, ?, ?, ?, {_NOW}, {_NOW})"
    )
    insert_guard = f"{insert_undo} ON CONFLICT DO NOTHING"
    select_undo = "SELECT context, rollback_info, log_status FROM main.undo_log WHERE xid = ? AND branch_id = ?"

    def __init__(self) -> None:
        self._parsed = Parsed()
        self._catalogue_version: object = None
        self._tables: dict[tuple[str | None, str], Table | Refusal] = {}

    def untouched(self) -> Flow[bool]:
        """No: sqlite3 opens local transactions for writes only."""
        yield from ()
        return False

    def fault(self, error: BaseException) -> Fault:
        """By the driver's `sqlite_errorname`, its extended result code."""
        name = getattr(error, "sqlite_errorname", None)
        if not isinstance(name, str):
            return Fault.OTHER
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Fault.BUSY
        return Fault.CONSTRAINT if name.startswith("SQLITE_CONSTRAINT") else Fault.OTHER

    # --- the undo table ---

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        return f"DELETE FROM main.undo_log WHERE (xid, branch_id) IN (VALUES {', '.join(['(?, ?)'] * count)})"

    def delete_old_undo(self, save_days: int) -> tuple[str, Parameters]:
        """DELETE of undo rows that are older than `save_days` days, and its parameters."""
        sql = "DELETE FROM main.undo_log WHERE log_created < strftime('%Y-%m-%d %H:%M:%f', 'now', ?)"
        return sql, (f"-{save_days} days",)

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with `main.undo_log`, in sentences (at.md §4)."""
        return (yield from check_undo_table())

    # --- guards ---

    def mark_writes(self, *, on: bool) -> Flow[None]:
        """A row of the file, inside the local transaction, which nobody else can read."""
        yield from query(MARK_ON if on else MARK_OFF)

    # --- statements and tables ---

    def parse(self, sql: str, *, parameterised: bool = True) -> Statement:
        """What `sql` is; the last texts are remembered."""
        return self._parsed.get(sql, parse)

    def quote(self, name: str) -> str:
        """`name` in double quotes."""
        return sqlite_catalogue.quote(name)

    def open_catalogue(self) -> Flow[list[str]]:
        """Look whether the schema cookies of the main and the temporary database (it may hold triggers) have changed.

        Once per local transaction: whoever may write holds the file.
        """
        main = yield from query("PRAGMA main.schema_version")
        temporary = yield from query("PRAGMA temp.schema_version")
        version = (main.rows, temporary.rows)
        if version == self._catalogue_version:
            return []
        problems = yield from self.check_undo_table()
        if not problems:
            self._tables.clear()
            self._catalogue_version = version
        return problems

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of `schema.name`, or why AT does not write to it."""
        place = (schema, name)
        if place not in self._tables:
            self._tables[place] = yield from sqlite_catalogue.read_table(schema, name)
        return self._tables[place]

    def undone_table(self, name: str) -> Flow[Table | Refusal]:
        """The table `name` of the main database."""
        return (yield from self.read_table("main", name))

    # --- images ---

    def images(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
        """See `sqlite_images` and `sqlite_upserts`."""
        if statement.upsert or statement.replaces:
            return (yield from sqlite_upserts.images(statement, table, parameters))
        return (yield from sqlite_images.images(statement, table, parameters))

    def read_locked(
        self, statement: Statement, table: Table, parameters: Parameters
    ) -> Flow[tuple[Sequence[Key], Outcome]]:
        """A SELECT that has to be checked: see `sqlite_reads`."""
        return (yield from sqlite_reads.read_checked(statement, table, parameters))

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """A value with its storage class, whatever the column's declared type."""
        return Field(column.name, key_type, column.jdbc_type, from_sql(value))

    def sql_value(self, column: Column, field: Field) -> object:
        """The reverse of `field`."""
        return to_sql(field.value)

    def lock_part(self, column: Column, collation: str, value: object) -> str:
        """See `sqlite_lockkeys`."""
        return lock_part(column, collation, value)

    def select_list(self, table: Table, names: Sequence[str]) -> str:
        """The columns without their declared types, so that no converter touches them."""
        return ", ".join(sqlite_images.shown(self.quote(name)) for name in names)

    def mark(self, column: Column) -> str:
        """`?`, whatever the column."""
        return "?"

    # --- undo ---

    def row_states(self, table: Table, change: RowChange) -> Flow[tuple[State | None, RowChange]]:
        """The row as it is now; a value has one spelling only."""
        sql = select_matching(self, table, change.columns, [name for name, _ in change.key])
        answer = yield from query(sql, [value for _, value in change.key])
        now = dict(zip(change.columns, answer.rows[0], strict=True)) if answer.rows else None
        return now, change

    def overriding(self, table: Table) -> str:
        """Nothing."""
        return ""

    def undo_context(self, *, foreign_keys: bool) -> Mapping[str, str]:
        """`foreignKeys=ON` where they were checked: in SQLite that is the connection's own decision."""
        return MappingProxyType({FOREIGN_KEYS: "ON"} if foreign_keys else {})

    # --- foreign keys ---

    def foreign_keys_enforced(self) -> Flow[bool]:
        """`PRAGMA foreign_keys`. (It cannot be changed inside a local transaction.)"""
        answer = yield from query("PRAGMA foreign_keys")
        return bool(answer.rows and answer.rows[0][0])

    def foreign_keys_of(self, context: Mapping[str, str]) -> bool:
        """Whether the `context` says so."""
        return context.get(FOREIGN_KEYS) == "ON"

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """`PRAGMA foreign_keys = …`, which does nothing inside a local transaction."""
        yield from query(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")

    def defer_constraints(self) -> Flow[None]:
        """`PRAGMA defer_foreign_keys`, which ends with the local transaction."""
        yield from query("PRAGMA defer_foreign_keys = ON")

    def broken_foreign_keys(self, table: Table) -> Flow[str | None]:
        """The first row that `PRAGMA foreign_key_check` shows for `table` or one that refers to it."""
        return (yield from sqlite_catalogue.broken_foreign_keys(table.name))


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
