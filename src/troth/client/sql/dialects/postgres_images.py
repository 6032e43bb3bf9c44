"""How PostgreSQL's images are taken (at.md §1): one statement locks the rows, shows them, changes them and shows them.

```sql
WITH "troth$old" AS MATERIALIZED (SELECT …, FROM ONLY t WHERE … FOR UPDATE OF t),
     "troth$new" AS (UPDATE ONLY t SET … FROM "troth$old" WHERE t.pk = … RETURNING …)
SELECT … FROM "troth$old" LEFT JOIN "troth$new" ON …
```
So no row can enter between image and effect. Every old row must have its new row, else (a concurrent change of its key)
`ImageMoved`. The columns of the image have names of their own, so that the user's unqualified ones stay unambiguous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, query, user_query
from troth.client.sql.dialects.postgres_catalogue import PARTITIONED
from troth.client.sql.dialects.postgres_types import mark, quote, shown
from troth.client.sql.image import FullRow, ImageMoved, Images, Key, Outcome, Touched
from troth.client.sql.statement import Fragment, ParameterCountError, Statement, Verb, compose
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_OLD, _NEW = '"troth$old"', '"troth$new"'
_SAVEPOINT = "troth_upsert"
_TRIES = 3
_KEYS_PER_SELECT = 1000


def images(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    """Run the statement with its images. Raises ImageMoved, NotSupported."""
    if statement.upsert:
        return (yield from _upsert(statement, table, parameters))
    if statement.verb is Verb.INSERT:
        return (yield from _insert(statement, table, parameters))
    return (yield from _change(statement, table, parameters))


# --- UPDATE and DELETE ---


@dataclass(frozen=True, slots=True)
class _Target:
    """How the user's target table stands in the statement: in FROM, before its columns, and behind FOR UPDATE OF."""

    source: str
    qualifier: str
    name: str


