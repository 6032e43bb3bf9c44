"""What MySQL's and MariaDB's `information_schema` says of a table, and which tables AT does not write to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from troth.client.flow import Flow, Query, Rows, query
from troth.client.sql.dialects import mysql_types
from troth.client.sql.dialects.base_guard import GUARD
from troth.client.sql.dialects.mysql_types import QUALIFIER, Family, family, quote
from troth.client.sql.dialects.mysql_words import RESERVED
from troth.client.sql.tables import GUARDED, Column, ForeignKey, Refusal, Table, UniqueKey

AUTO_INCREMENT, ON_UPDATE, HAS_DEFAULT = "auto increment ", "on update ", "default "
"""Traits of a table: before the name of a column."""

_FIND = (
    "SELECT TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
)
_COLUMNS = (
    "SELECT COLUMN_NAME, LOWER(DATA_TYPE), LOWER(COLUMN_TYPE), COLLATION_NAME, EXTRA, COLUMN_DEFAULT, IS_NULLABLE "
    "FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION"
)
_KEYS = (
    "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)
_TRIGGERS = (
    "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = %s AND EVENT_OBJECT_TABLE = %s"
)
_REFERENCES = (
    "SELECT CONSTRAINT_NAME, TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME, "
    "REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND REFERENCED_TABLE_NAME IS NOT NULL "
    "ORDER BY CONSTRAINT_NAME, ORDINAL_POSITION"
)
_RULES = (
    "SELECT CONSTRAINT_NAME, UPDATE_RULE, DELETE_RULE FROM information_schema.REFERENTIAL_CONSTRAINTS "
    "WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s"
)
_CHILDREN = (
    "SELECT DISTINCT CONSTRAINT_SCHEMA, TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS "
    "WHERE UNIQUE_CONSTRAINT_SCHEMA = %s AND REFERENCED_TABLE_NAME = %s"
)
_SIGNATURE = """SELECT
  (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(0x1f, ORDINAL_POSITION, COLUMN_NAME, COLUMN_TYPE, COLLATION_NAME,
     EXTRA, COLUMN_DEFAULT)))) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s),
  (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(0x1f, INDEX_NAME, SEQ_IN_INDEX, COLUMN_NAME, SUB_PART))))
     FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND NON_UNIQUE = 0),
  (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(TRIGGER_NAME))) FROM information_schema.TRIGGERS
     WHERE EVENT_OBJECT_SCHEMA = %s AND EVENT_OBJECT_TABLE = %s),
  (SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT_WS(0x1f, CONSTRAINT_NAME, TABLE_NAME, UPDATE_RULE, DELETE_RULE))))
     FROM information_schema.REFERENTIAL_CONSTRAINTS
     WHERE CONSTRAINT_SCHEMA = %s AND (TABLE_NAME = %s OR REFERENCED_TABLE_NAME = %s))
FROM (SELECT 1) AS one LEFT JOIN (SELECT 1 FROM {source} LIMIT 0) AS held ON TRUE"""
"""Opening the table takes its metadata lock, so what is read here holds until the local transaction ends."""

_VARIABLES = (
    "SHOW VARIABLES WHERE Variable_name IN ('version', 'sql_mode', 'foreign_key_checks', 'character_set_client', "
    "'character_set_connection', 'character_set_results', 'tx_isolation', 'transaction_isolation', "
    "'innodb_autoinc_lock_mode', 'auto_increment_increment')"
)
_STRANGE_MODES = ("ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "PAD_CHAR_TO_FULL_LENGTH")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_TEMPORARY = re.compile(r"CREATE\s+TEMPORARY\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Session:
    """What is true of a connection until somebody sets it otherwise."""

    database: str
    variables: Mapping[str, str]

    @property
    def version(self) -> tuple[int, ...]:
        """As the server says it: (10, 11, 6), (8, 0, 36)."""
        return tuple(map(int, re.findall(r"\d+", self.variables["version"])[:3]))

    @property
    def returning(self) -> bool:
        """Whether INSERT has RETURNING: MariaDB since 10.5."""
        return "MariaDB" in self.variables["version"] and self.version >= (10, 5)

    @property
    def locks_gaps(self) -> bool:
        """Whether a locking read keeps others from inserting what it did not find."""
        level = self.variables.get("transaction_isolation") or self.variables.get("tx_isolation", "")
        return level.upper() in ("REPEATABLE-READ", "SERIALIZABLE")

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys are checked."""
        return self.variables["foreign_key_checks"] == "ON"

    def problems(self, database: str) -> list[str]:
        """What AT cannot work with, in sentences."""
        found = []
        if self.database != database:
            found.append(f"the connection was opened on the database {database} and now uses {self.database or 'none'}")
        modes = self.variables["sql_mode"].upper().split(",")
        found += [f"sql_mode has {mode}" for mode in _STRANGE_MODES if mode in modes]
        for name in ("client", "connection", "results"):
            charset = self.variables[f"character_set_{name}"]
            if charset != "utf8mb4":
                found.append(f"character_set_{name} is {charset or 'not set'}, and images need utf8mb4")
        return found


