"""Lock keys: which rows a branch holds, as Seata's text `table:pk,pk;table2:a_b` (PROTOCOL §9).

A value is spelled as Java's `String.valueOf` does. Three things Java has no answer to are ours: a `,` or `;` in a value
is written `%2C`, `%3B` (Java clients refuse such keys), an empty text `%`, and a blob is its hex digits behind `x`.
Two different rows may so get one text (`a_b`+`c` and `a`+`b_c`; `a,b` and a literal `a%2Cb`): a false conflict.
What the database takes for the *same* key must never get two texts, so values are folded as the column compares them
(NOCASE, RTRIM; 1 and 1.0).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

from troth.client.sql.tables import Column, Table, UniqueKey
from troth.client.sql.values import java_double_text

LockKey = tuple[str, str]
"""(table, key text), both escaped already."""

FOLDABLE = frozenset({"BINARY", "NOCASE", "RTRIM"})
"""The collations whose equality is known here."""

_ESCAPES = str.maketrans({",": "%2C", ";": "%3B"})
_TABLE_ESCAPES = str.maketrans({",": "%2C", ";": "%3B", ":": "%3A"})
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def primary_lock(table: Table, row: tuple[object, ...]) -> LockKey:
    """The lock of `row` (a full row of `table`): `(table, pk)`, the parts of a composite key joined by `_`."""
    columns = [table.columns[place] for place in table.key_places]
    parts = (_part(row[table.place(c.name)], c, c.collation) for c in columns)
    return _lock(table.name, parts)


def unique_locks(table: Table, row: tuple[object, ...]) -> Iterator[LockKey]:
    """The locks of what `row` takes in unique keys, under `table#key name`. A key with a NULL in it takes nothing."""
    for key in table.unique_keys:
        values = [row[table.place(name)] for name in key.columns]
        if None not in values:
            yield _lock(f"{table.name}#{key.name}", _unique_parts(table, key, values))


def changed_unique_locks(table: Table, before: tuple[object, ...], after: tuple[object, ...]) -> Iterator[LockKey]:
    """The unique locks that an update of `before` to `after` frees or takes.

    Of a partial index also those that stay: the row may have entered or left it.
    """
    old, new = dict.fromkeys(unique_locks(table, before)), dict.fromkeys(unique_locks(table, after))
    partial = {f"{table.name}#{key.name}".translate(_TABLE_ESCAPES) for key in table.unique_keys if key.partial}
    for lock in old | new:
        if lock not in old or lock not in new or lock[0] in partial:
            yield lock


def lock_text(locks: Iterable[LockKey]) -> str:
    """All `locks` as one text: tables sorted, so that two branches ask in the same order; keys as they come, once."""
    tables: dict[str, dict[str, None]] = {}
    for table, key in locks:
        tables.setdefault(table, {})[key] = None
    return ";".join(f"{table}:{','.join(keys)}" for table, keys in sorted(tables.items()))


def _unique_parts(table: Table, key: UniqueKey, values: list[object]) -> Iterator[str]:
    for name, collation, value in zip(key.columns, key.collations, values, strict=True):
        yield _part(value, table.columns[table.place(name)], collation)


def _lock(name: str, parts: Iterable[str]) -> LockKey:
    return name.translate(_TABLE_ESCAPES), "_".join(parts).translate(_ESCAPES) or "%"


def _part(value: object, column: Column, collation: str) -> str:
    match value:
        case str():
            return _folded(value, collation)
        case float() if value.is_integer() and not column.keeps_real:
            return str(int(value))
        case float():
            return java_double_text(value)
        case bytes():
            return "x" + value.hex()
        case _:
            return str(value)


def _folded(value: str, collation: str) -> str:
    match collation:
        case "NOCASE":
            return value.translate(_LOWER)
        case "RTRIM":
            return value.rstrip(" ")
        case _:
            return value
