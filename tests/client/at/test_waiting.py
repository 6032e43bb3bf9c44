"""Row locks that others hold, on MariaDB and SQLite, with a real coordinator and threads: the schedules of
`postgres/test_waiting.py` (waits outside of local transactions, rings, what must not wait) where locks are the
database's own: InnoDB's rows, and SQLite's one file.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pymysql
import pytest

import troth
import troth.at
from fixtures_coordinator import until
from troth.client.drivers.pymysql_places import parse_url
from troth.client.errors import LockConflict

WITHIN_S = 30.0


class Place:
    """A database with three rows, a coordinator in this process, and threads that join no transaction of others."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url = kind, url
        self.embedded: Any = None
        self._opened: list[Any] = []
        self._threads = ThreadPoolExecutor(16)
        self.look("CREATE TABLE hot (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
        self.look("INSERT INTO hot VALUES (1, 0), (2, 0), (3, 0)")
        troth.at.init(url)

    @contextmanager
    def running(self, **settings: str) -> Iterator[None]:
        self.embedded = troth.embedded(store="memory://", **settings)
        with self.embedded:
            self.look("UPDATE hot SET n = 0")
            try:
                yield
            finally:
                while self._opened:
                    self._opened.pop().close()

    def connect(self, *, autocommit: bool = True) -> Any:
        options: dict[str, Any] = {"autocommit": autocommit}
        if self.kind == "sqlite":
            options = {"isolation_level": None if autocommit else "DEFERRED", "check_same_thread": False}
        connection = troth.at.connect(self.url, **options)
        self._opened.append(connection)
        return connection

    def write(self, connection: Any, sql: str) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql)

    def apart(self, work: Callable[..., Any], *arguments: object) -> Future[Any]:
        return self._threads.submit(work, *arguments)

    def add(self, row: str = "id = 1", done: list[object] | None = None, name: object = None) -> None:
        """One global transaction with one statement."""
        connection = self.connect()
        with troth.transaction(name="add"):
            self.write(connection, f"UPDATE hot SET n = n + 1 WHERE {row}")
            if done is not None:
                done.append(name)

    def until_queued(self, count: int) -> None:
        until(lambda: self.embedded._thread._coordinator.engine.locks_queued == count, WITHIN_S)

    def look(self, sql: str, wait_s: int = 10) -> list[Any]:
        """Past AT."""
        if self.kind == "sqlite":
            plain: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=wait_s, isolation_level=None)
        else:
            given = {"autocommit": True, "init_command": f"SET innodb_lock_wait_timeout = {wait_s}"}
            plain = pymysql.connect(**parse_url(self.url).arguments(given))
        with closing(plain), closing(plain.cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def is_free(self) -> bool:
        """Whether somebody else could write rows 1 and 2 now; raises the database's error if not."""
        self.look("UPDATE hot SET n = n WHERE id < 3", wait_s=0)
        return True

    def numbers(self) -> list[int]:
        return [n for (n,) in self.look("SELECT n FROM hot ORDER BY id")]

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.engines)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('waiting') / 'hot.db'}"
    else:
        url = request.getfixturevalue("new_mariadb_database")() + "?ssl_disabled=true"
    made = Place(request.param, url)
    yield made
    made.close()


def test_clients_on_one_hot_row_go_in_turn(place: Place) -> None:
    done: list[object] = []
    with place.running():
        holder = place.connect()
        tasks = []
        with troth.transaction(name="holder"):
            place.write(holder, "UPDATE hot SET n = n + 1 WHERE id = 1")
            for number in range(6):
                tasks.append(place.apart(place.add, "id = 1", done, number))
                place.until_queued(number + 1)
            assert done == []
        for task in tasks:
            task.result(WITHIN_S)
        assert done == list(range(6)), "in the order in which they came, and none was left out"
        assert place.numbers()[0] == 7


def test_the_holders_next_statement_and_its_undo_pass_a_waiter(place: Place) -> None:
    """A waiter inside its local transaction would hold row 2 (the whole file, on SQLite), and both would wait."""
    with place.running(lock__hot_wait="20s"):
        holder = place.connect()
        with pytest.raises(ZeroDivisionError), troth.transaction(name="holder"):  # noqa: PT012
            place.write(holder, "UPDATE hot SET n = 50 WHERE id = 1")
            waiter = place.apart(place.add, "id IN (1, 2)")
            place.until_queued(1)
            assert place.is_free()
            started = time.monotonic()
            place.write(holder, "UPDATE hot SET n = 60 WHERE id = 2")
            assert time.monotonic() - started < 5.0
            raise ZeroDivisionError
        waiter.result(WITHIN_S)
        assert place.numbers() == [1, 1, 0]


