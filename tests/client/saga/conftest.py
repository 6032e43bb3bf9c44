"""One coordinator in this process for all tests of sagas, and a diary of what steps did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import troth
from troth.client.holder import default_client
from troth.client.saga_book import BOOK, SAGAS

SOON = timedelta(milliseconds=2)


@pytest.fixture(scope="module")
def saga_coordinator() -> Iterator[Any]:
    """A whole coordinator in this process, with short pauses between two attempts."""
    coordinator = troth.embedded(
        retry__min="50ms", retry__max="200ms", admin_port=0, dtm_http_port="off", commit_retry_timeout_s=5.0
    )
    with coordinator:
        yield coordinator


@pytest.fixture(scope="module")
def saga_client(saga_coordinator: Any) -> troth.Client:
    """The process's default client, connected to that."""
    return default_client()


@pytest.fixture(autouse=True)
def _own_sagas() -> Iterator[None]:
    """Each test may name its sagas as it likes."""
    earlier = SAGAS.entries()
    yield
    for saga in SAGAS.entries():
        if saga not in earlier:
            SAGAS.forget(saga)


@pytest.fixture
def diary(saga_client: troth.Client) -> list[Any]:
    """What steps did, in order."""
    return []


@pytest.fixture
def new_step(diary: list[Any]) -> Iterator[Callable[..., Any]]:
    """Makes steps by name that write into the diary; `errors` are raised one after the other, then it succeeds."""
    made: list[troth.Step[..., Any]] = []

    def make(name: str, *errors: Exception, undo_errors: tuple[Exception, ...] = (), **options: Any) -> Any:
        wrong, undo_wrong = list(errors), list(undo_errors)

        def compensate(ctx: troth.UndoContext) -> None:
            diary.append(f"undo {name}" if ctx.known else f"undo {name}?")
            if undo_wrong:
                raise undo_wrong.pop(0)

        def body(value: object = None) -> object:
            diary.append(f"do {name}")
            if wrong:
                raise wrong.pop(0)
            return name if value is None else value

        made.append(troth.step(**{"name": name, "compensate": compensate, "pause": SOON, **options})(body))
        return made[-1]

    yield make
    for step in made:
        BOOK.forget(step)


@pytest.fixture
def new_async_step(diary: list[Any]) -> Iterator[Callable[..., Any]]:
    """`new_step` for coroutines; `before` is awaited at the beginning of the step."""
    made: list[troth.Step[..., Any]] = []

    def make(name: str, *errors: Exception, before: Callable[[], Any] | None = None, **options: Any) -> Any:
        wrong = list(errors)

        async def compensate(ctx: troth.UndoContext) -> None:
            diary.append(f"undo {name}" if ctx.known else f"undo {name}?")

        async def body(value: object = None) -> object:
            if before is not None:
                await before()
            diary.append(f"do {name}")
            if wrong:
                raise wrong.pop(0)
            return name if value is None else value

        made.append(troth.step(**{"name": name, "compensate": compensate, "pause": SOON, **options})(body))
        return made[-1]

    yield make
    for step in made:
        BOOK.forget(step)
