"""Statements that a connection has parsed before, and what it has made of them, in bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence

from troth.client.flow import Parameters
from troth.client.sql.statement import Fragment, ParameterCountError, Statement, compose
from troth.client.sql.tables import Table

_STATEMENTS = 512
_LONGEST_KEPT = 20_000


class Parsed:
    """The last 512 statements, none of them very long."""

    def __init__(self) -> None:
        self._parsed: OrderedDict[object, Statement] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parsed)

    def get(self, sql: str, parse: Callable[[str], Statement], variant: Hashable = None) -> Statement:
        """What `parse(sql)` gives, or gave. `variant` tells apart different ways to parse one text."""
        place = (sql, variant)
        known = self._parsed.get(place)
        if known is not None:
            self._parsed.move_to_end(place)
            return known
        statement = parse(sql)
        if len(sql) <= _LONGEST_KEPT:
            self._parsed[place] = statement
            if len(self._parsed) > _STATEMENTS:
                self._parsed.popitem(last=False)
        return statement


Pieces = Callable[[Statement, Table], Sequence[str | Fragment]]
"""What a statement becomes on a table, for `compose`."""


class Composed:
    """SQL that was made of a statement and a table, with the places of its parameters.

    Both are known by identity: `Parsed` gives one statement for a text, and a dialect one table as long as its
    definition holds.
    """

    def __init__(self, mark: Callable[[int], str]) -> None:
        self._mark = mark
        self._made: dict[tuple[int, int, Pieces], tuple[Statement, Table, str, tuple[int, ...], str]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def text(self, statement: Statement, table: Table, pieces: Pieces, given: Parameters) -> tuple[str, Parameters]:
        """As `compose(given, mark, *pieces(statement, table))`. Raises ParameterCountError."""
        place = (id(statement), id(table), pieces)
        known = self._made.get(place)
        if known is None:
            known = self._make(statement, table, pieces)
            if len(self._made) >= _STATEMENTS:
                self._made.clear()
            if len(statement.sql) <= _LONGEST_KEPT:
                self._made[place] = known  # with both of them, so that nothing else gets their ids
        _, _, sql, places, named = known
        if isinstance(given, Mapping):
            return named, given
        try:
            return sql, [given[place] for place in places]
        except IndexError as error:
            raise ParameterCountError from error

    def _make(
        self, statement: Statement, table: Table, pieces: Pieces
    ) -> tuple[Statement, Table, str, tuple[int, ...], str]:
        parts = pieces(statement, table)
        named, _ = compose({}, self._mark, *parts)
        places = tuple(place for part in parts if isinstance(part, Fragment) for place in part.places)
        sql, _ = compose(range(max(places, default=-1) + 1), self._mark, *parts)
        return statement, table, sql, places, named
