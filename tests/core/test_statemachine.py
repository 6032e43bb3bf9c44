"""A Hypothesis machine drives a cell with everything that can happen, in any order, and checks after every turn what
must always hold. At the end of every run the world is let come to rest: all that was decided ends.
"""

from __future__ import annotations

import os
import unittest

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from ledger import durable
from world import MYSQL, SQLITE, Ask, World, terms_of

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.due import due_ms
from troth.core.events import CallResult
from troth.core.model import (
    Branch,
    BranchType,
    Cause,
    Global,
    LockMode,
    OnTimeout,
    Phase,
    PhaseOne,
    Plan,
    RowKey,
    Terms,
    Verb,
)
from troth.core.rowkeys import parse_lock_text

LOCKS = st.lists(st.sampled_from(["a:1", "a:2", "b:x_y"]), max_size=2, unique=True).map(";".join)
RESOURCES = st.sampled_from([MYSQL, MYSQL, SQLITE])
INDEX = st.integers(0, 3)
LOCK_MODE = st.sampled_from([LockMode.EXCLUSIVE, LockMode.EXCLUSIVE, LockMode.ADD, LockMode.ADD])
RESULT = st.sampled_from([CallResult.DONE, CallResult.DONE, *CallResult])
CHANNEL = st.sampled_from(["channel-1", "channel-2"])


KINDS = st.sampled_from([BranchType.SAGA, BranchType.SAGA, BranchType.MESSAGE, BranchType.RUNNER])
STEPS = st.lists(st.tuples(KINDS, st.booleans(), st.sets(st.integers(1, 3), max_size=2)), max_size=4)
TERMS = st.builds(
    terms_of,
    on_timeout=st.sampled_from(OnTimeout),
    retry_ms=st.sampled_from([None, 150]),
    retry_limit=st.sampled_from([0, 0, 2]),
    start_ms=st.sampled_from([0, 0, 500]),
)


def plainly_due_ms(tx: Global) -> int | None:
    """`due_ms` as it is meant: the earliest of everything that a look at all the facts shows."""
    times = [listener.until_ms for listener in tx.listeners]
    if tx.phase in (Phase.OPEN, Phase.FORWARD) and plainly_rolls_back(tx):
        times.append(tx.deadline_ms)
    if tx.phase is Phase.OPEN:
        times += [w.until_ms for w in [*tx.waiting.values(), *tx.reservations.values()]]
    times += [branch.answer_due_ms for branch in tx.branches.values() if branch.answer_due_ms is not None]
    for branch in plain_front(tx):
        if not branch.called and branch.next_due_ms is not None:
            times.append(branch.next_due_ms)
    return min(times, default=None)


def plainly_rolls_back(tx: Global) -> bool:
    if tx.terms is None:
        return True
    has_runner = any(branch.branch_type is BranchType.RUNNER for branch in tx.branches.values())
    return tx.terms.on_timeout is OnTimeout.ROLL_BACK or (tx.terms.on_timeout is OnTimeout.ASK and not has_runner)


def planned(tx: Global, kind: BranchType) -> list[Branch]:
    return [b for b in tx.branches.values() if b.branch_type is kind and b.plan is not None]


def plain_front(tx: Global) -> list[Branch]:
    branches = list(tx.branches.values())
    if tx.phase is Phase.OPEN:
        return [b for b in branches if b.branch_type is BranchType.RUNNER][-1:]
    if tx.phase is Phase.FORWARD:
        return first_of([b for b in planned(tx, BranchType.SAGA) if b.phase_one is not PhaseOne.DONE])
    chained = [b for b in branches if b.plan is not None and b.branch_type is not BranchType.RUNNER]
    front = planned(tx, BranchType.XA)[:1]
    if tx.phase is Phase.COMMITTING:
        front += planned(tx, BranchType.TCC)[-1:] + first_of(planned(tx, BranchType.MESSAGE))
        return front + [b for b in branches if b not in chained]
    steps = planned(tx, BranchType.SAGA)
    front += [b for b in steps if not any(b.seq in other.plan.after for other in steps if other.plan)]
    newest = {branch.resource_id: branch for branch in branches}
    strict = (BranchType.TCC, BranchType.SAGA)
    usual = [b for b in branches if b not in chained or b.branch_type is BranchType.TCC]
    return front + [
        b for b in usual if newest[b.resource_id] is b and (b is branches[-1] or b.branch_type not in strict)
    ]


