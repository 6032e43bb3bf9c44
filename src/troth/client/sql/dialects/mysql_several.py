"""How images of an UPDATE or DELETE are taken that writes to several tables (at.md §1).

As for one table (`mysql_images`): the rows of all of them are locked and imaged by one SELECT over the user's tables,
and then the user's statement runs on those only. What comes meanwhile may join imaged rows anew, but brings none in.
"""

from __future__ import annotations

from collections.abc import Sequence

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, query, user_query
from troth.client.sql.dialects.mysql_catalogue import ON_UPDATE, traits
from troth.client.sql.dialects.mysql_images import (
    add_keys,
    check_columns,
    check_given,
    full_row,
    outcome_of,
    rows_by_keys,
    shown_columns,
)
from troth.client.sql.dialects.mysql_statement import Composer, MySqlStatement
from troth.client.sql.dialects.mysql_types import quote
from troth.client.sql.image import FullRow, Images, Key, Touched
from troth.client.sql.statement import Verb
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_Rows = dict[Key, FullRow]


def modify_several(statement: MySqlStatement, tables: Sequence[Table], given: Parameters) -> Flow[Images]:
    """Run an UPDATE or DELETE of `tables`, the first of which is the statement's own, the others those of `more`.

    Raises:
        NotSupported: a table is written to under two names, or a row cannot be found again.
    """
    parts = [part for part in (statement, *statement.more) if isinstance(part, MySqlStatement)]
    if len({table.name for table in tables}) < len(tables):
        raise NotSupported("a statement that writes to one table under two names is not supported.", "Write two.")
    for part, table in zip(parts, tables, strict=True):
        check_columns(part, table)
    yield from check_given(statement, given)
    before = yield from _lock_rows(statement, parts, tables, given)
    done = yield from user_query(*_restricted(statement, parts, tables, before, given))
    touched = []
    for part, table, rows in zip(parts, tables, before, strict=True):
        if rows:
            touched.append((yield from _touched(part, table, rows)))
    if statement.verb is Verb.DELETE:
        touched = _children_first(touched)
    return Images(tuple(touched), outcome_of(statement, done))


def _lock_rows(
    statement: MySqlStatement, parts: Sequence[MySqlStatement], tables: Sequence[Table], given: Parameters
) -> Flow[list[_Rows]]:
    """The rows of each table that the statement chooses, locked; what an outer join has not found is left out."""
    shown = ", ".join(shown_columns(table, f"{quote(part.target)}.") for part, table in zip(parts, tables, strict=True))
    select = Composer(given).piece(statement.with_clause).add(f"\nSELECT {shown}\nFROM ").piece(statement.sources)
    if statement.where:
        select.add("\nWHERE ").piece(statement.where)
    answer = yield from query(select.add("\nFOR UPDATE").sql, select.parameters)
    found: list[_Rows] = [{} for _ in tables]
    for row in answer.rows:
        start = 0
        for table, rows in zip(tables, found, strict=True):
            end = start + len(table.columns)
            one = full_row(table, row[start:end])
            key = table.key_of(one)
            if None not in key:
                rows[key] = one
            start = end
    return found


def _restricted(
    statement: MySqlStatement,
    parts: Sequence[MySqlStatement],
    tables: Sequence[Table],
    before: Sequence[_Rows],
    given: Parameters,
) -> tuple[str, Sequence[object]]:
    """The user's statement on the imaged rows only; a side of an outer join without a row stays one."""
    composed = Composer(given).piece(statement.head).add("\nWHERE ")
    if statement.where:
        composed.add("(").piece(statement.where).add("\n) AND ")
    for number, (part, table, rows) in enumerate(zip(parts, tables, before, strict=True)):
        first = f"{quote(part.target)}.{quote(table.key[0])}"
        composed.add(" AND COALESCE(" if number else "COALESCE(")
        if rows:
            add_keys(composed, table, list(rows), f"{quote(part.target)}.")
        else:
            composed.add(f"{first} <> {first}")
        composed.add(", TRUE)")
    return composed.sql, composed.parameters


def _touched(part: MySqlStatement, table: Table, before: _Rows) -> Flow[Touched]:
    after = yield from rows_by_keys(table, list(before))
    if part.verb is Verb.DELETE:
        gone = [row for key, row in before.items() if key not in after]
        return Touched(SqlType.DELETE, gone, table=table)
    if after.keys() != before.keys():
        raise NotSupported(f"a row of {table.name} that was written cannot be found again by its primary key.")
    only = frozenset(name.lower() for name in part.set_columns) | traits(table, ON_UPDATE)
    return Touched(SqlType.UPDATE, list(before.values()), list(after.values()), only, table)


def _children_first(touched: Sequence[Touched]) -> list[Touched]:
    """In an order whose reverse gives every row its parent before it comes back itself."""
    left = list(touched)
    ordered: list[Touched] = []
    while left:
        free = [one for one in left if not any(_refers(other, one) for other in left if other is not one)]
        if not free:
            names = ", ".join(one.table.name for one in left if one.table is not None)
            raise NotSupported(
                f"rows of {names} refer to each other, so no order of undo is right.", "Delete one by one."
            )
        ordered += free
        left = [one for one in left if one not in free]
    return ordered


def _refers(child: Touched, parent: Touched) -> bool:
    if child.table is None or parent.table is None:
        return False
    return any(foreign_key.parent == parent.table.name for foreign_key in child.table.parents)
