"""What SQLite's catalogue says of a table, and which tables AT does not write to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise

from troth.client.flow import Flow, Rows, query
from troth.client.sql.dialects.base_guard import GUARD
from troth.client.sql.dialects.sqlite_lexer import tokenize
from troth.client.sql.dialects.sqlite_lockkeys import FOLDABLE
from troth.client.sql.tables import GUARDED, Column, ForeignKey, Refusal, Table, UniqueKey
from troth.client.sql.values import JdbcType

_FIND = "SELECT schema, name, type FROM pragma_table_list WHERE name = ? COLLATE NOCASE"
_COLUMNS = "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'main')"
_INDEXES = "SELECT name, origin, partial FROM pragma_index_list(?, 'main') WHERE \"unique\" = 1"
_INDEX_COLUMNS = "SELECT name, coll FROM pragma_index_xinfo(?, 'main') WHERE key = 1 ORDER BY seqno"
_PARENTS = (
    'SELECT id, ?1, "table", "from", "to", on_update, on_delete '
    "FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq"
)
_CHILDREN = (
    'SELECT f.id, m.name, f."table", f."from", f."to", f.on_update, f.on_delete '
    "FROM main.sqlite_master AS m, pragma_foreign_key_list(m.name, 'main') AS f "
    "WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE ORDER BY m.name, f.id, f.seq"
)
_TRIGGERS = (
    "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE UNION ALL "
    "SELECT name FROM temp.sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE"
)
_DEFINITION = "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
_VIRTUAL_GENERATED, _STORED_GENERATED = 2, 3


def quote(name: str) -> str:
    """`name` in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def read_table(schema: str | None, name: str) -> Flow[Table | Refusal]:
    """The definition of `schema.name`, or why AT does not write to it."""
    found = yield from query(_FIND, (name,))
    real = _resolve(schema, name, found)
    if isinstance(real, Refusal):
        return real
    indexes = yield from _unique_keys(real)
    if isinstance(indexes, Refusal):
        return indexes
    keys, key_collations = indexes
    columns = yield from query(_COLUMNS, (real,))
    parents = yield from query(_PARENTS, (real,))
    children = yield from query(_CHILDREN, (real,))
    table = Table(
        real,
        tuple(_column(row, key_collations) for row in columns.rows),
        keys,
        tuple(_foreign_keys(parents)),
        tuple(_foreign_keys(children)),
        f"main.{quote(real)}",
    )
    triggers = [str(row[0]) for row in (yield from query(_TRIGGERS, (table.name,))).rows]
    foreign = next((name for name in triggers if not name.startswith(f"{GUARD}_")), None)
    refusal = yield from _refusal(table, foreign)
    return refusal or (replace(table, traits=frozenset({GUARDED})) if triggers else table)


def broken_foreign_keys(table: str) -> Flow[str | None]:
    """The first row of `table`, or of one that refers to it, whose parent does not exist."""
    children = yield from query(_CHILDREN, (table,))
    for name in dict.fromkeys([table, *(str(row[1]) for row in children.rows)]):
        broken = yield from query("SELECT rowid, parent FROM pragma_foreign_key_check(?)", (name,))
        if broken.rows:
            rowid, parent = broken.rows[0]
            return f"row {name}(rowid={rowid!r}) refers to a row of {parent} that does not exist"
    return None


def _resolve(schema: str | None, name: str, found: Rows) -> str | Refusal:
    """The catalogue's spelling of the table's name."""
    places = {str(row[0]).lower(): (str(row[1]), str(row[2])) for row in found.rows}
    wanted = schema.lower() if schema is not None else next((p for p in ("temp", "main") if p in places), "main")
    if wanted != "main":
        return Refusal(
            f"{name} is in the database {wanted!r}, and AT works on the connection's main database only.",
            "Open that database by a connection of its own.",
        )
    if "main" not in places:
        return Refusal(f"there is no table {name} in the main database.", "Look at the spelling.")
    real, kind = places["main"]
    if real.lower() == "undo_log":
        return Refusal("undo_log belongs to AT.", "Leave it alone inside a global transaction.")
    if kind != "table" or real.lower().startswith("sqlite_"):
        return Refusal(f"{real} is a {kind}, not an ordinary table.", "Write to the tables behind it.")
    return real


def _unique_keys(table: str) -> Flow[tuple[tuple[UniqueKey, ...], dict[str, str]] | Refusal]:
    """The unique keys beside the primary key, and the collations of the primary key's columns."""
    indexes = yield from query(_INDEXES, (table,))
    keys: list[UniqueKey] = []
    of_primary: dict[str, str] = {}
    for name, origin, partial in indexes.rows:
        columns = yield from query(_INDEX_COLUMNS, (name,))
        if any(row[0] is None for row in columns.rows):
            return Refusal(
                f"the unique index {name} of {table} is over an expression, so its keys cannot be locked.",
                "Put the expression into a generated column and index that.",
            )
        names = tuple(str(row[0]) for row in columns.rows)
        collations = tuple(str(row[1]).upper() for row in columns.rows)
        if not FOLDABLE.issuperset(collations):
            return Refusal(
                f"the unique index {name} of {table} uses a collation of its own ({', '.join(collations)}).",
                "Use BINARY, NOCASE or RTRIM.",
            )
        if origin == "pk":
            of_primary = dict(zip(names, collations, strict=True))
        else:
            keys.append(UniqueKey(str(name), names, collations, bool(partial)))
    return tuple(keys), of_primary


