"""Every store there is, so that each contract test runs against all of them. A new store adds one line to PLACES."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from troth.stores.memory import MemoryStore
from troth.stores.store import Store
from troth.stores.urls import open_store

Place = Callable[[], Store]
"""Gives an unopened store over the same remembered things each time: a restart is one more call."""


def memory(directory: Path) -> Place:
    store = MemoryStore()
    return lambda: store


def sqlite(directory: Path) -> Place:
    return lambda: open_store(f"sqlite:///{directory}/troth.db")


PLACES = (memory, sqlite)


@pytest.fixture(params=PLACES, ids=[place.__name__ for place in PLACES])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Gives an empty place each time."""
    numbers = itertools.count()

    def make() -> Place:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        return request.param(directory)

    return make


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = place()
    await store.open()
    yield store
    await store.close()
