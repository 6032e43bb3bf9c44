"""What a local commit left in `undo_log`: the rows before and after, read back and decoded as phase two would."""

from __future__ import annotations

from contextlib import closing

from troth.client.sql.undo import SqlUndoLog, TableRecords
from troth.client.sql.undo_codec import decode
from troth.demo.events import Change, Committed, Row
from troth.demo.plain import connect, spelled


def committed(database: str, xid: str | None) -> list[Committed]:
    """One event for each branch of `xid` in the database with the URL `database`."""
    sql = "SELECT branch_id, context, rollback_info FROM undo_log WHERE xid = ? ORDER BY branch_id"
    with closing(connect(database)) as connection:
        cursor = connection.cursor()
        cursor.execute(spelled(database, sql), (xid,))
        rows = cursor.fetchall()
    return [
        Committed(
            xid=xid or "",
            branch_id=str(branch_id),
            changes=[_change(log) for log in decode(context, bytes(rollback_info)).sql_undo_logs],
        )
        for branch_id, context, rollback_info in rows
    ]


def _change(log: SqlUndoLog) -> Change:
    return Change(kind=str(log.sql_type), table=log.table_name, before=_rows(log.before), after=_rows(log.after))


def _rows(records: TableRecords) -> list[Row]:
    return [{name: _shown(value) for name, value in row.values.items()} for row in records.rows]


def _shown(value: object) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else repr(value)
