"""With a real coordinator: transfers by threads, half of them undone; sums hold, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import troth
import troth.at
from troth.client.errors import BranchFailed, TransactionRolledBack

pytestmark = pytest.mark.engines

ACCOUNTS, TRANSFERS, THREADS = 8, 12, 4


@pytest.fixture(scope="module")
def url(new_postgres_database: Callable[[], str]) -> str:
    made = new_postgres_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE acc (id int PRIMARY KEY, n int NOT NULL)")
        connection.execute("INSERT INTO acc SELECT i, 100 FROM generate_series(1, 8) i")
    troth.at.init(made)
    return made


class Undo(Exception):
    pass


def transfer(connection, chance) -> None:
    one, other = chance.sample(range(1, ACCOUNTS + 1), 2)
    with troth.transaction(name="transfer"):
        connection.execute("UPDATE acc SET n = n - 5 WHERE id = %s", (one,))
        connection.commit()
        connection.execute("UPDATE acc SET n = n + 5 WHERE id = %s", (other,))
        connection.commit()
        if chance.random() < 0.5:
            raise Undo


def settled(url) -> bool:
    with psycopg.connect(url) as look:
        return look.execute("SELECT count(*) FROM undo_log WHERE log_status = 0").fetchone() == (0,)


def test_transfers_by_threads(url):
    def work(seed: int) -> int:
        chance = random.Random(seed)
        done = 0
        with troth.at.connect(url) as connection:
            for _ in range(TRANSFERS):
                try:
                    transfer(connection, chance)
                    done += 1
                except (Undo, BranchFailed, TransactionRolledBack):
                    connection.rollback()
        return done

    with troth.embedded(store="memory://"):
        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(work, range(THREADS))) > 0
        deadline = time.monotonic() + 20
        while not settled(url) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert settled(url)
    with psycopg.connect(url) as look:
        assert look.execute("SELECT sum(n) FROM acc").fetchone() == (800,)


async def test_async_commit_and_rollback(url):
    with troth.embedded(store="memory://"):
        connection = await troth.at.connect_async(url, autocommit=True)
        before = await (await connection.execute("SELECT * FROM acc ORDER BY id")).fetchall()
        with pytest.raises(Undo):  # noqa: PT012
            async with troth.transaction(name="undone"):
                await connection.execute("UPDATE acc SET n = 0")
                await connection.execute("DELETE FROM acc WHERE id < 3")
                raise Undo
        deadline = asyncio.get_running_loop().time() + 20
        while not await asyncio.to_thread(settled, url) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        assert await (await connection.execute("SELECT * FROM acc ORDER BY id")).fetchall() == before
        async with troth.transaction(name="kept"):
            await connection.execute("UPDATE acc SET n = n + 1 WHERE id = 1")
        await connection.close()
