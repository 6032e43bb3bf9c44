"""AT, when a branch can not be undone by itself: show before / after / now, and end it as an operator decides.

One local transaction with the undo row locked, as a rollback has it: a retry that races with a decision finds either
the undo row, or that nothing is left to do. Rows are looked at as a whole: what several statements of the branch did
to one row is one change, from the first before image to the last after image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from troth.client.flow import Flow, query
from troth.client.modes.additive_undo import holds_deltas, release
from troth.client.modes.at_phase_two import (
    Frozen,
    Restorer,
    abort,
    check_foreign_keys,
    guard,
    joined_log,
    log_bytes,
)
from troth.client.sql.dialects.base import Dialect
from troth.client.sql.tables import Table
from troth.client.sql.undo import GUARD, BranchUndoLog, RowChange, State, Verdict, changes_to_undo, same
from troth.client.sql.undo_codec import JACKSON, SERIALIZER, UndoCodecError, decode, parse_context
from troth.wire.seata.private import LARGEST_CONTENT_BYTES, BranchReport, ColumnReport, Inquiry, RowReport

FORCE_BEFORE = "force-before"
KEEP = "keep"
DECISIONS = (FORCE_BEFORE, KEEP)
_MOST_ROWS = 500
_LONGEST_VALUE = 400
_VERDICTS = ((Verdict.AS_LEFT, "as-left"), (Verdict.DONE, "done"), (Verdict.DIRTY, "dirty"))


class Refused(Exception):
    """The decision was not carried out, and nothing was changed. The text says why."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One row: what the whole branch did to it, and how it is now."""

    name: str
    table: Table
    change: RowChange
    now: State | None
    verdict: Verdict
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class _UndoRow:
    """The undo log of a branch, and the rows of undo_log that hold it."""

    context: str
    log: BranchUndoLog
    rows: tuple[int, ...]


def answer_inquiry(dialect: Dialect, xid: str, branch_id: int, inquiry: Inquiry) -> Flow[BranchReport]:
    """Look at the branch; with the action resolve or abandon, end it. Done already is done.

    Raises:
        the driver's errors: busy, or broken. Nothing was changed then, unless the connection was lost in COMMIT.
    """
    peeked = yield from query(dialect.select_undo, (xid, branch_id))
    if peeked.rows:
        # SQLite can not switch it inside of the local transaction.
        yield from dialect.enforce_foreign_keys(dialect.foreign_keys_of(_context(peeked.rows[0][0])))
    yield from query(dialect.begin)
    try:
        report = yield from _answer(dialect, xid, branch_id, inquiry)
    except BaseException as error:
        yield from abort(error)
        if not isinstance(error, Refused | Frozen):
            raise
        return BranchReport("undo-log", refused=str(error))
    yield from query("COMMIT" if report.ended else "ROLLBACK")
    return report


def _answer(dialect: Dialect, xid: str, branch_id: int, inquiry: Inquiry) -> Flow[BranchReport]:
    ending = inquiry.action != "examine"
    found = yield from query(dialect.select_undo, (xid, branch_id))
    if not found.rows:
        # A phase one that comes late must fail, as after a rollback that found nothing.
        if ending and not (yield from guard(dialect, xid, branch_id)):
            raise Refused("the undo row of the branch has just appeared: look at it first")
        return BranchReport("gone", ended=ending)
    if found.rows[0][2] == GUARD:
        return BranchReport("guard", ended=ending)
    try:
        undo_row = yield from _read(dialect, xid, branch_id, str(found.rows[0][0]), found.rows[0][1])
        restorer = Restorer(dialect, enforced=dialect.foreign_keys_of(_context(undo_row.context)))
        findings = yield from _findings(dialect, restorer, undo_row.log)
    except (Frozen, ValueError) as error:
        if inquiry.action == "abandon":
            yield from _delete(dialect, xid, (branch_id,))
            if holds_deltas(_context(found.rows[0][0])):
                yield from release(dialect, [(xid, branch_id)])
        elif ending:
            raise Refused(f"{error}; only abandon ends this branch") from error
        return BranchReport("unreadable", ended=ending, problem=str(error))
    if inquiry.action == "resolve":
        findings = _decided(findings, inquiry)
        yield from _carry_out(dialect, restorer, undo_row.log, findings)
    elif ending:
        findings = [replace(finding, decision="abandon") for finding in findings]
    if ending:
        yield from _delete(dialect, xid, undo_row.rows)
    return _report(restorer, findings, ended=ending)


