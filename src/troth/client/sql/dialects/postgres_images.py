"""How PostgreSQL's images are taken (at.md §1): one statement locks the rows, shows them, changes them and shows them.

A DELETE shows what it deletes by its RETURNING; an UPDATE does so from version 18 on (`old`, `new`). Before that:

```sql
WITH "troth$old" AS MATERIALIZED (SELECT …, FROM ONLY t WHERE … FOR UPDATE OF t),
     "troth$new" AS (UPDATE ONLY t SET … FROM "troth$old" WHERE t.pk = … RETURNING …)
SELECT … FROM "troth$old" LEFT JOIN "troth$new" ON …
```
So no row can enter between image and effect. Every old row must have its new row, else (a concurrent change of its key)
`ImageMoved`. The columns of the image have names of their own, so that the user's unqualified ones stay unambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, postponed, query, user_query
from troth.client.sql.dialects.parsed import Composed, Pieces
from troth.client.sql.dialects.postgres_catalogue import PARTITIONED
from troth.client.sql.dialects.postgres_types import mark, quote, shown
from troth.client.sql.image import FullRow, ImageMoved, Images, Key, Outcome, Touched
from troth.client.sql.statement import Fragment, ParameterCountError, Statement, Verb, compose
from troth.client.sql.tables import Table
from troth.client.sql.undo import SqlType

_OLD, _NEW = '"troth$old"', '"troth$new"'
_OLD_OR_NEW = re.compile(r"\b(old|new)\b", re.IGNORECASE)
_SAVEPOINT = "troth_upsert"
_TRIES = 3
_KEYS_PER_SELECT = 1000


def composed() -> Composed:
    """What `images` keeps of the texts that it makes."""
    return Composed(_positional)


def images(
    statement: Statement, table: Table, parameters: Parameters, texts: Composed, *, has_old: bool
) -> Flow[Images]:
    """Run the statement with its images; `has_old`: the server knows `old` in RETURNING.

    Raises:
        ImageMoved: somebody else changed a key between image and effect.
        NotSupported: it cannot be undone exactly.
    """
    # Where the user's own text has these words they may mean a table, or the user's own view of old and new.
    has_old = has_old and not _OLD_OR_NEW.search(statement.sql)
    if statement.upsert and has_old:
        return (yield from _upsert_with_old(statement, table, parameters))
    if statement.upsert:
        return (yield from _upsert(statement, table, parameters))
    if statement.verb is Verb.INSERT:
        return (yield from _insert(statement, table, parameters))
    if statement.verb is Verb.DELETE:
        return (yield from _delete(statement, table, parameters, texts))
    _refuse_identities(statement, table)
    if has_old:
        return (yield from _update_with_old(statement, table, parameters, texts))
    return (yield from _update(statement, table, parameters, texts))


# --- UPDATE and DELETE ---


@dataclass(frozen=True, slots=True)
class _Target:
    """How the user's target table stands in the statement: in FROM, before its columns, and behind FOR UPDATE OF."""

    source: str
    qualifier: str
    name: str


def _run(statement: Statement, table: Table, parameters: Parameters, texts: Composed, pieces: Pieces) -> Flow[Rows]:
    try:
        sql, given = texts.text(statement, table, pieces, parameters)
    except ParameterCountError as error:
        # The driver says best what is wrong with the parameters.
        yield from user_query(statement.sql, parameters)
        raise NotSupported("the statement has more placeholders than it was given parameters.") from error
    return (yield from user_query(sql, given))


def _deleting(statement: Statement, table: Table) -> list[str | Fragment]:
    image, target = statement.image, _target(statement, table)
    pieces: list[str | Fragment] = [image.with_clause, f"\nDELETE FROM {target.source}"]
    pieces += _clauses(("\nUSING ", image.sources), ("\nWHERE ", image.where))
    return [*pieces, "\nRETURNING ", *_first(statement), _shown_all(table, target.qualifier)]


def _delete(statement: Statement, table: Table, parameters: Parameters, texts: Composed) -> Flow[Images]:
    done = yield from _run(statement, table, parameters, texts, _deleting)
    width = len(done.columns) - len(table.columns)
    before = [row[width:] for row in done.rows]
    return Images((Touched(SqlType.DELETE, before),), _outcome(statement, done, width, range(len(before))))


def _updating_with_old(statement: Statement, table: Table) -> list[str | Fragment]:
    image, target = statement.image, _target(statement, table)
    pieces: list[str | Fragment] = [image.with_clause, f"\nUPDATE {target.source} SET ", image.assignments]
    pieces += _clauses(("\nFROM ", image.sources), ("\nWHERE ", image.where))
    pieces += [f"\nRETURNING WITH (OLD AS {_OLD}, NEW AS {_NEW}) ", *_first(statement)]
    return [*pieces, _shown_all(table, f"{_NEW}."), ", ", _shown_all(table, f"{_OLD}.")]


def _update_with_old(statement: Statement, table: Table, parameters: Parameters, texts: Composed) -> Flow[Images]:
    done = yield from _run(statement, table, parameters, texts, _updating_with_old)
    width = len(done.columns) - 2 * len(table.columns)
    old = width + len(table.columns)
    after = [row[width:old] for row in done.rows]
    before = [row[old:] for row in done.rows]
    touched = Touched(SqlType.UPDATE, before, after, _only(statement))
    return Images((touched,), _outcome(statement, done, width, range(len(after))))


