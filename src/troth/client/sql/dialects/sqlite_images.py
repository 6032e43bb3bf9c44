"""How SQLite's images are taken (at.md §1).

SQLite has one writer: under BEGIN IMMEDIATE nothing changes between the before image and the user's statement, so
images are plain SELECTs: before image → the user's own statement, which also returns the keys it hit → after image by
those keys. A key that was hit without having been imaged (a volatile function in WHERE, say) refuses the statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, query, user_query
from troth.client.sql.dialects.sqlite_catalogue import quote
from troth.client.sql.image import FullRow, Images, Key, Outcome, Touched
from troth.client.sql.statement import Image, ParameterCountError, Statement, Verb
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

MAX_PARAMETERS = 900
"""Keys are looked up in groups with at most this many parameters: below the smallest limit in use (999)."""


@dataclass(frozen=True, slots=True)
class _Hit:
    """What the user's statement did: the keys it hit, in its own order, and what it returns to the user."""

    keys: list[Key]
    outcome: Outcome


def images(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    """Run the statement between its images. Raises NotSupported."""
    match statement.verb:
        case Verb.INSERT:
            hit = yield from _run(statement, table, parameters)
            after = yield from _by_keys(table, hit.keys)
            return Images((Touched(SqlType.INSERT, (), after),), hit.outcome)
        case Verb.UPDATE:
            return (yield from _update(statement, table, parameters))
        case _:
            before = yield from _by_where(statement, table, parameters)
            hit = yield from _run(statement, table, parameters)
            return Images((Touched(SqlType.DELETE, _hit_rows(table, before, hit.keys)),), hit.outcome)


def _update(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    before = yield from _by_where(statement, table, parameters)
    hit = yield from _run(statement, table, parameters)
    if not all(map(table.has, statement.set_columns)):
        # Had it been unknown to the database, too, the statement would have failed: it is a rowid, say.
        raise NotSupported(f"a column that the statement sets is no declared one of {table.name}.")
    old = _hit_rows(table, before, hit.keys)
    new = yield from _by_keys(table, hit.keys)
    only = frozenset(name.lower() for name in statement.set_columns)
    return Images((Touched(SqlType.UPDATE, old, new, only),), hit.outcome)


def _run(statement: Statement, table: Table, parameters: Parameters) -> Flow[_Hit]:
    done = yield from user_query(statement.returning(_returned_key(table)), parameters)
    width = len(done.columns) - len(table.key)
    keys = [row[width:] for row in done.rows]
    if any(None in key for key in keys):
        raise NotSupported(
            f"a row of {table.name} has NULL in its primary key, so it cannot be named.",
            "Declare the key's columns NOT NULL.",
        )
    if not statement.returns:
        return _Hit(keys, Outcome(len(keys)))
    return _Hit(keys, Outcome(len(keys), done.columns[:width], [row[:width] for row in done.rows]))


def _by_where(statement: Statement, table: Table, parameters: Parameters) -> Flow[Rows]:
    sql = _select_by_where(table, statement.image, named=isinstance(parameters, Mapping))
    try:
        wanted = statement.image.parameters(parameters)
    except ParameterCountError as error:
        # The driver says best what is wrong with the parameters; the savepoint takes care of the rest.
        yield from user_query(statement.sql, parameters)
        raise NotSupported("the statement has more placeholders than it was given parameters.") from error
    return (yield from query(sql, wanted))


def _by_keys(table: Table, keys: list[Key]) -> Flow[list[FullRow]]:
    """The rows with these keys, in the order of the keys."""
    found: dict[Key, FullRow] = {}
    for group in _key_groups(table, keys):
        answer = yield from query(_select_by_keys(table, len(group)), [value for key in group for value in key])
        found.update((table.key_of(row), row) for row in answer.rows)
    if any(key not in found for key in keys):
        raise NotSupported(f"a row of {table.name} that was written cannot be found again by its primary key.")
    return [found[key] for key in keys]


def _hit_rows(table: Table, before: Rows, keys: list[Key]) -> list[FullRow]:
    imaged = {table.key_of(row): row for row in before.rows}
    if any(key not in imaged for key in keys):
        raise NotSupported(
            f"the statement changed rows of {table.name} that its WHERE did not choose a moment before.",
            "Do not use functions in WHERE whose result changes from call to call.",
        )
    return [imaged[key] for key in keys]


# --- SQL ---


def _select_by_where(table: Table, image: Image, *, named: bool) -> str:
    """SELECT of the rows that the user's own WITH, FROM and WHERE choose."""
    with_clause, sources, where = image.texts(named=named)
    target = table.source if image.alias is None else f"{table.source} AS {quote(image.alias)}"
    qualifier = quote(image.alias if image.alias is not None else table.name)
    columns = ", ".join(shown(f"{qualifier}.{quote(column.name)}") for column in table.columns)
    tail = f", {sources}" if sources else ""
    return f"{with_clause}\nSELECT {columns}\nFROM {target}{tail}\n{where}"


def _select_by_keys(table: Table, count: int) -> str:
    """SELECT of the rows with `count` given keys; the parameters are the keys, one behind the other."""
    columns = ", ".join(shown(quote(column.name)) for column in table.columns)
    if len(table.key) == 1:
        return f"SELECT {columns} FROM {table.source} WHERE {quote(table.key[0])} IN ({', '.join('?' * count)})"
    names = ", ".join(map(quote, table.key))
    one = f"({', '.join('?' * len(table.key))})"
    return f"SELECT {columns} FROM {table.source} WHERE ({names}) IN (VALUES {', '.join([one] * count)})"


def _returned_key(table: Table) -> str:
    """The RETURNING expressions that give the primary key."""
    return ", ".join(shown(quote(name)) for name in table.key)


def _key_groups(table: Table, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """`keys` in groups that fit into one statement."""
    size = max(1, MAX_PARAMETERS // len(table.key))
    return (keys[start : start + size] for start in range(0, len(keys), size))


def shown(column: str) -> str:
    """The value of `column` without its declared type, so that no converter of the user's touches it."""
    return f"ifnull({column}, NULL)"
