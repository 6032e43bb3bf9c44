"""PostgreSQL: text, types and errors. `postgres_catalogue` reads its tables, `postgres_images` takes images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from types import MappingProxyType

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Later, Parameters, postponed, query
from troth.client.sql.dialects import postgres_catalogue, postgres_images
from troth.client.sql.dialects.base import Fault, select_matching
from troth.client.sql.dialects.parsed import Parsed
from troth.client.sql.dialects.postgres_additive import postgres_hot_rows
from troth.client.sql.dialects.postgres_catalogue import (
    BY_NAME,
    BY_SPELLING,
    Found,
    find,
    finding,
    found_in,
    literal,
    probe,
    spelled,
)
from troth.client.sql.dialects.postgres_grammar import parse
from troth.client.sql.dialects.postgres_guard import MARK_ON, PostgresGuards
from troth.client.sql.dialects.postgres_types import Zone, lock_part, mark, quote, shown
from troth.client.sql.image import Images, Key, Outcome
from troth.client.sql.statement import OR_BY_XA, Statement
from troth.client.sql.tables import Column, Refusal, Table
from troth.client.sql.undo import Field, RowChange, State

PUBLIC = "public"
UNDO_TABLE = "undo_log"
UNDO_COLUMNS = ("branch_id", "xid", "context", "rollback_info", "log_status", "log_created", "log_modified")
_BUSY = frozenset({"55P03", "40001", "40P01", "57014"})
"""A lock that was not given in time, serialisation, deadlock, statement_timeout."""
_OLD_IN_RETURNING = 180_000
_LOST = ("08", "57P")


def create_undo_table(schema: str) -> tuple[str, ...]:
    """The statements that make the undo table as Java has it (and take the one that is there)."""
    table = spelled(schema, UNDO_TABLE)
    return (
        f"""CREATE TABLE IF NOT EXISTS {table} (
  id            SERIAL       NOT NULL,
  branch_id     BIGINT       NOT NULL,
  xid           VARCHAR(128) NOT NULL,
  context       VARCHAR(128) NOT NULL,
  rollback_info BYTEA        NOT NULL,
  log_status    INT          NOT NULL,
  log_created   TIMESTAMP(0) NOT NULL,
  log_modified  TIMESTAMP(0) NOT NULL,
  CONSTRAINT pk_undo_log PRIMARY KEY (id),
  CONSTRAINT ux_undo_log UNIQUE (xid, branch_id)
)""",
        f"CREATE INDEX IF NOT EXISTS ix_log_created ON {table} (log_created)",
    )


def resource_id(host: str, port: int, database: str, current_schema: str | None) -> str:
    """The database's name at the coordinator: the JDBC URL, as Java spells it.

    `current_schema` is the search path that the URL names (`a,b`); a comma would split a list, so it is a `!`.
    """
    url = f"jdbc:postgresql://{host}:{port}/{database}"
    return url if current_schema is None else f"{url}?currentSchema={current_schema.replace(',', '!')}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A table as it was last time: how to lock it, what to ask, what is answered while it is the same."""

    lock: str
    probe: str
    answer: list[tuple[object, ...]]
    table: Table


