"""Hooks around the real functions of a program: before them, after them, at a step of a flow.

A seam is named `module:attribute` or `module:Class.attribute`, where the program looks it up. One that is gone, or is
not the kind of function that was expected, stops the program before it starts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Generator
from typing import Any

from troth.testing.crash.point import Hit

Attach = Callable[[Hit], None]
When = Callable[..., bool]
Make = Callable[[Any], Any]


class SeamGone(Exception):
    """The program has no such function any more: the crash point must follow it."""


def function(seam: str, make: Make) -> None:
    """Put `make(original)` in the place of a plain function or method."""
    owner, name, original = _find(seam)
    if not callable(original) or inspect.iscoroutinefunction(original) or inspect.isgeneratorfunction(original):
        raise SeamGone(f"{seam} is not a plain function any more")
    setattr(owner, name, functools.wraps(original)(make(original)))


def coroutine(seam: str, make: Make) -> None:
    """Put `make(original)` in the place of a coroutine function."""
    owner, name, original = _find(seam)
    if not inspect.iscoroutinefunction(original):
        raise SeamGone(f"{seam} is not a coroutine function any more")
    setattr(owner, name, functools.wraps(original)(make(original)))


def flow(seam: str, make: Make) -> None:
    """Put `make(original)` in the place of a flow (a generator function, see troth.client.flow)."""
    owner, name, original = _find(seam)
    if not inspect.isgeneratorfunction(original):
        raise SeamGone(f"{seam} is not a generator function any more")
    setattr(owner, name, functools.wraps(original)(make(original)))


def _find(seam: str) -> tuple[object, str, Any]:
    module, _, path = seam.partition(":")
    *owners, name = path.split(".")
    try:
        owner: object = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        return owner, name, getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise SeamGone(f"{seam} is gone: {error}") from error


def always(*_: object) -> bool:
    """For hooks without a condition."""
    return True


def before(original: Any, hit: Hit, when: When = always) -> Any:
    """A plain function that hits before `original`, if `when(*arguments)`."""

    def hooked(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            hit()
        return original(*args, **kwargs)

    return hooked


def after(original: Any, hit: Hit, when: When = always) -> Any:
    """A plain function that hits after `original`, if `when(result, *arguments)`."""

    def hooked(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(result, *args):
            hit()
        return result

    return hooked


def before_await(original: Any, hit: Hit, when: When = always) -> Any:
    """`before` for coroutine functions."""

    async def hooked(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            hit()
        return await original(*args, **kwargs)

    return hooked


def after_await(original: Any, hit: Hit, when: When = always) -> Any:
    """`after` for coroutine functions."""

    async def hooked(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if when(result, *args):
            hit()
        return result

    return hooked


def before_flow(seam: str) -> Attach:
    """Hits before the first step of a flow."""

    def make(original: Any, hit: Hit) -> Any:
        def hooked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            hit()
            return (yield from original(*args, **kwargs))

        return hooked

    return lambda hit: flow(seam, lambda original: make(original, hit))


def after_flow(seam: str) -> Attach:
    """Hits when a flow has ended without an error."""

    def make(original: Any, hit: Hit) -> Any:
        def hooked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            result = yield from original(*args, **kwargs)
            hit()
            return result

        return hooked

    return lambda hit: flow(seam, lambda original: make(original, hit))


def before_step(seam: str, when: When) -> Attach:
    """Hits before a step of a flow for which `when(step)`."""
    return lambda hit: flow(seam, lambda original: _stepwise(original, _at_step(when, hit), _nothing))


def after_step(seam: str, when: When) -> Attach:
    """Hits when such a step has been answered without an error."""
    return lambda hit: flow(seam, lambda original: _stepwise(original, _nothing, _at_step(when, hit)))


def _at_step(when: When, hit: Hit) -> Callable[[Any], None]:
    def look(step: Any) -> None:
        if when(step):
            hit()

    return look


def _nothing(_: object) -> None:
    """At the other end of a step."""


def _stepwise(original: Any, leaving: Callable[[Any], None], answered: Callable[[Any], None]) -> Any:
    def hooked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner = original(*args, **kwargs)
        try:
            step = next(inner)
            while True:
                leaving(step)
                try:
                    answer = yield step
                except BaseException as error:  # noqa: BLE001 - it goes on inside, as if we were not there
                    step = inner.throw(error)
                else:
                    answered(step)
                    step = inner.send(answer)
        except StopIteration as end:
            return end.value

    return hooked
