"""`troth.xa.connect(url, lock_rows=True)`: AT and XA branches on one table exclude each other by the global lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pymysql
import pytest

import troth
import troth.xa
from fixtures_coordinator import until
from troth.client.drivers.pymysql_places import parse_url as parse_mysql_url
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import GlobalLockQueryRequest, GlobalLockQueryResponse

pytestmark = pytest.mark.engines

UPDATE = "UPDATE stock SET count = count - 2 WHERE id = 1"


@pytest.fixture(scope="module")
def client() -> Iterator[troth.Client]:
    with troth.embedded(retry__min="20ms", retry__max="100ms") as made:
        yield made


@pytest.fixture(scope="module")
def database(new_postgres_database: Callable[[], str]) -> str:
    url = new_postgres_database()
    troth.at.init(url)
    look(url, "CREATE TABLE stock (id INT PRIMARY KEY, count INT NOT NULL)")
    return url


@pytest.fixture
def url(database: str, client: troth.Client) -> str:
    look(database, "TRUNCATE stock")
    look(database, "INSERT INTO stock VALUES (1, 10), (2, 10)")
    return database


def look(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as raw:
        found = raw.execute(sql)
        return found.fetchall() if found.description else []


def count(url: str) -> int:
    return int(look(url, "SELECT count FROM stock WHERE id = 1")[0][0])


def settled(url: str) -> bool:
    prepared = look(url, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    return not prepared and not look(url, "SELECT xid FROM undo_log WHERE log_status = 0")


def lockable(client: troth.Client, resource_id: str, keys: str) -> bool:
    answer = client.tell(GlobalLockQueryRequest("127.0.0.1:1:1", BranchType.AT, resource_id, keys))
    assert isinstance(answer, GlobalLockQueryResponse)
    return answer.lockable


async def by_psycopg(url: str) -> None:
    with troth.xa.connect(url, lock_rows=True) as conn:
        conn.execute(UPDATE)
        conn.commit()


async def by_psycopg_async(url: str) -> None:
    async with await troth.xa.connect_async(url, lock_rows=True) as conn:
        await conn.execute(UPDATE)
        await conn.commit()


async def by_asyncpg(url: str) -> None:
    conn = await troth.xa.connect_async(url.replace("postgresql:", "postgresql+asyncpg:"), lock_rows=True)
    try:
        async with conn.transaction():
            await conn.execute(UPDATE)
    finally:
        await conn.close()


@pytest.mark.parametrize(
    "work",
    [by_psycopg, *(pytest.param(work, marks=pytest.mark.soak) for work in (by_psycopg_async, by_asyncpg))],
)
def test_commit_and_rollback(work: Any, url: str, client: troth.Client) -> None:
    async def run() -> None:
        async with troth.transaction(name="purchase"):
            await work(url)
            prepared = look(url, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            assert len(prepared) == 1
            assert look(url, "SELECT * FROM undo_log") == []
            assert count(url) == 10
        until(lambda: settled(url), what="committed")
        assert count(url) == 8
        with pytest.raises(KeyError):  # noqa: PT012
            async with troth.transaction(name="purchase"):
                await work(url)
                raise KeyError
        until(lambda: settled(url), what="rolled back")
        assert count(url) == 8

    asyncio.run(run())


def test_rows_are_locked_until_the_decision(url: str, client: troth.Client) -> None:
    with closing(troth.xa.connect(url, lock_rows=True)) as conn:
        with troth.transaction(name="purchase"):
            conn.execute(UPDATE)
            assert lockable(client, conn.resource_id, "stock:1")
            conn.commit()
            assert not lockable(client, conn.resource_id, "stock:1")
            assert lockable(client, conn.resource_id, "stock:2")
        assert lockable(client, conn.resource_id, "stock:1")


def test_xa_gets_no_row_that_an_unfinished_at_transaction_has_changed(url: str, client: troth.Client) -> None:
    """Else the undo of the AT branch would find the stranger's value, and freeze."""
    with closing(troth.at.connect(url)) as at, closing(troth.xa.connect(url, lock_rows=True)) as xa:
        with pytest.raises(KeyError), troth.transaction(name="at"):  # noqa: PT012
            at.execute("UPDATE stock SET count = 5 WHERE id = 1")
            at.commit()
            new = troth.Propagation.REQUIRES_NEW
            with pytest.raises(troth.LockConflict), troth.transaction(name="xa", propagation=new):  # noqa: PT012
                xa.execute(UPDATE)
                xa.commit()
            raise KeyError
        until(lambda: settled(url), what="both are rolled back")
        assert count(url) == 10, "undone, with nothing lost"
        with troth.transaction(name="xa"):  # its connection is as good as ever
            xa.execute(UPDATE)
            xa.commit()
        until(lambda: settled(url), what="committed")
    assert count(url) == 8