def _update(statement: Statement, table: Table, parameters: Parameters, texts: Composed) -> Flow[Images]:
    done = yield from _run(statement, table, parameters, texts, _pieces)
    width = len(done.columns) - 2 * len(table.columns) - 1
    number, old = width + len(table.columns), width + len(table.columns) + 1
    if any(row[number] is None for row in done.rows):
        raise ImageMoved
    places = _first_of_each(done.rows, number)
    before = [done.rows[place][old:] for place in places]
    after = [done.rows[place][width:number] for place in places]
    touched = Touched(SqlType.UPDATE, before, after, _only(statement))
    return Images((touched,), _outcome(statement, done, width, places))


def _refuse_identities(statement: Statement, table: Table) -> None:
    for name in statement.set_columns:
        if table.has(name) and table.column(name).always_identity:
            raise NotSupported(
                f"{name} of {table.name} is GENERATED ALWAYS AS IDENTITY: undo could not set it back.",
                "Declare it GENERATED BY DEFAULT, or leave it as it is.",
            )


def _only(statement: Statement) -> frozenset[str]:
    return frozenset(name.lower() for name in statement.set_columns)


def _first(statement: Statement) -> list[str | Fragment]:
    """What the user wants returned."""
    return [statement.image.returning, ", "] if statement.returns else []


def _clauses(*clauses: tuple[str, Fragment]) -> list[str | Fragment]:
    return [piece for word, fragment in clauses if fragment.text for piece in (word, fragment)]


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


def _target(statement: Statement, table: Table) -> _Target:
    only = "" if PARTITIONED in table.traits else "ONLY "
    if statement.image.alias is None:
        return _Target(f"{only}{table.source}", f"{table.source}.", quote(statement.table))
    alias = quote(statement.image.alias)
    return _Target(f"{only}{table.source} AS {alias}", f"{alias}.", alias)


def _pieces(statement: Statement, table: Table) -> list[str | Fragment]:
    image, target = statement.image, _target(statement, table)
    with_clause: list[str | Fragment] = [image.with_clause, ",\n"] if image.with_clause.text else ["WITH "]
    return [
        *with_clause,
        *_old_rows(statement, table, target),
        *_new_rows(statement, table, target),
        *_result(table),
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
    return "FOR UPDATE" if keyed & sets else "FOR NO KEY UPDATE"


def _new_rows(statement: Statement, table: Table, target: _Target) -> list[str | Fragment]:
    """The CTE that changes these rows, and returns what the user wants and what they are now."""
    image = statement.image
    pieces: list[str | Fragment] = [f"{_NEW} AS (UPDATE {target.source} SET ", image.assignments, "\nFROM "]
    if image.sources.text:
        pieces += [image.sources, ", "]
    same_row = " AND ".join(f'{target.qualifier}{quote(name)} = {_OLD}."k${n}"' for n, name in enumerate(table.key))
    pieces.append(f"{_OLD}\nWHERE {same_row}")
    if image.sources.text and image.where.text:
        pieces += [" AND (", image.where, ")"]
    texts = ", ".join(f'{shown(column, target.qualifier)} AS "n${n}"' for n, column in enumerate(table.columns))
    return [*pieces, "\nRETURNING ", *_first(statement), texts, ")\n"]


def _result(table: Table) -> list[str | Fragment]:
    """Old rows beside new ones, in the order in which they were changed; where one is missing, it is NULL."""
    old = ", ".join(f'o."o${n}"' for n in range(len(table.columns)))
    joined = " AND ".join(f'o."o${place}" = n."n${place}"' for place in table.key_places)
    numbered = f'(SELECT *, (row_number() OVER ())::text AS "n$#" FROM {_NEW})'
    return [f'SELECT n.*, {old}\nFROM {_OLD} AS o LEFT JOIN {numbered} AS n ON {joined}\nORDER BY n."n$#"::int8']


# --- INSERT ---


def _insert(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    done = yield from user_query(statement.returning(_all(table)), parameters)
    width = len(done.columns) - len(table.columns)
    after = [row[width:] for row in done.rows]
    return Images((Touched(SqlType.INSERT, (), after),), _outcome(statement, done, width, range(len(after))))


def _all(table: Table) -> str:
    return _shown_all(table, "")


def _shown_all(table: Table, qualifier: str) -> str:
    return ", ".join(shown(column, qualifier) for column in table.columns)


def _upsert_with_old(statement: Statement, table: Table, parameters: Parameters) -> Flow[Images]:
    """ON CONFLICT DO UPDATE where RETURNING shows the old row: there is one exactly if it was an update."""
    done = yield from user_query(statement.returning(f"{_all(table)}, {_shown_all(table, 'old.')}"), parameters)
    width = len(done.columns) - 2 * len(table.columns)
    old = width + len(table.columns)
    imaged = {table.key_of(row[old:]): row[old:] for row in done.rows}
    rows = [(*row[:old], "false" if None in table.key_of(row[old:]) else "true") for row in done.rows]
    touched = tuple(_runs(statement, table, rows, width, imaged))
    return Images(touched, _outcome(statement, done, width, range(len(rows))))


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
        yield from postponed(f"SAVEPOINT {_SAVEPOINT}")
        done = yield from user_query(sql, parameters)
        width = len(done.columns) - len(table.columns) - 1
        updated = [table.key_of(row[width:]) for row in done.rows if row[-1] == "true"]
        if all(key in imaged for key in updated):
            yield from postponed(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            outcome = _outcome(statement, done, width, range(len(done.rows)))
            return Images(tuple(_runs(statement, table, done.rows, width, imaged)), outcome)
        yield from postponed(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        yield from postponed(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        imaged |= yield from _locked(table, [key for key in updated if key not in imaged])
    raise ImageMoved


def _runs(
    statement: Statement, table: Table, rows: Sequence[FullRow], width: int, imaged: Mapping[Key, FullRow]
) -> list[Touched]:
    """Inserts and updates as they follow each other: undone in reverse, each unique value is free when it is wanted."""
    only = _only(statement)
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