def test_more_waiters_than_connections_in_the_users_pool(place: Place) -> None:
    """The pool is exhausted by waiters; the holder's undo uses connections of its own, and everybody comes through."""
    with place.running():
        holder = place.connect()
        pool: queue.Queue[Any] = queue.Queue()
        for _ in range(2):
            pool.put(place.connect())

        def pooled() -> None:
            with troth.transaction(name="pooled"):
                connection = pool.get(timeout=WITHIN_S)
                try:
                    place.write(connection, "UPDATE hot SET n = n + 1 WHERE id = 1")
                finally:
                    pool.put(connection)

        with pytest.raises(ZeroDivisionError), troth.transaction(name="holder"):  # noqa: PT012
            place.write(holder, "UPDATE hot SET n = 50 WHERE id = 1")
            waiters = [place.apart(pooled) for _ in range(6)]
            place.until_queued(2)
            assert pool.empty()
            raise ZeroDivisionError
        for waiter in waiters:
            waiter.result(WITHIN_S)
        assert place.numbers()[0] == 6


def test_of_two_threads_that_wait_for_each_other_the_youngest_hears_of_the_deadlock(place: Place) -> None:
    with place.running():
        first, second = place.connect(), place.connect()
        with troth.transaction(name="old") as old:
            place.write(first, "UPDATE hot SET n = 1 WHERE id = 1")
            crossed = threading.Event()

            def young() -> None:
                with troth.transaction(name="young"):
                    place.write(second, "UPDATE hot SET n = 2 WHERE id = 2")
                    crossed.set()
                    place.until_queued(1)
                    place.write(second, "UPDATE hot SET n = 2 WHERE id = 1")

            task = place.apart(young)
            assert crossed.wait(WITHIN_S)
            place.write(first, "UPDATE hot SET n = 1 WHERE id = 2")
            with pytest.raises(LockConflict, match=r"deadlock: .+ waits for .+ waits for .+ the youngest") as caught:
                task.result(WITHIN_S)
            assert (caught.value.key, caught.value.holder) == ("hot:1", old.xid)
        assert place.numbers() == [1, 1, 0]


def test_an_explicit_local_transaction_is_refused_within_the_hot_bound(place: Place) -> None:
    """It cannot let go of its local locks, so it may not wait long; on SQLite, where it holds the file, not at all.

    What it held is free at once, so that the holder's undo finds it so.
    """
    with place.running(lock__hot_wait="1s"):
        holder, other = place.connect(), place.connect(autocommit=False)

        def explicit() -> float:
            with troth.transaction(name="explicit"):
                place.write(other, "UPDATE hot SET n = 2")
                started = time.monotonic()
                with pytest.raises(LockConflict) as caught:
                    other.commit()
                assert place.is_free()
                assert (caught.value.key, caught.value.holder) == ("hot:3", held.xid)
                return time.monotonic() - started

        with pytest.raises(ZeroDivisionError), troth.transaction(name="holder") as held:  # noqa: PT012
            place.write(holder, "UPDATE hot SET n = 1 WHERE id = 3")
            waited_s = place.apart(explicit).result(WITHIN_S)
            assert waited_s >= 1.0 if place.kind == "mariadb" else waited_s < 0.9
            raise ZeroDivisionError
        assert place.numbers() == [0, 0, 0]


@pytest.mark.parametrize("place", ["mariadb"], indirect=True)
@pytest.mark.engines
def test_the_holders_rollback_ends_the_wait_of_an_explicit_local_transaction(place: Place) -> None:
    """The undo needs the rows that the other one has locked in the database: it is told of the decision at once."""
    with place.running(lock__hot_wait="20s"):
        holder, other = place.connect(), place.connect(autocommit=False)

        def explicit() -> None:
            with troth.transaction(name="explicit"):
                place.write(other, "UPDATE hot SET n = 2 WHERE id = 1")
                other.commit()

        started = time.monotonic()
        with pytest.raises(ZeroDivisionError), troth.transaction(name="holder"):  # noqa: PT012
            place.write(holder, "UPDATE hot SET n = 1 WHERE id = 1")
            task = place.apart(explicit)
            place.until_queued(1)
            raise ZeroDivisionError
        with pytest.raises(LockConflict):
            task.result(WITHIN_S)
        assert time.monotonic() - started < 10.0
        assert place.numbers() == [0, 0, 0]
