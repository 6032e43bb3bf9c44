"""Running an application's coroutines from the client's own threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from troth.client.errors import TrothError

_START_WITHIN_S: Final = 5.0


class LoopBlocked(TrothError):
    """The application's event loop did not begin the work in time; it was not begun."""


class LoopDoor:
    """The event loop in which an application's coroutines belong: the one that ran when it was last remembered."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def remember(self) -> None:
        """The loop that runs here is the one, if one does."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `work()` there and wait for its end; where there is none, in a loop of its own. Never from that loop.

        Raises:
            LoopBlocked: it was not begun.
        """
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            return asyncio.run(work())
        started = threading.Event()

        async def noticed() -> Any:
            started.set()
            return await work()

        done = asyncio.run_coroutine_threadsafe(noticed(), loop)
        if not started.wait(_START_WITHIN_S) and done.cancel():
            raise LoopBlocked("the application's event loop is blocked")
        return done.result()
