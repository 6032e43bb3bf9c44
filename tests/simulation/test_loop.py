"""Virtual time: jumps, order, and no way to wait for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from troth.testing.loop import Stuck, VirtualLoop, run_virtually


def test_an_hour_takes_no_time() -> None:
    started = time.monotonic()

    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert 3600 <= run_virtually(main) < 3600.1
    assert time.monotonic() - started < 1


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        seen: list[int] = []
        for delay in (3, 1, 2):
            loop.call_later(delay, seen.append, delay)
        await asyncio.sleep(4)
        return seen

    assert run_virtually(main) == [1, 2, 3]


def test_waiting_for_nothing_is_an_error() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck, match="no timer is left"):
        run_virtually(main)


def test_a_loop_that_never_rests_is_an_error() -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="time does not go on"):
        run_virtually(main)


def test_threads_are_refused() -> None:
    async def main(loop: VirtualLoop) -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(Stuck, match="thread"):
        run_virtually(main)


def test_what_a_callback_raises_is_kept() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return loop.failures

    assert "ZeroDivisionError" in run_virtually(main)[0]
