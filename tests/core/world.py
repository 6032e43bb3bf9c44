"""A cell with a driver around it: every answer and call is kept, every write is read into a ledger."""

from __future__ import annotations

from collections.abc import Iterable

from ledger import Ledger

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.decision import Decision
from troth.core.model import BranchType, LockMode, OnTimeout, PhaseOne, Plan, Terms, Verb
from troth.core.retry import Backoff
from troth.core.rowkeys import parse_lock_text
from troth.core.rules import Rules

RULES = Rules(hot_wait_ms=300, answer_timeout_ms=5_000, first_round_ms=2_000, backoff=Backoff(min_ms=100, max_ms=1_000))
MYSQL = "jdbc:mysql://db/shop"
SQLITE = "jdbc:sqlite:/shop.db"


class Ask:
    """A reply_to that can be told apart from every other."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"


class World:
    """Events in, with readable helpers; `answers` by asker, `calls` still unanswered, rows taken."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules = rules
        self.cell = Cell(rules)
        self.ledger = Ledger()
        self.now = 1_000_000
        self.answers: dict[Ask, fx.Result] = {}
        self.calls: dict[tuple[str, int], fx.Call] = {}
        self.settled: list[fx.Settled] = []
        self.rows: set[str] = set()
        self._ids = 0

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def send(self, event: ev.Event) -> Decision:
        decision = self.cell.decide(event, self.now)
        self.rows.update(row.name for row in decision.rows)
        self.ledger.apply(decision.writes)
        for effect in decision.effects:
            match effect:
                case fx.Answer():
                    assert isinstance(effect.reply_to, Ask)
                    assert effect.reply_to not in self.answers, f"{effect.reply_to} was answered twice"
                    self.answers[effect.reply_to] = effect.result
                case fx.Call():
                    self.calls[effect.xid, effect.branch_id] = effect
                case fx.Settled():
                    self.settled.append(effect)
        return decision

    # ---- what clients do ----

    def begin(self, xid: str = "", timeout_ms: int = 60_000) -> str:
        xid = xid or f"127.0.0.1:8091:{self.next_id()}"
        ask = Ask(f"begin {xid}")
        self.send(ev.Begin(xid, "purchase", "shop", "default_tx_group", timeout_ms, ask))
        assert self.answers[ask] == fx.Begun(xid)
        return xid

    def start(
        self,
        *steps: ev.NewStep,
        submit: bool = False,
        wait: bool = False,
        terms: Terms | None = None,
        timeout_ms: int = 60_000,
        channel: object = None,
    ) -> tuple[str, Ask]:
        """A transaction with steps; with terms, unless others are given, under which nothing is special."""
        xid = f"127.0.0.1:8091:{self.next_id()}"
        ask = Ask(f"start {xid}")
        agreed = terms or terms_of(gid=f"gid-{xid}")
        self.send(
            ev.Begin(
                xid, "trip", "shop", "g", timeout_ms, ask, agreed, steps, submit, wait, "shop:127.0.0.1:5000", channel
            )
        )
        return xid, ask

    def step(
        self,
        *after: int,
        kind: BranchType = BranchType.SAGA,
        by_url: bool = True,
        url: str = "http://bank/pay",
    ) -> ev.NewStep:
        """One for `start`; `after` are the places of others, from 1."""
        return ev.NewStep(self.next_id(), kind, url, "{}", Plan(by_url, after))

    def record(self, xid: str, key: str, data: str | None, *, attempt: int | None = 0, failed: bool = False) -> Ask:
        ask = Ask(f"record {key} {self.next_id()}")
        self.send(ev.Record(xid, attempt, self.next_id(), key, data, failed, ask))
        return ask

    def claim(self, xid: str, attempt: int, *, client: str = "shop:127.0.0.1:6000", channel: object = None) -> Ask:
        ask = Ask(f"claim {attempt} {self.next_id()}")
        self.send(ev.Claim(xid, attempt, client, channel, ask))
        return ask

    def register(
        self,
        xid: str,
        locks: str,
        *,
        resource: str = MYSQL,
        may_wait: bool = True,
        auto_commit: bool = True,
        channel: object = None,
        mode: BranchType = BranchType.AT,
        lock_mode: LockMode = LockMode.EXCLUSIVE,
        plan: Plan | None = None,
    ) -> tuple[int, Ask]:
        branch_id = self.next_id()
        ask = Ask(f"register {branch_id} of {xid}")
        self.send(
            ev.Register(
                xid,
                branch_id,
                mode,
                resource,
                locks,
                parse_lock_text(resource, locks),
                None,
                auto_commit,
                "shop:127.0.0.1:5000",
                channel,
                may_wait,
                ask,
                lock_mode,
                plan,
            )
        )
        return branch_id, ask

    def wait(
        self,
        xid: str,
        locks: str,
        *,
        resource: str = MYSQL,
        channel: object = None,
        lock_mode: LockMode = LockMode.EXCLUSIVE,
        may_wait: bool = True,
    ) -> Ask:
        """A cold wait."""
        number = self.next_id()
        ask = Ask(f"wait {number} of {xid}")
        keys = parse_lock_text(resource, locks)
        self.send(ev.LockWait(xid, number, resource, locks, keys, channel, may_wait, ask, lock_mode))
        return ask

    def branch(
        self,
        xid: str,
        locks: str,
        *,
        resource: str = MYSQL,
        mode: BranchType = BranchType.AT,
        plan: Plan | None = None,
    ) -> int:
        branch_id, ask = self.register(xid, locks, resource=resource, mode=mode, plan=plan)
        assert self.answers[ask] == fx.Registered(branch_id)
        return branch_id

    def ask(self, kind: type[ev.Commit | ev.Rollback | ev.Status | ev.Vote | ev.Retry | ev.Stop], xid: str) -> Ask:
        ask = Ask(f"{kind.__name__} {xid}")
        self.send(kind(xid, ask))
        return ask

    def report(self, xid: str, branch_id: int, phase_one: PhaseOne | None = PhaseOne.FAILED) -> Ask:
        ask = Ask(f"report {branch_id}")
        self.send(ev.Report(xid, branch_id, phase_one, None, ask))
        return ask

    def answer_call(self, xid: str, branch_id: int, result: ev.CallResult, detail: str | None = None) -> None:
        call = self.calls.pop((xid, branch_id))
        self.send(ev.Answered(xid, branch_id, call.verb, call.attempt, result, detail, "shop:127.0.0.1:5000"))

    def due(self, *xids: str, after_ms: int = 0) -> None:
        self.now += after_ms
        for xid in xids:
            self.send(ev.Due(xid))

    def restart(self) -> None:
        """The coordinator dies; another takes up what was written."""
        self.cell = Cell(self.rules)
        self.cell.restore(self.ledger.load())
        self.calls.clear()


def terms_of(gid: str = "", on_timeout: OnTimeout = OnTimeout.GO_ON, **more: int | None) -> Terms:
    return Terms(gid, "saga", b"detail", on_timeout, **more)  # type: ignore[arg-type]


def verbs(calls: Iterable[fx.Call]) -> list[tuple[int, Verb]]:
    return [(call.branch_id, call.verb) for call in calls]
