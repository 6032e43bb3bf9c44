"""Every store there is, so that each contract test runs against all of them. A new store adds one line to PLACES.

Puts this folder on the import path: the histories of test_store_histories are used by other tests as well.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import MappingProxyType

import asyncpg
import pytest

from troth.stores.memory import MemoryStore
from troth.stores.store import Store
from troth.stores.urls import open_store

sys.path.insert(0, str(Path(__file__).parent))

Place = Callable[[], Store]
"""Gives an unopened store over the same remembered things each time: a restart is one more call."""


def memory(directory: Path) -> Place:
    store = MemoryStore()
    return lambda: store


def sqlite(directory: Path) -> Place:
    return lambda: open_store(f"sqlite:///{directory}/troth.db")


PLACES = MappingProxyType({"memory": memory, "sqlite": sqlite})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests with many variants, every fourth runs on PostgreSQL in each run, all of them in soak runs."""
    seen: collections.Counter[str] = collections.Counter()
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or callspec.params.get("new_place") != "postgres" or len(callspec.params) == 1:
            continue
        name = getattr(item, "originalname", item.name)
        if seen[name] % 4:
            item.add_marker(pytest.mark.soak)
        seen[name] += 1


@pytest.fixture(params=[*PLACES, pytest.param("postgres", marks=pytest.mark.engines)])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Gives an empty place each time."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_store_url")

        def make_in_postgres() -> Place:
            asyncio.run(empty(url))
            return lambda: open_store(url)

        return make_in_postgres
    numbers = itertools.count()

    def make() -> Place:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        return PLACES[request.param](directory)

    return make


@pytest.fixture(scope="module")
def postgres_store_url(new_postgres_database: Callable[[], str]) -> str:
    """A database for one store after the other."""
    return new_postgres_database()


async def empty(url: str) -> None:
    """What a new database is like, but for the tables."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('troth.cell')") is not None:
            await connection.execute(
                "DELETE FROM troth.global_transaction; DELETE FROM troth.branch; DELETE FROM troth.kv;"
                " UPDATE troth.cell SET epoch = 0, holder = NULL, lease_until = '-infinity', last_batch_epoch = 0,"
                " last_batch = 0, last_id = 0"
            )
    finally:
        await connection.close()


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = place()
    await store.open()
    yield store
    await store.close()
