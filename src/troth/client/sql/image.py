"""Images: what a statement did to which rows, and images as records of an undo log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from troth.client.sql.tables import Column, Table
from troth.client.sql.undo import Field, KeyType, Row, SqlType, TableRecords

FullRow = tuple[object, ...]
"""A row with all columns of its table, in the table's order, values as the dialect's images hold them."""
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement gives its caller. `columns` is None where it returns no rows.

    `native` is the driver's own result, where the driver makes the user's rows out of that: `rows` are then places
    in it, and the user's columns are the first `len(columns)`.
    """

    rowcount: int
    columns: tuple[str, ...] | None = None
    rows: list[tuple[object, ...]] = field(default_factory=list)
    native: object = None
    last_rowcount: int = -1
    """Of several executions: the row count of the last one."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Rows that one statement inserted, updated or deleted, in the order in which it touched them.

    An update has as many rows in `before` as in `after`, pair by pair; `only` are the columns (lower case) that it set.
    """

    sql_type: SqlType
    before: Sequence[FullRow] = ()
    after: Sequence[FullRow] = ()
    only: frozenset[str] | None = None
    table: Table | None = None
    """Whose rows they are, where the statement writes to several tables."""


@dataclass(frozen=True, slots=True)
class Images:
    """All that one statement did. An upsert may have inserted and updated."""

    touched: tuple[Touched, ...]
    outcome: Outcome


class ImageMoved(Exception):
    """Between the image and the statement somebody else changed the rows: both have to be done again."""


ToField = Callable[[Column, str, object], Field]


def records(table: Table, rows: Iterable[FullRow], to_field: ToField, only: frozenset[str] | None) -> TableRecords:
    """Full rows as an image: all columns but generated ones, or the key and the columns in `only` (lower case)."""
    shown = [
        (place, column, KeyType.PRIMARY_KEY if column.key_position else KeyType.NULL)
        for place, column in enumerate(table.columns)
        if not column.generated and (only is None or column.key_position or column.name.lower() in only)
    ]
    return TableRecords(
        table.name,
        tuple([Row(tuple([to_field(column, key, row[place]) for place, column, key in shown])) for row in rows]),
    )
