"""The two thin shells around talks: one blocks a thread, one awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Protocol, TypeVar

from troth.client.errors import TrothError
from troth.client.talks import Ask, Pause, Talk
from troth.wire.seata.messages import Message

T = TypeVar("T")


class Teller(Protocol):
    """Whoever carries a message to the coordinator."""

    def tell(self, message: Message) -> Message:
        """Blocks until the answer is here."""

    async def atell(self, message: Message) -> Message:
        """Awaits the answer."""


def run(talk: Talk[T], teller: Teller) -> T:
    """Answer a talk until it ends, blocking the thread."""
    try:
        step = next(talk)
        while True:
            try:
                answer = _do(step, teller)
            except TrothError as error:
                step = talk.throw(error)
            else:
                step = talk.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(talk: Talk[T], teller: Teller) -> T:
    """`run` for coroutines."""
    try:
        step = next(talk)
        while True:
            try:
                answer = await _ado(step, teller)
            except TrothError as error:
                step = talk.throw(error)
            else:
                step = talk.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _do(step: Ask | Pause, teller: Teller) -> Message | None:
    if isinstance(step, Ask):
        return teller.tell(step.message)
    time.sleep(step.seconds)
    return None


async def _ado(step: Ask | Pause, teller: Teller) -> Message | None:
    if isinstance(step, Ask):
        return await teller.atell(step.message)
    await asyncio.sleep(step.seconds)
    return None


async def through_cancellation(work: Coroutine[object, object, None], what: str) -> None:
    """Await `work` to its end also when the caller is cancelled meanwhile: half an end of a transaction helps nobody.

    The cancellation then goes on, with a note of how `work` ended. A second one is not held back; `work` runs on.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        if not task.cancelled():
            await asyncio.wait([task])
        if not task.cancelled():
            cancelled.add_note(f"troth: cancelled while {what}; that ended: {task.exception() or 'done'}")
        raise