class PostgresDialect:
    """`Dialect` of PostgreSQL, for psycopg's placeholders. `undo_schema` is where the undo table is.

    `server_version` as libpq gives it (180000 is 18.0); 0: only what all versions can do is used.
    """

    begin = "BEGIN"
    errors_abort = True
    other_mode = OR_BY_XA

    def __init__(self, undo_schema: str = PUBLIC, zone: tzinfo | None = None, server_version: int = 0) -> None:
        self._has_old = server_version >= _OLD_IN_RETURNING
        self._undo_schema = undo_schema
        self._undo = spelled(undo_schema, UNDO_TABLE)
        self.hot_rows = postgres_hot_rows(undo_schema, self._undo)
        self.guards = PostgresGuards(undo_schema)
        self._zone = Zone(zone)
        self._parsed = Parsed()
        self._texts = postgres_images.composed()
        self._tables: dict[str, tuple[str, Table | Refusal]] = {}
        self._functions: dict[str, bool] = {}
        self._seen: dict[tuple[str | None, str], _Seen] = {}
        self._expected: tuple[_Seen, Later] | None = None
        self._parents: dict[str, Table | Refusal] = {}
        self._undo_table_is_good = False

    def untouched(self) -> Flow[bool]:
        """No transaction id has been given to it, so it has written nothing and locked no row."""
        answer = yield from query("SELECT pg_catalog.txid_current_if_assigned() IS NULL")
        return answer.rows[0][0] in (True, "t")

    def fault(self, error: BaseException) -> Fault:
        """By SQLSTATE. An error of the driver without one is not the server's answer: that has never come."""
        state = getattr(error, "sqlstate", None)
        if not isinstance(state, str):
            return Fault.LOST if hasattr(error, "sqlstate") else Fault.OTHER
        if state.startswith(_LOST):
            return Fault.LOST
        if state in _BUSY:
            return Fault.BUSY
        return Fault.CONSTRAINT if state.startswith("23") else Fault.OTHER

    # --- the undo table ---

    @property
    def insert_undo(self) -> str:
        """INSERT of an undo row."""
        return (
            f"INSERT INTO {self._undo} (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) "
            "VALUES (%s, %s, %s, %s, %s, now(), now())"
        )

    @property
    def insert_guard(self) -> str:
        """It waits for another writer of the same row to end."""
        return f"{self.insert_undo} ON CONFLICT DO NOTHING"

    @property
    def select_undo(self) -> str:
        """SELECT of an undo row, locked."""
        return (
            f"SELECT context, rollback_info, log_status FROM {self._undo} WHERE xid = %s AND branch_id = %s FOR UPDATE"
        )

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        pairs = ", ".join(["(%s, %s::int8)"] * count)
        return f"DELETE FROM {self._undo} WHERE (xid, branch_id) IN (VALUES {pairs})"

    def delete_old_undo(self, save_days: int) -> tuple[str, Parameters]:
        """DELETE of undo rows that are older than `save_days` days, and its parameters."""
        return f"DELETE FROM {self._undo} WHERE log_created < now() - make_interval(days => %s)", (save_days,)

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with the undo table, in sentences (at.md §4)."""
        return (yield from check_undo_table(self._undo_schema))

    # --- guards ---

    def mark_writes(self, *, on: bool) -> Flow[None]:
        """A setting of the local transaction; it needs no taking away."""
        if on:
            yield from postponed(MARK_ON)

    # --- statements and tables ---

    def parse(self, sql: str, *, parameterised: bool = True) -> Statement:
        """What `sql` is; the last texts are remembered."""
        return self._parsed.get(sql if parameterised else sql.replace("%", "%%"), parse)

    def check_calls(self, statement: Statement) -> Flow[None] | None:
        """Refuses functions that may write unseen; the flow asks for new ones. None: nothing to do.

        Raises:
            NotSupported: in the flow, with the name of the function.
        """
        if self._functions.keys() >= statement.calls and not any(map(self._functions.get, statement.calls)):
            return None
        return self._check_calls(statement.calls)

    def _check_calls(self, calls: frozenset[str]) -> Flow[None]:
        strange = sorted(calls - self._functions.keys())
        if strange:
            writing = yield from postgres_catalogue.writing_functions(strange)
            self._functions.update((name, name in writing) for name in strange)
        for name in sorted(calls):
            if self._functions[name]:
                raise NotSupported(
                    f"the function {name} is VOLATILE, so it may write rows of which AT has no image.",
                    f"Declare it STABLE if it only reads; else execute its statements yourself. {OR_BY_XA}",
                )

    def quote(self, name: str) -> str:
        """`name` in double quotes."""
        return quote(name)

    def open_catalogue(self) -> Flow[list[str]]:
        """The undo table is looked at once; definitions of tables are verified in each local transaction."""
        if self._undo_table_is_good:
            return []
        problems = yield from self.check_undo_table()
        self._undo_table_is_good = not problems
        return problems

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of the table. It is locked as the statement itself will lock it, so the definition holds."""
        yield from postponed(_lock(schema, name))
        found = yield from find(BY_SPELLING, _spelling(schema, name))
        if found is None:
            return Refusal(f"there is no table {name} that can be seen.", "Look at the spelling and the search_path.")
        table = yield from self._defined(found)
        if isinstance(table, Table):
            yield from self._learn(schema, name, found, table)
        return table

    def _learn(self, schema: str | None, name: str, found: Found, table: Table) -> Flow[None]:
        """Remember what a cheap question answers as long as `table` is the definition of `schema.name`."""
        self._seen.pop((schema, name), None)
        finding_it = finding(BY_SPELLING, _spelling(schema, name))
        is_partitioned = postgres_catalogue.PARTITIONED in table.traits
        asked = finding_it if is_partitioned else probe(found.oid, _spelling(schema, name), table)
        answer = yield from postponed(asked)
        # Some changes pass our lock (CREATE INDEX CONCURRENTLY): what the probe has seen must not be newer.
        if found_in((yield from query(finding_it))) == found:
            self._seen[schema, name] = _Seen(_lock(schema, name), asked, answer.answer.rows, table)

    def expected_table(self, schema: str | None, name: str) -> Flow[Table | None]:
        """The definition that `schema.name` had last time; whether it still has is asked along with the next query."""
        seen = self._seen.get((schema, name))
        if seen is None:
            return None
        yield from postponed(seen.lock)
        self._expected = (seen, (yield from postponed(seen.probe)))
        return seen.table

    def as_expected(self) -> bool | None:
        """Whether it still had the definition of the last `expected_table`. None: the database has not said."""
        if self._expected is None or self._expected[1].rows is None:
            return None
        seen, later = self._expected
        return later.answer.rows == seen.answer

    def undone_table(self, name: str) -> Flow[Table | Refusal]:
        """The table that lock keys and undo rows call `name`."""
        if name not in self._parents:
            found = yield from find(BY_NAME, name)
            if found is None:
                return Refusal(f"there is no table {name}.", "Look at the catalogue.")
            self._parents[name] = yield from self._defined(found)
        return self._parents[name]

    def _defined(self, found: Found) -> Flow[Table | Refusal]:
        if found.problem:
            return Refusal(f"in this session values could not be read back as they were: {found.problem}.", "SET it.")
        known = self._tables.get(found.oid)
        if known is not None and known[0] == found.fingerprint:
            return known[1]
        self._parents.clear()  # what refers to them tells when they have changed
        table = yield from postgres_catalogue.read_table(found.oid, (self._undo_schema, UNDO_TABLE))
        self._tables[found.oid] = (found.fingerprint, table)
        return table

    # --- images ---

    def images(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
        """See `postgres_images`."""
        return (yield from postgres_images.images(statement, table, parameters, self._texts, has_old=self._has_old))

    def read_locked(
        self, statement: Statement, table: Table, parameters: Parameters
    ) -> Flow[tuple[Sequence[Key], Outcome]]:
        """See `postgres_images`."""
        return (yield from postgres_images.read_locked(statement, table, parameters))

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """The Java value that the JDBC driver would give, and the text where that does not hold all."""
        return self._zone.field(column, key_type, value)

    def sql_value(self, column: Column, field: Field) -> object:
        """A text, as `shown` gives it (or another one for the same value: see `row_states`)."""
        return self._zone.text(column, field)

    def lock_part(self, column: Column, collation: str, value: object) -> str:
        """See `postgres_types`."""
        return lock_part(column, collation, value)

    def select_list(self, table: Table, names: Sequence[str]) -> str:
        """The columns as texts."""
        return ", ".join(shown(table.column(name)) for name in names)

    def mark(self, column: Column) -> str:
        """A placeholder that is cast to the column's type."""
        return mark(column)

    # --- undo ---

    def row_states(self, table: Table, change: RowChange) -> Flow[tuple[State | None, RowChange]]:
        """The row as it is now, locked. Images that are spelled in another way are spelled anew by the database."""
        sql = select_matching(self, table, change.columns, [name for name, _ in change.key])
        answer = yield from query(f"{sql} FOR UPDATE", [value for _, value in change.key])
        now = dict(zip(change.columns, answer.rows[0], strict=True)) if answer.rows else None
        before = yield from self._respelled(table, change.before, now)
        after = yield from self._respelled(table, change.after, now)
        return now, RowChange(change.table_name, change.key, before, after)

    def _respelled(self, table: Table, state: State | None, now: State | None) -> Flow[State | None]:
        if state is None or now is None or state == now:
            return state
        names = [name for name, value in state.items() if value is not None and value != now.get(name)]
        if not names:
            return state
        casts = ", ".join(_respelling(table.column(name)) for name in names)
        answer = yield from query(f"SELECT {casts}", [state[name] for name in names])
        return {**state, **dict(zip(names, answer.rows[0], strict=True))}

    def overriding(self, table: Table) -> str:
        """Where a column is GENERATED ALWAYS AS IDENTITY."""
        return "OVERRIDING SYSTEM VALUE " if any(column.always_identity for column in table.columns) else ""

    def undo_context(self, *, foreign_keys: bool) -> Mapping[str, str]:
        """Nothing: the context is as Java's."""
        return MappingProxyType({})

    # --- foreign keys ---

    def foreign_keys_enforced(self) -> Flow[bool]:
        """Always."""
        yield from ()
        return True

    def foreign_keys_of(self, context: Mapping[str, str]) -> bool:
        """Always."""
        return True

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """Nothing to do."""
        yield from ()

    def defer_constraints(self) -> Flow[None]:
        """As far as they are declared DEFERRABLE."""
        yield from query("SET CONSTRAINTS ALL DEFERRED")

    def broken_foreign_keys(self, table: Table) -> Flow[str | None]:
        """The database says it itself, now."""
        yield from query("SET CONSTRAINTS ALL IMMEDIATE")
        return None


def _lock(schema: str | None, name: str) -> str:
    """Locks the table as a write does, so that its definition holds from then on."""
    return f"LOCK TABLE {spelled(schema, name)} IN ROW EXCLUSIVE MODE"


def _spelling(schema: str | None, name: str) -> str:
    return spelled(schema, name).replace("%%", "%")


def _respelling(column: Column) -> str:
    """The placeholder for a value, shown as an image shows it."""
    if column.base_type == "money":
        return f"{mark(column)}::numeric::text"
    if column.base_type.startswith("reg"):
        return "%s::oid::text"
    if column.base_type == "bytea":
        return "('\\x' || encode(%s::bytea, 'hex'))"
    if column.base_type in ("bpchar", "inet"):
        return f"concat({mark(column)})"
    return f"{mark(column)}::text"


def check_undo_table(schema: str) -> Flow[list[str]]:
    """What is wrong with the undo table, in sentences; empty if nothing is (at.md §4)."""
    place = literal(spelled(schema, UNDO_TABLE).replace("%%", "%"))
    columns = yield from query(
        "SELECT attname FROM pg_catalog.pg_attribute "
        f"WHERE attrelid = pg_catalog.to_regclass({place}) AND attnum > 0 AND NOT attisdropped"
    )
    names = {str(row[0]) for row in columns.rows}
    if not names:
        return [f"there is no table {UNDO_TABLE} in the schema {schema}"]
    problems = [f"undo_log has no column {name}" for name in UNDO_COLUMNS if name not in names]
    unique = yield from query(
        "SELECT (SELECT string_agg(a.attname, ',' ORDER BY a.attname) FROM pg_catalog.pg_attribute a "
        "WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])) FROM pg_catalog.pg_index i "
        f"WHERE i.indrelid = pg_catalog.to_regclass({place}) AND i.indisunique AND i.indisvalid "
        "AND i.indimmediate AND i.indpred IS NULL AND i.indnkeyatts = 2 AND i.indnatts = 2"
    )
    if ("branch_id,xid",) not in unique.rows:
        problems.append("undo_log has no UNIQUE (xid, branch_id): a late phase one would not meet its guard row")
    return problems
