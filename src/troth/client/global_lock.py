"""`global_lock`: local transactions outside of any global one that respect the rows of those that are open."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast, overload

from troth.client.context import Join, current_xid
from troth.client.errors import BranchFailed
from troth.client.isolation import Isolation

P = ParamSpec("P")
R = TypeVar("R")


class GlobalLock:
    """`with global_lock(): …` (also `async with`, and as a decorator): write and lock only rows that nobody holds.

    Inside, local transactions on connections under AT take part in no global transaction and write no undo row, but
    before they commit, and before a SELECT … FOR UPDATE shows its rows, the coordinator is asked whether an open
    global transaction holds one of the rows. In autocommit a held row is waited for (`lock_retry_times`), else
    `LockConflict` is raised and the local transaction rolled back. Inside a global transaction it changes nothing:
    that one's own locks do more.

    Raises:
        BranchFailed: at the end, if a local transaction was begun inside and not committed; it is rolled back.
    """

    def __init__(self, isolation: Isolation | str | None = None) -> None:
        self._isolation = None if isolation is None else Isolation(isolation)
        self._scope: Join | None = None

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("this scope is entered already: make one global_lock() per `with`")
        xid = current_xid()
        self._scope = Join(xid, self._isolation, global_lock=xid is None)
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope, self._scope = self._scope, None
        if scope is None:
            return
        unfinished: list[str] = []
        if scope.xid is None:  # what is open of a global transaction is the business of the scope around
            unfinished = scope.unfinished()
            scope.abandon()
        scope.__exit__(kind, error, trace)
        if unfinished and error is None:
            raise BranchFailed(f"global_lock() ended, but {'; '.join(unfinished)}: it was rolled back")

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Let each call of `function`, sync or async, run in such a scope."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator has no single end: use `with troth.global_lock()` inside it")
        isolation = self._isolation

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
            async with GlobalLock(isolation):
                return await cast(Awaitable[object], function(*args, **kwargs))

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with GlobalLock(isolation):
                return function(*args, **kwargs)

        # R is the coroutine itself for an async function, which the type system cannot tell from the test.
        return cast(Callable[P, R], awaited) if inspect.iscoroutinefunction(function) else called


@overload
def global_lock(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def global_lock(*, isolation: Isolation | str | None = None) -> GlobalLock: ...
def global_lock(
    function: Callable[P, R] | None = None, /, *, isolation: Isolation | str | None = None
) -> Callable[P, R] | GlobalLock:
    """A scope or a decorator (with or without parentheses); see `GlobalLock`.

    Args:
        function: what to decorate.
        isolation: READ_COMMITTED lets plain SELECTs inside check their rows, too.
    """
    scope = GlobalLock(isolation)
    return scope if function is None else scope(function)
