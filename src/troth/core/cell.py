"""The cell: all transactions and row locks that one leader holds, as one pure aggregate.

`decide(event, now)` moves one transaction along the table, lets the lock table answer what it asks for, feeds those
answers back until none is left (each one frees or grants, never both, so this ends), and returns what must be
written and what must follow. It changes the cell and nothing else (design/coordinator §1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.course import take_up
from troth.core.cycles import find_ring
from troth.core.deciding import ended_branches
from troth.core.decision import (
    Decision,
    DenyWaiters,
    Drain,
    Free,
    GiveUp,
    RanAll,
    Submit,
    Unqueue,
    Unwatch,
    Want,
    Watch,
)
from troth.core.due import plan, plan_anew
from troth.core.listeners import standing
from troth.core.locks import LockTable, Waiter
from troth.core.machine import step
from troth.core.model import Branch, Global, OnTimeout, Outcome, Phase, RowKey, Terms, Waiting
from troth.core.rules import Rules


class Cell:
    """Decides for every transaction of one coordinator. Not safe for threads: one writer."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.locks = LockTable()
        self._transactions: dict[str, Global] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._outcome_extra = 0
        """What outcomes with terms are worth beyond one usual outcome each: see `_extra_weight`."""
        self._gids: dict[str, str] = {}
        """Name that a user chose → xid, of what is open and of what is remembered."""
        self._starved: dict[str, set[str]] = {}
        self._runs: dict[object, dict[str, None]] = {}
        """Channel → the transactions that run over it."""
        self.transactions: Mapping[str, Global] = MappingProxyType(self._transactions)
        """Every transaction that has not ended, oldest first."""

    def outcome(self, xid: str) -> Outcome | None:
        """How a transaction ended, if that is still in memory."""
        return self._outcomes.get(xid)

    def knows(self, xid: str) -> bool:
        return xid in self._transactions or xid in self._outcomes

    def find(self, gid: str) -> str | None:
        """The xid of the transaction that its user has named `gid`, if it is in memory."""
        return self._gids.get(gid)

    def restore(self, transactions: Iterable[Global]) -> list[str]:
        """Take up what a store kept, locks included; returns the xids, all of which want a look at their due time."""
        for tx in transactions:
            self._transactions[tx.xid] = tx
            if tx.terms is not None and tx.terms.gid:
                self._gids[tx.terms.gid] = tx.xid
            take_up(tx)
            for branch in tx.branches.values():
                if tx.phase is not Phase.COMMITTING:
                    self.locks.take(tx.xid, branch.branch_id, branch.keys, branch.lock_mode)
                if tx.phase is not Phase.OPEN and branch.next_due_ms is None and not branch.frozen:
                    branch.next_due_ms = tx.begin_ms  # its call was out when the store was last written: due now
                    if tx.terms is not None and tx.phase is not Phase.ROLLING_BACK:
                        branch.next_due_ms += tx.terms.start_ms
            if tx.phase is Phase.OPEN and tx.course is not None and tx.course.runner is not None:
                _ask_when_loaded(tx, tx.branches[tx.course.runner])
                self._await_clients(tx)
            plan_anew(tx)
            if tx.phase is not Phase.OPEN:
                self._await_clients(tx)
        return list(self._transactions)

    def _await_clients(self, tx: Global) -> None:
        """Branches that found no client before the restart must not sleep on when the first one comes back."""
        for branch in tx.branches.values():
            if not branch.frozen and (branch.plan is None or not branch.plan.by_url):
                self._starved.setdefault(branch.resource_id, set()).add(tx.xid)

    def decide(self, event: ev.Event, now: int) -> Decision:
        """One turn: everything that follows from `event` at `now` (integer milliseconds)."""
        decision = Decision(self.rules)
        todo: list[ev.Event] = [event]
        for happened in todo:  # grows while we go through it
            if type(happened) in ev.CELL_EVENTS:
                self._turn_of_cell(happened, now, decision, todo)  # type: ignore[arg-type]
            else:
                self._step(happened, now, decision, todo)  # type: ignore[arg-type]
        return decision

    # ---- one event ----

    def _turn_of_cell(self, event: ev.CellEvent, now: int, decision: Decision, todo: list[ev.Event]) -> None:
        match event:
            case ev.LockQuery():
                lockable = not self.locks.conflicts(event.xid, event.keys)
                decision.effects.append(fx.Answer(event.reply_to, fx.Lockable(lockable)))
                asker = self._transactions.get(event.xid)
                if asker is not None and asker.reservations:  # a locking read comes back, and takes no lock
                    wanted = frozenset(event.keys)
                    kept = [one.wait for one in asker.reservations.values() if not wanted.isdisjoint(one.wait.keys)]
                    todo.extend(ev.Lapsed(event.xid, wait) for wait in kept)
            case ev.Served():
                starved = sorted(self._starved.pop(event.resource_id, ()))
                todo.extend(ev.Wake(xid, event.resource_id) for xid in starved if xid in self._transactions)
            case ev.ChannelClosed():
                for register in self.locks.waiting_on(event.channel):
                    if self.locks.unqueue(register):  # else it was granted a moment ago, in this same loop
                        todo.append(ev.Cancelled(register.xid, register))
                        self._grant(register.keys, now, todo)
                todo.extend(ev.Lapsed(wait.xid, wait) for wait in self._kept_for(event.channel))
                todo.extend(ev.Lost(xid) for xid in self._runs.pop(event.channel, ()))
            case ev.Loaded():
                if event.outcome is not None and not self.knows(event.xid):
                    self._remember(event.outcome)
            case ev.Sweep():
                self._forget(event.before_ms)

    def _step(self, event: ev.TransactionEvent, now: int, decision: Decision, todo: list[ev.Event]) -> None:
        born = type(event) is ev.Begin
        if born and event.terms is not None and self._answer_known(event, decision):  # type: ignore[union-attr]
            return
        tx: Global | Outcome | None = self._birth(event, now) if born else self._transactions.get(event.xid)
        if tx is None:
            tx = self._outcomes.get(event.xid)
            if tx is None:
                self._answer_unknown(event, decision)
                return
        step(tx, event, now, decision, born)
        decision.moved[event.xid] = None
        if decision.asks:
            asks, decision.asks = decision.asks, []
            for ask in asks:
                ASKS[type(ask)](self, ask, now, todo)
        kind = type(event)
        if kind is ev.Drained:
            del self._transactions[tx.xid]
            self._remember(_outcome_of(tx, now))
        elif kind is ev.Answered:
            self._note_starving(tx, event)  # type: ignore[arg-type]

    def _birth(self, event: ev.Event, now: int) -> Global:
        assert isinstance(event, ev.Begin)
        if self.knows(event.xid):
            raise ValueError(f"xid {event.xid} exists already: the id generator has repeated itself")
        tx = Global(event.xid, event.name, event.application, event.group, now, event.timeout_ms)
        self._transactions[event.xid] = tx
        if event.terms is not None:
            tx.terms = event.terms
            if tx.terms.gid:
                self._gids[tx.terms.gid] = tx.xid
        return tx

    def _answer_known(self, event: ev.TransactionEvent, decision: Decision) -> bool:
        """A name that is there already names what is there: nothing begins a second time."""
        assert isinstance(event, ev.Begin)
        assert event.terms is not None
        xid = self._gids.get(event.terms.gid)
        known = None if xid is None else self._transactions.get(xid) or self._outcomes.get(xid)
        if known is None:
            return False
        decision.answer(event.reply_to, fx.Known(known.xid, standing(known)))
        return True

    def _answer_unknown(self, event: ev.TransactionEvent, decision: Decision) -> None:
        reply_to = getattr(event, "reply_to", None)
        if reply_to is not None:
            decision.effects.append(fx.Answer(reply_to, fx.Unknown(event.xid)))

    def _note_starving(self, tx: Global | Outcome, event: ev.Answered) -> None:
        if event.result is ev.CallResult.NO_CHANNEL and isinstance(tx, Global):
            branch = tx.branches.get(event.branch_id)
            if branch is not None:
                self._starved.setdefault(branch.resource_id, set()).add(tx.xid)

    def _remember(self, outcome: Outcome) -> None:
        self._outcomes[outcome.xid] = outcome
        if outcome.terms is not None:
            self._outcome_extra += _extra_weight(outcome, outcome.terms)
            if outcome.terms.gid:
                self._gids[outcome.terms.gid] = outcome.xid
        # never the newest: who asked for it to be loaded is about to look at it
        while len(self._outcomes) > 1 and len(self._outcomes) + self._outcome_extra > self.rules.outcome_memory_max:
            self._forget_one(next(iter(self._outcomes)))

    def _forget(self, before_ms: int) -> None:
        for xid in [xid for xid, outcome in self._outcomes.items() if outcome.end_ms <= before_ms]:
            self._forget_one(xid)

    def _forget_one(self, xid: str) -> None:
        outcome = self._outcomes.pop(xid)
        if outcome.terms is not None:
            self._outcome_extra -= _extra_weight(outcome, outcome.terms)
            self._gids.pop(outcome.terms.gid, None)

    # ---- what the machine asks of the lock table ----

    def _free(self, ask: Free, now: int, todo: list[ev.Event]) -> None:
        freed = self.locks.free(ask.branch)
        if freed and self.locks.queued:
            self._grant(freed, now, todo)

    def _grant(self, freed: Iterable[RowKey], now: int, todo: list[ev.Event]) -> None:
        for waiter in self.locks.grantable(freed):
            todo.append(_granted(waiter))
            self._break_cycles(waiter.xid, now, todo)

    def _drain(self, ask: Drain, now: int, todo: list[ev.Event]) -> None:
        todo.append(ev.Drained(ask.xid))

    def _ran_all(self, ask: RanAll, now: int, todo: list[ev.Event]) -> None:
        todo.append(ev.Ran(ask.xid))

    def _submit(self, ask: Submit, now: int, todo: list[ev.Event]) -> None:
        todo.append(ev.Commit(ask.xid, ask.reply_to))

    def _watch(self, ask: Watch, now: int, todo: list[ev.Event]) -> None:
        self._runs.setdefault(ask.channel, {})[ask.xid] = None

    def _unwatch(self, ask: Unwatch, now: int, todo: list[ev.Event]) -> None:
        runs = self._runs.get(ask.channel)
        if runs is not None:
            runs.pop(ask.xid, None)
            if not runs:
                del self._runs[ask.channel]

    def _give_up(self, ask: GiveUp, now: int, todo: list[ev.Event]) -> None:
        self._deny(ask.register, now, todo)

    def _unqueue(self, ask: Unqueue, now: int, todo: list[ev.Event]) -> None:
        self.locks.unqueue(ask.register)
        self._grant(ask.register.keys, now, todo)

    def _deny_waiters(self, ask: DenyWaiters, now: int, todo: list[ev.Event]) -> None:
        for waiter in self.locks.waiting_for(ask.branch.keys):
            can_wait_on = isinstance(waiter, ev.LockWait) and not ask.cold_too
            if not can_wait_on and self.locks.is_queued(waiter) and ask.xid in self.locks.blockers(waiter):
                self._deny(waiter, now, todo)

    def _deny(self, waiter: Waiter, now: int, todo: list[ev.Event], cycle: tuple[str, ...] = ()) -> None:
        """Take it out of the queues; who queued behind it for less may have that now."""
        todo.append(self._denial(waiter, now, cycle))
        self.locks.unqueue(waiter)
        self._grant(waiter.keys, now, todo)

    def _want(self, want: Want, now: int, todo: list[ev.Event]) -> None:
        register = want.register
        conflicts = self.locks.conflicts(register.xid, register.keys, register.lock_mode)
        if not conflicts:
            self.locks.take(register.xid, register.branch_id, register.keys, register.lock_mode)
            todo.append(_granted(register))
            if self.locks.queued:
                self._break_cycles(register.xid, now, todo)
        elif want.wait_until_ms is None or any(self._is_hopeless(register, holder) for _, holder in conflicts):
            todo.append(self._denial(register, now))
        else:
            self.locks.queue(register)
            tx = self._transactions[register.xid]
            tx.waiting[register.branch_id] = Waiting(register, want.wait_until_ms, now)
            plan(tx, want.wait_until_ms, register.branch_id)
            self._break_cycles(register.xid, now, todo)

    def _break_cycles(self, xid: str, now: int, todo: list[ev.Event]) -> None:
        """Where transactions wait for each other in a ring through `xid`, the youngest gives up."""
        while (ring := find_ring(xid, self._waits_for)) is not None:
            victim = max(ring, key=lambda one: (self._transactions[one].begin_ms, len(one), one))
            place = ring.index(victim)
            cycle = (*ring[place:], *ring[:place])
            for waiting in list(self._transactions[victim].waiting.values()):
                waiter = waiting.register
                if self.locks.is_queued(waiter) and cycle[1] in self.locks.blockers(waiter):
                    self._deny(waiter, now, todo, cycle)

    def _waits_for(self, xid: str) -> Iterator[str]:
        for waiting in self._transactions[xid].waiting.values():
            if self.locks.is_queued(waiting.register):
                yield from self.locks.blockers(waiting.register)

    def _kept_for(self, channel: object) -> list[ev.LockWait]:
        kept = self._transactions.values()
        return [one.wait for tx in kept for one in tx.reservations.values() if one.wait.channel is channel]

    def _is_hopeless(self, waiter: Waiter, holder: str) -> bool:
        """Who waits hot may hold what the holder's undo needs; and what is frozen only a person ends."""
        tx = self._transactions[holder]
        if tx.phase is not Phase.ROLLING_BACK:
            return False
        return not isinstance(waiter, ev.LockWait) or any(branch.frozen for branch in tx.branches.values())

    def _rolls_back(self, xid: str) -> bool:
        return self._transactions[xid].phase is Phase.ROLLING_BACK

    def _denial(self, waiter: Waiter, now: int, cycle: tuple[str, ...] = ()) -> ev.Denied:
        """Name the conflict that says most: the next of a cycle, a holder that is rolling back, else the first."""
        conflicts = self.locks.conflicts(waiter.xid, waiter.keys, waiter.lock_mode, waiter.branch_id)
        telling = [c for c in conflicts if c[1] in cycle] or [c for c in conflicts if self._rolls_back(c[1])]
        key, holder = (telling or conflicts)[0]
        held_ms = now - self._transactions[holder].begin_ms
        return ev.Denied(waiter.xid, waiter, key, holder, held_ms, bool(cycle) or self._rolls_back(holder), cycle)


