"""The SQL that takes images, and images as records of an undo log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from troth.client.sql.statement import Image
from troth.client.sql.tables import Table
from troth.client.sql.undo import Field, KeyType, Row, TableRecords
from troth.client.sql.values import from_sql

FullRow = tuple[object, ...]
Key = tuple[object, ...]
Quote = Callable[[str], str]

MAX_PARAMETERS = 900
"""Keys are looked up in groups with at most this many parameters: below the smallest limit in use (999)."""


def select_by_where(table: Table, source: str, image: Image, quote: Quote, *, named: bool) -> str:
    """SELECT of the rows that the user's own WITH, FROM and WHERE choose. `source` is the table as SQL names it."""
    with_clause, sources, where = image.texts(named=named)
    target = source if image.alias is None else f"{source} AS {quote(image.alias)}"
    qualifier = quote(image.alias if image.alias is not None else table.name)
    columns = _columns(table, lambda name: f"{qualifier}.{quote(name)}")
    tail = f", {sources}" if sources else ""
    return f"{with_clause}\nSELECT {columns}\nFROM {target}{tail}\n{where}"


def select_by_keys(table: Table, source: str, count: int, quote: Quote) -> str:
    """SELECT of the rows with `count` given keys; the parameters are the keys, one behind the other."""
    columns = _columns(table, quote)
    if len(table.key) == 1:
        return f"SELECT {columns} FROM {source} WHERE {quote(table.key[0])} IN ({', '.join('?' * count)})"
    names = ", ".join(map(quote, table.key))
    one = f"({', '.join('?' * len(table.key))})"
    return f"SELECT {columns} FROM {source} WHERE ({names}) IN (VALUES {', '.join([one] * count)})"


def returned_key(table: Table, quote: Quote) -> str:
    """The RETURNING expressions that give the primary key."""
    return ", ".join(_plain(quote(name)) for name in table.key)


def key_groups(table: Table, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """`keys` in groups that fit into one statement."""
    size = max(1, MAX_PARAMETERS // len(table.key))
    return (keys[start : start + size] for start in range(0, len(keys), size))


def records(table: Table, rows: Iterable[FullRow], only: frozenset[str] | None = None) -> TableRecords:
    """Full rows as an image: all columns but generated ones, or the key and the columns in `only` (lower case)."""
    shown = [
        (place, column.name, KeyType.PRIMARY_KEY if column.key_position else KeyType.NULL, column.jdbc_type)
        for place, column in enumerate(table.columns)
        if not column.generated and (only is None or column.key_position or column.name.lower() in only)
    ]
    return TableRecords(
        table.name,
        tuple(
            Row(tuple(Field(name, key, jdbc_type, from_sql(row[place])) for place, name, key, jdbc_type in shown))
            for row in rows
        ),
    )


def _columns(table: Table, named: Callable[[str], str]) -> str:
    return ", ".join(_plain(named(column.name)) for column in table.columns)


def _plain(column: str) -> str:
    """The value of `column` without its declared type, so that no converter of the user's touches it."""
    return f"ifnull({column}, NULL)"
