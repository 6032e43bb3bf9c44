"""Row locks that others hold, with a real coordinator and database: cold waits, rings, and what must not wait (§4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
import pytest

import troth
import troth.at
from troth.client.errors import BranchFailed, LockConflict

pytestmark = pytest.mark.engines

CLIENTS = 20
WITHIN_S = 30.0
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def url(new_postgres_database: Callable[[], str]) -> str:
    made = new_postgres_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL)")
        connection.execute("INSERT INTO hot VALUES (1, 0), (2, 0), (3, 0)")
    troth.at.init(made)
    return made


def apart(work: Coroutine[object, object, Result]) -> asyncio.Task[Result]:
    """A task that does not join the global transaction of whoever starts it."""
    return asyncio.get_running_loop().create_task(work, context=Context())


@dataclass
class Place:
    """A coordinator in this process, and connections to the database."""

    url: str
    embedded: object
    opened: list[object] = field(default_factory=list)

    async def connect(self, *, autocommit: bool = True) -> object:
        connection = await troth.at.connect_async(self.url, autocommit=autocommit)
        self.opened.append(connection)
        return connection

    def queued(self) -> int:
        return self.embedded._thread._coordinator.engine.locks_queued

    async def until_queued(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.queued() != count:
                await asyncio.sleep(0.005)

    def look(self, sql: str) -> list[tuple[object, ...]]:
        """Past AT."""
        with psycopg.connect(self.url, autocommit=True) as plain:
            done = plain.execute(sql)
            return done.fetchall() if done.description else []


@asynccontextmanager
async def running(url: str, **settings: str) -> AsyncIterator[Place]:
    embedded = troth.embedded(store="memory://", **settings)
    async with embedded:
        place = Place(url, embedded)
        place.look("UPDATE hot SET n = 0")
        try:
            yield place
        finally:
            for connection in place.opened:
                await connection.close()


async def add(place: Place, row: str = "id = 1", done: list[object] | None = None, name: object = None) -> None:
    """One global transaction with one statement."""
    connection = await place.connect()
    async with troth.transaction(name="add"):
        await connection.execute(f"UPDATE hot SET n = n + 1 WHERE {row}")
        if done is not None:
            done.append(name)


async def clients_in_turn(url: str, clients: int) -> None:
    async with running(url) as place:
        holder = await place.connect()
        done: list[object] = []
        async with troth.transaction(name="holder"):
            await holder.execute("UPDATE hot SET n = n + 1 WHERE id = 1")
            tasks = []
            for number in range(clients):
                tasks.append(apart(add(place, done=done, name=number)))
                await place.until_queued(number + 1)
            assert done == []
        async with asyncio.timeout(60.0 + clients):
            await asyncio.gather(*tasks)
        assert done == list(range(clients)), "in the order in which they came, and none was left out"
        assert place.look("SELECT n FROM hot WHERE id = 1") == [(clients + 1,)]


async def test_twenty_clients_on_one_hot_row_go_in_turn(url: str) -> None:
    await clients_in_turn(url, CLIENTS)


@pytest.mark.soak
async def test_many_clients_on_one_hot_row_go_in_turn(url: str) -> None:
    """As many as the database takes connections, less those of phase two."""
    await clients_in_turn(url, 150)


async def test_a_waiter_holds_no_local_row_lock_so_the_undo_and_the_next_statement_pass(url: str) -> None:
    """The schedules of issue and design: the holder's next statement, and the holder's undo, behind the waiter's rows.

    On the naive order (waiting inside the local transaction) NOWAIT fails, and both sides wait for each other.
    """
    async with running(url, lock__hot_wait="20s") as place:
        holder = await place.connect()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with troth.transaction(name="holder"):
                await holder.execute("UPDATE hot SET n = 50 WHERE id = 1")
                waiter = apart(add(place, "id IN (1, 2)"))
                await place.until_queued(1)
                assert place.look("SELECT id FROM hot WHERE id < 3 ORDER BY id FOR UPDATE NOWAIT") == [(1,), (2,)]
                async with asyncio.timeout(5.0):
                    await holder.execute("UPDATE hot SET n = 60 WHERE id = 2")
                raise ZeroDivisionError
        async with asyncio.timeout(WITHIN_S):
            await waiter
        assert place.look("SELECT n FROM hot ORDER BY id") == [(1,), (1,), (0,)]


async def test_more_waiters_than_connections_in_the_users_pool(url: str) -> None:
    """The pool is exhausted by waiters; the holder's undo uses connections of its own, and everybody comes through."""
    async with running(url) as place:
        holder = await place.connect()
        pool: asyncio.Queue[object] = asyncio.Queue()
        for _ in range(2):
            pool.put_nowait(await place.connect())

        async def pooled() -> None:
            async with troth.transaction(name="pooled"):
                connection = await pool.get()
                try:
                    await connection.execute("UPDATE hot SET n = n + 1 WHERE id = 1")
                finally:
                    pool.put_nowait(connection)

        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with troth.transaction(name="holder"):
                await holder.execute("UPDATE hot SET n = 50 WHERE id = 1")
                waiters = [apart(pooled()) for _ in range(6)]
                await place.until_queued(2)
                assert pool.empty()
                raise ZeroDivisionError
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*waiters)
        assert place.look("SELECT n FROM hot WHERE id = 1") == [(6,)]