def read_session() -> Flow[Session]:
    """Ask for the database and the variables of the session."""
    database = yield from query("SELECT DATABASE()")
    variables = yield from query(_VARIABLES)
    return Session(_text(database.rows[0][0]), {str(name): _text(value) for name, value in variables.rows})


def _text(value: object) -> str:
    return "" if value is None else str(value)


def signature_query(database: str, table: str) -> Query:
    """Its answer changes when the definition of `table` changes; it stays until the local transaction ends."""
    return Query(_SIGNATURE.replace("{source}", source(database, table)), (*(database, table) * 4, table))


def source(database: str, table: str) -> str:
    """The table as SQL names it."""
    return f"{quote(database)}.{quote(table)}"


def find_table(database: str, name: str) -> Flow[str | Refusal]:
    """The catalogue's spelling of the table's name, or why AT does not write to it."""
    found = yield from query(_FIND, (database, name))
    if not found.rows:
        return Refusal(f"there is no table {name} in the database {database}.", "Look at the spelling.")
    real, kind, engine = map(_text, found.rows[0])
    if real.lower() == "undo_log":
        return Refusal("undo_log belongs to AT.", "Leave it alone inside a global transaction.")
    if kind != "BASE TABLE":
        return Refusal(f"{real} is a {kind}, not an ordinary table.", "Write to the tables behind it.")
    if engine.lower() != "innodb":
        return Refusal(
            f"table {real} has the engine {engine}, which cannot roll back.", f"ALTER TABLE {real} ENGINE = InnoDB"
        )
    return real


def read_table(database: str, name: str) -> Flow[Table | Refusal]:
    """The definition of the table that the catalogue calls `name`, or why AT does not write to it."""
    place = (database, name)
    definition = yield from query(f"SHOW CREATE TABLE {source(database, name)}")
    if _TEMPORARY.match(_text(definition.rows[0][1])):
        return Refusal(f"a temporary table hides the table {name}.", "Drop it, or give it another name.")
    rows = yield from query(_COLUMNS, place)
    keys = yield from query(_KEYS, place)
    triggers = yield from query(_TRIGGERS, place)
    foreign = [_text(row[0]) for row in triggers.rows if not _text(row[0]).startswith(f"{GUARD}_")]
    if foreign:
        return Refusal(
            f"table {name} has the trigger {foreign[0]}, whose writes AT does not see.",
            "Drop the trigger and do its work in the application.",
        )
    columns = _columns(rows, keys)
    refusal = _refusal(name, columns, keys)
    if refusal is not None:
        return refusal
    unique_keys, hashes = _unique_keys(columns, keys)
    parents = yield from _foreign_keys(database, database, name)
    children = yield from _children(database, name)
    return Table(
        name,
        (*columns, *hashes),
        unique_keys=unique_keys,
        parents=parents,
        children=children,
        source=source(database, name),
        traits=frozenset((*_traits(rows), GUARDED) if triggers.rows else _traits(rows)),
        spelling=_spelling(name),
    )


def _spelling(name: str) -> str:
    """The name for Java, which puts it into the SQL of its undo as it is."""
    is_plain = _PLAIN_NAME.fullmatch(name) and name.upper() not in RESERVED
    return name if is_plain else f"`{name.replace('`', '``')}`"


def _columns(rows: Rows, keys: Rows) -> tuple[Column, ...]:
    positions: dict[str, int] = {}
    for index, column, _ in keys.rows:
        if index == "PRIMARY":
            positions[_text(column)] = len(positions) + 1
    columns = []
    for name, base_type, type_name, collation, extra, _, _ in rows.rows:
        base, declared = _text(base_type), _text(type_name)
        columns.append(
            Column(
                _text(name),
                mysql_types.jdbc_type(base, declared) if mysql_types.is_known(base) else 0,
                positions.get(_text(name), 0),
                "GENERATED" in _text(extra).upper() and "DEFAULT_GENERATED" not in _text(extra).upper(),
                collation=_text(collation),
                type_name=declared,
                base_type=base,
            )
        )
    return tuple(columns)


