"""AT, phase one: one statement with its images (at.md §1, §2).

How images are taken is the dialect's affair (`Dialect.images`). What does not fit sends the statement back to its
savepoint; if only because somebody else wrote in between (`ImageMoved`), it is tried again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from troth.client.errors import NotSupported, TrothError
from troth.client.flow import Flow, Parameters, postponed, query
from troth.client.isolation import CHECK_ONLY
from troth.client.modes.additive import Additions
from troth.client.sql.additive import Delta
from troth.client.sql.dialects.base import Dialect, Expectation, select_matching
from troth.client.sql.dialects.base_guard import marked
from troth.client.sql.image import FullRow, ImageMoved, Images, Key, Outcome, Touched, records
from troth.client.sql.lockkeys import (
    LockKey,
    changed_unique_locks,
    key_lock,
    lock_text,
    primary_lock,
    unique_locks,
)
from troth.client.sql.statement import Statement, Verb
from troth.client.sql.tables import GUARDED, ForeignKey, Refusal, Table
from troth.client.sql.undo import SqlType, SqlUndoLog, TableRecords, nothing
from troth.client.sql.values import ValueNotSupported

_SAVEPOINT = "troth_statement"
_TRIES = 3
"""How often a statement is run in all, if the rows move between image and effect."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one statement changed, which rows that locks, and which rows of others it leans on."""

    undo: SqlUndoLog
    locks: tuple[LockKey, ...]
    parents: tuple[LockKey, ...] = ()
    """Locks of parent rows (foreign keys): they must be free or ours, but are not taken."""
    delta: Delta | None = None
    """What it added, where it did nothing else: it may be undone by that, too."""


@dataclass(slots=True)
class LocalTransaction:
    """The open local transaction: what it has changed so far, and its savepoints (name, number of changes)."""

    xid: str
    changes: list[Change] = field(default_factory=list)
    savepoints: list[tuple[str, int]] = field(default_factory=list)
    foreign_keys: bool | None = None
    """Whether the connection checks foreign keys; asked at the first write."""
    tables: dict[tuple[str | None, str], Table | Refusal] = field(default_factory=dict)
    """The definitions of the tables that were written; they hold as long as the database's locks on them."""
    is_fresh: bool = False
    """It was begun for the statement that runs now, so nothing was read in it before."""


