"""Where a thread or task is in a saga: which run, in which part of it, and in which step."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from troth.client.context import Join
from troth.client.flow import Coordinator
from troth.client.modes.saga import Run, RunEnds
from troth.client.modes.saga_records import StepContext


class Scope:
    """A saga's body, or that of a saga inside it. It names the steps that are called in it, in the order of calls."""

    def __init__(self, run: Run, coordinator: Coordinator, key: str = "", around: Scope | None = None) -> None:
        self.run = run
        self.around = around
        self.coordinator = coordinator
        self.key = key
        """Empty for the whole saga."""
        self.closed = False
        """The body has ended: no step begins in it any more."""
        self.tasks: set[asyncio.Future[Any]] = set()
        """Async steps that may run side by side: nothing is compensated before they have ended."""
        self._names: dict[str, itertools.count[int]] = {}

    def next_key(self, name: str) -> str:
        """The key of the next call of `name` here: the name, and from the second call on its number."""
        number = next(self._names.setdefault(name, itertools.count(1)))
        return self.at(name if number == 1 else f"{name}#{number}")

    def at(self, name: str) -> str:
        """`name` as a key of this scope."""
        return f"{self.key}/{name}" if self.key else name

    def inner(self, key: str) -> Scope:
        """The body of a saga inside this one."""
        return Scope(self.run, self.coordinator, key, self)

    def check(self) -> None:
        """Raise RunEnds if the body has ended: what still runs in its background must not go on."""
        if self.closed:
            raise RunEnds(f"the body of saga {self.run.xid} has ended: it takes no more steps")
        if self.around is not None:
            self.around.check()

    def check_around(self) -> None:
        """Raise what has halted the run, or RunEnds if a body around this one has ended: that one compensates all."""
        self.run.check()
        if self.around is not None:
            self.around.check()

    def add(self, task: asyncio.Future[Any]) -> None:
        """A step that no body around it may end before."""
        self.tasks.add(task)
        if self.around is not None:
            self.around.add(task)

    def discard(self, task: asyncio.Future[Any]) -> None:
        """It has ended."""
        self.tasks.discard(task)
        if self.around is not None:
            self.around.discard(task)

    def close(self) -> None:
        """The body has ended."""
        self.closed = True

    async def aclose(self) -> None:
        """The body has ended; wait for the steps that it has left running."""
        self.closed = True
        running = [task for task in self.tasks if not task.done()]
        if running:
            await asyncio.wait(running)


_SCOPE: Final[ContextVar[Scope | None]] = ContextVar("troth_saga", default=None)
_STEP: Final[ContextVar[StepContext | None]] = ContextVar("troth_step", default=None)


def current_scope() -> Scope | None:
    """The saga in whose body this thread or task is, None outside of any and inside a step."""
    return _SCOPE.get()


def current_step() -> StepContext:
    """The step in whose function this thread or task is: its idempotency key above all.

    Raises LookupError outside of any step.
    """
    step = _STEP.get()
    if step is None:
        raise LookupError("current_step() was called outside of a step")
    return step


@contextmanager
def in_body(scope: Scope) -> Iterator[None]:
    """Be in the body of a saga. It is in no global transaction: each step commits what it does by itself."""
    token = _SCOPE.set(scope)
    try:
        with Join(None):
            yield
    finally:
        _SCOPE.reset(token)


@contextmanager
def in_step(context: StepContext) -> Iterator[None]:
    """Be in a step's function: not in a saga's body any more."""
    step, scope = _STEP.set(context), _SCOPE.set(None)
    try:
        yield
    finally:
        _SCOPE.reset(scope)
        _STEP.reset(step)


@contextmanager
def in_branch(key: str) -> Iterator[None]:
    """Be in one of several branches of a saga's body that run side by side; outside of a saga nothing changes."""
    scope = _SCOPE.get()
    if scope is None:
        yield
        return
    token = _SCOPE.set(scope.inner(key))
    try:
        yield
    finally:
        _SCOPE.reset(token)
