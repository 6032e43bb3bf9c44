"""XA with a whole coordinator and real databases, by every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql
import pytest

import troth
import troth.xa
from troth.client.drivers.pymysql_places import parse_url as parse_mysql_url
from troth.client.errors import BranchFailed, NotSupported, TransactionRolledBack
from troth.wire.seata.messages import BranchReportRequest, Message

pytestmark = pytest.mark.engines

UPDATE = "UPDATE stock SET count = count - 2 WHERE id = 1"


@dataclass
class Database:
    """A table `stock` with one row (1, 10), looked at from outside."""

    url: str

    @property
    def is_postgres(self) -> bool:
        return self.url.startswith("postgresql")

    def look(self, sql: str) -> list[tuple[Any, ...]]:
        if self.is_postgres:
            with psycopg.connect(self.url, autocommit=True) as raw:
                found = raw.execute(sql)
                return found.fetchall() if found.description else []
        with pymysql.connect(**{**parse_mysql_url(self.url).arguments({}), "autocommit": True}) as raw:
            cursor = raw.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    @property
    def count(self) -> int:
        return int(self.look("SELECT count FROM stock WHERE id = 1")[0][0])

    def prepared(self) -> list[str]:
        if self.is_postgres:
            rows = self.look("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            return [row[0] for row in rows]
        return [str(row[3]) for row in self.look("XA RECOVER")]


@pytest.fixture(scope="module")
def postgres(new_postgres_database: Callable[[], str]) -> Database:
    return Database(new_postgres_database())


@pytest.fixture(scope="module")
def mariadb(new_mariadb_database: Callable[[], str]) -> Database:
    return Database(new_mariadb_database())


@pytest.fixture(scope="module")
def client() -> Iterator[troth.Client]:
    with troth.embedded(retry__min="20ms", retry__max="100ms") as client:
        yield client


@pytest.fixture
def databases(client: troth.Client, postgres: Database, mariadb: Database) -> dict[str, Database]:
    for database in (postgres, mariadb):
        database.look("DROP TABLE IF EXISTS stock")
        database.look("CREATE TABLE stock (id INT PRIMARY KEY, count INT NOT NULL CHECK (count >= 0))")
        database.look("INSERT INTO stock VALUES (1, 10)")
    return {"psycopg": postgres, "psycopg-async": postgres, "asyncpg": postgres, "pymysql": mariadb}


def ended(database: Database) -> bool:
    return not database.prepared()


# --- one local transaction, by each driver ---


async def work_psycopg(url: str, statements: list[str]) -> None:
    with troth.xa.connect(url) as conn:
        for sql in statements:
            conn.execute(sql)
        conn.commit()


async def work_psycopg_async(url: str, statements: list[str]) -> None:
    async with await troth.xa.connect_async(url) as conn:
        for sql in statements:
            await conn.execute(sql)
        await conn.commit()


async def work_asyncpg(url: str, statements: list[str]) -> None:
    conn = await troth.xa.connect_async(url.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        async with conn.transaction():
            for sql in statements:
                await conn.execute(sql)
    finally:
        await conn.close()


async def work_pymysql(url: str, statements: list[str]) -> None:
    with troth.xa.connect(url) as conn:
        with conn.cursor() as cursor:
            for sql in statements:
                cursor.execute(sql)
        conn.commit()


WORK: dict[str, Callable[[str, list[str]], Awaitable[None]]] = {
    "psycopg": work_psycopg,
    "psycopg-async": work_psycopg_async,
    "asyncpg": work_asyncpg,
    "pymysql": work_pymysql,
}


async def soon(condition: Callable[[], bool], what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(what)


@pytest.mark.parametrize("driver", WORK)
def test_commit_and_rollback(driver: str, databases: dict[str, Database]) -> None:
    database = databases[driver]

    async def run() -> None:
        async with troth.transaction(name="purchase"):
            await WORK[driver](database.url, [UPDATE])
            assert len(database.prepared()) == 1
            assert database.count == 10  # nobody sees it before the whole is decided
        await soon(lambda: ended(database), "the branch is not committed")
        assert database.count == 8

        with pytest.raises(RuntimeError, match="changed my mind"):  # noqa: PT012
            async with troth.transaction(name="purchase"):
                await WORK[driver](database.url, [UPDATE])
                raise RuntimeError("changed my mind")
        await soon(lambda: ended(database), "the branch is not rolled back")
        assert database.count == 8

    asyncio.run(run())


@pytest.mark.parametrize("driver", WORK)
def test_a_branch_that_only_reads_is_not_prepared(driver: str, databases: dict[str, Database]) -> None:
    database = databases[driver]

    async def run() -> None:
        async with troth.transaction(name="look"):
            await WORK[driver](database.url, ["SELECT count FROM stock"])
            assert database.prepared() == []

    asyncio.run(run())


@pytest.mark.soak
@pytest.mark.parametrize("driver", WORK)
def test_outside_of_a_global_transaction_the_driver_is_as_ever(driver: str, databases: dict[str, Database]) -> None:
    database = databases[driver]
    asyncio.run(WORK[driver](database.url, [UPDATE]))
    assert database.count == 8


def test_autocommit_makes_a_branch_of_each_statement(databases: dict[str, Database]) -> None:
    for driver in ("psycopg", "pymysql"):
        database = databases[driver]
        with (  # noqa: PT012
            troth.xa.connect(database.url, autocommit=True) as conn,
            pytest.raises(TransactionRolledBack),
            troth.transaction(name="purchase"),
        ):
            cursor = conn.cursor()
            cursor.execute("INSERT INTO stock VALUES (2, 1)")
            assert cursor.rowcount == 1
            cursor.execute("SELECT count FROM stock WHERE id = 1")
            assert cursor.fetchall()[0][0] == 10
            cursor.execute("INSERT INTO stock VALUES (3, 1)")
            assert len(database.prepared()) == 2
            troth.rollback_only()
        asyncio.run(soon(lambda db=database: ended(db), "not rolled back"))
        assert database.look("SELECT id FROM stock") == [(1,)]


def test_transaction_block_of_psycopg(databases: dict[str, Database]) -> None:
    database = databases["psycopg"]
    with troth.xa.connect(database.url, autocommit=True) as conn:
        with troth.transaction(name="purchase"):
            with conn.transaction():
                conn.execute(UPDATE)
                with conn.transaction():
                    conn.execute("INSERT INTO stock VALUES (2, 1)")
                    raise psycopg.Rollback
            with conn.transaction():
                conn.execute("INSERT INTO stock VALUES (3, 1)")
                raise psycopg.Rollback
            assert len(database.prepared()) == 1
        asyncio.run(soon(lambda: ended(database), "not committed"))
    assert database.look("SELECT id, count FROM stock") == [(1, 8)]


@pytest.mark.parametrize("driver", WORK)
def test_c25_a_swallowed_failure_is_no_vote(driver: str, databases: dict[str, Database]) -> None:
    """C25: PREPARE TRANSACTION of a failed transaction says OK and prepares nothing."""
    database = databases[driver]

    async def swallow() -> None:
        url = database.url
        if driver == "psycopg":
            with troth.xa.connect(url) as conn:
                conn.execute(UPDATE)
                with pytest.raises(psycopg.errors.CheckViolation):
                    conn.execute("UPDATE stock SET count = -1")
                conn.commit()
        elif driver == "psycopg-async":
            async with await troth.xa.connect_async(url) as aconn:
                await aconn.execute(UPDATE)
                with pytest.raises(psycopg.errors.CheckViolation):
                    await aconn.execute("UPDATE stock SET count = -1")
                await aconn.commit()
        else:
            conn = await troth.xa.connect_async(url.replace("postgresql:", "postgresql+asyncpg:"))
            try:
                block = conn.transaction()
                await block.start()
                await conn.execute(UPDATE)
                with pytest.raises(Exception, match="check constraint"):
                    await conn.execute("UPDATE stock SET count = -1")
                await block.commit()
            finally:
                await conn.close()

    async def run() -> None:
        if driver == "pymysql":  # the statement alone is undone there; the branch goes on
            async with troth.transaction(name="purchase"):
                with troth.xa.connect(database.url) as conn, conn.cursor() as cursor:
                    cursor.execute(UPDATE)
                    with pytest.raises(pymysql.err.OperationalError):
                        cursor.execute("UPDATE stock SET count = -1")
                    conn.commit()
            await soon(lambda: ended(database), "not committed")
            assert database.count == 8
            return
        with pytest.raises(BranchFailed, match="cannot be prepared"):
            async with troth.transaction(name="purchase"):
                await swallow()
        assert database.prepared() == []
        assert database.count == 10

    asyncio.run(run())


SYNC = ("psycopg", "pymysql")


@pytest.mark.parametrize("driver", [pytest.param(d, marks=() if d in SYNC else pytest.mark.soak) for d in WORK])
def test_a_vote_that_is_not_heard_makes_the_whole_a_rollback(
    driver: str, databases: dict[str, Database], client: troth.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for an owner who swallows what `commit()` raised. (The branch is prepared by then.)"""
    database = databases[driver]
    tell, atell = client.tell, client.atell

    def lose(message: Message) -> None:
        if isinstance(message, BranchReportRequest):
            raise troth.CoordinatorUnavailable("lost")

    def deaf_tell(message: Message) -> Message:
        lose(message)
        return tell(message)

    async def deaf_atell(message: Message) -> Message:
        lose(message)
        return await atell(message)

    async def run() -> None:
        with pytest.raises(TransactionRolledBack):  # noqa: PT012
            async with troth.transaction(name="purchase"):
                with pytest.raises(troth.CoordinatorUnavailable, match="lost"):
                    await WORK[driver](database.url, [UPDATE])
        await soon(lambda: ended(database), "the branch is not rolled back")
        monkeypatch.undo()
        async with troth.transaction(name="purchase"):
            await WORK[driver](database.url, [UPDATE])
        await soon(lambda: ended(database), "the branch is not committed")
        assert database.count == 8  # once

    monkeypatch.setattr(client, "tell", deaf_tell)
    monkeypatch.setattr(client, "atell", deaf_atell)
    asyncio.run(run())