@pytest.mark.soak
def test_a_statement_by_itself_waits_for_the_row(url: str, client: troth.Client) -> None:
    """In autocommit nothing is held meanwhile: it runs again, on what the other has left."""
    with (
        closing(troth.at.connect(url)) as at,
        closing(troth.xa.connect(url, lock_rows=True, autocommit=True)) as xa,
        ThreadPoolExecutor(1) as pool,
    ):

        def purchase() -> None:
            with troth.transaction(name="xa"):
                xa.execute(UPDATE)

        with troth.transaction(name="at"):
            at.execute("UPDATE stock SET count = 5 WHERE id = 1")
            at.commit()
            waiting = pool.submit(purchase)
            until(lambda: look(url, "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%ROLLBACK%'"), what="it waits")
            assert not waiting.done()
        waiting.result(20)
        until(lambda: settled(url), what="committed")
    assert count(url) == 3


@pytest.mark.soak
def test_a_swallowed_error_is_no_vote(url: str, client: troth.Client) -> None:
    with (  # noqa: PT012
        closing(troth.xa.connect(url, lock_rows=True)) as conn,
        pytest.raises(troth.BranchFailed, match="cannot be prepared"),
        troth.transaction(name="purchase"),
    ):
        conn.execute(UPDATE)
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1 / 0")
        conn.commit()
    assert count(url) == 10


@pytest.mark.soak
def test_what_at_does_not_understand_is_refused(url: str, client: troth.Client) -> None:
    with (
        closing(troth.xa.connect(url, lock_rows=True)) as conn,
        pytest.raises(troth.NotSupported),
        troth.transaction(name="purchase"),
    ):
        conn.execute("TRUNCATE stock")


# ---- MariaDB: the rows are a branch of their own ----


@pytest.fixture(scope="module")
def mariadb_database(new_mariadb_database: Callable[[], str]) -> str:
    url = new_mariadb_database()
    troth.at.init(url)
    look_mariadb(url, "CREATE TABLE stock (id INT PRIMARY KEY AUTO_INCREMENT, count INT NOT NULL)")
    return url


@pytest.fixture
def mariadb(mariadb_database: str, client: troth.Client) -> str:
    look_mariadb(mariadb_database, "TRUNCATE stock")
    look_mariadb(mariadb_database, "INSERT INTO stock VALUES (1, 10), (2, 10)")
    return mariadb_database


def look_mariadb(url: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(pymysql.connect(**{**parse_mysql_url(url).arguments({}), "autocommit": True})) as raw:
        cursor = raw.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())


def settled_mariadb(url: str) -> bool:
    undo = look_mariadb(url, "SELECT xid FROM undo_log WHERE log_status = 0")
    return not undo and not look_mariadb(url, "XA RECOVER")


def counts(url: str) -> list[tuple[int, int]]:
    return look_mariadb(url, "SELECT id, count FROM stock ORDER BY id")