class Writer:
    """Runs statements with images on one connection."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        lock_unique_keys: bool = True,
        expects: Expectation | None = None,
        additions: Additions | None = None,
    ) -> None:
        self._dialect = dialect
        self._additions = additions
        self._expects = expects
        self._lock_unique_keys = lock_unique_keys

    def write(self, statement: Statement, sets: Iterable[Parameters], local: LocalTransaction) -> Flow[Outcome]:
        """Run `statement` once for each of `sets`, and append what it changed to `local.changes`.

        Must run inside a local transaction that no other can write into (`Dialect.begin`). What was changed before an
        error stays there, as the rows stay in the local transaction.

        Raises:
            NotSupported: the statement, or its table, is not one that AT can undo. Nothing was changed by it.
        """
        yield from self._open(local)
        made: list[Change] = []
        rowcount = 0
        outcome = Outcome(0)
        try:
            for parameters in sets:
                outcome = yield from self._in_savepoint(statement, parameters, local, made)
                rowcount += outcome.rowcount
                local.is_fresh = False
        except NotSupported as refusal:
            refusal.add_hint(self._dialect.other_mode)
            raise
        finally:
            local.is_fresh = False
            local.changes += _merged(made)
        return replace(outcome, rowcount=rowcount, last_rowcount=outcome.rowcount)

    def read_locked(
        self, statement: Statement, parameters: Parameters, local: LocalTransaction
    ) -> Flow[tuple[str, Outcome]]:
        """Run a SELECT … FOR UPDATE; with its rows, their locks as text. Raises NotSupported."""
        yield from self._open(local)
        table = yield from self._table(local, statement.schema, statement.table)
        keys, outcome = yield from self._dialect.read_locked(statement, table, parameters)
        return lock_text(key_lock(table, key, self._dialect.lock_part) for key in keys), outcome

    def _open(self, local: LocalTransaction) -> Flow[None]:
        if local.foreign_keys is None:
            yield from self._open_catalogue()
            local.foreign_keys = yield from self._dialect.foreign_keys_enforced()

    def _target(self, statement: Statement, local: LocalTransaction) -> Flow[tuple[Table, bool]]:
        """The table of a write. False beside it: as it was last time, to be confirmed behind the statement."""
        place = (statement.schema, statement.table)
        if place not in local.tables and self._expects is not None and not statement.more:
            expected = yield from self._expects.expected_table(*place)
            if expected is not None and _is_allowed(statement, expected, local):
                return expected, False
        table = yield from self._table(local, *place)
        _check(statement, table, local)
        return table, True

    def _with_tables(self, statement: Statement, local: LocalTransaction) -> Flow[Statement]:
        """The statement with all tables looked up that it writes to beside its own. Raises NotSupported."""
        tables: list[Table] = []
        for one in statement.more:
            tables.append((yield from self._table(local, one.schema, one.table)))
            _check(one, tables[-1], local)
        return replace(statement, more_tables=tuple(tables))

    # --- one statement ---

    def _in_savepoint(
        self, statement: Statement, parameters: Parameters, local: LocalTransaction, made: list[Change]
    ) -> Flow[Outcome]:
        for _ in range(_TRIES):
            table, is_sure = yield from self._target(statement, local)
            if statement.more:
                statement = yield from self._with_tables(statement, local)
            if not local.is_fresh:  # else there is nothing before it to go back to
                yield from postponed(f"SAVEPOINT {_SAVEPOINT}")
            try:
                images = yield from self._images(statement, table, parameters, is_sure=is_sure)
                local.tables[statement.schema, statement.table] = table
                changes = yield from self._changes(table, images, local)
                if self._additions is not None and len(changes) == 1:
                    changes = [(yield from self._with_delta(statement, parameters, table, images, changes[0], local))]
            except ImageMoved as moved:
                yield from self._again(local)
                if isinstance(moved, _DefinitionMoved):
                    yield from self._table(local, statement.schema, statement.table)
            except BaseException as error:
                yield from self._back(error, local)
                raise
            else:
                if not local.is_fresh:
                    yield from postponed(f"RELEASE SAVEPOINT {_SAVEPOINT}")
                made += changes
                return images.outcome
        raise NotSupported(
            f"{_TRIES} times, {statement.verb.value} on {statement.table} did not change just the rows of its image.",
            "Look for a trigger or a function in WHERE that gives another result at each call.",
        )

    def _with_delta(
        self,
        statement: Statement,
        parameters: Parameters,
        table: Table,
        images: Images,
        change: Change,
        local: LocalTransaction,
    ) -> Flow[Change]:
        if self._additions is None or change.parents or statement.more or local.xid == CHECK_ONLY:
            return change
        row = images, change.locks
        delta = yield from self._additions.delta(
            statement, parameters, table, *row, xid=local.xid, is_fresh=local.is_fresh
        )
        return change if delta is None else replace(change, delta=delta)

    def _again(self, local: LocalTransaction) -> Flow[None]:
        """Go back to before the statement, to run it once more."""
        if not local.is_fresh:
            yield from query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            yield from postponed(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            return
        yield from query("ROLLBACK")
        yield from postponed(self._dialect.begin)
        local.tables.clear()  # the database's locks on them are gone
        local.foreign_keys = None
        yield from self._open(local)

    def _back(self, error: BaseException, local: LocalTransaction) -> Flow[None]:
        """After an error nothing of the statement stays; the savepoint goes, or else the whole (by the caller)."""
        aborted = self._dialect.errors_abort and not _is_ours(error)
        if aborted or (local.is_fresh and not self._dialect.errors_abort):
            return
        try:
            if local.is_fresh:
                yield from query("ROLLBACK")
                return
            yield from query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            yield from query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"The database has ended the local transaction by itself ({second}).")

    def _images(self, statement: Statement, table: Table, parameters: Parameters, *, is_sure: bool) -> Flow[Images]:
        """The statement with its images. Raises _DefinitionMoved if the table was not what it was taken for."""
        taking = self._dialect.images(statement, table, parameters)
        for one in (table, *statement.more_tables):
            if GUARDED in one.traits:
                taking = marked(self._dialect, one, taking)
                break
        if is_sure or self._expects is None:
            return (yield from taking)
        try:
            images = yield from taking
        except Exception as error:
            # An error of the database that came before the question whether the definition holds stands for itself.
            holds = self._expects.as_expected()
            if holds is False or (holds is None and isinstance(error, TrothError)):
                raise _DefinitionMoved from error
            raise
        if not self._expects.as_expected():
            raise _DefinitionMoved
        return images

    def _changes(self, table: Table, images: Images, local: LocalTransaction) -> Flow[list[Change]]:
        changes = []
        try:
            for touched in images.touched:
                if touched.before or touched.after:
                    written = touched.table or table
                    change = self._change(written, touched)
                    if local.foreign_keys:
                        change = replace(change, parents=(yield from self._parent_locks(local, written, touched)))
                    changes.append(change)
        except ValueNotSupported as error:
            raise NotSupported(f"a value of {table.name} cannot be kept in an undo log: {error}.") from error
        return changes

    def _change(self, table: Table, touched: Touched) -> Change:
        before = self._records(table, touched.before, touched.only)
        after = self._records(table, touched.after, touched.only)
        undo = SqlUndoLog(touched.sql_type, table.spelling or table.name, before, after)
        if touched.sql_type is not SqlType.UPDATE:
            return Change(undo, tuple(self._locks(table, touched.before or touched.after)))
        locks = [primary_lock(table, row, self._dialect.lock_part) for row in touched.after]
        if self._lock_unique_keys:
            for one, other in zip(touched.before, touched.after, strict=True):
                locks += changed_unique_locks(table, one, other, self._dialect.lock_part)
        return Change(undo, tuple(locks))

    def _records(self, table: Table, rows: Sequence[FullRow], only: frozenset[str] | None) -> TableRecords:
        return records(table, rows, self._dialect.field, only) if rows else nothing(table.name)

    def _locks(self, table: Table, rows: Sequence[FullRow]) -> Iterator[LockKey]:
        for row in rows:
            yield primary_lock(table, row, self._dialect.lock_part)
            if self._lock_unique_keys:
                yield from unique_locks(table, row, self._dialect.lock_part)

    # --- parents ---

    def _parent_locks(self, local: LocalTransaction, table: Table, touched: Touched) -> Flow[tuple[LockKey, ...]]:
        """The locks of the rows that written foreign keys refer to (at.md §2)."""
        locks: dict[LockKey, None] = {}
        for foreign_key in _written_foreign_keys(table, touched):
            parent = yield from self._dialect.undone_table(foreign_key.parent)
            if isinstance(parent, Refusal):
                continue  # AT never writes there, so nobody holds a lock on it
            references = list(_references(foreign_key, table, touched.after))
            places = _key_places(foreign_key, table, parent)
            if places is None:
                keys = yield from self._parent_keys(foreign_key, parent, references)
            else:
                keys = [tuple(values[place] for place in places) for values in references]
            locks |= dict.fromkeys(key_lock(parent, key, self._dialect.lock_part) for key in keys)
        return tuple(locks)

    def _parent_keys(
        self, foreign_key: ForeignKey, parent: Table, references: Sequence[tuple[object, ...]]
    ) -> Flow[list[Key]]:
        """The primary keys of the rows that are referred to, as the database spells them; in one trip, if it can be."""
        names = foreign_key.parent_columns or parent.key
        sql = select_matching(self._dialect, parent, parent.key, names)
        if not references:
            return []
        waiting = []
        for values in references[:-1]:
            waiting.append((yield from postponed(sql, values)))
        last = yield from query(sql, references[-1])
        return [row for answer in [*(later.answer for later in waiting), last] for row in answer.rows[:1]]

    # --- the catalogue ---

    def _open_catalogue(self) -> Flow[None]:
        problems = yield from self._dialect.open_catalogue()
        if problems:
            raise NotSupported(
                f"AT cannot work on this database: {'; '.join(problems)}.",
                "Make the undo table with `troth at init URL` or `troth.at.init(url)`.",
            )

    def _table(self, local: LocalTransaction, schema: str | None, name: str) -> Flow[Table]:
        place = (schema, name)
        if place not in local.tables:
            local.tables[place] = yield from self._dialect.read_table(schema, name)
        table = local.tables[place]
        if isinstance(table, Refusal):
            raise NotSupported(table.reason, table.hint)
        return table


class _DefinitionMoved(ImageMoved):
    """The table is not what it was when it was looked at last; it has to be looked at again."""


def _check(statement: Statement, table: Table, local: LocalTransaction) -> None:
    _check_columns(statement, table)
    if local.foreign_keys:
        _refuse_referential_actions(statement, table)


def _is_allowed(statement: Statement, table: Table, local: LocalTransaction) -> bool:
    try:
        _check(statement, table, local)
    except NotSupported:
        return False  # by a definition that may be an old one, so it is looked at again
    return True


def _is_ours(error: BaseException) -> bool:
    """Whether it is not an error that the database gave: then it is still there to be asked."""
    return isinstance(error, TrothError) or not isinstance(error, Exception)


def _check_columns(statement: Statement, table: Table) -> None:
    for name in statement.set_columns:
        if table.has(name) and table.columns[table.place(name)].key_position:
            raise NotSupported(
                f"the statement changes the primary key column {name} of {table.name}.",
                "Insert the row under its new key and delete the old one.",
            )


def _refuse_referential_actions(statement: Statement, table: Table) -> None:
    changed = {name.lower() for name in statement.changed_columns}
    for foreign_key in table.children:
        referred = {name.lower() for name in foreign_key.parent_columns or table.key}
        deletes = (statement.verb is Verb.DELETE or statement.replaces) and foreign_key.deletes_on
        updates = foreign_key.updates_on and bool(changed & referred)
        if deletes or updates:
            action = foreign_key.on_delete if deletes else foreign_key.on_update
            raise NotSupported(
                f"{statement.verb.value} on {table.name} would {action} rows of {foreign_key.child}, unseen by AT.",
                f"Change the rows of {foreign_key.child} yourself, and declare the foreign key without that action.",
            )


def _written_foreign_keys(table: Table, touched: Touched) -> Iterator[ForeignKey]:
    for foreign_key in table.parents:
        columns = {name.lower() for name in foreign_key.child_columns}
        if touched.after and (touched.only is None or columns & touched.only):
            yield foreign_key


def _key_places(foreign_key: ForeignKey, table: Table, parent: Table) -> list[int] | None:
    """Where the parent's primary key stands in what refers to it, if that is so and both sides spell values alike."""
    referred = [name.lower() for name in foreign_key.parent_columns or parent.key]
    if sorted(referred) != sorted(name.lower() for name in parent.key):
        return None
    for child, name in zip(foreign_key.child_columns, referred, strict=True):
        mine, other = table.column(child), parent.column(name)
        spelling = (mine.base_type, mine.modifier, mine.collation)
        if mine.modifier is None or spelling != (other.base_type, other.modifier, other.collation):
            return None
    return [referred.index(name.lower()) for name in parent.key]


def _references(foreign_key: ForeignKey, table: Table, after: Sequence[FullRow]) -> Iterator[tuple[object, ...]]:
    """The values that the rows of an image refer to by `foreign_key`; one with a NULL refers to nothing."""
    places = [table.place(name) for name in foreign_key.child_columns]
    seen: set[tuple[object, ...]] = set()
    for row in after:
        reference = tuple(row[place] for place in places)
        if None not in reference and reference not in seen:
            seen.add(reference)
            yield reference


def _merged(changes: list[Change]) -> list[Change]:
    """The inserts of an `executemany` as one: their rows are different ones, so one image holds them all."""
    if len(changes) < 2 or any(change.undo.sql_type != SqlType.INSERT for change in changes):
        return changes
    first = changes[0].undo
    rows = tuple(row for change in changes for row in change.undo.after.rows)
    undo = replace(first, after=TableRecords(first.after.table_name, rows))
    locks = tuple(lock for change in changes for lock in change.locks)
    return [Change(undo, locks, tuple(lock for change in changes for lock in change.parents))]
