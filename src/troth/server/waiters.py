"""Who waits for which answer: what doors put into an event's `reply_to`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from troth.core.effects import Result
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import BatchResultMessage, MergedWarpMessage, MergeResultMessage, Message

Translate = Callable[[Result], Message]


class Responder(Protocol):
    """The connection over which a request came in."""

    def respond(self, frame: Frame, message: Message, *, more: bool = False) -> None:
        """Send `message` as an answer to `frame`; harmless if the connection is gone. `more`: it is not the last."""
        ...

    def refusal(self, request: Message, reason: str) -> Message | None:
        """The answer to a request that could not be stored; None: there is none that its sender would understand."""
        ...


class NotStored(Exception):
    """What was asked for has not happened, because the store refuses it."""


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

    def refuse(self, reason: str) -> None:
        """It has not happened, because it cannot be stored."""
        refusal = self._responder.refusal(self._frame.body, reason)
        if refusal is not None:
            self.send(refusal)

    def send(self, message: Message) -> None:
        """Answer at the door, without the engine."""
        self._responder.respond(self._frame, message)


class _Merged:
    """A merged request."""

    _frame: Frame
    _responder: Responder

    def refusal(self, index: int, reason: str) -> Message | None:
        """See `Responder`; for child number `index`."""
        merged = self._frame.body
        assert isinstance(merged, MergedWarpMessage)
        return self._responder.refusal(merged.msgs[index], reason)


class MergedReply(_Merged):
    """All answers to one merged request (59) of an old client: one 60 in the order of the children, after the last."""

    __slots__ = ("_answers", "_frame", "_missing", "_responder")
    may_wait = False
    """A late child would hold back its siblings."""

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


class BatchReply(_Merged):
    """Answers to one merged request (59) of a client from 1.5.0 on: a batch result (121) for each child, when it is
    there. All carry the merged frame's id, and the child's own id inside (design/coordinator §5).
    """

    __slots__ = ("_frame", "_ids", "_missing", "_responder")
    may_wait = True

    def __init__(self, responder: Responder, frame: Frame, ids: tuple[int, ...]) -> None:
        self._responder = responder
        self._frame = frame
        self._ids = ids
        self._missing = len(ids)
        if not ids:
            responder.respond(frame, BatchResultMessage((), ()))

    def fill(self, index: int, message: Message) -> None:
        """The answer to child number `index` is there; each child has one."""
        self._missing -= 1
        answer = BatchResultMessage((message,), (self._ids[index],))
        self._responder.respond(self._frame, answer, more=self._missing > 0)


class ChildReply:
    """One child of a merged request."""

    __slots__ = ("_index", "_whole", "may_wait", "translate")

    def __init__(self, whole: MergedReply | BatchReply, index: int) -> None:
        self._whole = whole
        self._index = index
        self.may_wait = whole.may_wait
        self.translate: Translate = _untranslated

    def answer(self, result: Result) -> None:
        """The engine's result is durable."""
        self._whole.fill(self._index, self.translate(result))

    def refuse(self, reason: str) -> None:
        """It has not happened, because it cannot be stored."""
        refusal = self._whole.refusal(self._index, reason)
        if refusal is not None:
            self.send(refusal)

    def send(self, message: Message) -> None:
        """Answer at the door, without the engine."""
        self._whole.fill(self._index, message)


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

    def refuse(self, reason: str) -> None:
        """Whoever awaits the result gets NotStored."""
        if not self.result.done():
            self.result.set_exception(NotStored(reason))


def _untranslated(result: Result) -> Message:
    raise AssertionError(f"nobody said how to answer with {type(result).__name__}")
