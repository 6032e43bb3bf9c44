"""Images of an INSERT that may change or delete rows that are there already: REPLACE, DO UPDATE (at.md §1).

Which rows those are is found out by trying: inside a savepoint the statement returns the rows that it makes, and is
taken back; what shares a unique key with one of those is imaged; then the statement runs for good. Nobody else can
write in between, so it does the same again, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, postponed, query, user_query
from troth.client.sql.dialects.sqlite_catalogue import quote
from troth.client.sql.dialects.sqlite_images import MAX_PARAMETERS, shown
from troth.client.sql.image import FullRow, Images, Key, Outcome, Touched
from troth.client.sql.statement import Statement
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_TRIAL = "troth_trial"


def images(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    """Run the statement between its images. Raises NotSupported."""
    sql = statement.returning(_columns(table))
    yield from postponed(f"SAVEPOINT {_TRIAL}")
    tried = yield from query(sql, parameters)
    yield from query(f"ROLLBACK TO {_TRIAL}")
    yield from query(f"RELEASE {_TRIAL}")
    width = len(tried.columns) - len(table.columns)
    made = [row[width:] for row in tried.rows]
    met = yield from _met(table, made, replaces=statement.replaces)
    done = yield from user_query(sql, parameters)
    if [row[width:] for row in done.rows] != made:
        raise NotSupported(
            f"the statement makes other rows of {table.name} each time, so AT cannot know which ones it meets.",
            "Compute its values first, and give them as parameters.",
        )
    keys = list(dict.fromkeys(map(table.key_of, made)))
    if any(None in key for key in keys):
        raise NotSupported(
            f"a row of {table.name} has NULL in its primary key, so it cannot be named.",
            "Declare the key's columns NOT NULL.",
        )
    after = yield from _rows_where(table, table.key, _collations(table), keys)
    outcome = Outcome(len(made))
    if statement.returns:
        outcome = Outcome(len(made), done.columns[:width], [row[:width] for row in done.rows])
    if statement.replaces:
        return Images((yield from _replaced(table, met, after, keys)), outcome)
    return Images(tuple(_updated(met, after)), outcome)


def _updated(met: dict[Key, FullRow], after: dict[Key, FullRow]) -> Iterator[Touched]:
    changed = [key for key in after if key in met]
    if changed:
        yield Touched(SqlType.UPDATE, [met[key] for key in changed], [after[key] for key in changed])
    new = [row for key, row in after.items() if key not in met]
    if new:
        yield Touched(SqlType.INSERT, (), new)


def _replaced(
    table: Table, met: dict[Key, FullRow], after: dict[Key, FullRow], keys: Sequence[Key]
) -> Flow[tuple[Touched, ...]]:
    """Old rows as deleted, new ones as inserted, also where both have one key."""
    left = yield from _rows_where(table, table.key, _collations(table), list(met))
    gone = [row for key, row in met.items() if key in keys or key not in left]
    if any(left[key] != row for key, row in met.items() if key in left and key not in keys):
        raise NotSupported(f"a row of {table.name} was changed unseen by a REPLACE.")
    made = Touched(SqlType.INSERT, (), list(after.values()))
    return (Touched(SqlType.DELETE, gone), made) if gone else (made,)


def _met(table: Table, made: Sequence[FullRow], *, replaces: bool) -> Flow[dict[Key, FullRow]]:
    """The rows that have a unique key of one of the rows `made` (DO UPDATE returns a row under the key that it has)."""
    found = yield from _rows_where(table, table.key, _collations(table), list(map(table.key_of, made)))
    if replaces:
        for unique in table.unique_keys:
            places = [table.place(name) for name in unique.columns]
            wanted = [tuple(row[place] for place in places) for row in made]
            found |= yield from _rows_where(table, unique.columns, unique.collations, wanted)
    return found


def _rows_where(
    table: Table, names: Sequence[str], collations: Sequence[str], wanted: Sequence[Key]
) -> Flow[dict[Key, FullRow]]:
    """The rows whose columns `names` have one of the `wanted` values, as an index with `collations` compares them."""
    found: dict[Key, FullRow] = {}
    left = ", ".join(f"{quote(name)} COLLATE {collation}" for name, collation in zip(names, collations, strict=True))
    one = ", ".join("?" * len(names))
    size = max(1, MAX_PARAMETERS // len(names))
    for start in range(0, len(wanted), size):
        group = wanted[start : start + size]
        right = ", ".join([f"({one})"] * len(group))
        where = f"({left}) IN (VALUES {right})" if len(names) > 1 else f"{left} IN ({', '.join('?' * len(group))})"
        sql = f"SELECT {_columns(table)} FROM {table.source} WHERE {where}"
        answer = yield from query(sql, [value for key in group for value in key])
        found.update((table.key_of(row), row) for row in answer.rows)
    return found


def _collations(table: Table) -> list[str]:
    return [table.column(name).collation for name in table.key]


def _columns(table: Table) -> str:
    return ", ".join(shown(quote(column.name)) for column in table.columns)
