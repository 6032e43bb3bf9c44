"""AT, phase two: forget the undo rows of a committed branch, or undo a branch (at.md §4).

One local transaction per branch: BEGIN, read the undo row, compare each row with the after image, restore, delete the
undo row, COMMIT. What can not go by itself *freezes* the branch with a reason; it is never retried in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

from troth.client.flow import Flow, query
from troth.client.modes.at import FOREIGN_KEYS
from troth.client.sql.dialects.base import Dialect, Fault
from troth.client.sql.tables import ForeignKey, Refusal, Table
from troth.client.sql.undo import GUARD, GUARD_INFO, BranchUndoLog, RowChange, Verdict, changes_to_undo, same
from troth.client.sql.undo_codec import COMPRESSOR, JACKSON, SERIALIZER, context_text, decode, parse_context
from troth.client.sql.values import SqlValue

_PAIRS_PER_DELETE = 400


class Frozen(Exception):
    """The branch can not be undone by itself; somebody has to look. The text says which row, and why."""


def commit_branches(dialect: Dialect, branches: Sequence[tuple[str, int]]) -> Flow[None]:
    """Delete the undo rows of committed `branches`, pairs (xid, branch id); those gone already do not matter."""
    yield from query(dialect.begin)
    try:
        for start in range(0, len(branches), _PAIRS_PER_DELETE):
            group = branches[start : start + _PAIRS_PER_DELETE]
            yield from query(dialect.delete_undo(len(group)), [value for pair in group for value in pair])
        yield from query("COMMIT")
    except BaseException as error:
        yield from _roll_back(error)
        raise


def delete_undo_logs(dialect: Dialect, save_days: int) -> Flow[None]:
    """Delete undo rows older than `save_days` days."""
    yield from query(dialect.delete_old_undo, (f"-{save_days} days",))


def roll_back_branch(dialect: Dialect, xid: str, branch_id: int) -> Flow[None]:
    """Undo the branch, or leave a guard row if it has not committed (yet); done already is done.

    Raises:
        Frozen: a row is not what the branch left behind, or something stands in its way.
        UndoCodecError, ValueError: the undo row can not be read.
        the driver's errors: busy, or broken.
    """
    peeked = yield from query(dialect.select_undo, (xid, branch_id))
    if peeked.rows:
        # It can not be switched inside of the local transaction, so the row is looked at twice.
        enforced = parse_context(str(peeked.rows[0][0])).get(FOREIGN_KEYS) == "ON"
        yield from dialect.enforce_foreign_keys(enforced)
    yield from query(dialect.begin)
    try:
        found = yield from query(dialect.select_undo, (xid, branch_id))
        if not found.rows:
            yield from _guard(dialect, xid, branch_id)
        elif found.rows[0][2] != GUARD:
            yield from _undo(dialect, xid, branch_id, str(found.rows[0][0]), found.rows[0][1])
        yield from query("COMMIT")
    except BaseException as error:
        yield from _roll_back(error)
        raise


def _roll_back(error: BaseException) -> Flow[None]:
    try:
        yield from query("ROLLBACK")
    except Exception as second:  # noqa: BLE001 - the first error is the one to tell
        error.add_note(f"ROLLBACK said: {second}.")


def _guard(dialect: Dialect, xid: str, branch_id: int) -> Flow[None]:
    """A phase one that comes late fails on the unique key (xid, branch_id)."""
    context = context_text({SERIALIZER: JACKSON, COMPRESSOR: "NONE"})
    yield from query(dialect.insert_undo, (branch_id, xid, context, GUARD_INFO, GUARD))


def _undo(dialect: Dialect, xid: str, branch_id: int, context: str, info: object) -> Flow[None]:
    log = decode(context, info if isinstance(info, bytes) else str(info).encode())
    if (log.xid, log.branch_id) != (xid, branch_id):
        raise Frozen(f"the undo row of branch {branch_id} holds the log of branch {log.branch_id} of {log.xid}")
    enforced = parse_context(context).get(FOREIGN_KEYS) == "ON"
    if enforced:
        yield from dialect.defer_foreign_keys()
    restorer = _Restorer(dialect, enforced=enforced)
    for sql_undo_log in reversed(log.sql_undo_logs):
        for change in changes_to_undo(sql_undo_log):
            yield from restorer.undo(change)
    if enforced:
        yield from _check_foreign_keys(dialect, log)
    yield from query(dialect.delete_undo(1), (xid, branch_id))


def _check_foreign_keys(dialect: Dialect, log: BranchUndoLog) -> Flow[None]:
    """Deferred foreign keys would stop COMMIT without a word about the row, so they are looked at before."""
    for table in dict.fromkeys(item.table_name for item in log.sql_undo_logs):
        broken = yield from dialect.broken_foreign_keys(table)
        if broken is not None:
            raise Frozen(f"undone, {broken}")


class _Restorer:
    """Undoes rows, one by one, inside one local transaction."""

    def __init__(self, dialect: Dialect, *, enforced: bool) -> None:
        self._dialect = dialect
        self._enforced = enforced
        self._tables: dict[str, Table] = {}

    def undo(self, change: RowChange) -> Flow[None]:
        """Restore one row. Raises Frozen."""
        if same(change.before, change.after):
            return
        table = yield from self._table(change.table_name)
        now = yield from self._now(table, change)
        match change.judge(now):
            case Verdict.DIRTY:
                raise Frozen(change.describe(now))
            case Verdict.AS_LEFT:
                yield from self._restore(table, change)
            case Verdict.DONE:
                return

    def _table(self, name: str) -> Flow[Table]:
        if name not in self._tables:
            table = yield from self._dialect.read_table("main", name)
            if isinstance(table, Refusal):
                raise Frozen(f"the table has changed since: {table.reason}")
            self._tables[name] = table
        return self._tables[name]

    def _now(self, table: Table, change: RowChange) -> Flow[dict[str, SqlValue] | None]:
        columns = ", ".join(map(self._dialect.quote, change.columns))
        where, parameters = self._where(change)
        answer = yield from query(f"SELECT {columns} FROM {self._dialect.source(table.name)} WHERE {where}", parameters)
        if not answer.rows:
            return None
        return dict(zip(change.columns, map(_plain, answer.rows[0]), strict=True))

    def _where(self, change: RowChange) -> tuple[str, list[SqlValue]]:
        where = " AND ".join(f"{self._dialect.quote(name)} = ?" for name, _ in change.key)
        return where, [value for _, value in change.key]

    def _restore(self, table: Table, change: RowChange) -> Flow[None]:
        if change.before is None and self._enforced:
            yield from self._refuse_orphans(table, change)
        sql, parameters = self._statement(table, change)
        try:
            done = yield from query(sql, parameters)
        except Exception as error:
            if self._dialect.fault(error) is not Fault.CONSTRAINT:
                raise
            blocking = yield from self._blocking(table, change)
            raise Frozen(f"row {_named(table, change.key)} cannot be restored: {error}{blocking}") from error
        if done.rowcount != 1:
            raise Frozen(f"restoring row {_named(table, change.key)} changed {done.rowcount} rows instead of one")

    def _statement(self, table: Table, change: RowChange) -> tuple[str, list[SqlValue]]:
        source, quote = self._dialect.source(table.name), self._dialect.quote
        where, key = self._where(change)
        if change.before is None:
            return f"DELETE FROM {source} WHERE {where}", key
        if change.after is None:
            names = ", ".join(map(quote, change.before))
            marks = ", ".join("?" * len(change.before))
            return f"INSERT INTO {source} ({names}) VALUES ({marks})", list(change.before.values())
        in_key = {name for name, _ in change.key}
        values = {name: value for name, value in change.before.items() if name not in in_key}
        assignments = ", ".join(f"{quote(name)} = ?" for name in values)
        return f"UPDATE {source} SET {assignments} WHERE {where}", [*values.values(), *key]

    def _refuse_orphans(self, table: Table, change: RowChange) -> Flow[None]:
        """The undo of an INSERT must not take rows of others with it (ON DELETE CASCADE, SET NULL, SET DEFAULT)."""
        for foreign_key in table.children:
            if foreign_key.deletes_on:
                child = yield from self._child(table, foreign_key, change)
                if child is not None:
                    raise Frozen(f"row {_named(table, change.key)} cannot be deleted: {child} refers to it")

    def _child(self, table: Table, foreign_key: ForeignKey, change: RowChange) -> Flow[str | None]:
        values = {name.lower(): value for name, value in (change.after or {}).items()}
        referred = [values.get(name.lower()) for name in foreign_key.parent_columns or table.key]
        if None in referred:
            return None
        quote = self._dialect.quote
        where = " AND ".join(f"{quote(name)} = ?" for name in foreign_key.child_columns)
        source = self._dialect.source(foreign_key.child)
        found = yield from query(f"SELECT * FROM {source} WHERE {where} LIMIT 1", referred)
        if not found.rows:
            return None
        return f"{foreign_key.child}{dict(zip(found.columns, found.rows[0], strict=True))!r}"

    def _blocking(self, table: Table, change: RowChange) -> Flow[str]:
        """Name the row that holds a unique key which the restored row wants."""
        values = {name.lower(): value for name, value in (change.before or {}).items()}
        quote = self._dialect.quote
        for unique in table.unique_keys:
            wanted = [values.get(name.lower()) for name in unique.columns]
            if None in wanted:
                continue
            where = " AND ".join(f"{quote(name)} = ?" for name in unique.columns)
            columns = ", ".join(map(quote, table.key))
            source = self._dialect.source(table.name)
            found = yield from query(f"SELECT {columns} FROM {source} WHERE {where}", wanted)
            for row in found.rows:
                other = tuple(zip(table.key, row, strict=True))
                if row != tuple(value for _, value in change.key):
                    return f"; row {_named(table, other)} has {unique.columns} = {wanted!r} ({unique.name})"
        return ""


def _named(table: Table, key: Sequence[tuple[str, object]]) -> str:
    return f"{table.name}({', '.join(f'{name}={value!r}' for name, value in key)})"


def _plain(value: object) -> SqlValue:
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    raise Frozen(f"the database gave a {type(value).__name__}, which no image holds")
