"""MySQL and MariaDB: text, types and errors. `mysql_catalogue` reads tables, `mysql_images` and `mysql_inserts` take
images.

Run against MariaDB 10.11. What only MySQL has (no RETURNING, JSON as a type) is written for MySQL 8 and not run there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from types import MappingProxyType

from troth.client.flow import Flow, Later, Parameters, postponed, query
from troth.client.sql.dialects import mysql_catalogue, mysql_images, mysql_types
from troth.client.sql.dialects.base import Fault, match
from troth.client.sql.dialects.mysql_additive import MYSQL_HOT_ROWS
from troth.client.sql.dialects.mysql_catalogue import Session
from troth.client.sql.dialects.mysql_grammar import parse
from troth.client.sql.dialects.mysql_guard import MARK_OFF, MARK_ON, MySqlGuards
from troth.client.sql.dialects.mysql_inserts import Inserter
from troth.client.sql.dialects.mysql_replaces import Replacer
from troth.client.sql.dialects.mysql_several import modify_several
from troth.client.sql.dialects.mysql_statement import MySqlStatement
from troth.client.sql.dialects.parsed import Parsed
from troth.client.sql.image import Images, Key, Outcome
from troth.client.sql.statement import OR_BY_XA, Statement, Verb
from troth.client.sql.tables import Column, Refusal, Table
from troth.client.sql.undo import Field, RowChange, State

CREATE_UNDO_TABLE = """CREATE TABLE IF NOT EXISTS undo_log (
  branch_id     BIGINT       NOT NULL COMMENT 'branch transaction id',
  xid           VARCHAR(128) NOT NULL COMMENT 'global transaction id',
  context       VARCHAR(128) NOT NULL COMMENT 'serializer, compressor',
  rollback_info LONGBLOB     NOT NULL COMMENT 'images',
  log_status    INT          NOT NULL COMMENT '0: normal, 1: guard',
  log_created   DATETIME(6)  NOT NULL,
  log_modified  DATETIME(6)  NOT NULL,
  UNIQUE KEY ux_undo_log (xid, branch_id),
  KEY ix_log_created (log_created)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COMMENT = 'AT transaction mode undo table'"""

_UNDO_COLUMNS = ("branch_id", "xid", "context", "rollback_info", "log_status", "log_created", "log_modified")
_NAMES = re.compile(r"(`(?:[^`]|``)+`)|([^`.]+)")
_FOREIGN_KEYS = "foreignKeys"
"""Key of an undo row's `context`."""
_DRIVERS = ("pymysql", "asyncmy")
_BUSY = frozenset({1205, 1213, 3572})
"""Lock wait timeout, deadlock, NOWAIT."""
_CONSTRAINT = frozenset({1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1761, 1762, 3819, 4025})
_LOST = frozenset({0, 1053, 1077, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1927, 2003, 2006, 2013, 2014, 2055})


class MySqlDialect:
    """`Dialect` of MySQL and MariaDB for connections to `database`.

    Args:
        database: the schema that the connection was opened on.
        counts_found: the connection has CLIENT_FOUND_ROWS.
        zone: the time zone of the JVMs that share the undo log; None: that of this process.
    """

    begin = "START TRANSACTION"
    errors_abort = False
    other_mode = OR_BY_XA
    hot_rows = MYSQL_HOT_ROWS
    insert_undo = (
        "INSERT INTO undo_log (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
        "VALUES (%s, %s, %s, %s, %s, NOW(6), NOW(6))"
    )
    insert_guard = f"{insert_undo} ON DUPLICATE KEY UPDATE xid = undo_log.xid"
    select_undo = "SELECT context, rollback_info, log_status FROM undo_log WHERE xid = %s AND branch_id = %s FOR UPDATE"

    def __init__(self, database: str, *, counts_found: bool = False, zone: tzinfo | None = None) -> None:
        self._database = database
        self.guards = MySqlGuards(database)
        self._counts_found = counts_found
        self._zone = mysql_types.Zone(zone)
        self._parsed = Parsed()
        self._session: Session | None = None
        self._undo_table_is_right = False
        self._names: dict[str, str | Refusal] = {}
        self._tables: dict[str, tuple[object, Table | Refusal]] = {}
        """Definitions, with the signature that they go with."""
        self._expected: tuple[object, Later] = None, Later()
        """The signature that a table should have, and what it has."""
        self.has_written = False
        """Whether the local transaction that is open has run anything but reads (the connection says so)."""

    # --- the local transaction ---

    def untouched(self) -> Flow[bool]:
        """Whether nothing but reads was executed since the local transaction was opened."""
        yield from ()
        return not self.has_written

    def fault(self, error: BaseException) -> Fault:
        """By the number of the error."""
        number = error.args[0] if error.args else None
        if type(error).__module__.partition(".")[0] not in _DRIVERS or not isinstance(number, int):
            return Fault.LOST if isinstance(error, OSError) else Fault.OTHER
        if number in _BUSY:
            return Fault.BUSY
        if number in _LOST:
            return Fault.LOST
        return Fault.CONSTRAINT if number in _CONSTRAINT else Fault.OTHER

    def forget_session(self) -> None:
        """Somebody may have set a variable, used another database or made a temporary table."""
        self._session = None
        self._names.clear()
        self._tables.clear()

    # --- the undo table ---

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        return f"DELETE FROM undo_log WHERE (xid, branch_id) IN ({', '.join(['(%s, %s)'] * count)})"

    def delete_old_undo(self, save_days: int) -> tuple[str, Parameters]:
        """DELETE of undo rows that are older than `save_days` days, and its parameters."""
        return "DELETE FROM undo_log WHERE log_created < NOW(6) - INTERVAL %s DAY", (save_days,)

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with `undo_log`, in sentences (at.md §4)."""
        return (yield from check_undo_table(self._database))

    # --- guards ---

    def mark_writes(self, *, on: bool) -> Flow[None]:
        """A variable of the session, so it is taken away at once: what comes next may be no statement of AT."""
        if on:
            yield from postponed(MARK_ON)
        else:
            yield from query(MARK_OFF)

    # --- statements and tables ---

    def parse(self, sql: str, *, parameterised: bool = True) -> Statement:
        """What `sql` is; the last texts are remembered."""
        return self._parsed.get(sql, lambda text: parse(text, parameterised=parameterised), parameterised)

    def quote(self, name: str) -> str:
        """`name` in backticks."""
        return mysql_types.quote(name)

    def open_catalogue(self) -> Flow[list[str]]:
        """Look at the session's variables if they may have changed, and once at the undo table."""
        session = yield from self._read_session()
        problems = session.problems(self._database)
        if not problems and not self._undo_table_is_right:
            problems = yield from self.check_undo_table()
            self._undo_table_is_right = not problems
        return problems

    def _read_session(self) -> Flow[Session]:
        if self._session is None:
            self._session = yield from mysql_catalogue.read_session()
        return self._session

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of `schema.name`. Its signature is read each time, which also locks the definition."""
        real = yield from self._real_name(schema, name)
        return real if isinstance(real, Refusal) else (yield from self._read_real(real))

    def expected_table(self, schema: str | None, name: str) -> Flow[Table | None]:
        """The definition as it was last time; its signature comes with the answer of the next query, and locks it."""
        real = self._names.get(name) if schema in (None, self._database) else None
        known = self._tables.get(real) if isinstance(real, str) else None
        if known is None or not isinstance(known[1], Table):
            return None
        asked = mysql_catalogue.signature_query(self._database, known[1].name)
        self._expected = known[0], (yield from postponed(asked.sql, asked.parameters))
        return known[1]

    def as_expected(self) -> bool | None:
        """Whether the signature is the one that goes with that definition. None: it has not come."""
        signature, later = self._expected
        return None if later.rows is None else later.rows.rows == signature

    def _real_name(self, schema: str | None, name: str) -> Flow[str | Refusal]:
        """The table's name in the catalogue."""
        if schema is not None and schema != self._database:
            return Refusal(
                f"{name} is in the database {schema}, and AT works on the connection's own one, {self._database}.",
                "Open that database by a connection of its own.",
            )
        real = self._names.get(name) or (yield from mysql_catalogue.find_table(self._database, name))
        if isinstance(real, str):
            self._names[name] = real
        return real

    def _read_real(self, name: str) -> Flow[Table | Refusal]:
        asked = mysql_catalogue.signature_query(self._database, name)
        answer = yield from query(asked.sql, asked.parameters)
        known = self._tables.get(name)
        if known is None or known[0] != answer.rows:
            known = answer.rows, (yield from mysql_catalogue.read_table(self._database, name))
            self._tables[name] = known
        return known[1]

    def undone_table(self, name: str) -> Flow[Table | Refusal]:
        """The table that undo rows call `name`: the catalogue's name, or (Java) the spelling of a user's statement."""
        if not name.startswith("`"):
            real = yield from self._real_name(None, name)
            if isinstance(real, str):
                return (yield from self._read_real(real))
            if "." not in name:
                return real
        parts = [quoted[1:-1].replace("``", "`") if quoted else plain for quoted, plain in _NAMES.findall(name)]
        real = yield from self._real_name(parts[-2] if len(parts) > 1 else None, parts[-1] if parts else name)
        return real if isinstance(real, Refusal) else (yield from self._read_real(real))

    # --- images ---

    def images(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
        """See `mysql_images` and `mysql_inserts`."""
        if not isinstance(statement, MySqlStatement):
            raise TypeError(f"{type(statement).__name__} was not parsed here")
        if statement.more:
            return (yield from modify_several(statement, (table, *statement.more_tables), parameters))
        if statement.verb is not Verb.INSERT:
            return (yield from mysql_images.modify(statement, table, parameters))
        session = yield from self._read_session()
        inserter = Inserter(table, session, self._counts_found)
        if statement.replaces:
            return (yield from Replacer(inserter).replace(statement, parameters))
        return (yield from inserter.insert(statement, parameters))

    def read_locked(
        self, statement: Statement, table: Table, parameters: Parameters
    ) -> Flow[tuple[Sequence[Key], Outcome]]:
        """See `mysql_images`."""
        if not isinstance(statement, MySqlStatement):
            raise TypeError(f"{type(statement).__name__} was not parsed here")
        return (yield from mysql_images.read_locked(statement, table, parameters))

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """See `mysql_types`."""
        return self._zone.field(column, key_type, value)

    def sql_value(self, column: Column, field: Field) -> object:
        """See `mysql_types`."""
        return self._zone.value(column, field)

    def lock_part(self, column: Column, collation: str, value: object) -> str:
        """As Java spells it. What a collation takes for one key is one hash (`mysql_catalogue`)."""
        return mysql_types.lock_part(column, value)

    def select_list(self, table: Table, names: Sequence[str]) -> str:
        """What shows the columns; `mysql_types.from_driver` makes images of it."""
        return ", ".join(mysql_types.shown(table.column(name)) for name in names)

    def mark(self, column: Column) -> str:
        """`%s`. Sessions of phase two are in UTC, as images are."""
        return "%s"

    # --- undo ---

    def row_states(self, table: Table, change: RowChange) -> Flow[tuple[State | None, RowChange]]:
        """The row as it is now, locked; a value has one spelling only."""
        where = match(self, table, [name for name, _ in change.key])
        sql = f"SELECT {self.select_list(table, change.columns)} FROM {table.source} WHERE {where} FOR UPDATE"
        answer = yield from query(sql, [value for _, value in change.key])
        if not answer.rows:
            return None, change
        columns = [table.column(name) for name in change.columns]
        values = (mysql_types.from_driver(*pair) for pair in zip(columns, answer.rows[0], strict=True))
        return dict(zip(change.columns, values, strict=True)), change

    def overriding(self, table: Table) -> str:
        """Nothing."""
        return ""

    def undo_context(self, *, foreign_keys: bool) -> Mapping[str, str]:
        """`foreignKeys=OFF` where they were not checked: what was there against them may come back."""
        return MappingProxyType({} if foreign_keys else {_FOREIGN_KEYS: "OFF"})

    # --- foreign keys ---

    def foreign_keys_enforced(self) -> Flow[bool]:
        """`foreign_key_checks` of the session."""
        session = yield from self._read_session()
        return session.foreign_keys

    def foreign_keys_of(self, context: Mapping[str, str]) -> bool:
        """Unless the undo row says that they were not checked."""
        return context.get(_FOREIGN_KEYS) != "OFF"

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """`foreign_key_checks` of the session. (It is on in every new one.)"""
        if not on:
            yield from query("SET SESSION foreign_key_checks = 0")

    def defer_constraints(self) -> Flow[None]:
        """InnoDB has no deferred constraints; rows come back in the reverse order."""
        yield from ()

    def broken_foreign_keys(self, table: Table) -> Flow[str | None]:
        """None: InnoDB has checked each row."""
        yield from ()
        return None


def check_undo_table(database: str) -> Flow[list[str]]:
    """What is wrong with the undo table, in sentences; empty if nothing is (at.md §4)."""
    place = (database, "undo_log")
    columns = yield from query(
        "SELECT LOWER(COLUMN_NAME) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", place
    )
    names = {str(row[0]) for row in columns.rows}
    if not names:
        return ["there is no table undo_log"]
    problems = [f"undo_log has no column {name}" for name in _UNDO_COLUMNS if name not in names]
    engine = yield from query(
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", place
    )
    if any(str(row[0]).lower() != "innodb" for row in engine.rows):
        problems.append(f"undo_log has the engine {engine.rows[0][0]}, which cannot roll back")
    unique = yield from query(
        "SELECT GROUP_CONCAT(LOWER(COLUMN_NAME) ORDER BY COLUMN_NAME) FROM information_schema.STATISTICS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND NON_UNIQUE = 0 AND SUB_PART IS NULL GROUP BY INDEX_NAME",
        place,
    )
    if ("branch_id,xid",) not in unique.rows:
        problems.append("undo_log has no UNIQUE (xid, branch_id): a late phase one would not meet its guard row")
    return problems
