"""The seam between AT and one kind of database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from troth.client.flow import Flow, Parameters
from troth.client.sql.image import FullRow, Images, Key, Outcome
from troth.client.sql.statement import Statement
from troth.client.sql.tables import Column, Refusal, Table
from troth.client.sql.undo import Field, RowChange, State

if TYPE_CHECKING:
    from troth.client.sql.dialects.base_additive import HotRows
    from troth.client.sql.dialects.base_guard import Guards


class Fault(Enum):
    """What kind of error a database gave, as far as AT decides by it."""

    BUSY = auto()
    """Somebody else holds a lock; later it may go."""
    CONSTRAINT = auto()
    """A unique key, foreign key or check forbids it; it will not go by itself."""
    LOST = auto()
    """The connection is gone; whether what it was doing has happened is not known."""
    OTHER = auto()


class Dialect(Protocol):
    """What AT must be told about a database. One object per connection; methods that ask the database are flows.

    SQL that AT makes itself is always run with parameters, so a dialect whose driver takes `%s` doubles each `%` in
    names (`quote`).
    """

    # --- the local transaction ---

    @property
    def begin(self) -> str:
        """Opens a local transaction. (An executor whose driver opens one by itself passes over it.)"""
        ...

    @property
    def errors_abort(self) -> bool:
        """Whether after any error the database refuses everything but ROLLBACK (and ROLLBACK TO), as PostgreSQL."""
        ...

    @property
    def other_mode(self) -> str:
        """Where what AT refuses may run instead, for hints; empty: nowhere."""
        ...

    def untouched(self) -> Flow[bool]:
        """Whether the open local transaction, begun before AT knew of it, has changed nothing so far."""
        ...

    def fault(self, error: BaseException) -> Fault:
        """What kind of error the driver raised."""
        ...

    # --- the undo table ---

    @property
    def insert_undo(self) -> str:
        """INSERT of an undo row: branch_id, xid, context, rollback_info, log_status; the database's clock dates it."""
        ...

    @property
    def insert_guard(self) -> str:
        """`insert_undo` that does nothing (0 rows) where the row is there already, waiting for who is writing it."""
        ...

    @property
    def select_undo(self) -> str:
        """SELECT context, rollback_info, log_status of one (xid, branch_id), locked."""
        ...

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        ...

    def delete_old_undo(self, save_days: int) -> tuple[str, Parameters]:
        """DELETE of undo rows that are older than `save_days` days, and its parameters."""
        ...

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with the undo table, in sentences; empty if nothing is."""
        ...

    @property
    def hot_rows(self) -> HotRows:
        """The table of open increments, and what else additive statements need (at.md §6)."""
        ...

    # --- guards ---

    @property
    def guards(self) -> Guards:
        """Triggers that record what is written past AT."""
        ...

    def mark_writes(self, *, on: bool) -> Flow[None]:
        """Tell the triggers of a guard that what this connection writes now is AT's own; inside a local transaction."""
        ...

    # --- statements and tables ---

    def parse(self, sql: str, *, parameterised: bool = True) -> Statement:
        """What `sql` is; never raises. Not `parameterised`: run without parameters, so that `%` is only a sign.

        Everything that AT makes out of the statement later is text to be run *with* parameters.
        """
        ...

    def quote(self, name: str) -> str:
        """`name` as a quoted identifier."""
        ...

    def open_catalogue(self) -> Flow[list[str]]:
        """Called at the first write of each local transaction: forget what may have changed in the schema.

        What is wrong with the database (its undo table, the connection's settings), in sentences.
        """
        ...

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of the table that the user calls `schema.name`, or why AT does not write to it.

        Asked once per local transaction (and again after a ROLLBACK TO); it must hold until that ends. The dialect
        remembers it longer if it can tell that it still holds.
        """
        ...

    def undone_table(self, name: str) -> Flow[Table | Refusal]:
        """The table that undo rows call `name` (`Table.name`)."""
        ...

    # --- images ---

    def images(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
        """Run the user's INSERT, UPDATE or DELETE, with the images of the rows that it touches (at.md §1).

        Raises:
            ImageMoved: images and effect do not fit, since somebody else wrote between; go back and try again.
            NotSupported: it cannot be undone exactly.
            ValueNotSupported: a value that no undo log holds.
        """
        ...

    def read_locked(
        self, statement: Statement, table: Table, parameters: Parameters
    ) -> Flow[tuple[Sequence[Key], Outcome]]:
        """Run the user's SELECT … FOR UPDATE (`Verb.LOCKING_READ`), with the primary keys of its rows."""
        ...

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """A value of an image as a field of an undo log. Raises ValueNotSupported."""
        ...

    def sql_value(self, column: Column, field: Field) -> object:
        """A field of an undo log as `select_list` shows values and `mark` takes them. Raises ValueNotSupported."""
        ...

    def lock_part(self, column: Column, collation: str, value: object) -> str:
        """A key's value in a lock key: Java's `String.valueOf`, and one text for what the database calls one key."""
        ...

    def select_list(self, table: Table, names: Sequence[str]) -> str:
        """The expressions that show the columns `names` of `table` as images hold them."""
        ...

    def mark(self, column: Column) -> str:
        """The placeholder for a value of `column`, as images hold it."""
        ...

    # --- undo ---

    def row_states(self, table: Table, change: RowChange) -> Flow[tuple[State | None, RowChange]]:
        """The row of `change` as it is now, locked (None: there is none), and `change` in the same spelling."""
        ...

    def overriding(self, table: Table) -> str:
        """What stands between the columns and VALUES of an INSERT that gives values to every column."""
        ...

    def undo_context(self, *, foreign_keys: bool) -> Mapping[str, str]:
        """What the `context` of an undo row says beside serializer and compressor."""
        ...

    # --- foreign keys ---

    def foreign_keys_enforced(self) -> Flow[bool]:
        """Whether this connection checks foreign keys."""
        ...

    def foreign_keys_of(self, context: Mapping[str, str]) -> bool:
        """Whether the connection that wrote an undo row with this `context` checked foreign keys."""
        ...

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """Check foreign keys on this connection from now on, or no more; outside of a local transaction."""
        ...

    def defer_constraints(self) -> Flow[None]:
        """Check what can be deferred at COMMIT, not at each statement, for the rest of this local transaction."""
        ...

    def broken_foreign_keys(self, table: Table) -> Flow[str | None]:
        """Say which row of `table` (or of one that refers to it) has a foreign key without its parent, if any.

        Where the database says that itself, None: deferred constraints are checked now (an error of the driver).
        """
        ...


class Expectation(Protocol):
    """A dialect that works with the definition of a table as it was last time, and asks on the way if it still holds.

    Saves the trip to the catalogue. What was done by a definition that did not hold is undone by a savepoint.
    """

    def expected_table(self, schema: str | None, name: str) -> Flow[Table | None]:
        """The definition that the table had last time (None: never seen); postpones the question whether it holds."""
        ...

    def as_expected(self) -> bool | None:
        """Whether what the last `expected_table` gave does hold. None: the database has not said."""
        ...


def match(dialect: Dialect, table: Table, names: Sequence[str]) -> str:
    """The WHERE condition that the columns `names` have given values: one parameter each, in order."""
    return " AND ".join(f"{dialect.quote(name)} = {dialect.mark(table.column(name))}" for name in names)


def select_matching(dialect: Dialect, table: Table, shown: Sequence[str], names: Sequence[str]) -> str:
    """SELECT of the columns `shown` of the rows whose columns `names` have given values."""
    where = match(dialect, table, names)
    return f"SELECT {dialect.select_list(table, shown)} FROM {table.source} WHERE {where}"


__all__ = ["Dialect", "Expectation", "Fault", "FullRow", "match", "select_matching"]