def _context(text: object) -> Mapping[str, str]:
    return parse_context(str(text))


def _read(dialect: Dialect, xid: str, branch_id: int, context: str, info: object) -> Flow[_UndoRow]:
    """Raises Frozen, UndoCodecError."""
    serializer = parse_context(context).get(SERIALIZER)
    if serializer != JACKSON:
        raise UndoCodecError(f"the undo log is written by {serializer!r}: it holds no images to compare")
    whole, joined, parts = yield from joined_log(dialect, xid, context, log_bytes(info))
    log = decode(whole, joined)
    if (log.xid, log.branch_id) != (xid, branch_id):
        raise Frozen(f"the undo row of branch {branch_id} holds the log of branch {log.branch_id} of {log.xid}")
    return _UndoRow(context, log, (branch_id, *parts))


def _delete(dialect: Dialect, xid: str, rows: Sequence[int]) -> Flow[None]:
    yield from query(dialect.delete_undo(len(rows)), [value for row in rows for value in (xid, row)])


# --- what is the matter ----------------------------------------------------------------------------------------------


def _findings(dialect: Dialect, restorer: Restorer, log: BranchUndoLog) -> Flow[list[_Finding]]:
    """Every row that the branch changed, last touched first. Raises Frozen, ValueError."""
    whole: dict[tuple[str, object], tuple[Table, RowChange]] = {}
    for statement in log.sql_undo_logs:
        table = yield from restorer.table(statement.table)
        changes = changes_to_undo(statement, lambda field, table=table: restorer.read(table, field))  # type: ignore[misc]
        for change in reversed(changes):
            place = (table.name, change.key)
            earlier = whole.pop(place, None)
            whole[place] = (table, change if earlier is None else _then(earlier[1], change))
    names: dict[str, int] = {}
    findings = []
    for table, change in reversed(whole.values()):
        if change.before is None and change.after is None:
            continue  # inserted and deleted again: the branch has left no trace
        now, spelled = yield from dialect.row_states(table, change)
        verdict = Verdict.DONE if same(change.before, change.after) else spelled.judge(now)
        findings.append(_Finding(_name(table, change, names), table, spelled, now, verdict))
    return findings


def _then(first: RowChange, second: RowChange) -> RowChange:
    """Two changes of one row as one. An image of an UPDATE may hold only the columns that it set."""
    before = first.before
    if before is not None and second.before is not None:
        before = {**second.before, **before}
    after = second.after
    if after is not None and first.after is not None:
        after = {**first.after, **after}
    return RowChange(first.table_name, first.key, before, after)


def _name(table: Table, change: RowChange, taken: dict[str, int]) -> str:
    """`table:key`, the parts of a key joined by `_` as in lock keys; numbered where two rows would be called alike."""
    name = f"{table.name}:{'_'.join(_shown(value) or 'NULL' for _, value in change.key)}"
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}~{taken[name]}"


# --- what is done ----------------------------------------------------------------------------------------------------


def _decided(findings: Sequence[_Finding], inquiry: Inquiry) -> list[_Finding]:
    """Each row with what will be done to it. Raises Refused where that is not clear."""
    _check_words(inquiry, {finding.name for finding in findings})
    open_rows = [
        finding.name
        for finding in findings
        if finding.verdict is Verdict.DIRTY and inquiry.rows.get(finding.name, inquiry.others) is None
    ]
    if open_rows:
        count = "1 dirty row" if len(open_rows) == 1 else f"{len(open_rows)} dirty rows"
        raise Refused(f"not decided for {count}: {', '.join(open_rows[:5])}")
    return [_with_decision(finding, inquiry) for finding in findings]


def _check_words(inquiry: Inquiry, names: set[str]) -> None:
    unknown = sorted(set(inquiry.rows) - names)
    if unknown:
        raise Refused(f"the branch has not changed {', '.join(unknown)}; its rows are {', '.join(sorted(names)[:5])}")
    for word in (*inquiry.rows.values(), inquiry.others):
        if word is not None and word not in DECISIONS:
            raise Refused(f"{word!r} is no decision: {', '.join(DECISIONS)}")


def _with_decision(finding: _Finding, inquiry: Inquiry) -> _Finding:
    seen = inquiry.seen.get(finding.name)
    if seen is not None and seen != _digest(finding.now):
        raise Refused(f"{finding.name} has changed since it was looked at: look again, then decide")
    word = inquiry.rows.get(finding.name)
    if finding.verdict is Verdict.DIRTY:
        return replace(finding, decision=word or inquiry.others)
    if word == KEEP:
        return replace(finding, decision=KEEP)
    return replace(finding, decision="undone" if finding.verdict is Verdict.AS_LEFT else "nothing")


