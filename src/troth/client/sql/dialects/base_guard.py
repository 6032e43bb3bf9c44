"""Guards: triggers that record what is written to a table past AT, while it happens (docs/operations/dirty-writes.md).

AT refuses tables with triggers, except for these. Whose write it is tells a mark that AT sets around its own ones
(`Dialect.mark_writes`), and where the database can wait with the question until COMMIT, also the undo row: every AT
branch writes or deletes one in its local transaction, Java's too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Final, Protocol, TypeVar

from troth.client.flow import Flow
from troth.client.sql.dialects.base import Dialect
from troth.client.sql.tables import GUARDED, Table

R = TypeVar("R")

GUARD: Final = "troth_guard"
"""Name of the table of records; all names of guards begin so."""
LONGEST_KEY: Final = 1000
"""Characters of a key that a record keeps."""


@dataclass(frozen=True, slots=True)
class ForeignWrite:
    """One row that was written past AT.

    `noticed_at` is the database's clock, as ISO 8601 in UTC. `row` names the row as lock keys do (`table:key`), by the
    key it had before. `by` is the database user, `origin` what else is known of the connection.
    """

    noticed_at: str
    operation: str
    row: str
    by: str
    origin: str


class Guards(Protocol):
    """How one kind of database guards a table. All statements are run without parameters."""

    names_users: bool
    """Whether writers have names that can be trusted."""

    def create(self, table: Table, trusted: Sequence[str]) -> tuple[str, ...]:
        """The statements that guard `table`, whatever guarded it before; writes of the users `trusted` pass."""
        ...

    def drop(self, name: str) -> tuple[str, ...]:
        """The statements that end the guard of the table that lock keys call `name`. Records stay."""
        ...

    def drop_rest(self) -> tuple[str, ...]:
        """The statements for when no table is guarded any more. Records stay."""
        ...

    @property
    def guarded(self) -> str:
        """SELECT of the names of the tables that are guarded."""
        ...

    @property
    def is_there(self) -> str:
        """SELECT that gives a row if there are records."""
        ...

    def records(self, limit: int) -> str:
        """SELECT of the newest `limit` records as `ForeignWrite` has them, newest first."""
        ...


def trigger_name(operation: str, table: str) -> str:
    """A name that fits and is the table's own, for databases where triggers share one space of names."""
    return f"{GUARD}_{operation.lower()}_{blake2s(table.encode(), digest_size=6).hexdigest()}"


def text(value: str) -> str:
    """`value` as a string of SQL, where a backslash is only a sign."""
    return "'" + value.replace("'", "''") + "'"


def marked(dialect: Dialect, table: Table, write: Flow[R]) -> Flow[R]:
    """Run `write`, whose changes of `table` are AT's own: a guard passes over them."""
    if GUARDED not in table.traits:
        return (yield from write)
    yield from dialect.mark_writes(on=True)
    try:
        done = yield from write
    except BaseException as error:
        try:
            yield from dialect.mark_writes(on=False)
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"The mark of AT's own writes could not be taken away: {second}.")
        raise
    yield from dialect.mark_writes(on=False)
    return done
