"""What SQLite keeps, read back as deltas, transactions and outcomes."""

from __future__ import annotations

import gc
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import merge, nlargest
from itertools import islice

from troth.core.effects import AddBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal
from troth.core.model import BranchType, Cause, LockMode, Outcome, Phase, PhaseOne
from troth.stores.cursors import Position, encode_cursor
from troth.stores.hot import assemble
from troth.stores.packed import unpack_branches, unpack_plan, unpack_terms
from troth.stores.sqlite_statements import decode, encode
from troth.stores.sqlite_window import UNTOUCHED, Life
from troth.stores.store import EndedPage, Hot, StoreCorrupt

ENDED_PHASES = tuple(phase for phase in Phase if phase.ended)

HOT_GLOBALS = (
    "SELECT xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, rollback_only, terms, reason"
    " FROM global_transaction INDEXED BY global_transaction_hot WHERE end_ms IS NULL"
)
BRANCHES = (
    "SELECT xid, branch_id, seq, branch_type, resource_id, lock_text, application_data, auto_commit, client_id,"
    " phase_one, attempts, frozen, last_error, last_worker, last_attempt_ms, next_due_ms, lock_mode, plan, gone,"
    " ended, epoch FROM branch"
)
HIGHEST = "SELECT max(xid) FROM global_transaction"
LIVES = (
    "SELECT xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, rollback_only, end_ms, terms,"
    " reason, branches FROM global_transaction WHERE xid IN ({marks})"
)
LIVE_BRANCHES = "SELECT xid, branch_id FROM branch WHERE xid IN ({marks})"
XIDS_A_QUESTION = 256
OUTCOMES = (
    "SELECT xid, name, application, client_group, begin_ms, timeout_ms, phase, cause, end_ms, reason, terms, branches"
    " FROM global_transaction"
)
OF_GID = "SELECT xid FROM global_transaction WHERE gid = ?"
OUTCOME = f"{OUTCOMES} WHERE xid = ? AND end_ms IS NOT NULL"
NEWEST_ENDED = f"{OUTCOMES} WHERE phase = ? AND end_ms IS NOT NULL ORDER BY end_ms DESC, xid DESC LIMIT ?"
NEXT_ENDED = (
    f"{OUTCOMES} WHERE phase = ? AND end_ms IS NOT NULL AND (end_ms, xid) < (?, ?)"
    " ORDER BY end_ms DESC, xid DESC LIMIT ?"
)
OLDEST_ENDED = (
    "SELECT end_ms, xid FROM global_transaction WHERE phase = ? AND end_ms IS NOT NULL AND end_ms < ?"
    " ORDER BY end_ms, xid LIMIT ?"
)

BranchFacts = tuple[AddBranch, MarkBranch | None]


def read_counters(connection: sqlite3.Connection) -> tuple[int, int]:
    """The number of the last batch, and the highest id given out."""
    row = connection.execute("SELECT last_batch, last_id FROM cell WHERE id = 1").fetchone()
    if row is None:
        raise StoreCorrupt("the store has lost its counters: restore it from a copy")
    return int(row[0]), int(row[1])


def read_highest(connection: sqlite3.Connection) -> str:
    """The highest xid of all, in the order of texts; "" if there is none."""
    (highest,) = connection.execute(HIGHEST).fetchone()
    return "" if highest is None else decode(highest)


def read_lives(connection: sqlite3.Connection, xids: Sequence[str]) -> dict[str, Life]:
    """What the tables know of these transactions, with the ids of their live branches."""
    lives: dict[bytes, Life] = {}
    for start in range(0, len(xids), XIDS_A_QUESTION):
        some = [encode(xid) for xid in xids[start : start + XIDS_A_QUESTION]]
        marks = ", ".join("?" * len(some))
        lives.update((row[0], _life(row)) for row in connection.execute(LIVES.format(marks=marks), some))
        for xid, branch_id in connection.execute(LIVE_BRANCHES.format(marks=marks), some):
            if xid in lives:
                lives[xid].branches[branch_id] = UNTOUCHED
    return {life.opened.xid: life for life in lives.values()}


def read_gid(connection: sqlite3.Connection, gid: str) -> str | None:
    """The xid of the transaction of this name, or None."""
    row = connection.execute(OF_GID, (encode(gid),)).fetchone()
    return None if row is None else decode(row[0])


StoredGlobal = tuple[
    *tuple[bytes, bytes, bytes, bytes, int, int, str, str | None, int, int | None],
    *tuple[bytes | None, bytes | None, bytes | None],
]


def _life(row: StoredGlobal) -> Life:
    xid, name, application, group, begin_ms, timeout_ms, phase, cause, rollback_only, end_ms, *named = row
    terms, reason = unpack_terms(named[0]), _decode_optional(named[1])
    opened = OpenGlobal(decode(xid), decode(name), decode(application), decode(group), begin_ms, timeout_ms, terms)
    life = Life(opened, stored=True)
    found_cause = None if cause is None else Cause(cause)
    life.marked = MarkGlobal(opened.xid, Phase(phase), found_cause, bool(rollback_only), reason)
    if end_ms is not None:
        branches = unpack_branches(named[2])
        life.ended = EndGlobal(opened.xid, Phase(phase), Cause(cause), end_ms, reason, branches)
    return life


