"""Hot rows, phase two: take back what was added, and let go of what was reserved (at.md §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from troth.client.flow import Flow, query
from troth.client.modes.frozen import Frozen
from troth.client.sql.additive import amounts_of
from troth.client.sql.dialects.base import Dialect, Fault
from troth.client.sql.dialects.base_guard import marked
from troth.client.sql.tables import Table
from troth.client.sql.undo import Row, SqlUndoLog
from troth.client.sql.undo_codec import DELTA, SERIALIZER


def subtract(dialect: Dialect, table: Table, log: SqlUndoLog) -> Flow[None]:
    """Undo one delta. The counter has no image to be compared with: others may have added to it since.

    Raises:
        Frozen: the row is gone, a column is no number any more, or a constraint forbids the result.
    """
    for row in log.after.rows:
        yield from _subtract_row(dialect, table, row)


def _subtract_row(dialect: Dialect, table: Table, row: Row) -> Flow[None]:
    amounts = [(name, added) for name, added in amounts_of(row).items() if added]
    if not amounts:
        return
    missing = [name for name, _ in amounts if not table.has(name)]
    if missing:
        raise Frozen(f"the table has changed since: {table.name} has no column {missing[0]} any more")
    key = [(field.name, dialect.sql_value(table.column(field.name), field)) for field in row.key]
    named = f"{table.name}({', '.join(f'{name}={value!r}' for name, value in key)})"
    try:
        taken = query(*dialect.hot_rows.subtract(dialect, table, amounts, key))
        done = yield from marked(dialect, table, taken)
    except Exception as error:
        if dialect.fault(error) is not Fault.CONSTRAINT:
            raise
        raise Frozen(f"{_shown(amounts)} cannot be taken back from row {named}: {error}") from error
    if done.rowcount != 1:
        raise Frozen(f"{_shown(amounts)} cannot be taken back: row {named} is not there, or holds no number any more")


def _shown(amounts: Sequence[tuple[str, Decimal]]) -> str:
    return ", ".join(f"{name} {added:+f}" for name, added in amounts)


def holds_deltas(context: Mapping[str, str]) -> bool:
    """Whether an undo row with this `context` holds deltas."""
    return context.get(SERIALIZER) == DELTA


def release(dialect: Dialect, branches: Sequence[tuple[str, int]]) -> Flow[None]:
    """Let go of what `branches` (xid, branch id) have reserved."""
    if branches:
        yield from query(dialect.hot_rows.delete(len(branches)), [value for pair in branches for value in pair])