def _change(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    is_update = statement.verb is Verb.UPDATE
    for name in statement.set_columns:
        if table.has(name) and table.column(name).always_identity:
            raise NotSupported(f"{name} of {table.name} is GENERATED ALWAYS AS IDENTITY: undo could not set it back.")
    try:
        sql, given = compose(parameters, _positional, *_pieces(statement, table))
    except ParameterCountError as error:
        # The driver says best what is wrong with the parameters.
        yield from user_query(statement.sql, parameters)
        raise NotSupported("the statement has more placeholders than it was given parameters.") from error
    done = yield from user_query(sql, given)
    shown_new = len(table.columns) if is_update else len(table.key)
    width = len(done.columns) - shown_new - 1 - len(table.columns)
    number, old = width + shown_new, width + shown_new + 1
    if any(row[number] is None for row in done.rows):
        raise ImageMoved
    places = _first_of_each(done.rows, number)
    outcome = _outcome(statement, done, width, places)
    before = [done.rows[place][old:] for place in places]
    if not is_update:
        return Images((Touched(SqlType.DELETE, before),), outcome)
    after = [done.rows[place][width:number] for place in places]
    only = frozenset(name.lower() for name in statement.set_columns)
    return Images((Touched(SqlType.UPDATE, before, after, only),), outcome)


def _first_of_each(rows: Sequence[FullRow], number: int) -> list[int]:
    """Where each new row stands first: a join in FROM or USING may show an old row several times."""
    seen: set[object] = set()
    places = []
    for place, row in enumerate(rows):
        if row[number] not in seen:
            seen.add(row[number])
            places.append(place)
    return places


def _outcome(statement: Statement, done: Rows, width: int, places: Sequence[int]) -> Outcome:
    if not statement.returns:
        return Outcome(len(places))
    return Outcome(len(places), done.columns[:width], [(place,) for place in places], done.native)


def _positional(_: int) -> str:
    return "%s"


def _pieces(statement: Statement, table: Table) -> list[str | Fragment]:
    image = statement.image
    only = "" if PARTITIONED in table.traits else "ONLY "
    if image.alias is None:
        target = _Target(f"{only}{table.source}", f"{table.source}.", quote(statement.table))
    else:
        alias = quote(image.alias)
        target = _Target(f"{only}{table.source} AS {alias}", f"{alias}.", alias)
    with_clause: list[str | Fragment] = [image.with_clause, ",\n"] if image.with_clause.text else ["WITH "]
    return [
        *with_clause,
        *_old_rows(statement, table, target),
        *_new_rows(statement, table, target),
        *_result(statement, table),
    ]


def _old_rows(statement: Statement, table: Table, target: _Target) -> list[str | Fragment]:
    """The CTE that locks the rows which the user's own FROM and WHERE choose, and shows them."""
    image = statement.image
    texts = [f'{shown(column, target.qualifier)} AS "o${n}"' for n, column in enumerate(table.columns)]
    keys = [f'{target.qualifier}{quote(name)} AS "k${n}"' for n, name in enumerate(table.key)]
    pieces: list[str | Fragment] = [f"{_OLD} AS MATERIALIZED (SELECT {', '.join(texts + keys)}\nFROM {target.source}"]
    if image.sources.text:
        pieces += [", ", image.sources]
    if image.where.text:
        pieces += ["\nWHERE ", image.where]
    return [*pieces, f"\n{_strength(statement, table)} OF {target.name}),\n"]


def _strength(statement: Statement, table: Table) -> str:
    """The lock that the statement itself will take: weaker where no key is touched, so that foreign keys can wait."""
    keyed = {name.lower() for key in table.unique_keys for name in key.columns}
    sets = {name.lower() for name in statement.set_columns}
    return "FOR UPDATE" if statement.verb is Verb.DELETE or keyed & sets else "FOR NO KEY UPDATE"


def _new_rows(statement: Statement, table: Table, target: _Target) -> list[str | Fragment]:
    """The CTE that changes these rows, and returns what the user wants and what they are now (or their keys)."""
    image = statement.image
    is_update = statement.verb is Verb.UPDATE
    pieces: list[str | Fragment] = (
        [f"{_NEW} AS (UPDATE {target.source} SET ", image.assignments, "\nFROM "]
        if is_update
        else [f"{_NEW} AS (DELETE FROM {target.source}\nUSING "]
    )
    if image.sources.text:
        pieces += [image.sources, ", "]
    same_row = " AND ".join(f'{target.qualifier}{quote(name)} = {_OLD}."k${n}"' for n, name in enumerate(table.key))
    pieces.append(f"{_OLD}\nWHERE {same_row}")
    if image.sources.text and image.where.text:
        pieces += [" AND (", image.where, ")"]
    pieces.append("\nRETURNING ")
    if statement.returns:
        pieces += [image.returning, ", "]
    returned = table.columns if is_update else [table.column(name) for name in table.key]
    pieces.append(", ".join(f'{shown(column, target.qualifier)} AS "n${n}"' for n, column in enumerate(returned)))
    return [*pieces, ")\n"]


def _result(statement: Statement, table: Table) -> list[str | Fragment]:
    """Old rows beside new ones, in the order in which they were changed; where one is missing, it is NULL."""
    old = ", ".join(f'o."o${n}"' for n in range(len(table.columns)))
    is_update = statement.verb is Verb.UPDATE
    joined = " AND ".join(
        f'o."o${table.place(name)}" = n."n${table.place(name) if is_update else n}"' for n, name in enumerate(table.key)
    )
    numbered = f'(SELECT *, (row_number() OVER ())::text AS "n$#" FROM {_NEW})'
    return [f'SELECT n.*, {old}\nFROM {_OLD} AS o LEFT JOIN {numbered} AS n ON {joined}\nORDER BY n."n$#"::int8']


# --- INSERT ---


def _insert(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    done = yield from user_query(statement.returning(_all(table)), parameters)
    width = len(done.columns) - len(table.columns)
    after = [row[width:] for row in done.rows]
    return Images((Touched(SqlType.INSERT, (), after),), _outcome(statement, done, width, range(len(after))))


def _all(table: Table) -> str:
    return ", ".join(shown(column) for column in table.columns)


def _upsert(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    """ON CONFLICT DO UPDATE: run it to see which rows it updates, go back, lock and image those, run it again.

    Only where nothing was updated that had not been imaged, the second run counts.
    """
    if PARTITIONED in table.traits:
        raise NotSupported(
            "ON CONFLICT DO UPDATE on a partitioned table does not tell which rows it updated.",
            "Use ON CONFLICT DO NOTHING and look at the row count, then UPDATE.",
        )
    sql = statement.returning(f"{_all(table)}, (xmax::text <> '0')::text")
    imaged: dict[Key, FullRow] = {}
    for _ in range(_TRIES):
        yield from query(f"SAVEPOINT {_SAVEPOINT}")
        done = yield from user_query(sql, parameters)
        width = len(done.columns) - len(table.columns) - 1
        updated = [table.key_of(row[width:]) for row in done.rows if row[-1] == "true"]
        if all(key in imaged for key in updated):
            yield from query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            outcome = _outcome(statement, done, width, range(len(done.rows)))
            return Images(tuple(_runs(statement, table, done.rows, width, imaged)), outcome)
        yield from query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        yield from query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        imaged |= yield from _locked(table, [key for key in updated if key not in imaged])
    raise ImageMoved


def _runs(
    statement: Statement, table: Table, rows: Sequence[FullRow], width: int, imaged: Mapping[Key, FullRow]
) -> list[Touched]:
    """Inserts and updates as they follow each other: undone in reverse, each unique value is free when it is wanted."""
    only = frozenset(name.lower() for name in statement.set_columns)
    touched = []
    for is_update, group in groupby(rows, key=lambda row: row[-1] == "true"):
        after = [row[width:-1] for row in group]
        if is_update:
            before = [imaged[table.key_of(row)] for row in after]
            touched.append(Touched(SqlType.UPDATE, before, after, only))
        else:
            touched.append(Touched(SqlType.INSERT, (), after))
    return touched


def _locked(table: Table, keys: Sequence[Key]) -> Flow[Mapping[Key, FullRow]]:
    """The rows with these keys, locked."""
    found: dict[Key, FullRow] = {}
    names = ", ".join(map(quote, table.key))
    one = f"({', '.join(mark(table.column(name)) for name in table.key)})"
    for start in range(0, len(keys), _KEYS_PER_SELECT):
        group = keys[start : start + _KEYS_PER_SELECT]
        sql = f"SELECT {_all(table)} FROM ONLY {table.source} WHERE ({names}) IN ({', '.join([one] * len(group))})"
        answer = yield from query(f"{sql} FOR UPDATE", [value for key in group for value in key])
        found |= {table.key_of(row): row for row in answer.rows}
    return MappingProxyType(found)


# --- SELECT … FOR UPDATE ---


def read_locked(statement: Statement, table: Table, parameters: Parameters) -> Flow[tuple[Sequence[Key], Outcome]]:
    """Run the SELECT with the primary key behind what it selects."""
    image = statement.image
    qualifier = table.source if image.alias is None else quote(image.alias)
    keys = "".join(f', {shown(table.column(name), f"{qualifier}.")} AS "k${n}"' for n, name in enumerate(table.key))
    sql, given = compose(parameters, _positional, image.with_clause, keys, "\n", image.tail)
    done = yield from user_query(sql, given)
    width = len(done.columns) - len(table.key)
    return [row[width:] for row in done.rows], _outcome(statement, done, width, range(len(done.rows)))
