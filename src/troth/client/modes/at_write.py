"""AT, phase one: one statement with its images (at.md §1, §2).

before image → the user's own statement, which also returns the keys it hit → after image by those keys. A key that was
hit without having been imaged (a volatile function in WHERE, say) sends the statement back to its savepoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, Rows, query, user_query
from troth.client.sql import image
from troth.client.sql.dialects.base import Dialect
from troth.client.sql.image import FullRow, Key
from troth.client.sql.lockkeys import LockKey, changed_unique_locks, primary_lock, unique_locks
from troth.client.sql.statement import ParameterCountError, Statement, Verb
from troth.client.sql.tables import ForeignKey, Refusal, Table
from troth.client.sql.undo import SqlType, SqlUndoLog, TableRecords, nothing
from troth.client.sql.values import ValueNotSupported

_SAVEPOINT = '"troth statement"'


@dataclass(frozen=True, slots=True)
class Change:
    """What one statement changed, which rows that locks, and which rows of others it leans on."""

    undo: SqlUndoLog
    locks: tuple[LockKey, ...]
    parents: tuple[LockKey, ...] = ()
    """Locks of parent rows (foreign keys): they must be free or ours, but are not taken."""


@dataclass(slots=True)
class LocalTransaction:
    """The open local transaction: what it has changed so far, and its savepoints (name, number of changes)."""

    xid: str
    changes: list[Change] = field(default_factory=list)
    savepoints: list[tuple[str, int]] = field(default_factory=list)
    foreign_keys: bool | None = None
    """Whether the connection checks foreign keys; asked at the first write. (SQLite cannot change it in between.)"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement gives its caller. `columns` is None where it returns no rows."""

    rowcount: int
    columns: tuple[str, ...] | None = None
    rows: list[tuple[object, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Hit:
    """What the user's statement did: the keys it hit, in its own order, and what it returns to the user."""

    keys: list[Key]
    outcome: Outcome


_Done = tuple[Change | None, Outcome]


class Writer:
    """Runs statements with images on one connection. Remembers table definitions until the schema changes."""

    def __init__(self, dialect: Dialect, *, lock_unique_keys: bool = True) -> None:
        self._dialect = dialect
        self._lock_unique_keys = lock_unique_keys
        self._tables: dict[tuple[str | None, str], Table | Refusal] = {}
        self._catalogue_version: object = None

    def write(self, statement: Statement, sets: Iterable[Parameters], local: LocalTransaction) -> Flow[Outcome]:
        """Run `statement` once for each of `sets`, and append what it changed to `local.changes`.

        Must run inside a local transaction that no other can write into (`Dialect.begin`). What was changed before an
        error stays there, as the rows stay in the local transaction.

        Raises:
            NotSupported: the statement, or its table, is not one that AT can undo. Nothing was changed by it.
        """
        if local.foreign_keys is None:
            # Once: whoever may write holds the file, and a global transaction has no place for changes of the schema.
            yield from self._refresh()
            local.foreign_keys = yield from self._dialect.foreign_keys_enforced()
        enforced = local.foreign_keys
        table = yield from self._table(statement.schema, statement.table)
        if isinstance(table, Refusal):
            raise NotSupported(table.reason, table.hint)
        _check_columns(statement, table)
        if enforced:
            _refuse_referential_actions(statement, table)
        made: list[Change] = []
        rowcount = 0
        outcome = Outcome(0)
        try:
            for parameters in sets:
                outcome = yield from self._in_savepoint(statement, table, parameters, enforced, made)
                rowcount += outcome.rowcount
        finally:
            local.changes += _merged(made)
        return replace(outcome, rowcount=rowcount)

    # --- one statement ---

    def _in_savepoint(
        self, statement: Statement, table: Table, parameters: Parameters, enforced: bool, made: list[Change]
    ) -> Flow[Outcome]:
        yield from query(f"SAVEPOINT {_SAVEPOINT}")
        try:
            change, outcome = yield from self._imaged(statement, table, parameters)
            if change is not None and enforced:
                parents = yield from self._parent_locks(table, statement, change)
                change = replace(change, parents=parents)
        except BaseException as error:
            yield from self._back(error)
            raise
        yield from query(f"RELEASE {_SAVEPOINT}")
        if change is not None:
            made.append(change)
        return outcome

    def _back(self, error: BaseException) -> Flow[None]:
        try:
            yield from query(f"ROLLBACK TO {_SAVEPOINT}")
            yield from query(f"RELEASE {_SAVEPOINT}")
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"The database has ended the local transaction by itself ({second}).")

    def _imaged(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[_Done]:
        try:
            match statement.verb:
                case Verb.INSERT:
                    return (yield from self._insert(statement, table, parameters))
                case Verb.UPDATE:
                    return (yield from self._update(statement, table, parameters))
                case _:
                    return (yield from self._delete(statement, table, parameters))
        except ValueNotSupported as error:
            raise NotSupported(f"a value of {table.name} cannot be kept in an undo log: {error}.") from error

    def _insert(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[_Done]:
        hit = yield from self._run(statement, table, parameters)
        if not hit.keys:
            return None, hit.outcome
        rows = yield from self._by_keys(table, hit.keys)
        undo = SqlUndoLog(SqlType.INSERT, table.name, nothing(table.name), image.records(table, rows))
        return Change(undo, tuple(self._locks(table, rows))), hit.outcome

    def _delete(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[_Done]:
        before = yield from self._by_where(statement, table, parameters)
        hit = yield from self._run(statement, table, parameters)
        if not hit.keys:
            return None, hit.outcome
        rows = _hit_rows(table, before, hit.keys)
        undo = SqlUndoLog(SqlType.DELETE, table.name, image.records(table, rows), nothing(table.name))
        return Change(undo, tuple(self._locks(table, rows))), hit.outcome

    def _update(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[_Done]:
        before = yield from self._by_where(statement, table, parameters)
        hit = yield from self._run(statement, table, parameters)
        if not all(map(table.has, statement.set_columns)):
            # Had it been unknown to the database, too, the statement would have failed: it is a rowid, say.
            raise NotSupported(f"a column that the statement sets is no declared one of {table.name}.")
        if not hit.keys:
            return None, hit.outcome
        old = _hit_rows(table, before, hit.keys)
        new = yield from self._by_keys(table, hit.keys)
        only = frozenset(name.lower() for name in statement.set_columns)
        undo = SqlUndoLog(SqlType.UPDATE, table.name, image.records(table, old, only), image.records(table, new, only))
        locks = [primary_lock(table, row) for row in new]
        if self._lock_unique_keys:
            for one, other in zip(old, new, strict=True):
                locks += changed_unique_locks(table, one, other)
        return Change(undo, tuple(locks)), hit.outcome

    def _locks(self, table: Table, rows: list[FullRow]) -> Iterator[LockKey]:
        for row in rows:
            yield primary_lock(table, row)
            if self._lock_unique_keys:
                yield from unique_locks(table, row)

    # --- asking the database ---

    def _run(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[_Hit]:
        sql = statement.returning(image.returned_key(table, self._dialect.quote))
        done = yield from user_query(sql, parameters)
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

    def _by_where(self, statement: Statement, table: Table, parameters: Parameters) -> Flow[Rows]:
        named = isinstance(parameters, Mapping)
        source = self._dialect.source(table.name)
        sql = image.select_by_where(table, source, statement.image, self._dialect.quote, named=named)
        try:
            wanted = statement.image.parameters(parameters)
        except ParameterCountError as error:
            # The driver says best what is wrong with the parameters; the savepoint takes care of the rest.
            yield from user_query(statement.sql, parameters)
            raise NotSupported("the statement has more placeholders than it was given parameters.") from error
        return (yield from query(sql, wanted))

    def _by_keys(self, table: Table, keys: list[Key]) -> Flow[list[FullRow]]:
        """The rows with these keys, in the order of the keys."""
        found: dict[Key, FullRow] = {}
        source = self._dialect.source(table.name)
        for group in image.key_groups(table, keys):
            sql = image.select_by_keys(table, source, len(group), self._dialect.quote)
            answer = yield from query(sql, [value for key in group for value in key])
            found.update((table.key_of(row), row) for row in answer.rows)
        if any(key not in found for key in keys):
            raise NotSupported(f"a row of {table.name} that was written cannot be found again by its primary key.")
        return [found[key] for key in keys]

    def _parent_locks(self, table: Table, statement: Statement, change: Change) -> Flow[tuple[LockKey, ...]]:
        """The locks of the rows that written foreign keys refer to (at.md §2)."""
        locks: dict[LockKey, None] = {}
        for foreign_key in _written_foreign_keys(table, statement):
            parent = yield from self._table(None, foreign_key.parent)
            if isinstance(parent, Refusal):
                continue  # AT never writes there, so nobody holds a lock on it
            for values in _references(foreign_key, change.undo.after):
                row = yield from self._parent_row(foreign_key, parent, values)
                if row is not None:
                    locks[primary_lock(parent, row)] = None
        return tuple(locks)

    def _parent_row(self, foreign_key: ForeignKey, parent: Table, values: tuple[object, ...]) -> Flow[FullRow | None]:
        quote = self._dialect.quote
        columns = ", ".join(quote(column.name) for column in parent.columns)
        where = " AND ".join(f"{quote(name)} = ?" for name in foreign_key.parent_columns or parent.key)
        answer = yield from query(f"SELECT {columns} FROM {self._dialect.source(parent.name)} WHERE {where}", values)
        return answer.rows[0] if answer.rows else None

    # --- the catalogue ---

    def _refresh(self) -> Flow[None]:
        version = yield from self._dialect.catalogue_version()
        if version == self._catalogue_version:
            return
        problems = yield from self._dialect.check_undo_table()
        if problems:
            raise NotSupported(
                f"AT cannot work on this database: {'; '.join(problems)}.",
                "Make the undo table with `troth at init URL` or `troth.at.init(url)`.",
            )
        self._tables.clear()
        self._catalogue_version = version

    def _table(self, schema: str | None, name: str) -> Flow[Table | Refusal]:
        place = (schema, name)
        if place not in self._tables:
            self._tables[place] = yield from self._dialect.read_table(schema, name)
        return self._tables[place]


def _hit_rows(table: Table, before: Rows, keys: list[Key]) -> list[FullRow]:
    imaged = {table.key_of(row): row for row in before.rows}
    if any(key not in imaged for key in keys):
        raise NotSupported(
            f"the statement changed rows of {table.name} that its WHERE did not choose a moment before.",
            "Do not use functions in WHERE whose result changes from call to call.",
        )
    return [imaged[key] for key in keys]


def _check_columns(statement: Statement, table: Table) -> None:
    for name in statement.set_columns:
        if table.has(name) and table.columns[table.place(name)].key_position:
            raise NotSupported(
                f"the statement changes the primary key column {name} of {table.name}.",
                "Insert the row under its new key and delete the old one.",
            )


def _refuse_referential_actions(statement: Statement, table: Table) -> None:
    changed = {name.lower() for name in statement.set_columns}
    for foreign_key in table.children:
        referred = {name.lower() for name in foreign_key.parent_columns or table.key}
        deletes = statement.verb is Verb.DELETE and foreign_key.deletes_on
        updates = statement.verb is Verb.UPDATE and foreign_key.updates_on and bool(changed & referred)
        if deletes or updates:
            action = foreign_key.on_delete if deletes else foreign_key.on_update
            raise NotSupported(
                f"{statement.verb.value} on {table.name} would {action} rows of {foreign_key.child}, unseen by AT.",
                f"Change the rows of {foreign_key.child} yourself, and declare the foreign key without that action.",
            )


def _written_foreign_keys(table: Table, statement: Statement) -> Iterator[ForeignKey]:
    changed = {name.lower() for name in statement.set_columns}
    for foreign_key in table.parents:
        columns = {name.lower() for name in foreign_key.child_columns}
        if statement.verb is Verb.INSERT or (statement.verb is Verb.UPDATE and columns & changed):
            yield foreign_key


def _references(foreign_key: ForeignKey, after: TableRecords) -> Iterator[tuple[object, ...]]:
    """The values that the rows of an image refer to by `foreign_key`; one with a NULL refers to nothing."""
    seen: set[tuple[object, ...]] = set()
    for row in after.rows:
        values = {name.lower(): value for name, value in row.values.items()}
        reference = tuple(values.get(name.lower()) for name in foreign_key.child_columns)
        if None not in reference and reference not in seen:
            seen.add(reference)
            yield reference


def _merged(changes: list[Change]) -> list[Change]:
    """The inserts of an `executemany` as one: their rows are different ones, so one image holds them all."""
    if len(changes) < 2 or changes[0].undo.sql_type != SqlType.INSERT:
        return changes
    first = changes[0].undo
    rows = tuple(row for change in changes for row in change.undo.after.rows)
    undo = replace(first, after=TableRecords(first.after.table_name, rows))
    locks = tuple(lock for change in changes for lock in change.locks)
    return [Change(undo, locks, tuple(lock for change in changes for lock in change.parents))]
