"""A transaction of a thousand branches costs per branch what one of ten does: counted in calls, bytes and memory.

TCC, XA, and a saga of so many steps. (A branch: a step of that.)

`bench/modes.py` has the same in seconds.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.due import due_ms
from troth.core.events import NewStep
from troth.core.model import BranchType, OnTimeout, Plan, Terms, Verb

CLIENT = "bank:127.0.0.1:40000"
CONTEXT = '{"actionContext":{"account":"A","amount":200}}'
NOW = 1_800_000_000_000
SMALL, LARGE = 10, 1000
AT_MOST = 1.3


class Costs:
    """One transaction from begin to end, and what it took."""

    def __init__(self, mode: BranchType, end: Verb, branches: int) -> None:
        self.cell = Cell()
        self.mode = mode
        self.calls = 0
        self.bytes = 0
        self.asked: list[fx.Call] = []
        self._count = branches
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            self._open()
            gc.collect()
            self.memory = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self._end(end)
        assert self.cell.transactions == {}
        assert len(self.asked) == (0 if mode is BranchType.RECORD else branches)

    def _open(self) -> None:
        if self.mode is BranchType.RECORD:
            self._record_steps()
            return
        self._decide(ev.Begin("h:1:1", "purchase", "bank", "default_tx_group", 60_000, None))
        for branch_id in range(1, self._count + 1):
            client = (CLIENT, None, True, None)
            self._decide(ev.Register("h:1:1", branch_id, self.mode, "seat", "", (), CONTEXT, True, *client))

    def _record_steps(self) -> None:
        terms = Terms("", "saga", b"", OnTimeout.GO_ON, retry_ms=60_000)
        runner = NewStep(1, BranchType.RUNNER, "saga:bank:trip", "{}", Plan(by_url=False))
        begin = ev.Begin("h:1:1", "trip", "bank", "default_tx_group", 60_000, None, terms=terms, steps=(runner,))
        self._decide(msgspec.structs.replace(begin, client_id=CLIENT, channel=object()))
        for number in range(2, self._count + 2):
            self._decide(ev.Record("h:1:1", 0, number, f"step {number}", CONTEXT, False, None))

    def _end(self, verb: Verb) -> None:
        waiting = self._decide(ev.Commit("h:1:1", None) if verb is Verb.COMMIT else ev.Rollback("h:1:1", None))
        while waiting:
            call = waiting.pop(0)
            self.asked.append(call)
            done = ev.CallResult.DONE
            waiting += self._decide(ev.Answered("h:1:1", call.branch_id, verb, call.attempt, done, None, CLIENT))

    def _decide(self, event: ev.Event) -> list[fx.Call]:
        """A turn as the engine takes it; the calls that follow."""
        sys.setprofile(self._count_call)
        try:
            decision = self.cell.decide(event, NOW)
            for xid in decision.moved:
                tx = self.cell.transactions.get(xid)
                if tx is not None:
                    due_ms(tx)
        finally:
            sys.setprofile(None)
        self.bytes += len(msgspec.msgpack.encode(decision.writes))
        return [effect for effect in decision.effects if isinstance(effect, fx.Call)]

    def _count_call(self, frame: Any, kind: str, argument: Any) -> None:
        self.calls += kind in {"call", "c_call"}


@pytest.mark.parametrize("end", [Verb.COMMIT, Verb.ROLLBACK])
@pytest.mark.parametrize("mode", [BranchType.TCC, BranchType.XA, BranchType.RECORD])
def test_a_branch_costs_the_same_among_ten_and_among_a_thousand(mode: BranchType, end: Verb) -> None:
    small, large = Costs(mode, end, SMALL), Costs(mode, end, LARGE)
    for cost in ("calls", "bytes", "memory"):
        each = {number: getattr(costs, cost) / number for number, costs in ((SMALL, small), (LARGE, large))}
        assert 0 < each[LARGE] <= AT_MOST * each[SMALL], (cost, each)


def test_cancels_of_a_thousand_come_strictly_in_reverse() -> None:
    asked = Costs(BranchType.TCC, Verb.ROLLBACK, LARGE).asked
    assert [call.branch_id for call in asked] == list(range(LARGE, 0, -1))
