"""Images of MySQL's INSERT (at.md §1).

MariaDB returns the rows that it has inserted. MySQL does not: they are looked up by their keys, as the statement or the
server's counter gives them. ON DUPLICATE KEY UPDATE runs row by row: what each of the table's unique keys could meet is
locked and imaged first, and the number of affected rows must fit what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, postponed, query, user_query
from troth.client.sql.dialects.mysql_catalogue import AUTO_INCREMENT, HAS_DEFAULT, Session, traits
from troth.client.sql.dialects.mysql_images import (
    MySqlOutcome,
    by_key,
    check_given,
    full_row,
    outcome_of,
    shown_columns,
    user_rows,
)
from troth.client.sql.dialects.mysql_statement import Composer, Insertion, MySqlStatement, Piece, Source
from troth.client.sql.dialects.mysql_types import Family, family, quote
from troth.client.sql.image import FullRow, ImageMoved, Images, Key, Touched
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_PLAIN = re.compile(
    r"%s|NULL|TRUE|FALSE|DEFAULT|[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[xn]?'(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\"",
    re.IGNORECASE | re.DOTALL,
)
_GENERATES = ("NULL", "DEFAULT")
_INSERTED, _UPDATED = 1, 2
"""What the server counts for one row of ON DUPLICATE KEY UPDATE; 0 where the row has the values already."""


@dataclass(frozen=True, slots=True)
class Inserter:
    """Runs an INSERT into `table`. `counts_found`: the driver has asked for found rows instead of changed ones."""

    table: Table
    session: Session
    counts_found: bool

    def insert(self, statement: MySqlStatement, given: Parameters) -> Flow[Images]:
        """Run it with the images of what it does. Raises NotSupported, ImageMoved."""
        insertion = _insertion(statement)
        yield from check_given(statement, given)
        if insertion.upsert_columns:
            return (yield from self._upsert(statement, insertion, given))
        if self.session.returning:
            return (yield from self._returning(statement, insertion, given))
        return (yield from self._looked_up(statement, insertion, given))

    # --- MariaDB ---

    def _returning(self, statement: MySqlStatement, insertion: Insertion, given: Parameters) -> Flow[Images]:
        composed = Composer(given).piece(statement.head).add("\nRETURNING ")
        if statement.returns:
            composed.piece(statement.output).add(", ")
        composed.add(shown_columns(self.table))
        done, told = yield from self._run(insertion, composed)
        width = len(done.columns) - len(self.table.columns)
        after = [full_row(self.table, row[width:]) for row in done.rows]
        lastrowid = self._last_row_id(after, told)
        outcome = MySqlOutcome(len(after), lastrowid=lastrowid)
        if statement.returns:
            rows = [row[:width] for row in user_rows(done)]
            outcome = MySqlOutcome(len(after), done.columns[:width], rows)  # PyMySQL tells no lastrowid beside rows
        return Images((Touched(SqlType.INSERT, (), after),), outcome)

    def _run(self, insertion: Insertion, composed: Composer) -> Flow[tuple[Rows, object]]:
        """The result, and what LAST_INSERT_ID() says behind it, where it is not the first row's value of the counter.

        (None: it is, or the table has no counter.)
        """
        counters = traits(self.table, AUTO_INCREMENT)
        if not counters or (insertion.columns is not None and not counters & set(_lower(insertion.columns))):
            return (yield from user_query(composed.sql, composed.parameters)), None
        later = yield from postponed(composed.sql, composed.parameters, as_user=True)
        told = yield from query("SELECT LAST_INSERT_ID()")
        return later.answer, told.rows[0][0]

    def _last_row_id(self, after: list[FullRow], told: object) -> int:
        """What the server would have told of a plain INSERT: the first value that its counter gave, else the last."""
        counters = traits(self.table, AUTO_INCREMENT)
        if not counters or not after:
            return 0
        (counter,) = counters
        values = [row[self.table.place(counter)] for row in after]
        if told is None:
            return _integer(values[0])
        return _integer(told if told in values else values[-1])

    # --- MySQL ---

    def _looked_up(self, statement: MySqlStatement, insertion: Insertion, given: Parameters) -> Flow[Images]:
        if insertion.source is Source.QUERY:
            raise NotSupported(
                "INSERT … SELECT does not tell this server's clients which rows it has inserted.",
                "SELECT the rows first, and insert them by executemany().",
            )
        if insertion.ignores and len(insertion.values) > 1:
            raise NotSupported("INSERT IGNORE of several rows does not tell which.", "Insert them by executemany().")
        self._check_counted(insertion, given)
        done = yield from user_query(*_composed(Composer(given).piece(statement.head)))
        if not done.rowcount:
            return Images((), outcome_of(statement, done))
        select = Composer(given).add(f"SELECT {shown_columns(self.table)} FROM {self.table.source} WHERE ")
        for number, values in enumerate(self.values(insertion)):
            select.add(" OR " if number else "")
            counted = _integer(done.lastrowid) + number * int(self.session.variables["auto_increment_increment"])
            self._key_condition(select, values, given, counted)
        after = by_key(self.table, (yield from query(select.add(" FOR UPDATE").sql, select.parameters)))
        if len(after) != done.rowcount:
            raise NotSupported(
                f"the rows inserted into {self.table.name} cannot be found by their primary key.",
                "Give it as a literal or a parameter, in the column's type.",
            )
        return Images((Touched(SqlType.INSERT, (), list(after.values())),), outcome_of(statement, done))

    def _check_counted(self, insertion: Insertion, given: Parameters) -> None:
        """The server tells the first value of its counter only, so all rows have to get theirs from it, or none."""
        for name in traits(self.table, AUTO_INCREMENT):
            pieces = [values.get(name) for values in self.values(insertion)]
            counted = [piece is None or _is_generated(piece, given) for piece in pieces]
            if any(counted) and not all(counted):
                raise NotSupported(
                    f"some rows give {name} and some leave it to the server, which does not tell what it took.",
                    "Insert them by two statements.",
                )

    def _key_condition(self, select: Composer, values: Mapping[str, Piece], given: Parameters, counted: int) -> None:
        counters = traits(self.table, AUTO_INCREMENT)
        select.add("(")
        for number, name in enumerate(self.table.key):
            select.add(f"{' AND ' if number else ''}{quote(name)} = ")
            piece = values.get(name.lower())
            if name.lower() in counters and (piece is None or _is_generated(piece, given)):
                select.add("%s", (counted,))
            else:
                self._add_value(select, name, piece)
        select.add(")")

    # --- ON DUPLICATE KEY UPDATE ---

    def _upsert(self, statement: MySqlStatement, insertion: Insertion, given: Parameters) -> Flow[Images]:
        self._check_upsert(statement, insertion)
        touched: list[Touched] = []
        rowcount, generated, updated = 0, 0, 0
        for number, values in enumerate(self.values(insertion)):
            composed = Composer(given)
            if insertion.rows:
                composed.piece(insertion.head).add(" ").piece(insertion.rows[number]).add(" ").piece(insertion.tail)
            else:
                composed.piece(insertion.head)
            done, row_touched = yield from self._upsert_row(composed, values, given)
            rowcount += done.rowcount
            if done.rowcount == _INSERTED:
                generated = generated or _integer(done.lastrowid)
            else:
                updated = _integer(done.lastrowid) or updated
            touched += row_touched
        return Images(tuple(touched), MySqlOutcome(rowcount, lastrowid=generated or updated))

    def _check_upsert(self, statement: MySqlStatement, insertion: Insertion) -> None:
        if insertion.source is Source.QUERY or insertion.ignores or statement.returns:
            raise NotSupported(
                "ON DUPLICATE KEY UPDATE with SELECT, IGNORE or RETURNING is not understood.",
                "Give the rows by VALUES, or by executemany().",
            )
        if self.counts_found and not self.session.locks_gaps:
            raise NotSupported(
                "below REPEATABLE READ, and where the driver counts found rows (as SQLAlchemy wants it), ON DUPLICATE "
                "KEY UPDATE does not tell whether it has inserted.",
                "Use REPEATABLE READ, or INSERT IGNORE and then UPDATE.",
            )

    def _upsert_row(
        self, composed: Composer, values: Mapping[str, Piece], given: Parameters
    ) -> Flow[tuple[Rows, list[Touched]]]:
        before = yield from self.met(values, given)
        done = yield from user_query(composed.sql, composed.parameters)
        after = yield from self.met(values, given, _integer(done.lastrowid) if done.rowcount == _INSERTED else 0)
        if before.keys() - after.keys():
            raise NotSupported(
                f"ON DUPLICATE KEY UPDATE has changed a unique key of {self.table.name}.", "UPDATE the row by its key."
            )
        new = [row for key, row in after.items() if key not in before]
        changed = [key for key, row in before.items() if after[key] != row]
        if not self._fits(done.rowcount, len(new), len(changed)):
            raise ImageMoved
        touched = [Touched(SqlType.INSERT, (), new)] if new else []
        if before:
            touched.append(Touched(SqlType.UPDATE, list(before.values()), [after[key] for key in before]))
        return done, touched

    def _fits(self, counted: int, new: int, changed: int) -> bool:
        if counted == _INSERTED and self.counts_found and new == 0:
            return changed == 0
        return (new, changed) == {0: (0, 0), _INSERTED: (1, 0), _UPDATED: (0, 1)}.get(counted, (-1, -1))

    def met(self, values: Mapping[str, Piece], given: Parameters, counted: int = 0) -> Flow[dict[Key, FullRow]]:
        """The rows that share a unique key with the row to insert, or have the key that the counter gave it; locked."""
        select = Composer(given).add(f"SELECT {shown_columns(self.table)} FROM {self.table.source} WHERE FALSE")
        counters = traits(self.table, AUTO_INCREMENT)
        for names in self._unique_keys():
            absent = {name for name in names if name.lower() not in values}
            if any(name.lower() in counters for name in absent):
                continue  # a value of the counter is a new one
            select.add(" OR (")
            for number, name in enumerate(names):
                select.add(f"{' AND ' if number else ''}{quote(name)} = ")
                self._add_value(select, name, values.get(name.lower()))
            select.add(")")
        if counted and counters:
            (counter,) = counters
            select.add(f" OR {quote(counter)} = %s", (counted,))
        return by_key(self.table, (yield from query(select.add(" FOR UPDATE").sql, select.parameters)))

    def _unique_keys(self) -> Iterator[tuple[str, ...]]:
        """The columns of each unique key."""
        yield self.table.key
        for key in self.table.unique_keys:
            if any(name.startswith("MD5 of") and " to " in name for name in key.columns):
                raise NotSupported(
                    f"the unique key {key.name} of {self.table.name} holds the beginning of a column only.",
                    "Use INSERT IGNORE and then UPDATE.",
                )
            if key.name != "PRIMARY":
                yield key.collations

    # --- values ---

    def values(self, insertion: Insertion) -> Iterator[Mapping[str, Piece]]:
        """The expressions of each row, by column in lower case."""
        columns = insertion.columns
        if columns is None:
            columns = tuple(column.name for column in self.table.columns if column.base_type != "hash")
        for row in insertion.values:
            if len(row) not in (0, len(columns)):
                raise NotSupported("a row has not as many values as there are columns.")
            yield dict(zip(_lower(columns), row, strict=False))

    def are_plain(self, values: Mapping[str, Piece]) -> bool:
        """Whether all values that decide which row is meant can be looked for (`met`)."""
        names = {name.lower() for unique in self._unique_keys() for name in unique}
        known = values.keys() | traits(self.table, HAS_DEFAULT) | traits(self.table, AUTO_INCREMENT)
        return names <= known and all(
            _PLAIN.fullmatch(piece.text.strip()) for name, piece in values.items() if name in names
        )

    def _add_value(self, select: Composer, name: str, piece: Piece | None) -> None:
        """The value that `piece` gives to the column `name`, to be compared with it."""
        text = "DEFAULT" if piece is None else piece.text.strip()
        if text.upper() == "DEFAULT":
            if name.lower() not in traits(self.table, HAS_DEFAULT):
                raise NotSupported(f"{name} has no default.", "Give it a value.")
            select.add(f"DEFAULT({quote(name)})")
        elif piece is None or not _PLAIN.fullmatch(text):
            raise NotSupported(
                f"the value of {name} decides which row is meant, and {text!r} is not plain.",
                "Compute it first, and give it as a parameter.",
            )
        elif family(self.table.column(name)) is Family.BIT:
            # What is stored as bits, a comparison would take for a text of digits.
            select.add("CAST(CONV(HEX(").piece(piece).add("), 16, 10) AS UNSIGNED)")
        else:
            select.add("(").piece(piece).add(")")


def _insertion(statement: MySqlStatement) -> Insertion:
    if statement.insertion is None:
        raise NotSupported("this INSERT is not understood.")
    return statement.insertion


def _composed(composer: Composer) -> tuple[str, Sequence[object]]:
    return composer.sql, composer.parameters


def _is_generated(piece: Piece, given: Parameters) -> bool:
    """Whether the server's counter gives the value."""
    if piece.text.strip().upper() in _GENERATES:
        return True
    return piece.text.strip() == "%s" and Composer(given).piece(piece).parameters[0] is None


def _lower(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
