"""What AT has to know of a table, as the database's catalogue tells it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

GUARDED: Final = "guarded"
"""Trait: triggers record what is written to the table past AT (`dialects.base_guard`)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `jdbc_type` is a number of `java.sql.Types`."""

    name: str
    jdbc_type: int
    key_position: int = 0
    """Place in the primary key, from 1; 0 if it is not part of it."""
    generated: bool = False
    """Computed by the database: imaged for its unique keys, never written back."""
    keeps_real: bool = False
    """The column turns every number into a floating one, so that 1 and 1.0 are the same text in a lock key."""
    collation: str = "BINARY"
    """How values of the primary key are compared."""
    type_name: str = ""
    """The declared type as SQL spells it, where casts need it."""
    base_type: str = ""
    """The type's own name in the catalogue, behind domains; decides how values are spelled."""
    always_identity: bool = False
    """GENERATED ALWAYS AS IDENTITY: to be given a value by an INSERT that says so only."""
    modifier: int | None = None
    """Length or scale, as the catalogue has it: columns alike in type, modifier and collation spell equal values alike.

    None: they may not (types are not fixed, or the dialect does not say).
    """


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique constraint or index beside the primary key; `collations` go with `columns`."""

    name: str
    columns: tuple[str, ...]
    collations: tuple[str, ...]
    partial: bool = False
    nulls_equal: bool = False
    """NULLS NOT DISTINCT: a row with a NULL in the key takes it, too."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`child(child_columns)` refers to `parent(parent_columns)`; empty `parent_columns` mean its primary key."""

    child: str
    parent: str
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    on_update: str
    on_delete: str
    child_source: str = ""
    """What SQL calls the child."""

    @property
    def deletes_on(self) -> bool:
        """Whether deleting a parent changes children."""
        return self.on_delete in ("CASCADE", "SET NULL", "SET DEFAULT")

    @property
    def updates_on(self) -> bool:
        """Whether changing a parent's referred columns changes children."""
        return self.on_update in ("CASCADE", "SET NULL", "SET DEFAULT")


@dataclass(frozen=True)
class Table:
    """A table that AT can write to.

    `name` is what lock keys and undo rows call it, in the catalogue's spelling; `source` is what SQL calls it, whatever
    else has that name.
    """

    name: str
    columns: tuple[Column, ...]
    unique_keys: tuple[UniqueKey, ...] = ()
    parents: tuple[ForeignKey, ...] = ()
    """Foreign keys of this table."""
    children: tuple[ForeignKey, ...] = ()
    """Foreign keys of other tables (and of this one) that refer to it."""
    source: str = ""
    traits: frozenset[str] = frozenset()
    """What a dialect notes for itself, by names of its own."""
    spelling: str = ""
    """What undo rows call it for Java, which makes SQL of that (empty: `name`)."""

    @cached_property
    def key(self) -> tuple[str, ...]:
        """Names of the primary key's columns, in the key's order."""
        in_key = sorted((column.key_position, column.name) for column in self.columns if column.key_position)
        return tuple(name for _, name in in_key)

    @cached_property
    def key_places(self) -> tuple[int, ...]:
        """Where the key's columns are in a full row."""
        return tuple(self.place(name) for name in self.key)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {column.name.lower(): place for place, column in enumerate(self.columns)}

    def place(self, name: str) -> int:
        """Where the column `name` (any case) is in a full row. Raises KeyError."""
        return self._places[name.lower()]

    def has(self, name: str) -> bool:
        """Whether there is a column `name` (any case)."""
        return name.lower() in self._places

    def column(self, name: str) -> Column:
        """The column `name` (any case). Raises KeyError."""
        return self.columns[self.place(name)]

    def key_of(self, row: tuple[object, ...]) -> tuple[object, ...]:
        """The primary key in a full row."""
        return tuple([row[place] for place in self.key_places])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A table that AT does not write to: why, and what to do about it."""

    reason: str
    hint: str