async def test_of_two_that_wait_for_each_other_the_youngest_hears_of_the_deadlock(url: str) -> None:
    async with running(url) as place:
        first, second = await place.connect(), await place.connect()
        async with troth.transaction(name="old") as old:
            await first.execute("UPDATE hot SET n = 1 WHERE id = 1")

            async def young() -> None:
                async with troth.transaction(name="young"):
                    await second.execute("UPDATE hot SET n = 2 WHERE id = 2")
                    crossed.set()
                    await place.until_queued(1)
                    await second.execute("UPDATE hot SET n = 2 WHERE id = 1")

            crossed = asyncio.Event()
            task = apart(young())
            await crossed.wait()
            async with asyncio.timeout(WITHIN_S):
                await first.execute("UPDATE hot SET n = 1 WHERE id = 2")
                with pytest.raises(
                    LockConflict, match=r"deadlock: .+ waits for .+ waits for .+ the youngest"
                ) as caught:
                    await task
        assert (caught.value.key, caught.value.holder) == ("hot:1", old.xid)
        assert place.look("SELECT n FROM hot ORDER BY id") == [(1,), (1,), (0,)]


async def test_a_locking_read_waits_cold_too_and_sees_what_was_committed(url: str) -> None:
    async with running(url) as place:
        holder, reader = await place.connect(), await place.connect()

        async def read() -> list[tuple[object, ...]]:
            async with troth.transaction(name="reader"):
                return await (await reader.execute("SELECT n FROM hot WHERE id = 1 FOR UPDATE")).fetchall()

        async with troth.transaction(name="holder"):
            await holder.execute("UPDATE hot SET n = 7 WHERE id = 1")
            task = apart(read())
            await place.until_queued(1)
            assert place.look("SELECT n FROM hot WHERE id = 1 FOR UPDATE NOWAIT") == [(7,)]
        async with asyncio.timeout(WITHIN_S):
            assert await task == [(7,)]


async def test_an_explicit_local_transaction_hears_who_holds_the_row_after_the_hot_bound(url: str) -> None:
    async with running(url) as place:
        holder, other = await place.connect(), await place.connect(autocommit=False)
        async with troth.transaction(name="holder") as held:
            await holder.execute("UPDATE hot SET n = 1 WHERE id = 3")
            with pytest.raises(BranchFailed) as caught:  # noqa: PT012
                async with asyncio.timeout(WITHIN_S):
                    task = apart(explicit(other))
                    await task
        assert isinstance(caught.value, LockConflict)
        assert (caught.value.key, caught.value.holder) == ("hot:3", held.xid)
        assert caught.value.age is not None
        assert caught.value.age.total_seconds() >= 0.3


async def explicit(connection: object) -> None:
    async with troth.transaction(name="explicit"):
        await connection.execute("UPDATE hot SET n = 2 WHERE id = 3")
        await connection.commit()


async def test_a_cold_wait_ends_with_the_coordinators_bound(url: str) -> None:
    async with running(url, lock__cold_wait="300ms") as place:
        holder = await place.connect()
        async with troth.transaction(name="holder") as held:
            await holder.execute("UPDATE hot SET n = 1 WHERE id = 1")
            with pytest.raises(LockConflict) as caught:
                await apart(add(place))
        assert (caught.value.key, caught.value.holder) == ("hot:1", held.xid)
