"""SQLite's plain SELECTs as checked ones: it has no FOR UPDATE, but BEGIN IMMEDIATE holds off every other writer.

The user's SELECT runs as it is, and then one that gives the keys of the rows that it has looked at. Where rows are
folded into one (aggregates, DISTINCT …) or the text might do so, LIMIT is left out there: more
rows are checked, not fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from troth.client.flow import Flow, Parameters, query, user_query
from troth.client.sql.dialects.sqlite_catalogue import quote
from troth.client.sql.dialects.sqlite_grammar import _parameter_places, _SqliteParser
from troth.client.sql.dialects.sqlite_images import shown
from troth.client.sql.dialects.sqlite_lexer import tokenize
from troth.client.sql.grammar import Parser, Reader, Refused, parse_with
from troth.client.sql.image import Key, Outcome
from troth.client.sql.statement import Fragment, Image, Statement, Verb, compose
from troth.client.sql.tables import Table

_COMPOUND = frozenset({"UNION", "INTERSECT", "EXCEPT"})
_BEHIND = frozenset({"WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT"})
_FOLDS = frozenset({"DISTINCT", "GROUP", "HAVING"})


def parse_locking(sql: str) -> Statement:
    """`sql`, a plain SELECT, as a LOCKING_READ of the table in its FROM; REFUSED if that is not one table."""
    return parse_with(_ReadParser, sql, tokenize)


class _ReadParser(_SqliteParser):
    def checked_select(self) -> Statement:
        """SELECT … FROM one table …"""
        total = len(self._tokens)
        start, source = self._at, self._find(self._at, {"FROM"})
        if source == total or self._find(start, _COMPOUND) < total:
            raise Refused("it is not one SELECT from a table", "")
        self._at = source + 1
        schema, table = self._target()
        has_alias = self._at < total and self._word() not in _BEHIND
        alias = self._alias() or (self._identifier("alias") if has_alias and self._symbol() != "," else None)
        behind = self._find(self._at, _BEHIND)
        if self._at != behind:
            raise Refused("it is over more than one table", "")
        where_end = self._find(behind, _BEHIND - {"WHERE"})
        folds = self._find(start, _FOLDS) < total or any(token.text == "(" for token in self._tokens[start:source])
        end = where_end if folds else total
        numbers = _parameter_places(self._tokens)
        image = Image(
            self._fragment(*self._with_range, numbers),
            alias=alias,
            tail=self._fragment(source, end, numbers) if end > source else Fragment(),
        )
        return Statement(self._sql, Verb.LOCKING_READ, schema, table, image=image, end=self._end)

    readers: ClassVar[Mapping[str, Reader]] = MappingProxyType({"SELECT": checked_select, "WITH": Parser.with_})


def read_checked(statement: Statement, table: Table, parameters: Parameters) -> Flow[tuple[Sequence[Key], Outcome]]:
    """Run the user's SELECT, and ask for the keys of the rows that it has looked at."""
    done = yield from user_query(statement.sql, parameters)
    image = statement.image
    qualifier = quote(image.alias or statement.table)
    keys = ", ".join(shown(f"{qualifier}.{quote(name)}") for name in table.key)
    sql, given = compose(parameters, lambda place: f"?{place + 1}", image.with_clause, f"\nSELECT {keys}\n", image.tail)
    found = yield from query(sql, given)
    return found.rows, Outcome(done.rowcount, done.columns, done.rows)
