"""AT, phase two: forget the undo rows of a committed branch, or undo a branch (at.md §4).

One local transaction per branch: BEGIN, read the undo row, compare each row with the after image, restore, delete the
undo row, COMMIT. What can not go by itself *freezes* the branch with a reason; it is never retried in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from troth.client.flow import Flow, Rows, postponed, query
from troth.client.modes.additive_undo import holds_deltas, release, subtract
from troth.client.modes.frozen import Frozen as Frozen
from troth.client.sql.additive import ADD
from troth.client.sql.dialects.base import Dialect, Fault, match, select_matching
from troth.client.sql.dialects.base_guard import marked
from troth.client.sql.tables import Column, ForeignKey, Refusal, Table
from troth.client.sql.undo import (
    GUARD,
    GUARD_INFO,
    NORMAL,
    BranchUndoLog,
    Field,
    RowChange,
    SqlUndoLog,
    Verdict,
    changes_to_undo,
    same,
)
from troth.client.sql.undo_codec import COMPRESSOR, JACKSON, SERIALIZER, SPLIT, context_text, decode, parse_context

_PAIRS_PER_DELETE = 400
_SAVEPOINT = "troth_undo"
_ROWS_PER_STATEMENT = 500
_STARTS = 3
"""How often a rollback starts again, if the undo row comes and goes while it looks."""


def commit_branches(dialect: Dialect, branches: Sequence[tuple[str, int]]) -> Flow[None]:
    """Delete the undo rows of committed `branches`, pairs (xid, branch id); those gone already do not matter."""
    yield from query(dialect.begin)
    try:
        for start in range(0, len(branches), _PAIRS_PER_DELETE):
            group = branches[start : start + _PAIRS_PER_DELETE]
            pairs = [value for pair in group for value in pair]
            deltas = yield from postponed(dialect.hot_rows.deltas_among(len(group)), pairs)
            yield from query(dialect.delete_undo(len(group)), pairs)
            yield from release(dialect, [(str(row[0]), int(str(row[1]))) for row in deltas.answer.rows])
        yield from query("COMMIT")
    except BaseException as error:
        yield from abort(error)
        raise


def delete_undo_logs(dialect: Dialect, save_days: int) -> Flow[None]:
    """Delete undo rows older than `save_days` days."""
    yield from query(*dialect.delete_old_undo(save_days))
    if (yield from dialect.hot_rows.is_there()):
        yield from query(*dialect.hot_rows.delete_old(save_days))


def settle_branch(dialect: Dialect, xid: str, branch_id: int) -> Flow[bool]:
    """Whether the branch has committed; if not, a guard row sees to it that it never will (at.md §3)."""
    yield from query(dialect.begin)
    try:
        guarded = yield from guard(dialect, xid, branch_id)
        found = yield from query(dialect.select_undo, (xid, branch_id))
        yield from query("COMMIT")
    except BaseException as error:
        yield from abort(error)
        raise
    return not guarded and any(row[2] == NORMAL for row in found.rows)


class _StartAgain(Exception):
    """Between looking for the undo row and writing a guard row, somebody else wrote one."""


def roll_back_branch(dialect: Dialect, xid: str, branch_id: int) -> Flow[None]:
    """Undo the branch, or leave a guard row if it has not committed (yet); done already is done.

    Raises:
        Frozen: a row is not what the branch left behind, or something stands in its way.
        UndoCodecError, ValueError: the undo row can not be read.
        the driver's errors: busy, or broken.
    """
    for _ in range(_STARTS):
        try:
            yield from _roll_back_branch(dialect, xid, branch_id)
        except _StartAgain:
            continue
        return
    raise RuntimeError(f"the undo row of branch {branch_id} of {xid} comes and goes")


def _roll_back_branch(dialect: Dialect, xid: str, branch_id: int) -> Flow[None]:
    peeked = yield from query(dialect.select_undo, (xid, branch_id))
    if peeked.rows:
        # SQLite can not switch it inside of the local transaction, so the row is looked at twice.
        context = parse_context(str(peeked.rows[0][0]))
        yield from dialect.enforce_foreign_keys(dialect.foreign_keys_of(context))
    yield from query(dialect.begin)
    try:
        found = yield from query(dialect.select_undo, (xid, branch_id))
        if not found.rows:
            if not (yield from guard(dialect, xid, branch_id)):
                raise _StartAgain
        elif found.rows[0][2] != GUARD:
            yield from _undo(dialect, xid, branch_id, str(found.rows[0][0]), found.rows[0][1])
        yield from query("COMMIT")
    except BaseException as error:
        yield from abort(error)
        raise


def abort(error: BaseException) -> Flow[None]:
    try:
        yield from query("ROLLBACK")
    except Exception as second:  # noqa: BLE001 - the first error is the one to tell
        error.add_note(f"ROLLBACK said: {second}.")


def guard(dialect: Dialect, xid: str, branch_id: int) -> Flow[bool]:
    """A phase one that comes late fails on the unique key (xid, branch_id). False: there is a row already."""
    context = context_text({SERIALIZER: JACKSON, COMPRESSOR: "NONE"})
    done = yield from query(dialect.insert_guard, (branch_id, xid, context, GUARD_INFO, GUARD))
    return done.rowcount == 1


def _undo(dialect: Dialect, xid: str, branch_id: int, context: str, info: object) -> Flow[None]:
    whole, info, parts = yield from joined_log(dialect, xid, context, log_bytes(info))
    log = decode(whole, info)
    if (log.xid, log.branch_id) != (xid, branch_id):
        raise Frozen(f"the undo row of branch {branch_id} holds the log of branch {log.branch_id} of {log.xid}")
    enforced = dialect.foreign_keys_of(parse_context(context))
    if enforced:
        yield from dialect.defer_constraints()
    restorer = Restorer(dialect, enforced=enforced)
    for sql_undo_log in reversed(log.sql_undo_logs):
        if sql_undo_log.sql_type == ADD:
            yield from subtract(dialect, (yield from restorer.table(sql_undo_log.table)), sql_undo_log)
        else:
            yield from restorer.undo_statement(sql_undo_log)
    if holds_deltas(parse_context(context)):
        yield from release(dialect, [(xid, branch_id)])
    if enforced:
        yield from check_foreign_keys(dialect, restorer, log)
    rows = (branch_id, *parts)
    yield from query(dialect.delete_undo(len(rows)), [value for row in rows for value in (xid, row)])


def joined_log(dialect: Dialect, xid: str, context: str, info: bytes) -> Flow[tuple[str, bytes, tuple[int, ...]]]:
    """An undo log that Java has split: its context without the split, all its bytes, and the rows that held the rest.

    Java writes what exceeds 0.8 of MySQL's max_allowed_packet into rows of their own, whose branch ids are in `subId`.
    Raises Frozen if one of them is not there.
    """
    values = parse_context(context)
    if SPLIT not in values:
        return context, info, ()
    parts = tuple(int(part) for part in values.pop(SPLIT).split(",") if part)
    for part in parts:
        found = yield from query(dialect.select_undo, (xid, part))
        if not found.rows:
            raise Frozen(f"the undo log is split over several rows, and the one with the branch id {part} is missing")
        info += log_bytes(found.rows[0][1])
    return context_text(values), info, parts


def log_bytes(info: object) -> bytes:
    return info if isinstance(info, bytes) else str(info).encode()


def check_foreign_keys(dialect: Dialect, restorer: Restorer, log: BranchUndoLog) -> Flow[None]:
    """Deferred foreign keys would stop COMMIT without a word about the row, so they are looked at before."""
    for name in dict.fromkeys(item.table for item in log.sql_undo_logs):
        broken = yield from dialect.broken_foreign_keys((yield from restorer.table(name)))
        if broken is not None:
            raise Frozen(f"undone, {broken}")


class Restorer:
    """Undoes rows, one by one, inside one local transaction."""

    def __init__(self, dialect: Dialect, *, enforced: bool) -> None:
        self._dialect = dialect
        self.enforced = enforced
        self._tables: dict[str, Table] = {}

    def undo_statement(self, log: SqlUndoLog) -> Flow[None]:
        """Undo what one statement did. Raises Frozen.

        What it inserted or deleted comes and goes together, since its rows may refer to each other.
        """
        table = yield from self.table(log.table)
        updated: list[RowChange] = []
        together: list[RowChange] = []
        for change in changes_to_undo(log, lambda field: self.read(table, field)):
            left = yield from self._left(change, table)
            if left is not None:
                is_update = left.before is not None and left.after is not None
                (updated if is_update else together).append(left)
        yield from self._restore_updated(table, updated)
        for start in range(0, len(together), _ROWS_PER_STATEMENT):
            yield from self.restore(table, together[start : start + _ROWS_PER_STATEMENT])

    def _restore_updated(self, table: Table, changes: Sequence[RowChange]) -> Flow[None]:
        """Restore rows one by one. Raises Frozen.

        One that wants a unique value which another still has comes again behind it: the images need not stand in the
        order in which the statement went through its rows.
        """
        while changes:
            waiting: list[RowChange] = []
            for change in changes:
                if not (yield from self.restore(table, [change], may_wait=True)):
                    waiting.append(change)
            if len(waiting) == len(changes):
                yield from self.restore(table, waiting[:1])
            changes = waiting

    def read(self, table: Table, field: Field) -> object:
        return self._dialect.sql_value(_column(table, field.name), field)

    def _left(self, change: RowChange, table: Table) -> Flow[RowChange | None]:
        """The change, if the row is as it left it; None if there is nothing to do. Raises Frozen."""
        if same(change.before, change.after):
            return None
        now, change = yield from self._dialect.row_states(table, change)
        verdict = change.judge(now)
        if verdict is Verdict.DIRTY:
            raise Frozen(change.describe(now))
        return change if verdict is Verdict.AS_LEFT else None

    def table(self, name: str) -> Flow[Table]:
        """The table that undo rows call `name`. Raises Frozen."""
        if name not in self._tables:
            table = yield from self._dialect.undone_table(name)
            if isinstance(table, Refusal):
                raise Frozen(f"the table has changed since: {table.reason}")
            self._tables[name] = table
        return self._tables[name]

    def restore(self, table: Table, changes: Sequence[RowChange], *, may_wait: bool = False) -> Flow[bool]:
        """Restore one row, or several that were all inserted or all deleted, by one statement. Raises Frozen.

        False: something is in its way, and it `may_wait`.
        """
        if self.enforced:
            for change in changes:
                if change.before is None:
                    yield from self._refuse_orphans(table, change)
        sql, parameters = self.statement(table, changes)
        if self._dialect.errors_abort:
            yield from query(f"SAVEPOINT {_SAVEPOINT}")
        try:
            done = yield from marked(self._dialect, table, query(sql, parameters))
        except Exception as error:
            if self._dialect.fault(error) is not Fault.CONSTRAINT:
                raise
            if self._dialect.errors_abort:
                yield from query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            if may_wait:
                return False
            change, blocking = yield from self._blocked(table, changes)
            raise Frozen(f"row {row_name(table, change.key)} cannot be restored: {error}{blocking}") from error
        if done.rowcount != len(changes):
            rows = ", ".join(row_name(table, change.key) for change in changes[:5])
            raise Frozen(f"restoring {len(changes)} rows ({rows} …) changed {done.rowcount}")
        return True

    def statement(self, table: Table, changes: Sequence[RowChange]) -> tuple[str, list[object]]:
        first = changes[0]
        if first.before is None:
            where = " OR ".join(f"({match_key(self._dialect, table, change)})" for change in changes)
            return f"DELETE FROM {table.source} WHERE {where}", [v for change in changes for _, v in change.key]
        if first.after is None:
            names = ", ".join(map(self._dialect.quote, first.before))
            marks = ", ".join(self._dialect.mark(table.column(name)) for name in first.before)
            rows = ", ".join([f"({marks})"] * len(changes))
            sql = f"INSERT INTO {table.source} ({names}) {self._dialect.overriding(table)}VALUES {rows}"
            return sql, [(change.before or {}).get(name) for change in changes for name in first.before]
        in_key = {name for name, _ in first.key}
        values = {name: value for name, value in first.before.items() if name not in in_key}
        assignments = ", ".join(
            f"{self._dialect.quote(name)} = {self._dialect.mark(table.column(name))}" for name in values
        )
        key = [value for _, value in first.key]
        sql = f"UPDATE {table.source} SET {assignments} WHERE {match_key(self._dialect, table, first)}"
        return sql, [*values.values(), *key]

    def _blocked(self, table: Table, changes: Sequence[RowChange]) -> Flow[tuple[RowChange, str]]:
        """Which of the rows is in trouble, and by what, as far as that can be told."""
        for change in changes:
            blocking = yield from self._blocking(table, change)
            if blocking:
                return change, blocking
        return changes[0], ""

    def _refuse_orphans(self, table: Table, change: RowChange) -> Flow[None]:
        """The undo of an INSERT must not take rows of others with it (ON DELETE CASCADE, SET NULL, SET DEFAULT)."""
        for foreign_key in table.children:
            if foreign_key.deletes_on:
                child = yield from self._child(table, foreign_key, change)
                if child is not None:
                    raise Frozen(f"row {row_name(table, change.key)} cannot be deleted: {child} refers to it")

    def _child(self, table: Table, foreign_key: ForeignKey, change: RowChange) -> Flow[str | None]:
        values = {name.lower(): value for name, value in (change.after or {}).items()}
        referred = [values.get(name.lower()) for name in foreign_key.parent_columns or table.key]
        if None in referred:
            return None
        columns = zip(foreign_key.child_columns, foreign_key.parent_columns or table.key, strict=True)
        where = " AND ".join(
            f"{self._dialect.quote(child)} = {self._dialect.mark(table.column(parent))}" for child, parent in columns
        )
        found = yield from query(f"SELECT * FROM {foreign_key.child_source} WHERE {where} LIMIT 1", referred)
        if not found.rows:
            return None
        return f"{foreign_key.child}{dict(zip(found.columns, found.rows[0], strict=True))!r}"

    def _blocking(self, table: Table, change: RowChange) -> Flow[str]:
        """Name the row that refers to one which has to go, or holds a unique key which the restored row wants."""
        for foreign_key in table.children if change.before is None else ():
            child = yield from self._child(table, foreign_key, change)
            if child is not None:
                return f"; {child} refers to it"
        values = yield from self._wanted_values(table, change)
        for unique in table.unique_keys if change.before is not None else ():
            wanted = [values.get(name.lower()) for name in unique.columns]
            if None in wanted and not unique.nulls_equal:
                continue
            found = yield from self._holders(table, dict(zip(unique.columns, wanted, strict=True)))
            for row in found.rows:
                other = tuple(zip(table.key, row, strict=True))
                if dict(other) != dict(change.key):
                    return f"; row {row_name(table, other)} has {unique.columns} = {wanted!r} ({unique.name})"
        return ""

    def _wanted_values(self, table: Table, change: RowChange) -> Flow[dict[str, object]]:
        """All values that the restored row would have: an image of an UPDATE holds only the columns that it set."""
        names = [column.name for column in table.columns]
        keys = [name for name, _ in change.key]
        answer = yield from query(
            select_matching(self._dialect, table, names, keys), [value for _, value in change.key]
        )
        present = dict(zip(names, answer.rows[0], strict=True)) if answer.rows else {}
        return {name.lower(): value for name, value in {**present, **(change.before or {})}.items()}

    def _holders(self, table: Table, values: Mapping[str, object]) -> Flow[Rows]:
        """The primary keys of the rows with these values; a NULL is equal to a NULL."""
        given = {name: value for name, value in values.items() if value is not None}
        nulls = [f"{self._dialect.quote(name)} IS NULL" for name in values if name not in given]
        where = " AND ".join([part for part in (match(self._dialect, table, list(given)), *nulls) if part])
        keys = self._dialect.select_list(table, table.key)
        return (yield from query(f"SELECT {keys} FROM {table.source} WHERE {where}", list(given.values())))


def match_key(dialect: Dialect, table: Table, change: RowChange) -> str:
    """The WHERE condition that names the row of `change`; its parameters are the key's values, in order."""
    return match(dialect, table, [name for name, _ in change.key])


def _column(table: Table, name: str) -> Column:
    if not table.has(name):
        raise Frozen(f"the table has changed since: {table.name} has no column {name} any more")
    return table.column(name)


def row_name(table: Table, key: Sequence[tuple[str, object]]) -> str:
    return f"{table.name}({', '.join(f'{name}={value!r}' for name, value in key)})"
