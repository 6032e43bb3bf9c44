"""`troth.suspend()`: the transaction that is there is set aside, and taken up again where it was."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import troth
from troth.client.client import Client


def test_as_a_scope() -> None:
    with troth.join("a"):
        with troth.suspend() as held:
            assert (troth.current_xid(), held.xid) == (None, "a")
        assert troth.current_xid() == "a"


def test_as_two_calls() -> None:
    with troth.join("a"):
        held = troth.suspend()
        assert troth.current_xid() is None
        held.resume()
        assert troth.current_xid() == "a"
        with pytest.raises(RuntimeError, match="a was resumed already"):
            held.resume()
        with troth.suspend() as again:
            again.resume()  # by hand, and the scope has nothing left to do
            assert troth.current_xid() == "a"
        assert troth.current_xid() == "a"


async def test_in_a_coroutine() -> None:
    async with troth.join("a"):
        async with troth.suspend():
            assert troth.current_xid() is None
            await asyncio.sleep(0)
            assert troth.current_xid() is None
        assert troth.current_xid() == "a"


def test_an_error_inside_goes_on_and_the_transaction_is_back() -> None:
    with troth.join("a"):
        with pytest.raises(KeyError), troth.suspend():
            raise KeyError
        assert troth.current_xid() == "a"


def test_outside_of_any() -> None:
    with troth.suspend() as held:
        assert held.xid is None
    assert troth.current_xid() is None


def test_it_is_not_resumed_elsewhere() -> None:
    """A pooled thread would carry it to its next task (C23)."""
    with troth.join("a"):
        held = troth.suspend()
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(RuntimeError, match=r"troth\.join\(held\.xid\)"):
                pool.submit(held.resume).result()
            assert pool.submit(troth.current_xid).result() is None
        with troth.join("b"), pytest.raises(RuntimeError, match="scopes left"):
            held.resume()
        held.resume()
        assert troth.current_xid() == "a"


async def test_a_task_made_inside_cannot_resume_it_for_its_maker() -> None:
    async def resume(held: troth.Suspended) -> None:
        with pytest.raises(RuntimeError, match="where it was suspended"):
            held.resume()

    async with troth.join("a"):
        held = troth.suspend()
        await asyncio.create_task(resume(held))
        assert troth.current_xid() is None
        held.resume()
        assert troth.current_xid() == "a"


def test_a_transaction_that_is_begun_meanwhile_is_its_own(client: Client) -> None:
    with troth.transaction(client=client) as outer:
        with troth.suspend(), troth.transaction(client=client) as inner:
            assert inner.owner
            assert inner.xid != outer.xid
        assert troth.current_xid() == outer.xid


def test_a_forgotten_resume_ends_with_the_scope_around(caplog: pytest.LogCaptureFixture) -> None:
    with troth.join("a"):
        troth.suspend()
    assert troth.current_xid() is None
    assert "never left" in caplog.text
