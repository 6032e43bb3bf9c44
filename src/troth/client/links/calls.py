"""A request on its way: who waits for its answer, and how the answer wakes him.

A call is settled exactly once, by the thread that took it out of the place where it was kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod

from troth.client.errors import RequestTimeout
from troth.wire.seata.messages import Message

log = logging.getLogger(__name__)


class Call(ABC):
    """A request and the caller who waits for its answer."""

    __slots__ = ("due", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.due = 0.0
        """When to give up, by the link's clock; set by the channel each time the call changes its place."""

    @abstractmethod
    def succeed(self, answer: Message) -> None:
        """Hand over the answer."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Hand over the reason why there is no answer."""


class BlockingCall(Call):
    """The caller is a thread. A bare lock is the cheapest one-shot signal that Ctrl-C can interrupt."""

    __slots__ = ("_answer", "_done", "_error")

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self._done = threading.Lock()
        self._done.acquire()
        self._answer: Message | None = None
        self._error: Exception | None = None

    def succeed(self, answer: Message) -> None:
        self._answer = answer
        self._done.release()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done.release()

    def wait(self, timeout_s: float) -> Message:
        """Block until settled. `timeout_s` only guards against a dead link thread: the link times calls out itself."""
        if not self._done.acquire(timeout=timeout_s):
            raise RequestTimeout(
                f"the client's link thread did not settle {type(self.message).__name__} in {timeout_s} s"
            )
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise AssertionError("a call is settled with an answer or an error")
        return self._answer


class AwaitedCall(Call):
    """The caller is a coroutine on some event loop, often not the link's."""

    __slots__ = ("_future", "_loop")

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Message] = self._loop.create_future()

    def succeed(self, answer: Message) -> None:
        self._wake(answer, None)

    def fail(self, error: Exception) -> None:
        self._wake(None, error)

    async def wait(self) -> Message:
        """Wait until settled; may be cancelled, the answer is dropped then."""
        return await self._future

    def _wake(self, answer: Message | None, error: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, answer, error)
        except RuntimeError:
            log.debug("the event loop that asked %s is closed; its answer is dropped", type(self.message).__name__)

    def _settle(self, answer: Message | None, error: Exception | None) -> None:
        if self._future.done():
            return
        if error is not None:
            self._future.set_exception(error)
        elif answer is not None:
            self._future.set_result(answer)
