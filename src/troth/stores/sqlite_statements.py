"""Rows for SQLite's tables, and their SQL: few statements of many rows each, which may be repeated without harm.

sqlite3 lets go of the interpreter lock for every step of a statement, and a worker thread beside a busy event loop
then waits up to 5 ms to get it back. One statement a row made a batch of 512 rows take 150 ms there instead of 7;
with up to 256 rows a statement the lock changes hands a few times a batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

from troth.core.effects import AddBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal
from troth.core.model import Phase, PhaseOne
from troth.stores.packed import pack_branches, pack_plan, pack_terms
from troth.stores.store import StoreError

Value = bytes | str | int | None
Row = tuple[Value, ...]

ROWS_PER_STATEMENT = (256, 64, 16, 4, 1)
"""So that any number of rows needs few statements, and few are ever prepared."""


@dataclass(frozen=True, slots=True, eq=False)
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


def _many_rows(purpose: str, template: str, row: str, *, separator: str = ", ", strict: bool = False) -> ManyRows:
    sql = {size: template.format(rows=separator.join([row] * size)) for size in ROWS_PER_STATEMENT}
    return ManyRows(purpose, MappingProxyType(sql), strict)


PUT_GLOBALS = _many_rows(
    "PutGlobal",
    "INSERT INTO global_transaction"
    " (xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, rollback_only, end_ms, gid, terms,"
    " reason, branches) VALUES {rows}"
    " ON CONFLICT (xid) DO UPDATE SET name = excluded.name, application = excluded.application,"
    " client_group = excluded.client_group, begin_ms = excluded.begin_ms, timeout_ms = excluded.timeout_ms,"
    " phase = excluded.phase, cause = excluded.cause, rollback_only = excluded.rollback_only, end_ms = excluded.end_ms,"
    " gid = excluded.gid, terms = excluded.terms, reason = excluded.reason, branches = excluded.branches",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
PUT_BRANCHES = _many_rows(
    "PutBranch",
    "INSERT OR REPLACE INTO branch (xid, branch_id, seq, branch_type, resource_id, lock_text, auto_commit, client_id,"
    " lock_mode, plan, phase_one, application_data, attempts, frozen, last_error, last_worker, last_attempt_ms,"
    " next_due_ms, gone, ended, epoch) VALUES {rows}",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
MARK_BRANCHES = _many_rows(
    "MarkBranch",
    "UPDATE branch SET phase_one = v.column3, application_data = v.column4, attempts = v.column5, frozen = v.column6,"
    " last_error = v.column7, last_worker = v.column8, last_attempt_ms = v.column9, next_due_ms = v.column10,"
    " gone = v.column11, ended = v.column12, epoch = v.column13, client_id = coalesce(v.column14, client_id)"
    " FROM (VALUES {rows}) AS v WHERE branch.xid = v.column1 AND branch.branch_id = v.column2",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
DROP_BRANCHES = _many_rows(
    "DropBranch",
    # not `IN (VALUES …)`, which reads the whole table for a key of two columns
    "DELETE FROM branch WHERE {rows}",
    "(xid = ? AND branch_id = ?)",
    separator=" OR ",
)
DROP_BRANCHES_OF_ENDED = _many_rows("EndGlobal", "DELETE FROM branch WHERE xid IN (VALUES {rows})", "(?)")
FORGET_OUTCOMES = _many_rows("purge", "DELETE FROM global_transaction WHERE xid IN (VALUES {rows})", "(?)", strict=True)


def encode(text: str) -> bytes:
    """Text as it is stored. A lone surrogate passes: no content may fail a batch."""
    return text.encode("utf-8", "surrogatepass")


def decode(stored: bytes) -> str:
    """The text that `encode` was given."""
    return stored.decode("utf-8", "surrogatepass")


def _encode_optional(text: str | None) -> bytes | None:
    return None if text is None else encode(text)


def global_row(opened: OpenGlobal, marked: MarkGlobal | None, ended: EndGlobal | None) -> Row:
    """A transaction as PUT_GLOBALS takes it."""
    phase, cause, end_ms, reason = Phase.OPEN, None, None, None
    terms = opened.terms
    if ended is not None:
        phase, cause, end_ms, reason = ended.phase, ended.cause, ended.end_ms, ended.reason
    elif marked is not None:
        phase, cause, reason = marked.phase, marked.cause, marked.reason
    return (
        encode(opened.xid),
        encode(opened.name),
        encode(opened.application),
        encode(opened.group),
        opened.begin_ms,
        opened.timeout_ms,
        phase.value,
        None if cause is None else cause.value,
        0 if marked is None else int(marked.rollback_only),
        end_ms,
        None if terms is None or not terms.gid else encode(terms.gid),
        None if terms is None else pack_terms(terms),
        _encode_optional(reason),
        None if ended is None or not ended.branches else pack_branches(ended.branches),
    )


def branch_row(added: AddBranch, marked: MarkBranch | None) -> Row:
    """A live branch as PUT_BRANCHES takes it."""
    facts: Row
    if marked is None:
        data = _encode_optional(added.application_data)
        facts = (PhaseOne.REGISTERED.value, data, 0, 0, None, None, None, None, 0, 0, 0)
    else:
        facts = branch_mark_row(marked)[2:-1]
    return (
        encode(added.xid),
        added.branch_id,
        added.seq,
        added.branch_type.value,
        encode(added.resource_id),
        encode(added.lock_text),
        int(added.auto_commit),
        encode(added.client_id if marked is None or marked.client_id is None else marked.client_id),
        added.lock_mode.value,
        None if added.plan is None else pack_plan(added.plan),
        *facts,
    )


def branch_mark_row(marked: MarkBranch) -> Row:
    """What can change of a branch, as MARK_BRANCHES takes it."""
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
        int(marked.left),
        int(marked.ended),
        marked.epoch,
        _encode_optional(marked.client_id),
    )
