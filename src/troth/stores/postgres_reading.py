"""What PostgreSQL keeps, read back as deltas, transactions and outcomes."""

from __future__ import annotations

from collections import defaultdict
from heapq import merge
from itertools import islice
from typing import Any

from troth.core.effects import AddBranch, MarkBranch, MarkGlobal, OpenGlobal
from troth.core.model import BranchType, Cause, Global, LockMode, Outcome, Phase, PhaseOne
from troth.stores.cursors import Position, encode_cursor
from troth.stores.hot import assemble
from troth.stores.packed import unpack_branches, unpack_plan, unpack_terms
from troth.stores.postgres_link import Connection
from troth.stores.postgres_statements import CELL, decode, decode_optional, encode
from troth.stores.store import EndedPage, Hot, LeaseLost, StoreCorrupt

ENDED_PHASES = tuple(phase for phase in Phase if phase.ended)

ROWS_A_READ = 2_000
"""So many rows come at once: in between the event loop renews the lease."""

CELL_ROW = "SELECT epoch, last_batch_epoch, last_batch, last_id FROM troth.cell WHERE id = $1"
HOT_GLOBALS = (
    "SELECT xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, rollback_only, terms, reason"
    " FROM troth.global_transaction WHERE end_ms IS NULL"
)
BRANCHES = (
    "SELECT xid, branch_id, seq, branch_type, resource_id, lock_text, application_data, auto_commit, client_id,"
    " phase_one, attempts, frozen, last_error, last_worker, last_attempt_ms, next_due_ms, lock_mode, plan, gone,"
    " ended, epoch FROM troth.branch"
)
OUTCOMES = (
    "SELECT xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, end_ms, reason, terms, branches"
    " FROM troth.global_transaction"
)
OF_GID = "SELECT xid FROM troth.global_transaction WHERE gid = $1"
OUTCOME = f"{OUTCOMES} WHERE xid = $1 AND end_ms IS NOT NULL"
NEWEST_ENDED = f"{OUTCOMES} WHERE phase = $1 AND end_ms IS NOT NULL ORDER BY end_ms DESC, xid DESC LIMIT $2"
NEXT_ENDED = (
    f"{OUTCOMES} WHERE phase = $1 AND end_ms IS NOT NULL AND (end_ms, xid) < ($3, $4)"
    " ORDER BY end_ms DESC, xid DESC LIMIT $2"
)
PURGE = (
    "WITH old AS (SELECT end_ms, xid FROM troth.global_transaction"
    " WHERE phase = $1 AND end_ms IS NOT NULL AND end_ms < $2 ORDER BY end_ms, xid LIMIT $3)"
    " SELECT end_ms, xid FROM old"
)
FORGET = (
    "DELETE FROM troth.global_transaction AS g USING unnest($3::bytea[]) AS v(xid)"
    " WHERE g.xid = v.xid AND g.end_ms IS NOT NULL"
    " AND EXISTS (SELECT FROM troth.cell WHERE id = $1 AND epoch = $2)"
)

BranchFacts = tuple[AddBranch, MarkBranch | None]
Row = Any


