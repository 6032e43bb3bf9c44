"""Clients in any order of steps, right and wrong, against the real door: Hypothesis looks for the shortest bad one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from door import SERVED, Client, Life
from frame_mutations import Mutator
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, GlobalStatus, ResultCode

ROWS = st.sampled_from(["t:1", "t:2", "t:1,2", "u:1"])
GARBAGE = st.one_of(st.binary(min_size=1, max_size=64), st.just(b"\xda\xda\x01" + b"\x7f" * 13))


class DoorMachine(RuleBasedStateMachine):
    """The model: which rows each open transaction holds. Waits are off, so every answer comes at once."""

    clients = Bundle("clients")
    transactions = Bundle("transactions")

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.life = Life(Mutator(1), **{"lock.hot_wait": "1ms"})
        self._run(self.life.open())
        self.held: dict[str, set[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self._run(self.life.close())
            self.loop.close()

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _ask(self, client: Client, message: m.Message) -> Any:
        return self._run(client.ask(message))

    @rule(target=clients, version=st.sampled_from(["2.6.0", "1.4.2", ""]))
    def connect(self, version: str) -> Client:
        async def opened() -> Client:
            return self.life._client()

        client = self._run(opened())
        assert self._ask(client, m.RegisterTMRequest(version, "machine", "g", "")).identified
        return client

    @rule(target=transactions, client=clients)
    def begin(self, client: Client) -> Any:
        if client.transport.closed:
            return multiple()
        answer = self._ask(client, m.GlobalBeginRequest(3_000_000, "machine"))
        self.held[answer.xid] = set()
        return answer.xid

    @rule(client=clients, xid=transactions, rows=ROWS)
    def register(self, client: Client, xid: str, rows: str) -> None:
        if client.transport.closed:
            return
        table, _, keys = rows.partition(":")
        wanted = {f"{table}:{key}" for key in keys.split(",")}
        taken = any(wanted & theirs for other, theirs in self.held.items() if other != xid)
        answer = self._ask(client, m.BranchRegisterRequest(xid, BranchType.AT, SERVED[0], rows))
        granted = answer.result_code is ResultCode.Success
        assert granted == (xid in self.held and not taken), answer
        if granted:
            self.held[xid] |= wanted

    @rule(client=clients, xid=consumes(transactions), commits=st.booleans())
    def end(self, client: Client, xid: str, commits: bool) -> None:
        if client.transport.closed or xid not in self.held:
            return
        answer = self._ask(client, m.GlobalCommitRequest(xid) if commits else m.GlobalRollbackRequest(xid))
        assert answer.result_code is ResultCode.Success
        expected = (GlobalStatus.Committed, GlobalStatus.Committing, GlobalStatus.AsyncCommitting)
        assert (answer.global_status in expected) == commits, answer
        del self.held[xid]

    @rule(client=clients, data=GARBAGE)
    def send_garbage(self, client: Client, data: bytes) -> None:
        async def fed() -> None:
            client.link.data_received(data)

        self._run(fed())

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        async def closed() -> None:
            client.transport.close()
            await asyncio.sleep(0)

        self._run(closed())

    @invariant()
    def nobody_else_is_touched(self) -> None:
        if hasattr(self, "life"):
            self._run(self.life.check())
            held = self.life.coordinator.engine.locks_held - 1  # the honest client's
            assert held == sum(map(len, self.held.values()))


DoorMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestDoorMachine = DoorMachine.TestCase


class LongDoorMachine(DoorMachine):
    """The same, for longer."""


LongDoorMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLongDoorMachine = pytest.mark.soak(LongDoorMachine.TestCase)
