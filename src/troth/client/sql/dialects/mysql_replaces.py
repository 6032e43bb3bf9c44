"""Images of MariaDB's REPLACE (at.md §1): the rows in its way are deleted by name, and then it is a plain INSERT.

Which rows are in the way is found out by trying: inside a savepoint the statement returns the rows that it makes, and
is taken back; what shares a unique key with one of those is locked and imaged. A row that comes between is a duplicate
of the INSERT, and then all is done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, postponed, query
from troth.client.sql.dialects.mysql_catalogue import AUTO_INCREMENT, traits
from troth.client.sql.dialects.mysql_images import MySqlOutcome, add_keys, by_key, full_row, shown_columns
from troth.client.sql.dialects.mysql_inserts import Inserter
from troth.client.sql.dialects.mysql_statement import Composer, MySqlStatement, Piece
from troth.client.sql.dialects.mysql_types import Family, family, key_mark, key_parameter, quote, shown
from troth.client.sql.image import FullRow, ImageMoved, Images, Key, Touched
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_TRIAL = "troth_trial"
_DUPLICATE = 1062
_VERB = len("REPLACE")


@dataclass(frozen=True, slots=True)
class Replacer:
    """Runs a REPLACE by the `inserter` of its table."""

    inserter: Inserter

    @property
    def table(self) -> Table:
        """Where it goes."""
        return self.inserter.table

    def replace(self, statement: MySqlStatement, given: Parameters) -> Flow[Images]:
        """Run it with the images of what it does. Raises NotSupported, ImageMoved."""
        if not self.inserter.session.returning:
            raise NotSupported(
                "REPLACE does not tell this server's clients which rows it has made.",
                "Use INSERT … ON DUPLICATE KEY UPDATE, or DELETE and INSERT.",
            )
        met = yield from self._in_the_way(statement, given)
        if met:
            delete = Composer(()).add(f"DELETE FROM {self.table.source} WHERE ")
            add_keys(delete, self.table, list(met))
            yield from postponed(delete.sql, delete.parameters)
        try:
            inserted = yield from self.inserter.insert(_as_insert(statement), given)
        except Exception as error:
            if error.args[:1] == (_DUPLICATE,):
                raise ImageMoved from error
            raise
        outcome = inserted.outcome
        if isinstance(outcome, MySqlOutcome):
            rows = outcome.rowcount + self._counted(met, [row for touched in inserted.touched for row in touched.after])
            outcome = MySqlOutcome(rows, outcome.columns, outcome.rows, lastrowid=outcome.lastrowid)
        gone = (Touched(SqlType.DELETE, list(met.values())),) if met else ()
        return Images((*gone, *inserted.touched), outcome)

    def _in_the_way(self, statement: MySqlStatement, given: Parameters) -> Flow[dict[Key, FullRow]]:
        """The rows that will go, locked. One row of plain values needs no trial (which would use the counter up)."""
        if statement.insertion is not None and len(statement.insertion.values) == 1:
            (values,) = self.inserter.values(statement.insertion)
            if self.inserter.are_plain(values):
                found = yield from self.inserter.met(values, given)
                return {key: row for key, row in found.items() if not self._is_zero(row)}
        made = yield from self._tried(statement, given)
        self._refuse_each_other(made)
        return (yield from self._met(made))

    def _is_zero(self, row: FullRow) -> bool:
        """Whether the row's counter is 0: a new row is never in its way by that, since for 0 it gets another number."""
        return any(row[self.table.place(name)] == 0 for name in traits(self.table, AUTO_INCREMENT))

    def _tried(self, statement: MySqlStatement, given: Parameters) -> Flow[list[FullRow]]:
        composed = Composer(given).piece(statement.head).add(f"\nRETURNING {shown_columns(self.table)}")
        yield from postponed(f"SAVEPOINT {_TRIAL}")
        tried = yield from query(composed.sql, composed.parameters)
        yield from postponed(f"ROLLBACK TO SAVEPOINT {_TRIAL}")
        return [full_row(self.table, row) for row in tried.rows]

    def _keys(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Each unique key: what the database compares (`UniqueKey.columns`), and the real columns."""
        yield self.table.key, self.table.key
        for unique in self.table.unique_keys:
            if any(name.startswith("MD5 of") and " to " in name for name in unique.columns):
                raise NotSupported(
                    f"the unique key {unique.name} of {self.table.name} holds the beginning of a column only.",
                    "DELETE the row that is in the way, and INSERT.",
                )
            yield unique.columns, unique.collations

    def _refuse_each_other(self, made: Sequence[FullRow]) -> None:
        for compared, _ in self._keys():
            places = [self.table.place(name) for name in compared]
            values = [key for row in made if None not in (key := tuple(row[place] for place in places))]
            if len(set(values)) < len(values):
                raise NotSupported(
                    f"rows of this REPLACE into {self.table.name} replace each other.", "Leave the first one out."
                )

    def _met(self, made: Sequence[FullRow]) -> Flow[dict[Key, FullRow]]:
        """The rows that are in the way, locked."""
        select = Composer(()).add(f"SELECT {shown_columns(self.table)} FROM {self.table.source} WHERE FALSE")
        for _, names in self._keys():
            columns = [self.table.column(name) for name in names]
            where = " AND ".join(
                f"{shown(column) if family(column) is Family.FLOAT else quote(column.name)} = {key_mark(column)}"
                for column in columns
            )
            for row in made:
                values = [row[self.table.place(name)] for name in names]
                if None not in values:
                    wanted = [key_parameter(*pair) for pair in zip(columns, values, strict=True)]
                    select.add(f" OR ({where})", wanted)
        return by_key(self.table, (yield from query(select.add(" FOR UPDATE").sql, select.parameters)))

    def _counted(self, met: dict[Key, FullRow], made: Sequence[FullRow]) -> int:
        """The server counts a row that went; not one that its only key found, and that came back the same."""
        if any(unique.name != "PRIMARY" for unique in self.table.unique_keys) or self.table.children:
            return len(met)
        return sum(row not in made for row in met.values())


def _as_insert(statement: MySqlStatement) -> MySqlStatement:
    """The same rows, inserted."""
    return replace(statement, head=Piece(f"INSERT{statement.head.text[_VERB:]}", statement.head.places))
