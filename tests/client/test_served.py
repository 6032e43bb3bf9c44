"""Databases that were opened before `troth.init` are served from it on, whatever has become of their connections."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

import troth
import troth.at
from fixtures_coordinator import until
from troth.client import holder
from troth.client.drivers.pymysql_places import parse_url
from troth.client.drivers.served import ServedResource
from troth.client.drivers.sqlite import SqliteResource
from troth.client.drivers.xa_resource import XaResource, XaServed
from troth.client.modes.xa import end_on_postgres
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import GlobalRollbackRequest

Known = tuple[BranchType, str]


class Listens:
    """As much of a client as announcements need."""

    application = "shop"  # whatever else this process serves announces itself, too

    def __init__(self) -> None:
        self.settings = ClientSettings(lock_retry_times=7)
        self.told: list[Known] = []
        self.closed = False

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: object) -> None:
        self.told.append((branch_type, resource_id))

    def close(self) -> None:
        self.closed = True


class PhaseOneStub:
    """Nothing is written."""


@pytest.fixture
def no_client() -> Iterator[None]:
    """As before `troth.init`."""
    earlier = holder._HOLDER.swap(None)
    yield
    holder._HOLDER.swap(earlier)


def count(known: Known) -> Callable[[], int]:
    """How often a new default client is told of `known`. Others' databases may be alive, too."""

    def told() -> int:
        client = Listens()
        holder.use(client)  # type: ignore[arg-type]
        return client.told.count(known)

    return told


def sqlite_file(directory: Path) -> str:
    url = f"sqlite:///{directory}/shop.db"
    troth.at.init(url)
    with closing(sqlite3.connect(directory / "shop.db")) as raw:
        raw.executescript("CREATE TABLE item (id INTEGER PRIMARY KEY, n INT); INSERT INTO item VALUES (1, 10);")
    return url


def test_each_client_is_told_once_as_long_as_the_connection_lives(tmp_path: Path, no_client: None) -> None:
    connection = troth.at.connect(sqlite_file(tmp_path))
    told = count((BranchType.AT, connection.resource_id))
    assert [told(), told()] == [1, 1]
    assert connection._phase_one.retry.times == 7, "and what it learns from a client is that of the last one"
    connection.close()
    del connection
    gc.collect()
    assert told() == 0


def test_the_next_client_is_told_once_of_what_was_closed_before_it_came(tmp_path: Path, no_client: None) -> None:
    url = sqlite_file(tmp_path)
    for _ in range(2):
        with closing(troth.at.connect(url)) as connection:
            told = count((BranchType.AT, connection.resource_id))
    del connection
    gc.collect()
    assert [told(), told()] == [1, 0]


def test_it_is_the_same_under_xa_and_beside_at(no_client: None) -> None:
    resource = XaResource(lambda: pytest.fail("opened"), end_on_postgres)
    XaServed("jdbc:gone", resource, None).announce()
    ServedResource("jdbc:gone", SqliteResource("gone.db"), PhaseOneStub(), None).announce()  # type: ignore[arg-type]
    gc.collect()
    client = Listens()
    holder.use(client)  # type: ignore[arg-type]
    assert [known for known in client.told if known[1] == "jdbc:gone"] == [
        (BranchType.XA, "jdbc:gone"),
        (BranchType.AT, "jdbc:gone"),
    ]


def test_a_connection_with_a_client_of_its_own_is_nobody_elses(tmp_path: Path, no_client: None) -> None:
    own = Listens()
    with closing(troth.at.connect(sqlite_file(tmp_path), client=own)) as connection:  # type: ignore[arg-type]
        known = BranchType.AT, connection.resource_id
        assert own.told == [known]
        assert count(known)() == 0


EARLIER = """
import os, sys
import troth, troth.at

troth.init(sys.argv[1])
with troth.transaction(name="left") as tx:
    for url in sys.argv[2:]:
        connection = troth.at.connect(url)
        connection.cursor().execute("UPDATE item SET n = n - 1 WHERE id = 1")
        connection.commit()
    print(tx.xid, flush=True)
    os._exit(0)
"""


class Shop:
    """One table in three databases."""

    def __init__(self, directory: Path, postgres: str, mariadb: str) -> None:
        self.urls = [sqlite_file(directory), postgres, f"{mariadb}?ssl_disabled=true"]
        self._file = directory / "shop.db"
        with self._postgres() as raw:
            raw.execute("CREATE TABLE item (id int PRIMARY KEY, n int)")
            raw.execute("INSERT INTO item VALUES (1, 10)")
        with self._mariadb() as raw, raw.cursor() as cursor:
            cursor.execute("CREATE TABLE item (id INT PRIMARY KEY, n INT)")
            cursor.execute("INSERT INTO item VALUES (1, 10)")
        for url in self.urls[1:]:
            troth.at.init(url)

    def _postgres(self) -> Any:
        return psycopg.connect(self.urls[1], autocommit=True)

    def _mariadb(self) -> Any:
        return pymysql.connect(**parse_url(self.urls[2]).arguments({"autocommit": True}))

    def counts(self) -> list[int]:
        with closing(sqlite3.connect(self._file)) as raw, self._postgres() as other, self._mariadb() as third:
            cursors = [raw.cursor(), other.cursor(), third.cursor()]
            for cursor in cursors:
                cursor.execute("SELECT n FROM item WHERE id = 1")
            return [cursor.fetchone()[0] for cursor in cursors]


@pytest.fixture
def shop(tmp_path: Path, new_postgres_database: Callable[[], str], new_mariadb_database: Callable[[], str]) -> Shop:
    return Shop(tmp_path, new_postgres_database(), new_mariadb_database())


@contextmanager
def opened(urls: list[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for url in urls:
            stack.enter_context(closing(troth.at.connect(url)))
        yield


async def opened_and_closed(urls: list[str]) -> None:
    for url in urls:
        connection = await troth.at.connect_async(url)
        done = connection.close()
        if done is not None:
            await done


def left_by_an_earlier_process(address: str, urls: list[str]) -> str:
    """The xid of a transaction whose process has died after its local commits."""
    command = [sys.executable, "-c", EARLIER, address, *urls]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.strip()


@pytest.mark.engines
@pytest.mark.parametrize("asynchronous", [None, "postgresql", "postgresql+asyncpg"])
def test_a_process_that_has_only_opened_its_databases_undoes_what_an_earlier_one_left(
    asynchronous: str | None, shop: Shop, no_client: None
) -> None:
    embedded = troth.embedded(retry__min="50ms", retry__max="200ms", admin_port="off")
    with embedded:
        xid = left_by_an_earlier_process(embedded.address, shop.urls)
        assert shop.counts() == [9, 9, 9]
        holder._HOLDER.swap(None)
        if asynchronous:
            asyncio.run(opened_and_closed([url.replace("postgresql", asynchronous) for url in shop.urls]))
        with nullcontext() if asynchronous else opened(shop.urls), troth.init(embedded.address) as client:
            client.tell(GlobalRollbackRequest(xid=xid))
            until(lambda: shop.counts() == [10, 10, 10], what="rolled back")
