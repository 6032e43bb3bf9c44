"""Finding the pieces of a MySQL statement: tables, assignments, rows of values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from troth.client.sql.dialects.mysql_statement import Piece
from troth.client.sql.grammar import Parser, Refused, not_understood
from troth.client.sql.lexer import Kind

_JOIN_WORDS = frozenset({"JOIN", "STRAIGHT_JOIN"})
_NO_ALIAS = frozenset(
    {"JOIN", "STRAIGHT_JOIN", "INNER", "CROSS", "LEFT", "RIGHT", "NATURAL", "OUTER", "ON", "USING", "USE", "FORCE"}
    | {"IGNORE", "PARTITION", "FOR", "SET", "WHERE", "ORDER", "LIMIT", "RETURNING", "WITH", "TABLESAMPLE"}
)


@dataclass(frozen=True, slots=True)
class TableFactor:
    """A table in a FROM, or what an UPDATE names; `table` is empty for a subquery."""

    schema: str | None
    table: str
    alias: str
    """What its columns are qualified with."""


class Pieces(Parser):
    """The reader of statements, with what all its methods need."""

    parameterised: ClassVar[bool]

    # --- pieces of text ---

    def _piece(self, start: int, end: int) -> Piece:
        """The tokens from `start` to before `end`."""
        if start >= end:
            return Piece()
        left, right = self._tokens[start].start, self._tokens[end - 1].end
        if not self.parameterised:
            return Piece(self._sql[left:right].replace("%", "%%"))
        texts: list[str] = []
        places: list[int | str] = []
        for here in range(start, end):
            token = self._tokens[here]
            if token.kind is Kind.PARAMETER:
                texts += (self._sql[left : token.start], "%s")
                places.append(self._place(here))
                left = token.end
        return Piece("".join(texts) + self._sql[left:right], tuple(places))

    def _place(self, here: int) -> int | str:
        text = self._tokens[here].text
        if text != "%s":
            return text[2:-2]
        return sum(token.kind is Kind.PARAMETER for token in self._tokens[:here])

    def _all_places(self) -> frozenset[int | str]:
        parameters = [here for here, token in enumerate(self._tokens) if token.kind is Kind.PARAMETER]
        return frozenset(self._place(here) for here in parameters)

    # --- tables ---

    def _factors(self, start: int, end: int) -> list[TableFactor]:
        """The tables between `start` and `end`, at any depth outside of subqueries."""
        if any(token.text == ":=" for token in self._tokens):
            raise Refused("a user variable that is set in a statement is not understood.", "SET it before.")
        back, self._at = self._at, start
        factors = [self._factor(end)]
        while self._at < end:
            is_next = self._symbol() == "," or self._word() in _JOIN_WORDS
            outer = self._depths[self._at]
            self._at += 1
            if outer == 0 and is_next:
                factors.append(self._factor(end))
        self._at = back
        return factors

    def _factor(self, end: int) -> TableFactor:
        if self._symbol() == "(":
            if self._word(1) not in ("SELECT", "WITH", "VALUES", "TABLE"):
                raise Refused("joins in parentheses are not understood.", "Write them without parentheses.")
            self._skip_parentheses("subquery")
            self._take("AS")
            return TableFactor(None, "", self._identifier("alias"))
        schema, table = self._target()
        if self._take("AS"):
            return TableFactor(schema, table, self._identifier("alias"))
        if self._word() in ("PARTITION", "FOR"):
            raise not_understood(f"table with {self._word()}")
        has_alias = self._at < end and self._symbol() != "," and self._word() not in _NO_ALIAS
        return TableFactor(schema, table, self._identifier("alias") if has_alias else table)

    def _written(self, factors: list[TableFactor], qualifiers: Iterable[str]) -> dict[str, TableFactor]:
        """The tables that the statement writes to, by their aliases in lower case; `qualifiers` are what it calls them.

        Of a single one the qualifiers say nothing.
        """
        if len(factors) == 1:
            return {factors[0].alias.lower(): self._known(factors[0])}
        written: dict[str, TableFactor] = {}
        for name in qualifiers:
            if not name:
                raise Refused(
                    "over several tables it is not plain whose columns are set.", "Qualify them: SET table.column = …"
                )
            found = [factor for factor in factors if factor.alias.lower() == name.lower()]
            if len(found) != 1:
                raise not_understood("table")
            written[name.lower()] = self._known(found[0])
        return written

    def _known(self, factor: TableFactor) -> TableFactor:
        if not factor.table:
            raise not_understood("table")
        return factor

    def _delete_targets(self, end_word: str) -> list[str]:
        """The names before FROM or USING: `t`, `t.*`, `db.t`."""
        end = self._find(self._at, {end_word})
        names: list[str] = []
        while self._at < end:
            name = self._identifier("DELETE")
            while self._symbol() == ".":
                self._at += 1
                if self._symbol() == "*":
                    self._at += 1
                else:
                    name = self._identifier("DELETE")
            names.append(name)
            if self._at < end and self._symbol() != ",":
                raise not_understood("DELETE")
            self._at += self._at < end
        return names

    # --- assignments and values ---

    def _set_column(self) -> str:
        return self._qualified()[1]

    def _qualified(self) -> tuple[str, str]:
        """`column`, `table.column` or `schema.table.column`."""
        names = [self._identifier("SET clause")]
        while self._symbol() == ".":
            self._at += 1
            names.append(self._identifier("SET clause"))
        return (names[-2] if len(names) > 1 else ""), names[-1]

    def _assigned_places(self) -> list[int]:
        """Where the assignments begin that are separated by commas, from here to the end."""
        commas = [
            here + 1
            for here in range(self._at, len(self._tokens))
            if self._depths[here] == 0 and self._tokens[here].text == ","
        ]
        return [self._at, *commas]

    def _assignments(self, end: int) -> list[tuple[str, str]]:
        """(qualifier, column) of each assignment up to `end`."""
        assigned = []
        for place in self._assigned_places():
            if place < end:
                self._at = place
                assigned.append(self._qualified())
        self._at = end
        return assigned

    def _set_values(self, end: int) -> tuple[tuple[str, ...], tuple[Piece, ...]]:
        """Columns and expressions of `SET a = 1, b = 2`."""
        starts = [place for place in self._assigned_places() if place < end]
        names: list[str] = []
        values: list[Piece] = []
        for place, following in zip(starts, [*(start - 1 for start in starts[1:]), end], strict=True):
            self._at = place
            names.append(self._qualified()[1])
            values.append(self._piece(self._at + 1, following))
        self._at = end
        return tuple(names), tuple(values)

    def _rows(self, end: int) -> list[tuple[int, int]]:
        """Where the rows `(…), (…)` begin and end."""
        rows = []
        while self._at < end and self._symbol() == "(":
            start = self._at
            self._skip_parentheses("VALUES")
            rows.append((start, self._at))
            if self._symbol() != ",":
                break
            self._at += 1
        if not rows:
            raise not_understood("VALUES")
        return rows

    def _values(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where the expressions of the row between `start` and `end` are."""
        inner = range(start + 1, end - 1)
        commas = [here for here in inner if self._tokens[here].text == "," and self._depths[here] == 1]
        bounds = [start, *commas, end - 1]
        return [(left + 1, right) for left, right in pairwise(bounds) if left + 1 < right]