# A table, as everywhere here: `match` would ask class after class. The key guarantees the type.
ASKS: Mapping[type, Callable[..., None]] = MappingProxyType(
    {
        Want: Cell._want,
        Free: Cell._free,
        Drain: Cell._drain,
        GiveUp: Cell._give_up,
        Unqueue: Cell._unqueue,
        DenyWaiters: Cell._deny_waiters,
        RanAll: Cell._ran_all,
        Submit: Cell._submit,
        Watch: Cell._watch,
        Unwatch: Cell._unwatch,
    }
)


def _granted(waiter: Waiter) -> ev.Granted | ev.Reserved:
    if isinstance(waiter, ev.LockWait):
        return ev.Reserved(waiter.xid, waiter)
    return ev.Granted(waiter.xid, waiter)


def _outcome_of(tx: Global | Outcome, now: int) -> Outcome:
    assert isinstance(tx, Global)
    assert tx.cause is not None
    return Outcome(
        tx.xid,
        tx.name,
        tx.application,
        tx.group,
        tx.begin_ms,
        tx.timeout_ms,
        tx.phase,
        tx.cause,
        now,
        tx.reason,
        tx.terms,
        ended_branches(tx),
    )


def _extra_weight(outcome: Outcome, terms: Terms) -> int:
    """In usual outcomes: one a branch, and one a kilobyte of what users have put into it."""
    size = len(terms.detail) + len(outcome.reason or "")
    for branch in outcome.branches:
        size += len(branch.application_data or "") + len(branch.resource_id) + len(branch.last_error or "")
    return len(outcome.branches) + size // 1024


def _ask_when_loaded(tx: Global, runner: Branch) -> None:
    """A process that ran it may be gone with its connection; a runner by URL is asked when its time comes."""
    if runner.frozen:
        return
    if runner.plan is None or not runner.plan.by_url:
        runner.next_due_ms = tx.begin_ms
    elif runner.next_due_ms is None and tx.terms is not None and tx.terms.on_timeout is OnTimeout.ASK:
        runner.next_due_ms = tx.deadline_ms
