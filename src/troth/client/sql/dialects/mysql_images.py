"""How MySQL's images are taken (at.md §1): UPDATE and DELETE. `mysql_inserts` has the rest.

The rows are locked and imaged by the user's own tables, WHERE, ORDER BY and LIMIT; then the user's statement runs with
`AND key IN (imaged)`: rows that came meanwhile are not touched. What it did is read again by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, postponed, query, user_query
from troth.client.sql.dialects import mysql_types
from troth.client.sql.dialects.mysql_catalogue import ON_UPDATE, traits
from troth.client.sql.dialects.mysql_statement import Composer, MySqlStatement, check_parameters
from troth.client.sql.dialects.mysql_types import quote
from troth.client.sql.image import FullRow, Images, Key, Outcome, Touched
from troth.client.sql.statement import ParameterCountError, Verb
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_KEYS_PER_SELECT = 1000


@dataclass(frozen=True, slots=True)
class MySqlOutcome(Outcome):
    """With what PyMySQL's cursor calls `lastrowid`, where the cursor itself does not have it."""

    lastrowid: int | None = None


def modify(statement: MySqlStatement, table: Table, given: Parameters) -> Flow[Images]:
    """Run an UPDATE or DELETE between its images.

    Raises:
        NotSupported: a row cannot be found again.
    """
    check_columns(statement, table)
    before = yield from _lock_rows(statement, table, given)
    if not before:
        done = yield from user_query(*_restricted(statement, table, given, ()))
        return Images((), outcome_of(statement, done))
    later = yield from postponed(*_restricted(statement, table, given, list(before)), as_user=True)
    after = yield from rows_by_keys(table, list(before))
    outcome = outcome_of(statement, later.answer)
    if statement.verb is Verb.DELETE:
        gone = [row for key, row in before.items() if key not in after]
        return Images((Touched(SqlType.DELETE, gone),), outcome)
    if after.keys() != before.keys():
        raise NotSupported(f"a row of {table.name} that was written cannot be found again by its primary key.")
    only = frozenset(name.lower() for name in statement.set_columns) | traits(table, ON_UPDATE)
    return Images((Touched(SqlType.UPDATE, list(before.values()), list(after.values()), only),), outcome)


def check_given(statement: MySqlStatement, given: Parameters) -> Flow[None]:
    """Whether there are as many parameters as placeholders."""
    try:
        check_parameters(statement, given)
    except ParameterCountError as error:
        # The driver says best what is wrong with the parameters; the savepoint takes care of the rest.
        yield from user_query(statement.sql, given)
        raise NotSupported("the statement has not as many placeholders as it was given parameters.") from error


def check_columns(statement: MySqlStatement, table: Table) -> None:
    """Raises NotSupported where a column is set that the table has not."""
    unknown = [name for name in statement.set_columns if not table.has(name)]
    if unknown:
        raise NotSupported(f"{table.name} has no column {unknown[0]}.")


def _lock_rows(statement: MySqlStatement, table: Table, given: Parameters) -> Flow[dict[Key, FullRow]]:
    """The rows that the statement chooses, in its order, locked. A row that a join finds twice is one row."""
    yield from check_given(statement, given)
    select = Composer(given).piece(statement.with_clause)
    select.add(f"\nSELECT {shown_columns(table, f'{quote(statement.target)}.')}\nFROM ").piece(statement.sources)
    if statement.where:
        select.add("\nWHERE ").piece(statement.where)
    select.add("\n").piece(statement.tail).add("\nFOR UPDATE")
    return by_key(table, (yield from query(select.sql, select.parameters)))


def _restricted(
    statement: MySqlStatement, table: Table, given: Parameters, keys: Sequence[Key]
) -> tuple[str, Sequence[object]]:
    """The user's statement on the rows with these keys only."""
    composed = Composer(given).piece(statement.head).add("\nWHERE ")
    if statement.where:
        composed.add("(").piece(statement.where).add("\n) AND ")
    add_keys(composed, table, keys, f"{quote(statement.target)}.")
    composed.add("\n").piece(statement.tail)
    if statement.returns:
        composed.add("\nRETURNING ").piece(statement.output)
    return composed.sql, composed.parameters


