"""An event loop in virtual time: nothing waits, time jumps to the next timer, and every run of a seed is the same run.

No sockets, no threads, no signals: what would need one of them raises. The loop's clock starts at 0 and counts seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_MOST_TURNS_AT_ONE_MOMENT = 200_000
_TURN_S = 1e-6


class Stuck(RuntimeError):
    """Nothing will ever happen any more, or so much happens at one moment that time never goes on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of their times, those of one time in the order in which they were asked for.

    `failures` keeps what they raised and nobody caught. It does itself what asyncio's loop does around a selector: with
    nothing to wait for, that was a third of a whole run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._now_s = 0.0
        self._turns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._clock_resolution = 1e-6
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def call_soon(  # type: ignore[override]  # the base class wants a tuple of unknown types
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's. A closed loop takes nothing."""
        self._check_closed()  # type: ignore[attr-defined]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        self._check_closed()  # type: ignore[attr-defined]
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """One turn: let time pass, then run what is due. Raises Stuck."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        self._pass_time()
        latest = self._now_s + self._clock_resolution
        while timers and timers[0][0] <= latest:
            timer = heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _pass_time(self) -> None:
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            if not self._timers:
                raise Stuck("everybody waits and no timer is left")
            if self._timers[0][0] > self._now_s:
                self._now_s = self._timers[0][0]
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