def read_hot(connection: sqlite3.Connection) -> Hot:
    """Everything that has not ended. Raises StoreCorrupt for facts that fit no transaction."""
    with _collection_paused():
        return _read_hot(connection)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """A million transactions are millions of objects, none of them garbage, and each collection looks at all."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_hot(connection: sqlite3.Connection) -> Hot:
    branches: defaultdict[bytes, list[BranchFacts]] = defaultdict(list)
    for xid, facts in _read_branches(connection):
        branches[xid].append(facts)
    transactions = []
    for row in connection.execute(HOT_GLOBALS):
        names = decode(row[0]), decode(row[1]), decode(row[2]), decode(row[3])
        opened = OpenGlobal(*names, row[4], row[5], None if row[9] is None else unpack_terms(row[9]))
        cause = None if row[7] is None else Cause(row[7])
        marked = MarkGlobal(opened.xid, Phase(row[6]), cause, bool(row[8]), _decode_optional(row[10]))
        transactions.append(assemble(opened, marked, branches.pop(row[0], ())))
    if branches:
        strays = ", ".join(decode(xid) for xid in islice(branches, 3))
        raise StoreCorrupt(f"the store has branches of transactions that are not open ({strays})")
    last_batch, last_id = read_counters(connection)
    return Hot(transactions=transactions, last_batch=last_batch, last_id=last_id)


def read_outcome(connection: sqlite3.Connection, xid: str) -> Outcome | None:
    """How `xid` ended, or None."""
    row = connection.execute(OUTCOME, (encode(xid),)).fetchone()
    return None if row is None else _outcome(row)


def read_ended(
    connection: sqlite3.Connection,
    phase: Phase | None,
    limit: int,
    position: Position | None,
    unfolded: Iterable[Outcome] = (),
) -> EndedPage:
    """A page of outcomes, newest end first, from just behind `position`: of the tables, and of `unfolded`.

    An outcome may be in both; that of the tables is then the same.
    """
    phases = ENDED_PHASES if phase is None else (phase,)
    found = {outcome.xid: outcome for each in phases for outcome in _newest(connection, each, limit + 1, position)}
    for outcome in unfolded:
        if outcome.phase in phases and (position is None or _position(outcome) < position):
            found[outcome.xid] = outcome
    newest = nlargest(limit + 1, found.values(), key=_position)
    if len(newest) <= limit:
        return EndedPage(newest, None)
    return EndedPage(newest[:limit], encode_cursor(_position(newest[limit - 1])))


def read_oldest(connection: sqlite3.Connection, before_ms: int, limit: int) -> list[bytes]:
    """The stored xids of at most `limit` transactions that ended before `before_ms`, oldest end first."""
    runs = [connection.execute(OLDEST_ENDED, (phase.value, before_ms, limit)) for phase in ENDED_PHASES]
    return [xid for _, xid in islice(merge(*runs), limit)]


def _newest(connection: sqlite3.Connection, phase: Phase, limit: int, position: Position | None) -> Iterator[Outcome]:
    if position is None:
        rows = connection.execute(NEWEST_ENDED, (phase.value, limit))
    else:
        rows = connection.execute(NEXT_ENDED, (phase.value, position.end_ms, encode(position.xid), limit))
    return (_outcome(row) for row in rows)


def _position(outcome: Outcome) -> Position:
    return Position(outcome.end_ms, outcome.xid)


StoredOutcome = tuple[bytes, bytes, bytes, bytes, int, int, str, str, int, bytes | None, bytes | None, bytes | None]


def _outcome(row: StoredOutcome) -> Outcome:
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
        reason=_decode_optional(reason),
        terms=unpack_terms(terms),
        branches=unpack_branches(branches),
    )


def _read_branches(connection: sqlite3.Connection) -> Iterator[tuple[bytes, BranchFacts]]:
    for row in connection.execute(BRANCHES):
        xid, branch_id = decode(row[0]), int(row[1])
        application_data = _decode_optional(row[6])
        added = AddBranch(
            xid=xid,
            branch_id=branch_id,
            seq=row[2],
            branch_type=BranchType(row[3]),
            resource_id=decode(row[4]),
            lock_text=decode(row[5]),
            application_data=application_data,
            auto_commit=bool(row[7]),
            client_id=decode(row[8]),
            lock_mode=LockMode(row[16]),
            plan=None if row[17] is None else unpack_plan(row[17]),
        )
        marked = MarkBranch(
            xid=xid,
            branch_id=branch_id,
            phase_one=PhaseOne(row[9]),
            application_data=application_data,
            attempts=row[10],
            frozen=bool(row[11]),
            last_error=_decode_optional(row[12]),
            last_worker=_decode_optional(row[13]),
            last_attempt_ms=row[14],
            next_due_ms=row[15],
            left=bool(row[18]),
            ended=bool(row[19]),
            epoch=row[20],
        )
        yield row[0], (added, marked)


def _decode_optional(stored: bytes | None) -> str | None:
    return None if stored is None else decode(stored)
