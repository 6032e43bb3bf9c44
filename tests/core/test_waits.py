"""Waiting for rows: in turn, with rows kept for who waited cold, without rings, and additions side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import RULES, Ask, World

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.events import CallResult
from troth.core.model import LockMode

ADD = LockMode.ADD
KEPT = fx.RowsReserved(RULES.hot_wait_ms)


def conflict(world: World, ask: Ask) -> fx.Conflict:
    result = world.answers[ask]
    assert isinstance(result, fx.Conflict)
    return result


@given(st.lists(st.sampled_from(["come", "finish", "leave", "lapse"]), max_size=40))
def test_cold_waits_for_one_row_are_granted_in_the_order_in_which_they_came(steps: list[str]) -> None:
    world = World()
    world.branch(world.begin(), "t:1")
    holder = next(iter(world.cell.transactions))
    queue: list[tuple[str, Ask]] = []
    for step in steps:
        if step == "come":
            xid = world.begin()
            queue.append((xid, world.wait(xid, "t:1", channel=xid)))
        elif step == "leave" and queue:
            world.send(ev.ChannelClosed(queue.pop(len(queue) // 2)[0]))
        elif step == "lapse" and holder and not world.cell.transactions[holder].branches:
            world.due(holder, after_ms=RULES.hot_wait_ms)
            holder = queue.pop(0)[0] if queue else ""
        elif step == "finish" and holder:
            if not world.cell.transactions[holder].branches:
                world.branch(holder, "t:1")
            world.ask(ev.Commit, holder)
            holder = queue.pop(0)[0] if queue else ""
        if not holder:
            holder = world.begin()
            world.branch(holder, "t:1")
        assert [ask for _, ask in queue if ask in world.answers] == [], "nobody is granted before his turn"
        assert {xid for _, xid in world.cell.locks.rows()} == {holder}


def test_a_reservation_ends_at_the_register_and_the_branch_holds_the_row() -> None:
    world = World()
    xid, other = world.begin(), world.begin()
    assert world.answers[world.wait(xid, "t:1;t:2")] == KEPT
    waiting = world.wait(other, "t:2")
    branch = world.branch(xid, "t:1")
    assert world.answers[waiting] == KEPT
    assert dict(world.cell.locks.rows()) == {
        world.cell.transactions[xid].branches[branch].keys[0]: xid,
        next(iter(world.cell.transactions[other].reservations.values())).wait.keys[0]: other,
    }


@pytest.mark.parametrize("end", ["channel", "commit", "rollback", "time", "query"])
def test_a_reservation_ends(end: str) -> None:
    world = World()
    xid, other = world.begin(), world.begin()
    ask = world.wait(xid, "t:1", channel="c")
    assert world.answers[ask] == KEPT
    waiting = world.wait(other, "t:1")
    assert waiting not in world.answers
    match end:
        case "channel":
            world.send(ev.ChannelClosed("c"))
        case "commit":
            world.ask(ev.Commit, xid)
        case "rollback":
            world.ask(ev.Rollback, xid)
        case "time":
            world.due(xid, after_ms=RULES.hot_wait_ms)
        case _:
            world.send(ev.LockQuery(xid, next(iter(world.cell.locks.rows()))[:1], Ask("query")))
    assert world.answers[waiting] == KEPT


def test_a_cold_wait_ends_after_its_bound_and_names_key_holder_and_age() -> None:
    world = World()
    holder, xid = world.begin(timeout_ms=600_000), world.begin(timeout_ms=600_000)
    world.branch(holder, "t:1")
    ask = world.wait(xid, "t:1")
    world.due(xid, after_ms=RULES.cold_wait_ms - 1)
    assert ask not in world.answers
    world.due(xid, after_ms=1)
    said = conflict(world, ask)
    assert (said.key.pk, said.holder, said.held_ms, said.fail_fast) == ("1", holder, RULES.cold_wait_ms, False)


def test_a_cold_wait_outlives_the_holders_rollback_and_a_hot_one_does_not() -> None:
    world = World()
    holder, cold, hot = world.begin(), world.begin(), world.begin()
    branch = world.branch(holder, "t:1")
    waits = world.wait(cold, "t:1")
    _, registers = world.register(hot, "t:1")
    world.ask(ev.Rollback, holder)
    assert conflict(world, registers).fail_fast
    late = world.wait(hot, "t:1")
    world.answer_call(holder, branch, CallResult.DONE)
    assert world.answers[waits] == KEPT
    assert late not in world.answers, "the other one came first"


def test_nobody_waits_for_a_frozen_branch() -> None:
    world = World()
    holder, early, late = world.begin(), world.begin(), world.begin()
    branch = world.branch(holder, "t:1")
    waits = world.wait(early, "t:1")
    world.ask(ev.Rollback, holder)
    world.answer_call(holder, branch, CallResult.REFUSED)
    assert conflict(world, waits).holder == holder
    assert conflict(world, world.wait(late, "t:1")).holder == holder


@pytest.mark.parametrize("kind", ["cold", "hot"])
def test_the_youngest_of_a_ring_gives_up_and_hears_why(kind: str) -> None:
    world = World()
    xids = []
    for row in "123":
        xids.append(world.begin())
        world.branch(xids[-1], f"t:{row}")
        world.now += 10
    asks = {
        xid: world.wait(xid, f"t:{row}") if kind == "cold" else world.register(xid, f"t:{row}")[1]
        for xid, row in zip([xids[2], xids[0], xids[1]], "123", strict=True)
    }
    said = conflict(world, asks[xids[2]])
    assert said.cycle == (xids[2], xids[0], xids[1])
    assert (said.holder, said.fail_fast) == (xids[0], True)
    assert [xid for xid in xids[:2] if asks[xid] in world.answers] == []


def test_a_grant_that_closes_a_ring_is_seen() -> None:
    """Two statements of one transaction wait; one is granted, and who queued behind it holds what the other wants."""
    world = World()
    first, old, young = world.begin(), world.begin(), world.begin()
    world.branch(first, "t:1")
    world.branch(young, "t:2")
    world.wait(old, "t:1", channel="a")
    other = world.wait(old, "t:2", channel="b")
    behind = world.wait(young, "t:1")
    assert behind not in world.answers
    world.ask(ev.Commit, first)
    assert conflict(world, behind).cycle == (young, old)
    assert other not in world.answers


def test_additions_share_a_row_and_keep_out_who_wants_it_alone() -> None:
    world = World()
    one, two, alone, late = (world.begin() for _ in range(4))
    for xid in (one, two):
        branch, ask = world.register(xid, "t:1", lock_mode=ADD)
        assert world.answers[ask] == fx.Registered(branch)
    waits = world.wait(alone, "t:1")
    joins = world.wait(late, "t:1", lock_mode=ADD)
    assert not {waits, joins} & world.answers.keys(), "nobody joins while somebody waits to be alone"
    world.ask(ev.Commit, one)
    assert waits not in world.answers
    world.ask(ev.Commit, two)
    assert world.answers[waits] == KEPT
    assert joins not in world.answers
    world.due(alone, after_ms=RULES.hot_wait_ms)
    assert world.answers[joins] == KEPT


def test_an_upgrade_waits_until_alone_and_of_two_the_youngest_loses() -> None:
    world = World()
    old, young = world.begin(), world.begin()
    for xid in (old, young):
        world.register(xid, "t:1", lock_mode=ADD)
    _, upgrade = world.register(old, "t:1")
    assert upgrade not in world.answers
    _, second = world.register(young, "t:1")
    assert conflict(world, second).cycle == (young, old)
    world.ask(ev.Commit, young)
    assert isinstance(world.answers[upgrade], fx.Registered)


def test_who_waits_to_be_alone_and_gives_up_lets_those_behind_join() -> None:
    world = World()
    one, alone, late = world.begin(), world.begin(), world.begin()
    world.register(one, "t:1", lock_mode=ADD)
    world.wait(alone, "t:1", channel="c")
    joins = world.wait(late, "t:1", lock_mode=ADD)
    world.send(ev.ChannelClosed("c"))
    assert world.answers[joins] == KEPT
    world.restart()
    assert {xid for _, xid in world.cell.locks.rows()} == {one}
    branch, ask = world.register(late, "t:1", lock_mode=ADD)
    assert world.answers[ask] == fx.Registered(branch), "the mode is stored"
