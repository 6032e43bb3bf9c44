"""A net change as SQL for SQLite: few statements of many rows each.

sqlite3 lets go of the interpreter lock for every step of a statement, and a worker thread beside a busy event loop
then waits up to 5 ms to get it back. One statement a row made a batch of 512 rows take 150 ms there instead of 7;
with up to 128 rows a statement the lock changes hands a few times a batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

from troth.core.effects import AddBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal
from troth.core.model import Phase
from troth.stores.folding import NetChange
from troth.stores.store import StoreError

Value = bytes | str | int | None
Row = tuple[Value, ...]

ROWS_PER_STATEMENT = (128, 32, 8, 2, 1)
"""So that any number of rows needs few statements, and few are ever prepared."""


@dataclass(frozen=True, slots=True)
class ManyRows:
    """One statement for each of the sizes; `strict` where each row given must change exactly one row."""

    purpose: str
    sql: Mapping[int, str]
    strict: bool

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Execute for all of `rows`; raises StoreError if one of them names what is not there."""
        start = 0
        for size in _sizes(len(rows)):
            values = tuple(chain.from_iterable(rows[start : start + size]))
            changed = connection.execute(self.sql[size], values).rowcount
            if self.strict and changed != size:
                raise StoreError(
                    f"{self.purpose} is refused: {size - changed} of {size} rows are not open in the store"
                )
            start += size


def _sizes(count: int) -> Iterator[int]:
    for size in ROWS_PER_STATEMENT:
        while count >= size:
            yield size
            count -= size


def _many_rows(purpose: str, template: str, row: str, *, separator: str = ", ", strict: bool = True) -> ManyRows:
    sql = {size: template.format(rows=separator.join([row] * size)) for size in ROWS_PER_STATEMENT}
    return ManyRows(purpose, MappingProxyType(sql), strict)


DROP_BRANCHES = _many_rows(
    "DropBranch",
    # not `IN (VALUES …)`, which reads the whole table for a key of two columns
    "DELETE FROM branch WHERE {rows}",
    "(xid = ? AND branch_id = ?)",
    separator=" OR ",
)
OPEN_GLOBALS = _many_rows(
    "OpenGlobal",
    "INSERT INTO global_transaction"
    " (xid, name, application, client_group, begin_ms, timeout_ms, phase, rollback_only) VALUES {rows}",
    "(?, ?, ?, ?, ?, ?, ?, 0)",
)
ADD_BRANCHES = _many_rows(
    "AddBranch",
    # joined, so that a branch of no open transaction is refused here and not found by the next start
    "INSERT INTO branch (xid, branch_id, seq, branch_type, resource_id, lock_text, application_data, auto_commit,"
    " client_id) SELECT v.* FROM (VALUES {rows}) AS v CROSS JOIN global_transaction AS g"
    " WHERE g.xid = v.column1 AND g.end_ms IS NULL",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
MARK_BRANCHES = _many_rows(
    "MarkBranch",
    "UPDATE branch SET phase_one = v.column3, application_data = v.column4, attempts = v.column5, frozen = v.column6,"
    " last_error = v.column7, last_worker = v.column8, last_attempt_ms = v.column9, next_due_ms = v.column10"
    " FROM (VALUES {rows}) AS v WHERE branch.xid = v.column1 AND branch.branch_id = v.column2",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
MARK_GLOBALS = _many_rows(
    "MarkGlobal",
    "UPDATE global_transaction SET phase = v.column2, cause = v.column3, rollback_only = v.column4"
    " FROM (VALUES {rows}) AS v WHERE global_transaction.xid = v.column1 AND global_transaction.end_ms IS NULL",
    "(?, ?, ?, ?)",
)
END_GLOBALS = _many_rows(
    "EndGlobal",
    "UPDATE global_transaction SET phase = v.column2, cause = v.column3, end_ms = v.column4"
    " FROM (VALUES {rows}) AS v WHERE global_transaction.xid = v.column1 AND global_transaction.end_ms IS NULL",
    "(?, ?, ?, ?)",
)
DROP_BRANCHES_OF_ENDED = _many_rows("EndGlobal", "DELETE FROM branch WHERE xid IN (VALUES {rows})", "(?)", strict=False)
FORGET_OUTCOMES = _many_rows("purge", "DELETE FROM global_transaction WHERE xid IN (VALUES {rows})", "(?)")


def write(connection: sqlite3.Connection, change: NetChange) -> None:
    """Execute `change` in the transaction that is open. Raises StoreError where the store knows no such thing."""
    DROP_BRANCHES.run(connection, [(encode(drop.xid), drop.branch_id) for drop in change.drops])
    OPEN_GLOBALS.run(connection, [_open_row(opened) for opened in change.opens])
    ADD_BRANCHES.run(connection, [_add_row(added) for added in change.adds])
    MARK_BRANCHES.run(connection, [_branch_mark_row(marked) for marked in change.branch_marks])
    MARK_GLOBALS.run(connection, [_mark_row(marked) for marked in change.marks])
    END_GLOBALS.run(connection, [_end_row(ended) for ended in change.ends])
    DROP_BRANCHES_OF_ENDED.run(connection, [(encode(ended.xid),) for ended in change.ends])


def encode(text: str) -> bytes:
    """Text as it is stored. A lone surrogate passes: no content may fail a batch."""
    return text.encode("utf-8", "surrogatepass")


def decode(stored: bytes) -> str:
    """The text that `encode` was given."""
    return stored.decode("utf-8", "surrogatepass")


def _encode_optional(text: str | None) -> bytes | None:
    return None if text is None else encode(text)


def _open_row(opened: OpenGlobal) -> Row:
    return (
        encode(opened.xid),
        encode(opened.name),
        encode(opened.application),
        encode(opened.group),
        opened.begin_ms,
        opened.timeout_ms,
        Phase.OPEN.value,
    )


def _mark_row(marked: MarkGlobal) -> Row:
    cause = None if marked.cause is None else marked.cause.value
    return (encode(marked.xid), marked.phase.value, cause, int(marked.rollback_only))


def _end_row(ended: EndGlobal) -> Row:
    return (encode(ended.xid), ended.phase.value, ended.cause.value, ended.end_ms)


def _add_row(added: AddBranch) -> Row:
    return (
        encode(added.xid),
        added.branch_id,
        added.seq,
        added.branch_type.value,
        encode(added.resource_id),
        encode(added.lock_text),
        _encode_optional(added.application_data),
        int(added.auto_commit),
        encode(added.client_id),
    )


def _branch_mark_row(marked: MarkBranch) -> Row:
    return (
        encode(marked.xid),
        marked.branch_id,
        marked.phase_one.value,
        _encode_optional(marked.application_data),
        marked.attempts,
        int(marked.frozen),
        _encode_optional(marked.last_error),
        _encode_optional(marked.last_worker),
        marked.last_attempt_ms,
        marked.next_due_ms,
    )