def _carry_out(dialect: Dialect, restorer: Restorer, log: BranchUndoLog, findings: Sequence[_Finding]) -> Flow[None]:
    """Restore what is to be restored, last touched first; who stands in another's way comes again behind it."""
    if restorer.enforced:
        yield from dialect.defer_constraints()
    left = [(f.table, _forced(f)) for f in findings if f.decision in ("undone", FORCE_BEFORE)]
    left = [(table, change) for table, change in left if not same(change.before, change.after)]
    while left:
        waiting = []
        for table, change in left:
            if not (yield from restorer.restore(table, [change], may_wait=True)):
                waiting.append((table, change))
        if len(waiting) == len(left):
            yield from restorer.restore(waiting[0][0], [waiting[0][1]])
        left = waiting
    if restorer.enforced:
        yield from check_foreign_keys(dialect, restorer, log)


def _forced(finding: _Finding) -> RowChange:
    """The change from how the row is now back to its before image. Raises Refused."""
    change = RowChange(finding.table.name, finding.change.key, finding.change.before, finding.now)
    if change.before is not None and finding.now is None:
        needed = {column.name.lower() for column in finding.table.columns if not column.generated}
        missing = sorted(needed - {name.lower() for name in change.before})
        if missing:
            raise Refused(
                f"{finding.name} is gone, and its before image has no {', '.join(missing)}: it can not be made again"
            )
    return change


# --- what is told ----------------------------------------------------------------------------------------------------


def _report(restorer: Restorer, findings: Sequence[_Finding], *, ended: bool) -> BranchReport:
    dirty = [finding for finding in findings if finding.verdict is Verdict.DIRTY]
    others = [finding for finding in findings if finding.verdict is not Verdict.DIRTY]
    rows = list(_bounded(_row_report(restorer, finding) for finding in (*dirty, *others)[:_MOST_ROWS]))
    return BranchReport("undo-log", rows, len(findings), len(dirty), ended)


def _bounded(rows: Iterator[RowReport]) -> Iterator[RowReport]:
    size = 0
    for row in rows:
        size += len(row.sql) + 200 + sum(len(text or "") for text in row.parameters)
        size += sum(
            60 + sum(len(text or "") for text in (column.name, column.before, column.after, column.now))
            for column in row.columns
        )
        if 4 * size > LARGEST_CONTENT_BYTES:  # a character may take four bytes
            return
        yield row


def _row_report(restorer: Restorer, finding: _Finding) -> RowReport:
    change, now = finding.change, finding.now
    sql, parameters = _dry_run(restorer, finding)
    return RowReport(
        row=finding.name,
        table=finding.table.name,
        verdict=dict(_VERDICTS)[finding.verdict],
        exists=(change.before is not None, change.after is not None, now is not None),
        columns=[_column_report(name, change, now) for name in change.columns],
        now_digest=_digest(now),
        sql=sql,
        parameters=parameters,
        decision=finding.decision,
    )


def _dry_run(restorer: Restorer, finding: _Finding) -> tuple[str, list[str | None]]:
    """The statement that would put the row right, and its parameters."""
    try:
        change = _forced(finding)
    except Refused:
        return "", []
    if same(change.before, change.after):
        return "", []
    sql, parameters = restorer.statement(finding.table, [change])
    return sql, [_shown(value) for value in parameters]


def _column_report(name: str, change: RowChange, now: State | None) -> ColumnReport:
    before, after, present = ((None if row is None else row.get(name)) for row in (change.before, change.after, now))
    differs = type(present) is not type(after) or present != after
    return ColumnReport(name, _shown(before), _shown(after), _shown(present), differs)


def _shown(value: object) -> str | None:
    if value is None:
        return None
    text = f"0x{bytes(value).hex()}" if isinstance(value, bytes | bytearray | memoryview) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _LONGEST_VALUE:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text[:_LONGEST_VALUE]}… ({len(text)} characters, sha256 {digest})"


def _digest(state: State | None) -> str:
    """Tells two states of a row apart, for a decision that must not overwrite what nobody has seen."""
    facts = None if state is None else [(name, type(state[name]).__name__, repr(state[name])) for name in sorted(state)]
    return hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()[:16]
