"""The transition table: how one global transaction moves. `TABLE` is the drawing; everything else says what a row does.

For (phase, event) the first row whose guard holds is taken: the phase changes, then the action runs. Actions write,
answer, call, and ask the lock table for things; they never look at other transactions. docs/transitions.md is
drawn from this table by scripts/draw_table.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import msgspec

from troth.core import actions as do
from troth.core import calls, deciding, listeners, runs, steps
from troth.core import events as ev
from troth.core import guards as when
from troth.core.decision import Decision
from troth.core.model import Global, Outcome, Phase

Guard = Callable[[Any, Any, int], bool]
Action = Callable[[Any, Any, int, Decision], None]


class Row(msgspec.Struct, frozen=True):
    """One arrow of the drawing. `source` None is the birth of a transaction; `guard` None always holds."""

    source: Phase | None
    event: type
    guard: Guard | None
    action: Action
    target: Phase

    @property
    def name(self) -> str:
        """`open --Commit[expired]--> rolling-back`, as the picture and the coverage report write it."""
        guard = f"[{self.guard.__name__.replace('_', ' ')}]" if self.guard else ""
        source = self.source.value if self.source else "(none)"
        return f"{source} --{self.event.__name__}{guard}--> {self.target.value}"


OPEN, FORWARD = Phase.OPEN, Phase.FORWARD
COMMITTING, ROLLING_BACK = Phase.COMMITTING, Phase.ROLLING_BACK
COMMITTED, ROLLED_BACK = Phase.COMMITTED, Phase.ROLLED_BACK

TABLE: tuple[Row, ...] = (
    Row(None, ev.Begin, None, do.open_global, OPEN),
    # phase one: branches come in, each with its rows
    Row(OPEN, ev.Register, when.expired, do.time_out_and_refuse, ROLLING_BACK),
    Row(OPEN, ev.Register, when.wants_no_rows, do.admit, OPEN),
    Row(OPEN, ev.Register, None, do.want_rows, OPEN),
    Row(OPEN, ev.LockWait, when.expired, do.time_out_and_refuse, ROLLING_BACK),
    Row(OPEN, ev.LockWait, None, do.want_rows_kept, OPEN),
    Row(OPEN, ev.Granted, None, do.admit_granted, OPEN),
    Row(OPEN, ev.Reserved, None, do.keep_rows, OPEN),
    Row(OPEN, ev.Lapsed, None, do.let_lapse, OPEN),
    Row(OPEN, ev.Denied, None, do.refuse_for_conflict, OPEN),
    Row(OPEN, ev.Cancelled, None, do.forget_waiting, OPEN),
    Row(OPEN, ev.Report, when.branch_unknown, do.answer_no_branch, OPEN),
    Row(OPEN, ev.Report, None, do.note_report, OPEN),
    Row(OPEN, ev.Vote, None, do.note_vote, OPEN),
    Row(OPEN, ev.Due, when.expired, deciding.time_out, ROLLING_BACK),
    Row(OPEN, ev.Due, None, do.end_overdue_waits, OPEN),
    # while somebody else runs it: he tells of his steps, and is asked
    Row(OPEN, ev.Record, when.expired, do.time_out_and_refuse, ROLLING_BACK),
    Row(OPEN, ev.Record, when.superseded, runs.answer_superseded, OPEN),
    Row(OPEN, ev.Record, None, runs.record, OPEN),
    Row(OPEN, ev.Claim, when.expired, do.time_out_and_refuse, ROLLING_BACK),
    Row(OPEN, ev.Claim, when.has_no_runner, runs.answer_no_runner, OPEN),
    Row(OPEN, ev.Claim, when.claimed_already, runs.answer_superseded, OPEN),
    Row(OPEN, ev.Claim, None, runs.claim, OPEN),
    Row(OPEN, ev.Lost, None, runs.ask_for_the_lost, OPEN),
    Row(OPEN, ev.Answered, when.stale, do.ignore, OPEN),
    Row(OPEN, ev.Answered, when.done, runs.submit_for_runner, OPEN),
    Row(OPEN, ev.Answered, when.refused, deciding.roll_back_for_refusal, ROLLING_BACK),
    Row(OPEN, ev.Answered, when.no_channel, calls.await_channel, OPEN),
    Row(OPEN, ev.Answered, when.ongoing, runs.wait_for_runner, OPEN),
    Row(OPEN, ev.Answered, None, calls.back_off, OPEN),
    Row(OPEN, ev.Wake, None, calls.wake_resource, OPEN),
    Row(OPEN, ev.Retry, when.has_a_runner, calls.retry_now, OPEN),
    # the decision
    Row(OPEN, ev.Commit, when.superseded, runs.answer_superseded, OPEN),
    Row(OPEN, ev.Commit, when.expired, deciding.roll_back_for_timeout, ROLLING_BACK),
    Row(OPEN, ev.Commit, when.voted_down, deciding.roll_back_for_vote, ROLLING_BACK),
    Row(OPEN, ev.Commit, when.phase_one_failed, deciding.roll_back_for_failed_branch, ROLLING_BACK),
    Row(OPEN, ev.Commit, when.has_steps_to_run, deciding.go_forward, FORWARD),
    Row(OPEN, ev.Commit, None, deciding.commit, COMMITTING),
    Row(OPEN, ev.Rollback, when.superseded, runs.answer_superseded, OPEN),
    Row(OPEN, ev.Rollback, None, deciding.roll_back, ROLLING_BACK),
    # forward: steps run, and may still say no
    Row(FORWARD, ev.Answered, when.stale, do.ignore, FORWARD),
    Row(FORWARD, ev.Answered, when.done, steps.note_ran, FORWARD),
    Row(FORWARD, ev.Answered, when.refused, deciding.roll_back_for_refusal, ROLLING_BACK),
    Row(FORWARD, ev.Answered, when.no_channel, calls.await_channel, FORWARD),
    Row(FORWARD, ev.Answered, when.ongoing, calls.ask_again_later, FORWARD),
    Row(FORWARD, ev.Answered, when.out_of_attempts, deciding.roll_back_for_retries, ROLLING_BACK),
    Row(FORWARD, ev.Answered, None, calls.back_off, FORWARD),
    Row(FORWARD, ev.Ran, None, deciding.commit_forward, COMMITTING),
    Row(FORWARD, ev.Due, when.expired, deciding.time_out, ROLLING_BACK),
    Row(FORWARD, ev.Due, when.out_of_attempts_by_silence, deciding.roll_back_for_silence, ROLLING_BACK),
    Row(FORWARD, ev.Due, None, calls.go_on, FORWARD),
    Row(FORWARD, ev.Wake, None, calls.wake_resource, FORWARD),
    Row(FORWARD, ev.Retry, None, calls.retry_now, FORWARD),
    Row(FORWARD, ev.Rollback, None, deciding.roll_back, ROLLING_BACK),
    # committing: it will be done, however often a branch must be asked
    Row(COMMITTING, ev.Answered, when.stale, do.ignore, COMMITTING),
    Row(COMMITTING, ev.Answered, when.done, calls.drop_branch, COMMITTING),
    Row(COMMITTING, ev.Answered, when.refused, calls.freeze_branch, COMMITTING),
    Row(COMMITTING, ev.Answered, when.no_channel, calls.await_channel, COMMITTING),
    Row(COMMITTING, ev.Answered, when.ongoing, calls.ask_again_later, COMMITTING),
    Row(COMMITTING, ev.Answered, None, calls.back_off, COMMITTING),
    Row(COMMITTING, ev.Due, None, calls.go_on, COMMITTING),
    Row(COMMITTING, ev.Wake, None, calls.wake_resource, COMMITTING),
    Row(COMMITTING, ev.Retry, None, calls.retry_now, COMMITTING),
    Row(COMMITTING, ev.Drained, None, deciding.end, COMMITTED),
    # rolling back: newest branch first per resource; each frees its rows when it is undone
    Row(ROLLING_BACK, ev.Answered, when.stale, do.ignore, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Answered, when.done, calls.undo_branch, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Answered, when.refused, calls.freeze_branch, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Answered, when.no_channel, calls.await_channel, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Answered, when.ongoing, calls.ask_again_later, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Answered, None, calls.back_off, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Due, None, calls.go_on, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Wake, None, calls.wake_resource, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Retry, None, calls.retry_now, ROLLING_BACK),
    Row(ROLLING_BACK, ev.Drained, None, deciding.end, ROLLED_BACK),
    # a person ends it as it is: in the same turn it drains
    *(Row(p, ev.Stop, None, deciding.stop, ROLLING_BACK) for p in Phase if not p.ended),
    # questions that change nothing
    *(Row(p, ev.Commit, when.round_running, listeners.listen, p) for p in (FORWARD, ROLLING_BACK)),
    Row(ROLLING_BACK, ev.Rollback, when.round_running, listeners.listen, ROLLING_BACK),
    *(Row(p, ev.Commit, None, listeners.tell_commit_asker, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.Rollback, None, listeners.tell, p) for p in Phase if p not in (OPEN, FORWARD)),
    *(Row(p, ev.Status, None, listeners.tell, p) for p in Phase),
    *(Row(p, ev.Vote, None, listeners.tell, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.Register, None, listeners.refuse_not_active, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.LockWait, None, listeners.refuse_not_active, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.Record, None, listeners.refuse_not_active, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.Claim, None, listeners.refuse_not_active, p) for p in Phase if p is not OPEN),
    *(Row(p, ev.Stop, None, listeners.refuse_not_active, p) for p in Phase if p.ended),
    *(Row(p, ev.Report, None, do.acknowledge_report, p) for p in (FORWARD, COMMITTING, ROLLING_BACK)),
    *(Row(p, ev.Report, None, listeners.refuse_not_active, p) for p in Phase if p.ended),
    *(Row(p, ev.Retry, None, listeners.refuse_not_active, p) for p in (OPEN, COMMITTED, ROLLED_BACK)),
    *(Row(p, ev.Answered, None, do.ignore, p) for p in Phase if p.ended),
    *(Row(p, ev.Due, None, do.ignore, p) for p in Phase if p.ended),
)


def _index() -> MappingProxyType[tuple[Phase | None, type], tuple[Row, ...]]:
    index: dict[tuple[Phase | None, type], tuple[Row, ...]] = {}
    for row in TABLE:
        index[row.source, row.event] = (*index.get((row.source, row.event), ()), row)
    return MappingProxyType(index)


INDEX = _index()


class NoTransition(Exception):
    """An event met a phase that has no row for it: a bug of ours, and the coordinator must stop."""


def find_row(source: Phase | None, tx: Global | Outcome, event: ev.TransactionEvent, now: int) -> Row:
    """The first row of the table that fits. Raises NoTransition."""
    for row in INDEX.get((source, type(event)), ()):
        guard = row.guard
        if guard is None or guard(tx, event, now):
            return row
    raise NoTransition(f"{source} has no row for {type(event).__name__} (xid {event.xid})")


def step(tx: Global | Outcome, event: ev.TransactionEvent, now: int, out: Decision, born: bool = False) -> None:
    """Move one transaction by one event; what follows goes into `out`. `born`: this event is what made `tx`."""
    row = find_row(None if born else tx.phase, tx, event, now)
    out.rows.append(row)
    if row.target is not tx.phase and isinstance(tx, Global):
        tx.phase = row.target
    row.action(tx, event, now, out)
