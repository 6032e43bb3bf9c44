"""Where AT's CPU time goes: one UPDATE by key and its COMMIT, as in `at_cost`, without that one's wall clock.

`python bench/at_profile.py postgres|mariadb|sqlite [--top N]` prints for each way (plain, outside, at) the client's CPU
time and Python calls, and what the server's own processes spend, each per local transaction. Calls are free of noise:
`tests/client/at/test_calls.py` holds them. `--top` lists the functions that take most of a statement under AT.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from at_cost import DURABLE, SCHEMA, WAYS, AtOnce, Database, _on_server, _sqlite

import troth
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import start

WARM_UP: Final = 50
ROUNDS: Final = 7


@dataclass(frozen=True, slots=True)
class Spent:
    """Per local transaction: CPU microseconds of the client and of the server, and calls of Python functions."""

    client_us: float
    server_us: float
    calls: float


@contextmanager
def database(kind: str, directory: Path) -> Iterator[tuple[Database, int]]:
    """The database to measure, and the process of its server (0: there is none)."""
    if kind == "sqlite":
        yield _sqlite(directory / "at-profile.db", 1), 0
        return
    with ExitStack() as stack:
        (server,) = start(Kind(kind))
        stack.callback(server.stop)
        server.execute(DURABLE[server.product.kind])
        url = server.create_database("cost")
        server.execute(";\n".join(SCHEMA), "cost")
        troth.at.init(url)
        yield _on_server(server, url, server.account.port, 1), server.pid


def update(connection: Any, placeholder: str, way: str, number: int) -> None:
    """One local transaction."""
    row = WAYS.index(way) + 1
    sql = f"UPDATE account SET balance = balance + {placeholder} WHERE id = {placeholder}"
    with troth.join(f"127.0.0.1:8091:{number}" if way == "at" else None):
        cursor = connection.cursor()
        cursor.execute(sql, (1, row))
        connection.commit()
        cursor.close()


def calls_of(connection: Any, placeholder: str, way: str, first: int, count: int) -> tuple[float, cProfile.Profile]:
    """Calls of functions per local transaction, those in C that Python sees among them."""
    profile = cProfile.Profile()
    profile.enable()
    for number in range(first, first + count):
        update(connection, placeholder, way, number)
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats()) / count, profile


def cpu_us(connection: Any, placeholder: str, way: str, first: int, count: int, server: int) -> tuple[float, float]:
    """CPU microseconds per local transaction: ours, and the server's."""
    served, started = server_us(server), time.process_time()
    for number in range(first, first + count):
        update(connection, placeholder, way, number)
    spent = (time.process_time() - started) * 1e6
    return spent / count, (server_us(server) - served) / count


def server_us(pid: int) -> float:
    """What a server and its children have run on a CPU so far, to the nanosecond; 0 where /proc does not say."""
    if not pid:
        return 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    threads = [task for one in [str(pid), *children] for task in Path(f"/proc/{one}/task").glob("*")]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in threads) / 1000


def measure(found: Database, server: int, count: int, top: int) -> dict[str, Spent]:
    """Every way of one database, in rounds that take turns; the median of each."""
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    calls: dict[str, float] = {}
    with ExitStack() as stack:
        connections = {"plain": found.plain()}
        for way in ("outside", "at"):
            connections[way] = troth.at.connect(found.url, client=AtOnce())
        for connection in connections.values():
            stack.callback(connection.close)
            if not server:
                connection.execute("PRAGMA synchronous = OFF")
        number = 0
        for way in WAYS:
            cpu_us(connections[way], found.placeholder, way, number, WARM_UP, server)
            number += WARM_UP
        for _ in range(ROUNDS):
            for way in WAYS:
                spent[way].append(cpu_us(connections[way], found.placeholder, way, number, count // ROUNDS, server))
                number += count
        for way in WAYS:
            calls[way], profile = calls_of(connections[way], found.placeholder, way, number, WARM_UP)
            number += WARM_UP
        if top:
            pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(top)
    medians = {way: map(statistics.median, zip(*spent[way], strict=True)) for way in WAYS}
    return {way: Spent(*medians[way], calls[way]) for way in WAYS}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=("postgres", "mariadb", "sqlite"))
    parser.add_argument("--count", type=int, default=1400, help="local transactions for each way")
    parser.add_argument("--top", type=int, default=0, help="list so many functions by their own time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, database(given.database, Path(directory)) as (found, server):
        print(f"{found.name}, per local transaction:")
        for way, spent in measure(found, server, given.count, given.top).items():
            client = f"client {spent.client_us:6.0f} µs, {spent.calls:5.0f} calls"
            print(f"{way:8} {client}; server {spent.server_us:6.0f} µs")


if __name__ == "__main__":
    main()
