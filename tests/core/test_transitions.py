"""Every arrow of the drawing is taken, and the drawing in the docs is drawn from the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from world import Ask, World, terms_of

from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.machine import INDEX, TABLE
from troth.core.model import BranchType, OnTimeout, Phase, PhaseOne, Verb

ROOT = Path(__file__).parents[2]

EXTERNAL = (
    ev.Register,
    ev.LockWait,
    ev.Report,
    ev.Vote,
    ev.Commit,
    ev.Rollback,
    ev.Status,
    ev.Answered,
    ev.Due,
    ev.Retry,
    ev.Stop,
    ev.Record,
    ev.Claim,
)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EXTERNAL)
def test_every_outside_event_has_a_row_in_every_phase(phase: Phase, event: type) -> None:
    rows = INDEX[phase, event]
    assert rows[-1].guard is None, "the last row of a cell must take what the guards before it leave"
    assert all(row.guard is not None for row in rows[:-1]), "a row behind an unguarded one can never be taken"


def every_question(world: World, xid: str, but: type | None = None) -> None:
    for kind in (ev.Status, ev.Vote, ev.Commit, ev.Rollback):
        if kind is not but:
            world.ask(kind, xid)
    world.register(xid, "t:9")
    world.wait(xid, "t:9")
    world.report(xid, 1)
    world.record(xid, "key", None)
    world.claim(xid, 1)
    world.due(xid)


def phase_one(world: World) -> None:
    one, two = world.begin(), world.begin()
    branch = world.branch(one, "t:1")
    world.branch(one, "")
    world.register(two, "t:1")
    world.due(two, after_ms=300)
    channel = object()
    three = world.begin()
    world.register(three, "t:1", channel=channel)
    world.send(ev.ChannelClosed(channel))
    world.report(one, branch, PhaseOne.DONE)
    world.report(one, 4711)
    world.wait(three, "t:3", channel=channel)
    world.send(ev.ChannelClosed(channel))
    for kind in (ev.Status, ev.Retry, ev.Vote):
        world.ask(kind, one)
    world.send(ev.Answered(one, branch, None, 1, CallResult.DONE))  # type: ignore[arg-type]


def decisions(world: World) -> None:
    for how in ("commit", "rollback", "vote", "failed", "late commit", "late register", "late wait", "timeout"):
        xid = world.begin(timeout_ms=1_000)
        branch = world.branch(xid, f"t:{how}")
        if how == "vote":
            world.ask(ev.Vote, xid)
        if how == "failed":
            world.report(xid, branch)
        if how in ("late commit", "late register", "late wait", "timeout"):
            world.now += 1_000
        if how == "late register":
            world.register(xid, "t:2")
        elif how == "late wait":
            world.wait(xid, "t:2")
        elif how == "timeout":
            world.due(xid)
        else:
            world.ask(ev.Rollback if how == "rollback" else ev.Commit, xid)
        complete(world, xid, branch)


def complete(world: World, xid: str, branch: int) -> None:
    every_question(world, xid)
    call = world.calls[xid, branch]
    world.answer_call(xid, branch, CallResult.NO_CHANNEL)
    every_question(world, xid)
    world.send(ev.Served(call.resource_id))
    world.answer_call(xid, branch, CallResult.ONGOING)
    world.ask(ev.Retry, xid)
    world.answer_call(xid, branch, CallResult.RETRY)
    world.send(ev.Answered(xid, branch, call.verb, 1, CallResult.RETRY))
    world.due(xid, after_ms=1_000)
    world.answer_call(xid, branch, CallResult.REFUSED)
    world.ask(ev.Retry, xid)
    world.answer_call(xid, branch, CallResult.DONE)
    every_question(world, xid)
    for kind in (ev.Retry, ev.Stop):
        world.ask(kind, xid)
    world.send(ev.Answered(xid, branch, call.verb, 1, CallResult.DONE))


def forward(world: World) -> None:
    for end in (CallResult.DONE, CallResult.REFUSED, CallResult.RETRY, "silence", "timeout", "rollback", "stop"):
        terms = terms_of(on_timeout=OnTimeout.ROLL_BACK, retry_limit=2, answer_timeout_ms=50, retry_ms=10)
        step = world.step(by_url=False)
        xid, _ = world.start(step, submit=True, terms=terms, timeout_ms=20_000)
        branch_id = step.branch_id
        for kind in (ev.Retry, ev.Commit):
            world.ask(kind, xid)
        world.answer_call(xid, branch_id, CallResult.ONGOING)
        every_question(world, xid, but=ev.Rollback)
        world.due(xid, after_ms=10)
        world.answer_call(xid, branch_id, CallResult.NO_CHANNEL)
        world.send(ev.Served(step.resource_id))
        world.send(ev.Answered(xid, branch_id, Verb.COMMIT, 1, CallResult.DONE))
        if isinstance(end, CallResult):
            world.answer_call(xid, branch_id, CallResult.RETRY)
            world.answer_call(xid, branch_id, end)
        elif end == "silence":
            world.due(xid, after_ms=50)
            world.due(xid)
            world.due(xid, after_ms=50)
        elif end == "timeout":
            world.due(xid, after_ms=20_000)
        else:
            world.ask(ev.Rollback if end == "rollback" else ev.Stop, xid)
        if (xid, branch_id) in world.calls and xid in world.cell.transactions:
            world.answer_call(xid, branch_id, CallResult.ONGOING)
            world.ask(ev.Retry, xid)
            world.answer_call(xid, branch_id, CallResult.DONE)


def runs(world: World) -> None:
    for end in (*CallResult, "commit", "rollback", "record too late", "claim too late", "stop"):
        runner, message = world.step(kind=BranchType.RUNNER, by_url=False), world.step(kind=BranchType.MESSAGE)
        terms = terms_of(on_timeout=OnTimeout.ROLL_BACK, retry_ms=100)
        channel = object()
        xid, _ = world.start(runner, message, terms=terms, timeout_ms=20_000, channel=channel)
        world.send(ev.ChannelClosed(channel))
        world.answer_call(xid, runner.branch_id, CallResult.NO_CHANNEL)
        world.ask(ev.Retry, xid)
        world.record(xid, "a", "x", attempt=3)
        world.record(xid, "a", "x")
        world.claim(xid, 1)
        world.claim(xid, 0)
        for kind in (ev.Commit, ev.Rollback):
            world.send(kind(xid, None, attempt=0))
        world.answer_call(xid, runner.branch_id, CallResult.NO_CHANNEL)
        world.send(ev.Served(runner.resource_id))
        if isinstance(end, CallResult):
            world.answer_call(xid, runner.branch_id, end)
            world.due(xid, after_ms=100)
        elif end in ("commit", "rollback"):
            world.send((ev.Commit if end == "commit" else ev.Rollback)(xid, None, attempt=1))
        elif end == "stop":
            world.ask(ev.Stop, xid)
        else:
            world.now += 20_000
            world.claim(xid, 5) if "claim" in end else world.record(xid, "b", None)
        if (xid, message.branch_id) in world.calls:
            world.answer_call(xid, message.branch_id, CallResult.ONGOING)
            world.ask(ev.Stop, xid)
    bare = world.begin()
    world.claim(bare, 1)
    world.branch(bare, "t:stop")
    world.ask(ev.Rollback, bare)
    world.ask(ev.Stop, bare)
    every_question(world, bare)
    world.ask(ev.Stop, bare)


def test_every_transition_is_taken() -> None:
    world = World()
    phase_one(world)
    decisions(world)
    forward(world)
    runs(world)
    assert sorted({row.name for row in TABLE} - world.rows) == []


def test_the_picture_in_the_docs_is_drawn_from_the_table() -> None:
    script = ROOT / "scripts" / "draw_table.py"
    drawn = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
    assert drawn == (ROOT / "docs" / "transitions.md").read_text(encoding="utf-8"), "run: make docs"


def test_asks_print_readably() -> None:
    assert repr(Ask("begin")) == "<begin>"
