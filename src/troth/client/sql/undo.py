"""The undo log of one branch, as Seata's classes have it (PROTOCOL §10), and how a row is judged before its undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from troth.client.sql.values import JavaValue

NORMAL = 0
"""`log_status` of an undo row that a branch wrote."""
GUARD = 1
"""`log_status` of the row that a rollback without an undo row leaves, so that a late phase one fails."""
GUARD_INFO = b"{}"


class SqlType(StrEnum):
    """What a statement did. Others of Seata's names are kept as they are, but can not be undone here."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class KeyType(StrEnum):
    """Whether a field belongs to the primary key."""

    NULL = "NULL"
    PRIMARY_KEY = "PRIMARY_KEY"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of one row. `type` is a number of `java.sql.Types`.

    `text` is ours, and Java reads past it: the value as the database spells it, where Java's form does not hold all of
    it (a `timestamp` in Java depends on the time zone of the JVM).
    """

    name: str
    key_type: str
    type: int
    value: JavaValue
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an image."""

    fields: tuple[Field, ...]

    @property
    def key(self) -> tuple[Field, ...]:
        """The fields of the primary key, in their order."""
        return tuple(field for field in self.fields if field.key_type == KeyType.PRIMARY_KEY)

    @property
    def values(self) -> dict[str, JavaValue]:
        """Value of every column, by name."""
        return {field.name: field.value for field in self.fields}


@dataclass(frozen=True, slots=True)
class TableRecords:
    """An image: rows of one table. `empty` marks Seata's `EmptyTableRecords`."""

    table_name: str | None
    rows: tuple[Row, ...]
    empty: bool = False


@dataclass(frozen=True, slots=True)
class SqlUndoLog:
    """What one statement changed. Rows are in the order in which the statement touched them.

    `table_name` is the table as SQL spells it (Java: as the statement did); its images have the catalogue's name.
    """

    sql_type: str
    table_name: str
    before: TableRecords
    after: TableRecords

    @property
    def table(self) -> str:
        """The catalogue's name of the table, as lock keys have it."""
        return self.before.table_name or self.after.table_name or self.table_name


@dataclass(frozen=True, slots=True)
class BranchUndoLog:
    """What one branch changed, in the order of its statements. `package` is that of the Java classes."""

    xid: str
    branch_id: int
    sql_undo_logs: tuple[SqlUndoLog, ...]
    package: str = "org.apache.seata"


def nothing(table_name: str) -> TableRecords:
    """The image on the side where a row does not exist."""
    return TableRecords(table_name, (), empty=True)


class Verdict(Enum):
    """What a row looks like when its branch is to be undone."""

    AS_LEFT = "equal to the after image: undo it"
    DONE = "equal to the before image already: nothing to do"
    DIRTY = "changed by somebody else: freeze"


State = Mapping[str, object]
"""A row: its columns by name, values as the dialect compares them (`Dialect.sql_value`)."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """What one statement did to one row; None is absence. `change.key` names the row."""

    table_name: str
    key: tuple[tuple[str, object], ...]
    before: State | None
    after: State | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the images hold."""
        return tuple(self.before if self.before is not None else self.after or ())

    def judge(self, now: State | None) -> Verdict:
        """Compare the row as it is `now`, column by column, values with their types (1 is not 1.0)."""
        if same(now, self.before):
            return Verdict.DONE
        return Verdict.AS_LEFT if same(now, self.after) else Verdict.DIRTY

    def describe(self, now: State | None) -> str:
        """Say for people which columns differ: before / after / now."""
        where = ", ".join(f"{name}={value!r}" for name, value in self.key)
        differing = [name for name in self.columns if not _same_value(_of(now, name), _of(self.after, name))]
        columns = "; ".join(
            f"{name}: before {_of(self.before, name)!r}, after {_of(self.after, name)!r}, now {_of(now, name)!r}"
            for name in differing or self.columns
        )
        return f"row {self.table_name}({where}) was changed by somebody else: {columns}"


class _Absent(Enum):
    ABSENT = "(no row)"

    def __repr__(self) -> str:
        return self.value


def _of(row: State | None, name: str) -> object:
    return _Absent.ABSENT if row is None else row.get(name)


def same(one: State | None, other: State | None) -> bool:
    """Whether two states of a row are equal, values with their types."""
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(_same_value(one[name], other[name]) for name in one)


def _same_value(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def changes_to_undo(log: SqlUndoLog, read: Callable[[Field], object]) -> list[RowChange]:
    """The rows that `log` changed, **last touched first**; `read` gives a field's value as the dialect compares it.

    A statement is undone in the reverse order of its rows: every state on the way back existed on the way forth, so a
    unique value is freed before it is taken again (`u = u + 1`, at.md §2).

    Raises:
        ValueError: an image without a key, or before and after images of an UPDATE that do not hold the same rows.
    """
    before = {_key_of(log, row, read): _state(row, read) for row in log.before.rows}
    after = {_key_of(log, row, read): _state(row, read) for row in log.after.rows}
    if log.sql_type == SqlType.UPDATE and before.keys() != after.keys():
        raise ValueError(f"the images of an UPDATE of {log.table_name} do not hold the same rows")
    keys = list(after) if log.sql_type != SqlType.DELETE else list(before)
    return [RowChange(log.table, key, before.get(key), after.get(key)) for key in reversed(keys)]


def _state(row: Row, read: Callable[[Field], object]) -> State:
    return {field.name: read(field) for field in row.fields}


def _key_of(log: SqlUndoLog, row: Row, read: Callable[[Field], object]) -> tuple[tuple[str, object], ...]:
    key = tuple((field.name, read(field)) for field in row.key)
    if not key:
        raise ValueError(f"an image of {log.table_name} has a row without a primary key")
    return key