def read_locked(statement: MySqlStatement, table: Table, given: Parameters) -> Flow[tuple[Sequence[Key], Outcome]]:
    """Run the user's SELECT … FOR UPDATE, and then ask for the keys of the rows that it has locked."""
    yield from check_given(statement, given)
    done = yield from user_query(*_whole(statement, given))
    keys = ", ".join(mysql_types.shown(table.column(name), f"{quote(statement.target)}.") for name in table.key)
    select = Composer(given).piece(statement.with_clause).add(f"\nSELECT {keys}\nFROM ").piece(statement.sources)
    if statement.where:
        select.add("\nWHERE ").piece(statement.where)
    select.add("\n").piece(statement.tail).add("\n").piece(statement.output)
    answer = yield from query(select.sql, select.parameters)
    columns = [table.column(name) for name in table.key]
    found = [tuple(mysql_types.from_driver(*pair) for pair in zip(columns, row, strict=True)) for row in answer.rows]
    return found, MySqlOutcome(done.rowcount, done.columns or None, user_rows(done))


def _whole(statement: MySqlStatement, given: Parameters) -> tuple[str, Sequence[object]]:
    composed = Composer(given).piece(statement.head)
    return composed.sql, composed.parameters


def add_keys(composed: Composer, table: Table, keys: Sequence[Key], qualifier: str = "") -> None:
    """The condition that a row has one of `keys`."""
    if not keys:
        composed.add("FALSE")
        return
    columns = [table.column(name) for name in table.key]
    marks = ", ".join(map(mysql_types.key_mark, columns))
    names = ", ".join(qualifier + quote(name) for name in table.key)
    many = len(columns) > 1
    one = f"({marks})" if many else marks
    values = (
        mysql_types.key_parameter(column, part) for key in keys for column, part in zip(columns, key, strict=True)
    )
    composed.add(f"{f'({names})' if many else names} IN ({', '.join([one] * len(keys))})", values)


def rows_by_keys(table: Table, keys: Sequence[Key]) -> Flow[dict[Key, FullRow]]:
    """The rows with these keys as they are now, in their order. (A plain SELECT might show an older state.)"""
    found: dict[Key, FullRow] = {}
    for group in _groups(keys):
        select = Composer(()).add(f"SELECT {shown_columns(table)} FROM {table.source} WHERE ")
        add_keys(select, table, group)
        found |= by_key(table, (yield from query(select.add(" FOR UPDATE").sql, select.parameters)))
    return {key: found[key] for key in keys if key in found}


def _groups(keys: Iterable[Key]) -> Iterator[list[Key]]:
    rest = iter(keys)
    while group := list(islice(rest, _KEYS_PER_SELECT)):
        yield group


def shown_columns(table: Table, qualifier: str = "") -> str:
    """What shows a full row."""
    return ", ".join(mysql_types.shown(column, qualifier) for column in table.columns)


def by_key(table: Table, answer: Rows) -> dict[Key, FullRow]:
    """Full rows by their keys; what an outer join did not find is left out."""
    rows = (full_row(table, row) for row in answer.rows)
    return {key: row for row in rows if None not in (key := table.key_of(row))}


def full_row(table: Table, row: Sequence[object]) -> FullRow:
    """A row that `shown_columns` has shown, as images hold it."""
    return tuple(mysql_types.from_driver(column, value) for column, value in zip(table.columns, row, strict=True))


def outcome_of(statement: MySqlStatement, done: Rows) -> Outcome:
    """What the user gets for a statement of which AT returned nothing more than the user asked for."""
    if not statement.returns:
        return MySqlOutcome(done.rowcount, lastrowid=done.lastrowid)
    return MySqlOutcome(done.rowcount, done.columns, user_rows(done))


def user_rows(done: Rows) -> list[tuple[object, ...]]:
    """The rows as the user's converters make them."""
    return done.native if isinstance(done.native, list) else done.rows