def _column(row: tuple[object, ...], key_collations: dict[str, str]) -> Column:
    name, declared, key_position, hidden = row
    text = str(declared or "").upper()
    return Column(
        str(name),
        jdbc_type(text).value,
        key_position if isinstance(key_position, int) else 0,
        hidden in (_VIRTUAL_GENERATED, _STORED_GENERATED),
        _affinity(text) == "REAL",
        key_collations.get(str(name), "BINARY"),
    )


def _affinity(declared: str) -> str:
    """SQLite's rules for the affinity of a declared type, as far as REAL is concerned."""
    if "INT" in declared:
        return "INTEGER"
    if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in declared or not declared:
        return "BLOB"
    return "REAL" if any(part in declared for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def jdbc_type(declared: str) -> JdbcType:
    """The `java.sql.Types` number for a declared type: the first match by prefix, as SQLite's JDBC driver has it."""
    base = declared.partition("(")[0].strip().upper()
    for kind, prefixes in _JDBC_TYPES:
        if base.startswith(prefixes):
            return kind
    return {"INTEGER": JdbcType.INTEGER, "TEXT": JdbcType.VARCHAR, "REAL": JdbcType.DOUBLE}.get(
        _affinity(base), JdbcType.NUMERIC if base else JdbcType.VARCHAR
    )


_JDBC_TYPES = (
    (JdbcType.BOOLEAN, ("BOOL",)),
    (JdbcType.TINYINT, ("TINYINT",)),
    (JdbcType.SMALLINT, ("SMALLINT", "INT2")),
    (JdbcType.BIGINT, ("BIGINT", "INT8", "UNSIGNED BIG INT")),
    (JdbcType.TIMESTAMP, ("TIMESTAMP", "DATETIME")),
    (JdbcType.DATE, ("DATE",)),
    (JdbcType.TIME, ("TIME",)),
    (JdbcType.DECIMAL, ("DECIMAL",)),
    (JdbcType.NUMERIC, ("NUMERIC",)),
    (JdbcType.DOUBLE, ("DOUBLE",)),
    (JdbcType.REAL, ("REAL",)),
    (JdbcType.FLOAT, ("FLOAT",)),
    (JdbcType.VARBINARY, ("BLOB", "BINARY", "VARBINARY")),
    (JdbcType.VARCHAR, ("VARCHAR", "TEXT", "CLOB", "VARYING", "NVARCHAR")),
    (JdbcType.CHAR, ("CHAR", "NCHAR", "NATIVE CHAR")),
    (JdbcType.INTEGER, ("INT", "MEDIUMINT")),
)


def _foreign_keys(rows: Rows) -> Iterator[ForeignKey]:
    for _, group in groupby(rows.rows, key=lambda row: (row[1], row[0])):
        parts = list(group)
        _, child, parent, _, target, on_update, on_delete = parts[0]
        yield ForeignKey(
            str(child),
            str(parent),
            tuple(str(part[3]) for part in parts),
            () if target is None else tuple(str(part[4]) for part in parts),
            str(on_update),
            str(on_delete),
            f"main.{quote(str(child))}",
        )


def _refusal(table: Table, trigger: str | None) -> Flow[Refusal | None]:
    """Why AT does not write to `table`, if so. `trigger`: one that is no guard's."""
    if not table.key:
        return Refusal(
            f"table {table.name} has no primary key, so its rows cannot be named.",
            f"Rebuild it with one, for example `CREATE TABLE {table.name} (id INTEGER PRIMARY KEY, …)`.",
        )
    if trigger is not None:
        return Refusal(
            f"table {table.name} has the trigger {trigger}, whose writes AT does not see.",
            "Drop the trigger and do its work in the application.",
        )
    definition = yield from query(_DEFINITION, (table.name,))
    if any(_resolves_conflicts(str(row[0])) for row in definition.rows):
        return Refusal(
            f"table {table.name} is declared with ON CONFLICT REPLACE, ROLLBACK or FAIL: rows would change unseen.",
            "Rebuild it without that clause.",
        )
    return None


def _resolves_conflicts(definition: str) -> bool:
    tokens = tokenize(definition)
    return any(
        one.word == "CONFLICT" and other.word in ("REPLACE", "ROLLBACK", "FAIL") for one, other in pairwise(tokens)
    )