def test_on_mariadb_rows_are_locked_until_the_decision(mariadb: str, client: troth.Client) -> None:
    with closing(troth.xa.connect(mariadb, lock_rows=True)) as conn:
        with troth.transaction(name="purchase"), conn.cursor() as cursor:
            assert cursor.execute(UPDATE) == 1
            cursor.execute("SAVEPOINT here")
            cursor.execute("INSERT INTO stock (count) VALUES (%s), (%s)", (5, 6))
            assert (cursor.rowcount, cursor.lastrowid) == (2, 3)
            cursor.execute("ROLLBACK TO SAVEPOINT here")
            cursor.executemany("INSERT INTO stock (id, count) VALUES (%s, %s)", [(7, 5), (8, 6)])
            assert cursor.execute("DELETE FROM stock WHERE id = 2") == 1
            cursor.execute("SELECT id FROM stock ORDER BY id")
            assert cursor.fetchall() == ((1,), (7,), (8,))
            assert lockable(client, conn.resource_id, "stock:1")
            conn.commit()
            for row in (1, 2, 7, 8):
                assert not lockable(client, conn.resource_id, f"stock:{row}")
            assert look_mariadb(mariadb, "SELECT xid FROM undo_log") == []
        assert lockable(client, conn.resource_id, "stock:1,2,7,8")
        until(lambda: settled_mariadb(mariadb), what="committed")
        assert counts(mariadb) == [(1, 8), (7, 5), (8, 6)]
        with pytest.raises(KeyError), troth.transaction(name="purchase"):  # noqa: PT012
            conn.cursor().execute(UPDATE)
            conn.commit()
            raise KeyError
        until(lambda: settled_mariadb(mariadb), what="rolled back")
        until(lambda: lockable(client, conn.resource_id, "stock:1"), what="the row is free")
    assert counts(mariadb) == [(1, 8), (7, 5), (8, 6)]


def test_on_mariadb_xa_gets_no_row_that_an_unfinished_at_transaction_has_changed(
    mariadb: str, client: troth.Client
) -> None:
    new = troth.Propagation.REQUIRES_NEW
    with closing(troth.at.connect(mariadb)) as at, closing(troth.xa.connect(mariadb, lock_rows=True)) as xa:
        with pytest.raises(KeyError), troth.transaction(name="at"):  # noqa: PT012
            at.cursor().execute("UPDATE stock SET count = 5 WHERE id = 1")
            at.commit()
            for autocommit in (False, True):
                xa.autocommit(autocommit)
                with pytest.raises(troth.LockConflict), troth.transaction(name="xa", propagation=new):  # noqa: PT012
                    xa.cursor().execute(UPDATE)
                    xa.commit()
            raise KeyError
        until(lambda: settled_mariadb(mariadb), what="both are rolled back")
        assert counts(mariadb) == [(1, 10), (2, 10)], "undone, with nothing lost"
        with troth.transaction(name="xa"):
            xa.cursor().execute(UPDATE)  # by itself: a branch of one statement
        until(lambda: settled_mariadb(mariadb), what="committed")
    assert counts(mariadb) == [(1, 8), (2, 10)]


@pytest.mark.soak
def test_on_mariadb_a_swallowed_error_undoes_its_statement_only(mariadb: str, client: troth.Client) -> None:
    with closing(troth.xa.connect(mariadb, lock_rows=True)) as conn:
        with troth.transaction(name="purchase"), conn.cursor() as cursor:
            cursor.execute(UPDATE)
            with pytest.raises(pymysql.err.IntegrityError):
                cursor.execute("INSERT INTO stock VALUES (2, 1)")
            returning = "INSERT INTO stock (count) VALUES (1) RETURNING id"
            for refused in (returning, "TRUNCATE stock", "LOCK TABLES stock READ"):
                with pytest.raises(troth.NotSupported):
                    cursor.execute(refused)
            conn.commit()
        until(lambda: settled_mariadb(mariadb), what="committed")
    assert counts(mariadb) == [(1, 8), (2, 10)]
