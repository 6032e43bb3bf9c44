"""One row that everybody writes: AT clients that wait cold, beside a plain queue of SELECT … FOR UPDATE.

Each client is a task with a connection of its own and does one global transaction with one UPDATE after another, or
the same statement in a plain local transaction. Both on a private PostgreSQL, in turns; the coordinator is a process
with its embedded store. Beside the rates, the longest that one transaction has waited: nobody may starve.

    .venv/bin/python bench/hot_row.py                                  # 150 clients, 4 transactions each
    .venv/bin/python bench/hot_row.py --clients 20 --transactions 10
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
from private_server import private_server

import troth
import troth.at
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import start

Work = Callable[[], Awaitable[None]]
ADD = "UPDATE hot SET n = n + 1 WHERE id = 1"


async def plain_client(url: str) -> tuple[Work, Callable[[], Awaitable[None]]]:
    """A client without AT: it queues at the row itself."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)

    async def work() -> None:
        async with connection.transaction():
            await connection.execute("SELECT n FROM hot WHERE id = 1 FOR UPDATE")
            await connection.execute(ADD)

    return work, connection.close


async def at_client(url: str) -> tuple[Work, Callable[[], Awaitable[None]]]:
    """A client under AT: it queues at the coordinator."""
    connection = await troth.at.connect_async(url, autocommit=True)

    async def work() -> None:
        async with troth.transaction(name="add"):
            await connection.execute(ADD)

    return work, connection.close


async def measure(name: str, make: Callable[[str], Awaitable[tuple[Work, Work]]], url: str, each: int, n: int) -> float:
    """Transactions a second; prints them with the longest wait."""
    clients = [await make(url) for _ in range(n)]
    waits: list[float] = []

    async def run(work: Work) -> None:
        for _ in range(each):
            started = time.perf_counter()
            await work()
            waits.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(run(work) for work, _ in clients))
    rate = n * each / (time.perf_counter() - started)
    for _, close in clients:
        await close()
    waits.sort()
    middle, longest = waits[len(waits) // 2], waits[-1]
    print(f"{name:24} {rate:8.0f} tx/s   wait: median {middle:6.2f} s, longest {longest:6.2f} s", flush=True)
    return rate


async def compare(url: str, options: argparse.Namespace) -> None:
    """Both, in turns."""
    ratios = []
    for _ in range(options.rounds):
        plain = await measure("SELECT FOR UPDATE", plain_client, url, options.transactions, options.clients)
        ours = await measure("AT, cold waits", at_client, url, options.transactions, options.clients)
        ratios.append(ours / plain)
    print(f"ratio {sorted(ratios)[len(ratios) // 2]:.2f} (median of {len(ratios)})")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=150)
    parser.add_argument("--transactions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    (database,) = start(Kind.POSTGRES)
    try:
        with psycopg.connect(database.url, autocommit=True) as made:
            made.execute("CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL)")
            made.execute("INSERT INTO hot VALUES (1, 0)")
        troth.at.init(database.url)
        with tempfile.TemporaryDirectory() as directory:
            store = f"sqlite:///{directory}/troth.db"
            with private_server(store, Path(directory)) as server, troth.init(server.address, "hot-row"):
                asyncio.run(compare(database.url, options))
        with psycopg.connect(database.url) as look:
            (total,) = look.execute("SELECT n FROM hot").fetchone() or (0,)
        expected = 2 * options.rounds * options.clients * options.transactions
        print(f"the row says {total}, expected {expected}")
    finally:
        database.stop()


if __name__ == "__main__":
    main()