def test_a_forgotten_commit_rolls_the_whole_back(databases: dict[str, Database]) -> None:
    for driver in ("psycopg", "pymysql"):
        database = databases[driver]
        conn = troth.xa.connect(database.url)
        with pytest.raises(Exception, match=r"not committed|neither committed"), troth.transaction(name="purchase"):
            conn.cursor().execute(UPDATE)
        assert database.count == 10
        with troth.transaction(name="purchase"):
            conn.cursor().execute(UPDATE)  # the connection is good for the next one
            conn.commit()
        asyncio.run(soon(lambda db=database: ended(db), "not committed"))
        assert database.count == 8
        conn.close()


def test_a_local_rollback_leaves_the_whole_alone(databases: dict[str, Database]) -> None:
    for driver in ("psycopg", "pymysql"):
        database = databases[driver]
        with troth.xa.connect(database.url) as conn:
            with troth.transaction(name="purchase"):
                conn.cursor().execute("INSERT INTO stock VALUES (2, 1)")
                conn.rollback()
                conn.cursor().execute(UPDATE)
                conn.commit()
            asyncio.run(soon(lambda db=database: ended(db), "not committed"))
        assert database.look("SELECT id, count FROM stock") == [(1, 8)]


def test_ends_as_texts_do_not_go_past_xa(databases: dict[str, Database]) -> None:
    with (  # noqa: PT012
        troth.xa.connect(databases["psycopg"].url) as conn,
        pytest.raises(NotSupported, match="COMMIT as a text"),
        troth.transaction(name="purchase"),
    ):
        conn.execute(UPDATE)
        conn.execute("/* now */ commit")
    with troth.xa.connect(databases["pymysql"].url) as conn, conn.cursor() as cursor:
        with troth.transaction(name="purchase"):
            cursor.execute(UPDATE)
            cursor.execute("COMMIT")
            assert len(databases["pymysql"].prepared()) == 1
        asyncio.run(soon(lambda: ended(databases["pymysql"]), "not committed"))
    assert databases["psycopg"].count == 10
    assert databases["pymysql"].count == 8


def test_postgres_and_mariadb_in_one_transaction(databases: dict[str, Database]) -> None:
    one, two = databases["psycopg"], databases["pymysql"]
    with troth.xa.connect(one.url) as left, troth.xa.connect(two.url) as right:
        with pytest.raises(TransactionRolledBack), troth.transaction(name="purchase"):  # noqa: PT012
            left.execute(UPDATE)
            right.cursor().execute(UPDATE)
            left.commit()
            right.commit()
            troth.rollback_only()
        asyncio.run(soon(lambda: ended(one) and ended(two), "not rolled back"))
        assert (one.count, two.count) == (10, 10)
        with troth.transaction(name="purchase"):
            left.execute(UPDATE)
            right.cursor().execute(UPDATE)
            left.commit()
            right.commit()
        asyncio.run(soon(lambda: ended(one) and ended(two), "not committed"))
    assert (one.count, two.count) == (8, 8)
