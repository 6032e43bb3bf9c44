"""The cell: all transactions and row locks that one leader holds, as one pure aggregate.

`decide(event, now)` moves one transaction along the table, lets the lock table answer what it asks for, feeds those
answers back until none is left (each one frees or grants, never both, so this ends), and returns what must be
written and what must follow. It changes the cell and nothing else (design/coordinator §1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.decision import Decision, DenyWaiters, Drain, Free, GiveUp, Unqueue, Want
from troth.core.due import plan, plan_anew
from troth.core.locks import LockTable
from troth.core.machine import step
from troth.core.model import Global, Outcome, Phase, Waiting
from troth.core.rules import Rules


class Cell:
    """Decides for every transaction of one coordinator. Not safe for threads: one writer."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.locks = LockTable()
        self._transactions: dict[str, Global] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._starved: dict[str, set[str]] = {}
        self.transactions: Mapping[str, Global] = MappingProxyType(self._transactions)
        """Every transaction that has not ended, oldest first."""

    def outcome(self, xid: str) -> Outcome | None:
        """How a transaction ended, if that is still in memory."""
        return self._outcomes.get(xid)

    def knows(self, xid: str) -> bool:
        return xid in self._transactions or xid in self._outcomes

    def restore(self, transactions: Iterable[Global]) -> list[str]:
        """Take up what a store kept, locks included; returns the xids, all of which want a look at their due time."""
        for tx in transactions:
            self._transactions[tx.xid] = tx
            for branch in tx.branches.values():
                if tx.phase is not Phase.COMMITTING:
                    self.locks.take(tx.xid, branch.branch_id, branch.keys)
                if tx.phase is not Phase.OPEN and branch.next_due_ms is None and not branch.frozen:
                    branch.next_due_ms = tx.begin_ms  # its call was out when the store was last written: due now
            plan_anew(tx)
            if tx.phase is not Phase.OPEN:
                self._await_clients(tx)
        return list(self._transactions)

    def _await_clients(self, tx: Global) -> None:
        """Branches that found no client before the restart must not sleep on when the first one comes back."""
        for branch in tx.branches.values():
            if not branch.frozen:
                self._starved.setdefault(branch.resource_id, set()).add(tx.xid)

    def decide(self, event: ev.Event, now: int) -> Decision:
        """One turn: everything that follows from `event` at `now` (integer milliseconds)."""
        decision = Decision(self.rules)
        todo: list[ev.Event] = [event]
        for happened in todo:  # grows while we go through it
            if type(happened) in ev.CELL_EVENTS:
                self._turn_of_cell(happened, decision, todo)  # type: ignore[arg-type]
            else:
                self._step(happened, now, decision, todo)  # type: ignore[arg-type]
        return decision

    # ---- one event ----

    def _turn_of_cell(self, event: ev.CellEvent, decision: Decision, todo: list[ev.Event]) -> None:
        match event:
            case ev.LockQuery():
                lockable = not self.locks.conflicts(event.xid, event.keys)
                decision.effects.append(fx.Answer(event.reply_to, fx.Lockable(lockable)))
            case ev.Served():
                starved = sorted(self._starved.pop(event.resource_id, ()))
                todo.extend(ev.Wake(xid, event.resource_id) for xid in starved if xid in self._transactions)
            case ev.ChannelClosed():
                for register in self.locks.waiting_on(event.channel):
                    self.locks.unqueue(register)
                    todo.append(ev.Cancelled(register.xid, register))
            case ev.Loaded():
                if event.outcome is not None and not self.knows(event.xid):
                    self._remember(event.outcome)
            case ev.Sweep():
                self._forget(event.before_ms)

    def _step(self, event: ev.TransactionEvent, now: int, decision: Decision, todo: list[ev.Event]) -> None:
        born = type(event) is ev.Begin
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
        return tx

    def _answer_unknown(self, event: ev.TransactionEvent, decision: Decision) -> None:
        reply_to = getattr(event, "reply_to", None)
        if reply_to is not None:
            decision.effects.append(fx.Answer(reply_to, fx.Unknown(event.xid)))

    def _note_starving(self, tx: Global | Outcome, event: ev.Answered) -> None:
        if event.result is ev.CallResult.NO_CHANNEL and isinstance(tx, Global) and tx.phase is not Phase.OPEN:
            branch = tx.branches.get(event.branch_id)
            if branch is not None:
                self._starved.setdefault(branch.resource_id, set()).add(tx.xid)

    def _remember(self, outcome: Outcome) -> None:
        self._outcomes[outcome.xid] = outcome
        if len(self._outcomes) > self.rules.outcome_memory_max:
            del self._outcomes[next(iter(self._outcomes))]

    def _forget(self, before_ms: int) -> None:
        for xid in [xid for xid, outcome in self._outcomes.items() if outcome.end_ms <= before_ms]:
            del self._outcomes[xid]

    # ---- what the machine asks of the lock table ----

    def _free(self, ask: Free, now: int, todo: list[ev.Event]) -> None:
        freed = self.locks.free(ask.branch)
        if freed and self.locks.queued:
            todo.extend(ev.Granted(register.xid, register) for register in self.locks.grantable(freed))

    def _drain(self, ask: Drain, now: int, todo: list[ev.Event]) -> None:
        todo.append(ev.Drained(ask.xid))

    def _give_up(self, ask: GiveUp, now: int, todo: list[ev.Event]) -> None:
        self.locks.unqueue(ask.register)
        todo.append(self._denial(ask.register, now))

    def _unqueue(self, ask: Unqueue, now: int, todo: list[ev.Event]) -> None:
        self.locks.unqueue(ask.register)

    def _deny_waiters(self, ask: DenyWaiters, now: int, todo: list[ev.Event]) -> None:
        for register in self.locks.waiting_for(ask.branch.keys):
            self.locks.unqueue(register)
            todo.append(self._denial(register, now))

    def _want(self, want: Want, now: int, todo: list[ev.Event]) -> None:
        register = want.register
        conflicts = self.locks.conflicts(register.xid, register.keys)
        if not conflicts:
            self.locks.take(register.xid, register.branch_id, register.keys)
            todo.append(ev.Granted(register.xid, register))
        elif want.wait_until_ms is None or any(self._rolls_back(holder) for _, holder in conflicts):
            todo.append(self._denial(register, now))
        else:
            self.locks.queue(register)
            tx = self._transactions[register.xid]
            tx.waiting[register.branch_id] = Waiting(register, want.wait_until_ms, now)
            plan(tx, want.wait_until_ms, register.branch_id)

    def _rolls_back(self, xid: str) -> bool:
        return self._transactions[xid].phase is Phase.ROLLING_BACK

    def _denial(self, register: ev.Register, now: int) -> ev.Denied:
        """Name the conflict that says most: a holder that is rolling back, else the first."""
        conflicts = self.locks.conflicts(register.xid, register.keys)
        key, holder = next((c for c in conflicts if self._rolls_back(c[1])), conflicts[0])
        held_ms = now - self._transactions[holder].begin_ms
        return ev.Denied(register.xid, register, key, holder, held_ms, self._rolls_back(holder))


# A table, as everywhere here: `match` would ask class after class. The key guarantees the type.
ASKS: Mapping[type, Callable[..., None]] = MappingProxyType(
    {
        Want: Cell._want,
        Free: Cell._free,
        Drain: Cell._drain,
        GiveUp: Cell._give_up,
        Unqueue: Cell._unqueue,
        DenyWaiters: Cell._deny_waiters,
    }
)


def _outcome_of(tx: Global | Outcome, now: int) -> Outcome:
    assert tx.cause is not None
    return Outcome(tx.xid, tx.name, tx.application, tx.group, tx.begin_ms, tx.timeout_ms, tx.phase, tx.cause, now)
