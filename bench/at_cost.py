"""What AT costs a local transaction: one UPDATE by key, with and without, on each database.

`plain` is the driver alone; `outside` is the connection under AT outside of any global transaction; `at` is the same
inside one: both images, the undo row, the branch. The coordinator is a stub in this process that answers at once, so
its round trips are not in the figures (the other parts measure those); neither is phase two. All three commit with full
durability, in blocks that follow each other, their order turning; a pair is the medians of two blocks of one round.
"""

from __future__ import annotations

import itertools
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pymysql
from pairs import Ratio, ratio
from slow_link import slow_link

import troth
from troth.client.flow import ResourceHandler
from troth.client.settings import ClientSettings
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import PrivateServer, start
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import BranchRegisterRequest, BranchRegisterResponse, Message

ROUND_TRIP_MS: Final = 2.5
WAYS: Final = ("plain", "outside", "at")
DURABLE: Final = {Kind.MARIADB: "SET GLOBAL sync_binlog = 1", Kind.POSTGRES: "SHOW synchronous_commit"}
SCHEMA: Final = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, owner VARCHAR(40), balance INTEGER NOT NULL)",
    "INSERT INTO account VALUES (1, 'ann', 0), (2, 'bob', 0), (3, 'cid', 0)",
)


class AtOnce:
    """A `ResourceClient` whose coordinator is this object: every branch is registered, at once."""

    def __init__(self) -> None:
        self.settings = ClientSettings()
        self._branches = itertools.count(1)

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: ResourceHandler) -> None:
        """Nothing asks for phase two here."""

    def tell(self, message: Message) -> Message:
        """A branch id. Raises TypeError for anything but a registration."""
        if not isinstance(message, BranchRegisterRequest):
            raise TypeError(f"{type(message).__name__} is no part of what is measured")
        return BranchRegisterResponse(branch_id=next(self._branches))

    async def atell(self, message: Message) -> Message:
        """The same."""
        return self.tell(message)


@dataclass(frozen=True, slots=True)
class Database:
    """Where to measure: a name for the table, what the driver connects by, and AT's URL."""

    name: str
    plain: Callable[[], Any]
    url: str
    placeholder: str
    block: int
    """Local transactions in one block."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one database: median milliseconds of a local transaction each way, and what they are to the plain one."""

    name: str
    ms: dict[str, float]
    outside: Ratio
    at: Ratio


@contextmanager
def databases(directory: Path, seconds: float) -> Iterator[list[Database]]:
    """SQLite, PostgreSQL and MariaDB, the latter two near and behind a slow link. `seconds` sizes a block."""
    with ExitStack() as stack:
        found = [_sqlite(directory / "at-cost.db", seconds)]
        for server in start(Kind.POSTGRES, Kind.MARIADB):
            stack.callback(server.stop)
            server.execute(DURABLE[server.product.kind])
            port = stack.enter_context(slow_link(server.account.port, ROUND_TRIP_MS))
            url = server.create_database("cost")
            server.execute(";\n".join(SCHEMA), "cost")
            troth.at.init(url)
            found.append(_on_server(server, url, server.account.port, int(seconds * 600)))
            found.append(_on_server(server, url, port, int(seconds * 80)))
        yield found


def _sqlite(file: Path, seconds: float) -> Database:
    def plain() -> sqlite3.Connection:
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    connection = plain()
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.commit()
    connection.close()
    url = f"sqlite:///{file}"
    troth.at.init(url)
    return Database("SQLite (WAL, synchronous=FULL)", plain, url, "?", int(seconds * 1500))


def _on_server(server: PrivateServer, url: str, port: int, block: int) -> Database:
    account, far = server.account, port != server.account.port
    name = {Kind.POSTGRES: "PostgreSQL", Kind.MARIADB: "MariaDB"}[server.product.kind]
    name += f", a link of {ROUND_TRIP_MS:g} ms" if far else ""
    url = url.replace(f":{account.port}/", f":{port}/")
    database = urlsplit(url).path[1:]

    def plain() -> Any:
        if server.product.kind is Kind.POSTGRES:
            return psycopg.connect(url)
        return pymysql.connect(
            host=account.host, port=port, database=database, user=account.user, password=account.password
        )

    return Database(name, plain, url, "%s", block)


def measure_at(directory: Path, rounds: int, seconds: float, tell: Callable[[str], None]) -> list[Cost]:
    """Every database, `rounds` pairs each."""
    with databases(directory, seconds) as found:
        return [_cost(database, rounds, tell) for database in found]


def _cost(database: Database, rounds: int, tell: Callable[[str], None]) -> Cost:
    client = AtOnce()
    with ExitStack() as stack:
        connections = {"plain": database.plain()}
        for way in ("outside", "at"):
            connections[way] = troth.at.connect(database.url, client=client)
            if database.url.startswith("sqlite"):
                connections[way].execute("PRAGMA synchronous = FULL")
        for connection in connections.values():
            stack.callback(connection.close)
        spent: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(-1, rounds):  # one round to warm up
            first = number % len(WAYS)
            for place, way in enumerate(WAYS[first:] + WAYS[:first]):
                each_ms = _block(connections[way], database, way, f"{number}-{place}")
                if number >= 0:
                    spent[way].append(each_ms)
        _forget(connections["plain"])
    ratios = {way: ratio(spent[way], spent["plain"]) for way in ("outside", "at")}
    cost = Cost(database.name, {way: statistics.median(spent[way]) for way in WAYS}, ratios["outside"], ratios["at"])
    tell(f"AT on {cost.name}: plain {cost.ms['plain']:.3f} ms, outside × {cost.outside}, at × {cost.at}")
    return cost


def _block(connection: Any, database: Database, way: str, name: str) -> float:
    """Milliseconds of a local transaction: the median of a block of them. Each row is updated by one way only."""
    sql = f"UPDATE account SET balance = balance + {database.placeholder} WHERE id = {database.placeholder}"
    row = WAYS.index(way) + 1
    spent_s = []
    for number in range(database.block):
        started = time.perf_counter()
        if way == "at":
            with troth.join(f"127.0.0.1:8091:{name}-{number}"):
                _update(connection, sql, row)
        else:
            _update(connection, sql, row)
        spent_s.append(time.perf_counter() - started)
    return statistics.median(spent_s) * 1000


def _update(connection: Any, sql: str, row: int) -> None:
    cursor = connection.cursor()
    cursor.execute(sql, (1, row))
    connection.commit()
    cursor.close()


def _forget(connection: Any) -> None:
    """What phase two would have deleted."""
    cursor = connection.cursor()
    cursor.execute("SELECT count(*) FROM undo_log")
    if cursor.fetchone()[0] == 0:
        raise RuntimeError("AT has written no undo rows: this was no measurement of it")
    cursor.execute("DELETE FROM undo_log")
    connection.commit()
