"""An event loop in virtual time: nothing waits, time jumps to the next timer, and every run of a seed is the same run.

No sockets, no threads, no signals: what would need one of them raises. The loop's clock starts at 0 and counts seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import NoReturn, TypeVar

T = TypeVar("T")

_MOST_TURNS_AT_ONE_MOMENT = 200_000
_TURN_S = 1e-6


class Stuck(RuntimeError):
    """Nothing will ever happen any more, or so much happens at one moment that time never goes on."""


class _Jump:
    """Stands where a loop has its selector."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[object]:
        """Let time pass, at once."""
        self._loop.pass_time(timeout_s)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of their times; `failures` keeps what they raised and nobody caught."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._now_s = 0.0
        self._turns = 0
        self._selector = _Jump(self)
        self._clock_resolution = 1e-6
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def pass_time(self, timeout_s: float | None) -> None:
        """What the loop does instead of waiting. Raises Stuck."""
        if timeout_s is None:
            raise Stuck("everybody waits and no timer is left")
        if timeout_s > 0:
            self._now_s += timeout_s
            self._turns = 0
            return
        self._now_s += _TURN_S  # nothing takes no time: who asks again "until the time has come" must see it come
        self._turns += 1
        if self._turns > _MOST_TURNS_AT_ONE_MOMENT:
            raise Stuck(f"{self._turns} turns of the loop at {self._now_s:.3f} s, and time does not go on")

    def end_tasks(self) -> None:
        """Cancel whatever is left, and let it come to its end."""
        for task in asyncio.all_tasks(self):
            task.cancel()
            task.add_done_callback(_look_at)
        self._turns = 0
        self.call_later(0.001, self.stop)
        self.run_forever()

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:
        """There are no threads in here."""
        raise Stuck(f"{func!r} wants a thread, which is not deterministic")

    def _process_events(self, event_list: list[object]) -> None:
        """No sockets, so no events."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody need be woken."""

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        what = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else ""
        self.failures.append(f"{context.get('message')} {what}".strip())


def run_virtually(main: Callable[[VirtualLoop], Coroutine[object, object, T]]) -> T:
    """Run `main(loop)` to its end in a loop of its own; tasks that are left over are cancelled."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        try:
            loop.end_tasks()
        finally:
            loop.close()


def _look_at(task: asyncio.Task[object]) -> None:
    """A task that is thrown away may end as it likes."""
    if not task.cancelled():
        task.exception()