def first_of(branches: list[Branch]) -> list[Branch]:
    left = {branch.seq for branch in branches}
    return [branch for branch in branches if branch.plan and not left & set(branch.plan.after)]


class CellMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.known: list[str] = []
        self.asked: list[Ask] = []
        self.decided: dict[str, Phase] = {}
        self.ran: dict[str, set[int]] = {}
        self.undone: dict[str, set[int]] = {}
        self.delivered: dict[str, set[int]] = {}

    def xid(self, index: int) -> str:
        return self.known[-1 - index % min(len(self.known), 3)] if self.known else "nowhere:1:1"

    # ---- what can happen ----

    @rule(timeout_ms=st.sampled_from([60_000, 60_000, 60_000, 1_000]))
    def begin(self, timeout_ms: int) -> None:
        self.known.append(self.world.begin(timeout_ms=timeout_ms))

    @rule(index=INDEX, locks=LOCKS, resource=RESOURCES, wait=st.booleans(), channel=CHANNEL, mode=LOCK_MODE)
    def register(self, index: int, locks: str, resource: str, wait: bool, channel: str, mode: LockMode) -> None:
        _, ask = self.world.register(
            self.xid(index), locks, resource=resource, may_wait=wait, channel=channel, lock_mode=mode
        )
        self.asked.append(ask)

    @rule(index=INDEX, locks=LOCKS, wait=st.sampled_from([True, True, False]), channel=CHANNEL, mode=LOCK_MODE)
    def wait_cold(self, index: int, locks: str, wait: bool, channel: str, mode: LockMode) -> None:
        self.asked.append(self.world.wait(self.xid(index), locks, channel=channel, lock_mode=mode, may_wait=wait))

    @rule(index=INDEX, locks=LOCKS)
    def look_at_rows(self, index: int, locks: str) -> None:
        ask = Ask("query")
        self.world.send(ev.LockQuery(self.xid(index), parse_lock_text(MYSQL, locks), ask))
        self.asked.append(ask)

    @rule(steps=STEPS, terms=TERMS, submit=st.booleans(), wait=st.booleans(), channel=CHANNEL)
    def begin_with_steps(
        self, steps: list[tuple[BranchType, bool, set[int]]], terms: Terms, submit: bool, wait: bool, channel: str
    ) -> None:
        drafts = []
        for kind, by_url, after in steps:
            place = len(drafts) + 1
            if kind is not BranchType.RUNNER or all(draft.branch_type is not kind for draft in drafts):
                drafts.append(self.world.step(*sorted(n for n in after if n < place), kind=kind, by_url=by_url))
        xid, ask = self.world.start(*drafts, submit=submit, wait=wait, terms=terms, timeout_ms=1_000, channel=channel)
        self.known.append(xid)
        self.asked.append(ask)

    @rule(index=INDEX, kind=st.sampled_from([BranchType.TCC, BranchType.XA, BranchType.SAGA, BranchType.MESSAGE]))
    def register_by_url(self, index: int, kind: BranchType) -> None:
        _, ask = self.world.register(self.xid(index), "", resource="http://x", mode=kind, plan=Plan(by_url=True))
        self.asked.append(ask)

    @rule(index=INDEX)
    def register_step_of_a_client(self, index: int) -> None:
        self.asked.append(self.world.register(self.xid(index), "", resource="saga:x", mode=BranchType.SAGA)[1])

    @rule(index=INDEX, key=st.sampled_from("ab"), attempt=st.sampled_from([None, 0, 0, 1, 2]))
    def record(self, index: int, key: str, attempt: int | None) -> None:
        self.asked.append(self.world.record(self.xid(index), key, "x", attempt=attempt))

    @rule(index=INDEX, attempt=st.integers(0, 3), client=st.sampled_from("pq"), channel=CHANNEL)
    def claim(self, index: int, attempt: int, client: str, channel: str) -> None:
        self.asked.append(self.world.claim(self.xid(index), attempt, client=client, channel=channel))

    @rule(index=INDEX, kind=st.sampled_from([ev.Commit, ev.Rollback]), attempt=st.integers(0, 2), wait=st.booleans())
    def end_by_runner(self, index: int, kind: type[ev.Commit], attempt: int, wait: bool) -> None:
        ask = Ask("end by runner")
        self.world.send(kind(self.xid(index), ask, wait, None, attempt))
        self.asked.append(ask)

    @rule(index=INDEX, chance=st.integers(0, 3))
    def stop(self, index: int, chance: int) -> None:
        if chance == 0:
            self.asked.append(self.world.ask(ev.Stop, self.xid(index)))

    @rule(index=INDEX, resource=st.sampled_from(["reserve", "pay"]))
    def register_tcc(self, index: int, resource: str) -> None:
        self.asked.append(self.world.register(self.xid(index), "", resource=resource, mode=BranchType.TCC)[1])

    @rule(index=INDEX)
    def two_branches_name_one_row(self, index: int) -> None:
        for _ in range(2):
            self.asked.append(self.world.register(self.xid(index), "a:1", may_wait=False)[1])

    @rule(index=INDEX, kind=st.sampled_from([ev.Commit, ev.Rollback, ev.Status, ev.Vote, ev.Retry]))
    def ask(self, index: int, kind: type[ev.Commit]) -> None:
        self.asked.append(self.world.ask(kind, self.xid(index)))

    @rule(index=INDEX, branch=st.integers(0, 60), phase_one=st.sampled_from([PhaseOne.DONE, *PhaseOne]))
    def report(self, index: int, branch: int, phase_one: PhaseOne) -> None:
        self.asked.append(self.world.report(self.xid(index), branch, phase_one))

    @rule(index=INDEX, result=RESULT)
    def answer(self, index: int, result: CallResult) -> None:
        keys = sorted(self.world.calls)
        if keys:
            self.answer_one(*keys[index % len(keys)], result)

    def answer_one(self, xid: str, branch_id: int, result: CallResult) -> None:
        call = self.world.calls[xid, branch_id]
        if result is CallResult.DONE and xid in self.world.cell.transactions:
            book = {(BranchType.SAGA, Verb.ACTION): self.ran, (BranchType.SAGA, Verb.ROLLBACK): self.undone}
            kind = (call.branch_type, call.verb)
            if branch_id in self.world.cell.transactions[xid].branches and kind in book:
                book[kind].setdefault(xid, set()).add(branch_id)
            if call.branch_type is BranchType.MESSAGE:
                self.delivered.setdefault(xid, set()).add(branch_id)
        self.world.answer_call(xid, branch_id, result)

    @rule(index=INDEX, result=st.sampled_from(CallResult), attempt=st.integers(0, 3))
    def answer_out_of_turn(self, index: int, result: CallResult, attempt: int) -> None:
        self.world.send(ev.Answered(self.xid(index), index, Verb.COMMIT, attempt, result))

    @rule(ms=st.sampled_from([0, 10, 50, 150, 300, 300, 6_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now += ms
        self.fire_due()

    @rule(index=INDEX)
    def due_too_early(self, index: int) -> None:
        self.world.send(ev.Due(self.xid(index)))

    @rule(resource=RESOURCES)
    def served(self, resource: str) -> None:
        self.world.send(ev.Served(resource))

    @rule(channel=CHANNEL)
    def channel_closed(self, channel: str) -> None:
        waited = {register.reply_to for register in self.world.cell.locks.waiting_on(channel)}
        self.asked = [ask for ask in self.asked if ask not in waited]
        self.world.send(ev.ChannelClosed(channel))

    @rule(index=INDEX)
    def answer_well(self, index: int) -> None:
        self.answer(index, CallResult.DONE)

    @rule()
    def restart(self) -> None:
        """Nobody is left who waits for an answer of the old process."""
        self.asked = [ask for ask in self.asked if ask in self.world.answers]
        self.world.restart()

    @rule()
    def outcomes_leave_memory(self) -> None:
        for xid in self.known:
            outcome = self.world.cell.outcome(xid)
            if outcome is not None:
                self.world.send(ev.Sweep(self.world.now))
                self.world.send(ev.Loaded(xid, outcome))

    def fire_due(self) -> None:
        for xid in list(self.world.cell.transactions):
            tx = self.world.cell.transactions.get(xid)
            due = due_ms(tx) if tx else None
            if due is not None and due <= self.world.now:
                self.world.send(ev.Due(xid))

    # ---- what must always hold ----

    @invariant()
    def what_is_in_memory_is_what_was_written(self) -> None:
        cell, ledger = self.world.cell, self.world.ledger
        assert {x: durable(t) for x, t in cell.transactions.items()} == {x: durable(t) for x, t in ledger.open.items()}

    @invariant()
    def locks_are_derived_from_live_branches(self) -> None:
        live: dict[RowKey, dict[str, set[LockMode]]] = {}
        for tx in self.world.cell.transactions.values():
            kept = [reservation.wait for reservation in tx.reservations.values()]
            branches = [] if tx.phase is Phase.COMMITTING else list(tx.branches.values())
            for holder in [*branches, *kept]:
                for key in holder.keys:
                    live.setdefault(key, {}).setdefault(tx.xid, set()).add(holder.lock_mode)
        for holders in live.values():
            alone = [xid for xid, modes in holders.items() if LockMode.EXCLUSIVE in modes]
            assert not alone or len(holders) == 1, "who holds a row exclusively holds it alone"
        held = list(self.world.cell.locks.rows())
        assert len(held) == len(set(held))
        assert set(held) == {(key, xid) for key, holders in live.items() for xid in holders}

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        locks = self.world.cell.locks
        for tx in self.world.cell.transactions.values():
            for waiting in tx.waiting.values():
                assert locks.blockers(waiting.register), f"{waiting.register} could have its rows"

    @invariant()
    def nobody_waits_in_a_ring(self) -> None:
        locks, left = self.world.cell.locks, dict(self.world.cell.transactions)
        while left:
            ends = [
                xid
                for xid, tx in left.items()
                if not any(other in left for one in tx.waiting.values() for other in locks.blockers(one.register))
            ]
            assert ends, f"each of {list(left)} waits for another of them"
            for xid in ends:
                del left[xid]

    @invariant()
    def reservations_are_short_and_of_open_transactions(self) -> None:
        for tx in self.world.cell.transactions.values():
            for reservation in tx.reservations.values():
                assert tx.phase is Phase.OPEN
                assert self.world.now < reservation.until_ms <= self.world.now + self.world.rules.hot_wait_ms

    @invariant()
    def a_decision_is_never_changed(self) -> None:
        for xid, tx in self.world.cell.transactions.items():
            if tx.phase not in (Phase.OPEN, Phase.FORWARD):
                assert self.decided.setdefault(xid, tx.phase) is tx.phase
        for xid, end in self.world.ledger.ended.items():
            if end.cause is Cause.OPERATOR:
                continue
            wanted = Phase.COMMITTING if end.phase is Phase.COMMITTED else Phase.ROLLING_BACK
            assert self.decided.setdefault(xid, wanted) is wanted

    @invariant()
    def who_is_told_committed_is_told_the_truth(self) -> None:
        for ask, result in self.world.answers.items():
            if isinstance(result, fx.Stands) and result.standing.phase in (Phase.COMMITTING, Phase.COMMITTED):
                self.decided.setdefault(result.standing.xid, Phase.COMMITTING)  # and stopped before it was looked at
                assert self.decided[result.standing.xid] is Phase.COMMITTING, ask

    @invariant()
    def nothing_is_due_for_ever(self) -> None:
        self.fire_due()
        for tx in self.world.cell.transactions.values():
            due = due_ms(tx)
            assert due is None or due > self.world.now, f"{tx.xid} would be woken again and again"

    @invariant()
    def the_agenda_agrees_with_the_facts(self) -> None:
        for tx in self.world.cell.transactions.values():
            assert tx.calls_out == sum(branch.called for branch in tx.branches.values())
            assert due_ms(tx) == plainly_due_ms(tx)

    @invariant()
    def steps_and_messages_follow_the_decision(self) -> None:
        for xid, end in self.world.ledger.ended.items():
            if end.cause is Cause.OPERATOR:
                continue
            ran, undone = self.ran.get(xid, set()), self.undone.get(xid, set())
            if end.phase is Phase.COMMITTED:
                assert not undone
                steps = [b for b in end.branches if b.branch_type is BranchType.SAGA and b.branch_id in ran]
                assert all(step.phase_one is PhaseOne.DONE for step in steps)
                wanted = {b.branch_id for b in end.branches if b.branch_type is BranchType.MESSAGE}
                assert wanted <= self.delivered.get(xid, set())
            else:
                assert ran <= undone
                assert xid not in self.delivered

    @invariant()
    def runs_are_watched_while_they_are_open(self) -> None:
        watched = {(channel, xid) for channel, xids in self.world.cell._runs.items() for xid in xids}
        open_runs = {
            (tx.course.channel, tx.xid)
            for tx in self.world.cell.transactions.values()
            if tx.course is not None and tx.course.channel is not None
        }
        assert watched == open_runs

    @invariant()
    def waiting_and_queues_agree(self) -> None:
        waiting = sum(len(tx.waiting) for tx in self.world.cell.transactions.values())
        assert waiting == self.world.cell.locks.queued

    def teardown(self) -> None:
        """After the last fault everything ends and everybody who still waits has been answered."""
        for _ in range(200):
            for xid, branch_id in sorted(self.world.calls):
                self.answer_one(xid, branch_id, CallResult.DONE)
            for xid, tx in list(self.world.cell.transactions.items()):
                if tx.phase is Phase.OPEN and tx.terms is not None:
                    self.world.ask(ev.Rollback, xid)
            for xid in list(self.world.cell.transactions):
                self.world.ask(ev.Retry, xid)
            self.world.now += 61_000
            self.fire_due()
            if not self.world.cell.transactions:
                break
        assert not self.world.cell.transactions
        assert len(self.world.cell.locks) == 0
        unanswered = [ask for ask in self.asked if ask not in self.world.answers]
        assert not unanswered


STAGES = [Stage.explicit, Stage.reuse, Stage.generate] if os.environ.get("TROTH_NO_SHRINK") else list(Stage)


def machine(examples: int, steps: int) -> type[unittest.TestCase]:
    """The machine as a test case; `TROTH_NO_SHRINK=1` skips shrinking, for those who only ask whether it fails."""
    case: type[unittest.TestCase] = type("Case", (CellMachine.TestCase,), {})
    case.settings = settings(  # type: ignore[attr-defined]
        phases=STAGES,
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return case


TestCell = machine(examples=160, steps=60)


@pytest.mark.soak
class TestCellForLong(machine(examples=20_000, steps=120)):  # type: ignore[misc]
    """The same, a hundred times as long."""
