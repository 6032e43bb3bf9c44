"""One hot row: global transactions that share it (`additive`) beside those that take it alone, in pairs.

Each of the clients begins a global transaction, takes one from the row in a local transaction of its own, keeps the
global one open, and commits. Exclusive, the next one gets the row when that has ended; shared, they overlap. Who gives
up waiting (a lock conflict after all tries) is counted, and begins anew. Blocks of both ways follow each other, their
order turning; a pair is two blocks of one round. The coordinator is a `troth serve` of its own.

    .venv/bin/python bench/hot_rows.py --db postgres --pairs 7
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conditions import cpu_model, load_text, revision
from pairs import Ratio, ratio
from private_server import private_server

import troth
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import start

STOCK: Final = 1_000_000_000
TAKE: Final = "UPDATE stock SET count = count - 1 WHERE id = 1"
SCHEMA: Final = (
    "CREATE TABLE stock (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
    f"INSERT INTO stock VALUES (1, {STOCK})",
)
_WARM_UP_S: Final = 0.5
WAYS: Final = {"additive": {"stock.count": 0}, "exclusive": None}


@dataclass(frozen=True, slots=True)
class Block:
    """What all clients did in one block."""

    committed: int
    refused: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Committed global transactions."""
        return self.committed / self.seconds


class Clients:
    """`count` threads, each with a connection under AT; `run` lets them all work for a while."""

    def __init__(self, url: str, client: Any, count: int, open_ms: int, additive: dict[str, int] | None) -> None:
        self._client = client
        self._open_s = open_ms / 1000
        self._connections = [
            troth.at.connect(url, client=client, additive=additive, autocommit=True) for _ in range(count)
        ]

    def run(self, seconds: float) -> Block:
        """Let them work for `seconds`, and finish what they have begun."""
        begun = time.monotonic()
        done: list[tuple[int, int]] = []
        threads = [
            threading.Thread(target=lambda one=connection: done.append(self._work(one, begun + seconds)))
            for connection in self._connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(done) != len(threads):
            raise RuntimeError("a client has stopped by an error")
        committed, refused = (sum(one) for one in zip(*done, strict=True))
        return Block(committed, refused, time.monotonic() - begun)

    def _work(self, connection: Any, until: float) -> tuple[int, int]:
        committed = refused = 0
        while time.monotonic() < until:
            try:
                with troth.transaction(name="hot-row", client=self._client):
                    cursor = connection.cursor()
                    cursor.execute(TAKE)
                    time.sleep(self._open_s)
                committed += 1
            except troth.LockConflict:
                refused += 1
        return committed, refused

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


@contextmanager
def database(kind: Kind) -> Iterator[tuple[str, Any]]:
    """A database with one hot row, for both ways; and a connection past AT."""
    (server,) = start(kind)
    try:
        url = server.create_database("hot")
        server.execute(";\n".join(SCHEMA), "hot")
        troth.at.init(url, hot_rows=True)
        yield url, server
    finally:
        server.stop()


def measure(kind: Kind, pairs: int, seconds: float, clients: int, open_ms: int) -> dict[str, list[Block]]:
    """`pairs` rounds of a block each way, on a coordinator and a database of our own."""
    found: dict[str, list[Block]] = {way: [] for way in WAYS}
    with (
        tempfile.TemporaryDirectory(prefix="troth-hot-rows-") as directory,
        private_server(f"sqlite:///{directory}/troth.db", Path(directory)) as server,
        database(kind) as (url, _),
        troth.Client(server.address, "bench", "default_tx_group") as client,
    ):
        ways = {way: Clients(url, client, clients, open_ms, additive) for way, additive in WAYS.items()}
        for way in ways.values():
            way.run(_WARM_UP_S)
        for number in range(pairs):
            for name in sorted(WAYS, reverse=bool(number % 2)):
                found[name].append(ways[name].run(seconds))
                print(f"  pair {number + 1}, {name}: {found[name][-1].per_second:.1f}/s", file=sys.stderr)
        for way in ways.values():
            way.close()
    return found


def report(kind: Kind, found: dict[str, list[Block]]) -> Ratio:
    """Print the figures; gives the ratio."""
    for way, blocks in found.items():
        rate = statistics.median(block.per_second for block in blocks)
        print(f"{kind} {way}: {rate:.1f} committed/s (median), {sum(block.refused for block in blocks)} gave up")
    compared = ratio(*([block.per_second for block in found[way]] for way in ("additive", "exclusive")))
    print(f"{kind} additive / exclusive: {compared} of {compared.pairs} pairs")
    return compared


def main() -> int:
    """Exit status 1 if the ratio is below what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", choices=("postgres", "mysql"), default="postgres")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one block")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--open-ms", type=int, default=50, help="how long each global transaction stays open")
    parser.add_argument("--at-least", type=float, default=5.0, help="the ratio wanted")
    given = parser.parse_args()
    kind = Kind.POSTGRES if given.db == "postgres" else Kind.MARIADB
    print(f"{cpu_model()}; {revision()}; load {load_text()}")
    found = measure(kind, given.pairs, given.seconds, given.clients, given.open_ms)
    return 0 if report(kind, found).median >= given.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
