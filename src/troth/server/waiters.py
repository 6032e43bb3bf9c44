"""Who waits for which answer: what doors put into an event's `reply_to`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from troth.core.effects import Result
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import MergeResultMessage, Message

Translate = Callable[[Result], Message]


class Responder(Protocol):
    """The connection over which a request came in."""

    def respond(self, frame: Frame, message: Message) -> None:
        """Send `message` as the answer to `frame`; harmless if the connection is gone."""
        ...


class Reply:
    """One Seata request that wants its answer. `translate` is set by whoever submits an event with it."""

    __slots__ = ("_frame", "_responder", "translate")
    may_wait = True

    def __init__(self, responder: Responder, frame: Frame) -> None:
        self._responder = responder
        self._frame = frame
        self.translate: Translate = _untranslated

    def answer(self, result: Result) -> None:
        """The engine's result is durable."""
        self._responder.respond(self._frame, self.translate(result))

    def send(self, message: Message) -> None:
        """Answer at the door, without the engine."""
        self._responder.respond(self._frame, message)


class MergedReply:
    """All answers to one merged request (59): one frame 60, in the order of the children, when the last is there."""

    __slots__ = ("_answers", "_frame", "_missing", "_responder")

    def __init__(self, responder: Responder, frame: Frame, children: int) -> None:
        self._responder = responder
        self._frame = frame
        self._answers: list[Message | None] = [None] * children
        self._missing = children
        if not children:
            self._finish()

    def fill(self, index: int, message: Message) -> None:
        """The answer to child number `index` is there."""
        if self._answers[index] is None:
            self._missing -= 1
        self._answers[index] = message
        if not self._missing:
            self._finish()

    def _finish(self) -> None:
        answers = tuple(answer for answer in self._answers if answer is not None)
        self._responder.respond(self._frame, MergeResultMessage(answers))


class ChildReply:
    """One child of a merged request. It must not hold back its siblings, so it never waits for rows."""

    __slots__ = ("_index", "_merged", "translate")
    may_wait = False

    def __init__(self, merged: MergedReply, index: int) -> None:
        self._merged = merged
        self._index = index
        self.translate: Translate = _untranslated

    def answer(self, result: Result) -> None:
        """The engine's result is durable."""
        self._merged.fill(self._index, self.translate(result))

    def send(self, message: Message) -> None:
        """Answer at the door, without the engine."""
        self._merged.fill(self._index, message)


AnyReply = Reply | ChildReply


class FutureReply:
    """A request of a coroutine on the loop: the admin door."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def answer(self, result: Result) -> None:
        """The engine's result is durable."""
        if not self.result.done():
            self.result.set_result(result)


def _untranslated(result: Result) -> Message:
    raise AssertionError(f"nobody said how to answer with {type(result).__name__}")
