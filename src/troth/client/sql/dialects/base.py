"""The seam between AT and one kind of database."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from troth.client.flow import Flow
from troth.client.sql.statement import Statement
from troth.client.sql.tables import Refusal, Table


class Fault(Enum):
    """What kind of error a database gave, as far as AT decides by it."""

    BUSY = auto()
    """Somebody else holds a lock; later it may go."""
    CONSTRAINT = auto()
    """A unique key, foreign key or check forbids it; it will not go by itself."""
    OTHER = auto()


class Dialect(Protocol):
    """What AT must be told about a database. Methods that read the catalogue are flows."""

    @property
    def begin(self) -> str:
        """Opens a local transaction in which nobody else can write the rows that an image shows."""
        ...

    @property
    def insert_undo(self) -> str:
        """INSERT of an undo row: branch_id, xid, context, rollback_info, log_status; the database's clock dates it."""
        ...

    @property
    def select_undo(self) -> str:
        """SELECT context, rollback_info, log_status of one (xid, branch_id), locked."""
        ...

    @property
    def delete_old_undo(self) -> str:
        """DELETE of undo rows that are older than a number of days."""
        ...

    def delete_undo(self, count: int) -> str:
        """DELETE of `count` undo rows, by pairs (xid, branch_id)."""
        ...

    def parse(self, sql: str) -> Statement:
        """What `sql` is; never raises."""
        ...

    def quote(self, name: str) -> str:
        """`name` as a quoted identifier."""
        ...

    def source(self, table: str) -> str:
        """The catalogue's `table` as SQL names it, whatever else has that name."""
        ...

    def catalogue_version(self) -> Flow[object]:
        """Something that changes when a table's definition changes."""
        ...

    def foreign_keys_enforced(self) -> Flow[bool]:
        """Whether this connection checks foreign keys."""
        ...

    def enforce_foreign_keys(self, on: bool) -> Flow[None]:
        """Check foreign keys on this connection from now on, or no more; outside of a local transaction."""
        ...

    def check_undo_table(self) -> Flow[list[str]]:
        """What is wrong with the undo table, in sentences; empty if nothing is."""
        ...

    def defer_foreign_keys(self) -> Flow[None]:
        """Check foreign keys at COMMIT, not at each statement, for the rest of this local transaction."""
        ...

    def broken_foreign_keys(self, table: str) -> Flow[str | None]:
        """Say which row of `table` (or of one that refers to it) has a foreign key without its parent, if any."""
        ...

    def read_table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        """The definition of the table that the user calls `schema.name`, or why AT does not write to it."""
        ...

    def fault(self, error: BaseException) -> Fault:
        """What kind of error the driver raised."""
        ...
