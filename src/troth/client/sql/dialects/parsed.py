"""Statements that a connection has parsed before, in bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from troth.client.sql.statement import Statement

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