async def read_hot(connection: Connection, epoch: int) -> Hot:
    """Everything that has not ended, as of one moment. Raises StoreCorrupt for facts that fit no transaction."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cell = await read_cell(connection)
        if cell["epoch"] != epoch:
            raise LeaseLost(f"epoch {epoch} is over: epoch {cell['epoch']} leads the cell")
        branches: defaultdict[bytes, list[BranchFacts]] = defaultdict(list)
        async for row in connection.cursor(BRANCHES, prefetch=ROWS_A_READ):
            branches[row[0]].append(_branch(row))
        transactions: list[Global] = []
        async for row in connection.cursor(HOT_GLOBALS, prefetch=ROWS_A_READ):
            transactions.append(_transaction(row, branches.pop(row[0], [])))
    if branches:
        strays = ", ".join(decode(xid) for xid in islice(branches, 3))
        raise StoreCorrupt(f"the store has branches of transactions that are not open ({strays})")
    return Hot(transactions=transactions, last_batch=cell["last_batch"], last_id=cell["last_id"])


async def read_cell(connection: Connection, suffix: str = "") -> Row:
    """The row of the cell."""
    row = await connection.fetchrow(CELL_ROW + suffix, CELL)
    if row is None:
        raise StoreCorrupt("the store has lost the row of its cell: restore it from a copy")
    return row


async def read_outcome(connection: Connection, xid: str) -> Outcome | None:
    """How `xid` ended, or None."""
    row = await connection.fetchrow(OUTCOME, encode(xid))
    return None if row is None else _outcome(row)


async def read_gid(connection: Connection, gid: str) -> str | None:
    """The xid of the transaction of this name, or None."""
    xid = await connection.fetchval(OF_GID, encode(gid))
    return None if xid is None else decode(xid)


async def read_ended(connection: Connection, phase: Phase | None, limit: int, position: Position | None) -> EndedPage:
    """A page of outcomes, newest end first, from just behind `position`."""
    phases = ENDED_PHASES if phase is None else (phase,)
    runs = []
    for each in phases:
        if position is None:
            rows = await connection.fetch(NEWEST_ENDED, each.value, limit + 1)
        else:
            rows = await connection.fetch(NEXT_ENDED, each.value, limit + 1, position.end_ms, encode(position.xid))
        runs.append([_outcome(row) for row in rows])
    found = list(islice(merge(*runs, key=_position, reverse=True), limit + 1))
    if len(found) <= limit:
        return EndedPage(found, None)
    return EndedPage(found[:limit], encode_cursor(_position(found[limit - 1])))


async def purge(connection: Connection, epoch: int, before_ms: int, limit: int) -> int:
    """Forget the oldest outcomes; returns how many. A leader that has been deposed forgets nothing."""
    runs = [await connection.fetch(PURGE, phase.value, before_ms, limit) for phase in ENDED_PHASES]
    xids = [row[1] for row in islice(merge(*runs), limit)]
    await connection.execute(FORGET, CELL, epoch, xids)
    return len(xids)


def _position(outcome: Outcome) -> Position:
    return Position(outcome.end_ms, outcome.xid)


def _outcome(row: Row) -> Outcome:
    xid, name, application, group, begin_ms, timeout_ms, phase, cause, end_ms, reason, terms, branches = row
    return Outcome(
        xid=decode(xid),
        name=decode(name),
        application=decode(application),
        group=decode(group),
        begin_ms=begin_ms,
        timeout_ms=timeout_ms,
        phase=Phase(phase),
        cause=Cause(cause),
        end_ms=end_ms,
        reason=decode_optional(reason),
        terms=unpack_terms(terms),
        branches=unpack_branches(branches),
    )


def _transaction(row: Row, branches: list[BranchFacts]) -> Global:
    names = decode(row[0]), decode(row[1]), decode(row[2]), decode(row[3])
    opened = OpenGlobal(*names, row[4], row[5], unpack_terms(row[9]))
    cause = None if row[7] is None else Cause(row[7])
    return assemble(opened, MarkGlobal(opened.xid, Phase(row[6]), cause, row[8], decode_optional(row[10])), branches)


def _branch(row: Row) -> BranchFacts:
    xid, branch_id = decode(row[0]), row[1]
    application_data = decode_optional(row[6])
    added = AddBranch(
        xid=xid,
        branch_id=branch_id,
        seq=row[2],
        branch_type=BranchType(row[3]),
        resource_id=decode(row[4]),
        lock_text=decode(row[5]),
        application_data=application_data,
        auto_commit=row[7],
        client_id=decode(row[8]),
        lock_mode=LockMode(row[16]),
        plan=unpack_plan(row[17]),
    )
    marked = MarkBranch(
        xid=xid,
        branch_id=branch_id,
        phase_one=PhaseOne(row[9]),
        application_data=application_data,
        attempts=row[10],
        frozen=row[11],
        last_error=decode_optional(row[12]),
        last_worker=decode_optional(row[13]),
        last_attempt_ms=row[14],
        next_due_ms=row[15],
        left=row[18],
        ended=row[19],
        epoch=row[20],
    )
    return added, marked
