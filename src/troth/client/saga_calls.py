"""What the shells of sagas share: flows without a database, and calls that are done once."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

from troth.client.errors import TrothError
from troth.client.flow import Query, Rows

_KEPT: Final = 10_000
"""So many calls are remembered in a process."""


class NoDatabase:
    """For flows that ask no database."""

    def query(self, step: Query) -> Rows:
        """Raises TypeError."""
        raise TypeError(f"this flow has no database to ask: {step.sql}")


class AsyncNoDatabase:
    """`NoDatabase` for coroutines."""

    async def query(self, step: Query) -> Rows:
        """Raises TypeError."""
        return NoDatabase().query(step)


class CallsDone:
    """The calls of one undoable function in this process, by transaction and key: what is done is not done again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._under_way: set[tuple[str, str]] = set()

    def once(self, xid: str, key: str, work: Callable[[], Any]) -> Any:
        """`work()`, or what it gave before. A call that failed may be made again, and so may one without a key."""
        if not key:
            return work()
        if self._begins(xid, key):
            return self._results[xid, key]
        try:
            result = work()
        except BaseException:
            self._ends(xid, key)
            raise
        self._ends(xid, key, result, done=True)
        return result

    async def aonce(self, xid: str, key: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """`once` for coroutines."""
        if not key:
            return await work()
        if self._begins(xid, key):
            return self._results[xid, key]
        try:
            result = await work()
        except (Exception, asyncio.CancelledError):
            self._ends(xid, key)
            raise
        self._ends(xid, key, result, done=True)
        return result

    def _begins(self, xid: str, key: str) -> bool:
        with self._lock:
            if (xid, key) in self._results:
                return True
            if (xid, key) in self._under_way:
                raise TrothError(f"the call {key} is under way in {xid}: it is not made twice at once")
            self._under_way.add((xid, key))
            return False

    def _ends(self, xid: str, key: str, result: Any = None, *, done: bool = False) -> None:
        with self._lock:
            self._under_way.discard((xid, key))
            if done:
                self._results[xid, key] = result
                if len(self._results) > _KEPT:
                    self._results.popitem(last=False)
