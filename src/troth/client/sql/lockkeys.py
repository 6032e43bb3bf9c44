"""Lock keys: which rows a branch holds, as Seata's text `table:pk,pk;table2:a_b` (PROTOCOL §9).

A value is spelled as Java's `String.valueOf` does. Three things Java has no answer to are ours: a `,` or `;` in a value
is written `%2C`, `%3B` (Java clients refuse such keys), an empty text `%`, and bytes are their hex digits behind `x`.
Two different rows may so get one text (`a_b`+`c` and `a`+`b_c`; `a,b` and a literal `a%2Cb`): a false conflict.
What the database takes for the *same* key must never get two texts, so a dialect folds values as the column compares
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Self

from troth.client.sql.tables import Column, Table, UniqueKey

LockKey = tuple[str, str]
"""(table, key text), both escaped already."""

Spell = Callable[[Column, str, object], str]
"""How a dialect spells a key's value: column, collation, value (`Dialect.lock_part`)."""


class UniqueKeyName(str):
    """The pseudo-table `table#key name`, under which our coordinator locks what a row takes in a unique key."""

    __slots__ = ()


class LockText(str):
    """Locks as text, with such of unique keys among them; `of_seata` is the same without those.

    Seata's clients take no such locks and its server has narrow columns for their names, so they are for our own
    coordinator only: whoever knows which one it is (the link) picks the text. A table may be named `a#b`, so the text
    itself does not tell the two apart.
    """

    __slots__ = ("of_seata",)
    of_seata: str

    def __new__(cls, text: str, of_seata: str) -> Self:
        """Keep both."""
        made = super().__new__(cls, text)
        made.of_seata = of_seata
        return made


_ESCAPES = str.maketrans({",": "%2C", ";": "%3B"})
_TABLE_ESCAPES = str.maketrans({",": "%2C", ";": "%3B", ":": "%3A"})


def primary_lock(table: Table, row: tuple[object, ...], spell: Spell) -> LockKey:
    """The lock of `row` (a full row of `table`): `(table, pk)`, the parts of a composite key joined by `_`."""
    return key_lock(table, table.key_of(row), spell)


def key_lock(table: Table, key: tuple[object, ...], spell: Spell) -> LockKey:
    """The lock of the row with the primary key `key`."""
    columns = [table.columns[place] for place in table.key_places]
    parts = [spell(column, column.collation, value) for column, value in zip(columns, key, strict=True)]
    return _lock(table.name, parts)


def unique_locks(table: Table, row: tuple[object, ...], spell: Spell) -> Iterator[LockKey]:
    """The locks of what `row` takes in unique keys, under `table#key name`. A key with a NULL in it takes nothing."""
    for key in table.unique_keys:
        values = [row[table.place(name)] for name in key.columns]
        if key.nulls_equal or None not in values:
            name, parts = _lock(f"{table.name}#{key.name}", _unique_parts(table, key, values, spell))
            yield UniqueKeyName(name), parts


def changed_unique_locks(
    table: Table, before: tuple[object, ...], after: tuple[object, ...], spell: Spell
) -> Iterator[LockKey]:
    """The unique locks that an update of `before` to `after` frees or takes.

    Of a partial index also those that stay: the row may have entered or left it.
    """
    old, new = dict.fromkeys(unique_locks(table, before, spell)), dict.fromkeys(unique_locks(table, after, spell))
    partial = {f"{table.name}#{key.name}".translate(_TABLE_ESCAPES) for key in table.unique_keys if key.partial}
    for lock in old | new:
        if lock not in old or lock not in new or lock[0] in partial:
            yield lock


def lock_text(locks: Iterable[LockKey]) -> str:
    """All `locks` as one text: tables sorted, so that two branches ask in the same order; keys as they come, once.

    With locks of unique keys among them it is a `LockText`.
    """
    everything = tuple(locks)
    of_seata = [lock for lock in everything if type(lock[0]) is not UniqueKeyName]
    text = _text(everything)
    return text if len(of_seata) == len(everything) else LockText(text, _text(of_seata))


def _text(locks: Iterable[LockKey]) -> str:
    tables: dict[str, dict[str, None]] = {}
    for table, key in locks:
        tables.setdefault(table, {})[key] = None
    return ";".join(f"{table}:{','.join(keys)}" for table, keys in sorted(tables.items()))


def _unique_parts(table: Table, key: UniqueKey, values: list[object], spell: Spell) -> Iterator[str]:
    for name, collation, value in zip(key.columns, key.collations, values, strict=True):
        yield "NULL" if value is None else spell(table.column(name), collation, value)


def _lock(name: str, parts: Iterable[str]) -> LockKey:
    return name.translate(_TABLE_ESCAPES), "_".join(parts).translate(_ESCAPES) or "%"
