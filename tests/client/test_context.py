"""The xid is where it belongs, and nowhere else: threads, tasks, generators (field note C23)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from troth.client.context import current_xid, join


def test_join_binds_and_takes_back() -> None:
    with join("a"):
        assert current_xid() == "a"
        with join("b"):
            assert current_xid() == "b"
        with join(None):
            assert current_xid() is None
        assert current_xid() == "a"
    assert current_xid() is None


def test_join_takes_back_after_an_exception() -> None:
    with pytest.raises(KeyError), join("a"):
        raise KeyError
    assert current_xid() is None


def test_a_scope_is_entered_once_at_a_time() -> None:
    scope = join("a")
    with scope, pytest.raises(RuntimeError, match="entered already"), scope:
        pass
    assert current_xid() is None


def test_the_empty_xid_is_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        join("")


def test_a_pooled_thread_sees_nothing_before_and_after() -> None:
    def work(xid: str) -> tuple[str | None, str | None, str | None]:
        before = current_xid()
        with join(xid):
            inside = current_xid()
        return before, inside, current_xid()

    with ThreadPoolExecutor(1) as pool, join("outer"):
        assert [pool.submit(work, xid).result() for xid in "abc"] == [(None, xid, None) for xid in "abc"]


async def test_tasks_do_not_see_each_other() -> None:
    entered = asyncio.Barrier(3)

    async def work(xid: str) -> str | None:
        async with join(xid):
            await entered.wait()
            return current_xid()

    assert await asyncio.gather(*(work(xid) for xid in "abc")) == ["a", "b", "c"]
    assert current_xid() is None


async def test_a_task_inherits_and_cannot_change_its_parent() -> None:
    async def child() -> str | None:
        inherited = current_xid()
        join("child").__enter__()
        return inherited

    async with join("parent"):
        assert await asyncio.create_task(child()) == "parent"
        assert current_xid() == "parent"


def test_a_generator_that_is_closed_elsewhere_leaves_nothing() -> None:
    def request() -> Iterator[None]:
        with join("a"):
            yield

    generator = request()
    here, there = copy_context(), copy_context()
    here.run(next, generator)
    there.run(join("a").__enter__)
    there.run(generator.close)
    assert there.run(current_xid) is None
    assert current_xid() is None


async def test_an_async_generator_closed_in_another_task_leaves_nothing() -> None:
    async def request() -> AsyncIterator[None]:
        async with join("a"):
            yield

    generator = request()

    async def step() -> None:
        await anext(generator)

    await asyncio.create_task(step())

    async def close() -> str | None:
        await generator.aclose()
        return current_xid()

    assert await asyncio.create_task(close()) is None