def _refusal(name: str, columns: tuple[Column, ...], keys: Rows) -> Refusal | None:
    if not any(column.key_position for column in columns):
        return Refusal(
            f"table {name} has no primary key, so its rows cannot be named.",
            f"ALTER TABLE {name} ADD COLUMN id BIGINT AUTO_INCREMENT PRIMARY KEY",
        )
    for column in columns:
        if not mysql_types.is_known(column.base_type):
            return Refusal(
                f"column {column.name} of {name} has the type {column.type_name}, which AT does not know.",
                "Use another type.",
            )
        if column.generated and column.key_position:
            return Refusal(f"the primary key of {name} is a generated column.", "Use an ordinary one.")
    for index, column_name, _ in keys.rows:
        if column_name is None:
            return Refusal(
                f"the unique index {index} of {name} is over an expression, so its keys cannot be locked.",
                "Put the expression into a generated column and index that.",
            )
    return None


def _unique_keys(columns: tuple[Column, ...], keys: Rows) -> tuple[tuple[UniqueKey, ...], tuple[Column, ...]]:
    """The unique keys, and columns that are no columns: what the database compares where that is not the value itself.

    The `collations` of a key are the names of its real columns. A primary key is among them where two texts may be one
    key (`A` and `a`): row locks are Java's, by the text.
    """
    by_name = {column.name: column for column in columns}
    hashes: dict[str, Column] = {}
    found: list[UniqueKey] = []
    for index, group in groupby(keys.rows, key=lambda row: row[0]):
        names: list[str] = []
        real_names: list[str] = []
        for _, name, length in group:
            column = by_name[_text(name)]
            hashed = _hash(column, length)
            real_names.append(column.name)
            names.append(column.name if hashed is None else hashed.name)
            if hashed is not None:
                hashes[hashed.name] = hashed
        if index != "PRIMARY" or any(name in hashes for name in names):
            found.append(UniqueKey(_text(index), tuple(names), tuple(real_names)))
    return tuple(found), tuple(hashes.values())


def _hash(column: Column, length: object) -> Column | None:
    """The sort key of a text, or of the beginning that an index holds."""
    if family(column) not in (Family.TEXT, Family.BINARY) or (family(column) is Family.BINARY and length is None):
        return None
    expression = QUALIFIER + quote(column.name)
    if length is not None:
        expression = f"LEFT({expression}, {length})"
    if family(column) is Family.TEXT:
        pads = not any(part in column.collation for part in ("nopad", "_0900_"))
        expression = f"WEIGHT_STRING({f'RTRIM({expression})' if pads else expression})"
    name = f"MD5 of {column.name}" + ("" if length is None else f" to {length}")
    return Column(name, 0, generated=True, type_name=f"MD5({expression})", base_type="hash")


def _traits(rows: Rows) -> Iterator[str]:
    for name, _, _, _, extra, default, nullable in rows.rows:
        words = _text(extra).lower()
        if "auto_increment" in words:
            yield AUTO_INCREMENT + _text(name)
        if "on update" in words:
            yield ON_UPDATE + _text(name)
        if default is not None or nullable == "YES":
            yield HAS_DEFAULT + _text(name)


def traits(table: Table, kind: str) -> frozenset[str]:
    """The columns of `table` with a trait, in lower case."""
    return frozenset(trait.removeprefix(kind).lower() for trait in table.traits if trait.startswith(kind))


def _foreign_keys(database: str, schema: str, table: str) -> Flow[tuple[ForeignKey, ...]]:
    """The foreign keys of a table that refer to tables of `database`."""
    references = yield from query(_REFERENCES, (schema, table))
    if not references.rows:
        return ()
    rules = yield from query(_RULES, (schema, table))
    actions = {_text(name): (_text(update), _text(delete)) for name, update, delete in rules.rows}
    found = []
    for name, group in groupby(references.rows, key=lambda row: row[0]):
        parts = list(group)
        if parts[0][4] == database:
            update, delete = actions[_text(name)]
            child_columns = tuple(_text(part[3]) for part in parts)
            parent_columns = tuple(_text(part[6]) for part in parts)
            parent = _text(parts[0][5])
            found.append(
                ForeignKey(table, parent, child_columns, parent_columns, update, delete, source(schema, table))
            )
    return tuple(found)


def _children(database: str, name: str) -> Flow[tuple[ForeignKey, ...]]:
    referring = yield from query(_CHILDREN, (database, name))
    found: list[ForeignKey] = []
    for schema, table in referring.rows:
        keys = yield from _foreign_keys(database, _text(schema), _text(table))
        found += [key for key in keys if key.parent == name]
    return tuple(found)
