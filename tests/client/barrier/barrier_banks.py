"""Accounts on real engines, each reached by one kind of connection, blocking or async."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiosqlite
import asyncmy
import asyncpg
import psycopg
import redis
import sqlalchemy
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from troth.client.barrier import Barrier, acheck_back, check_back
from troth.client.drivers import barrier as barrier_table
from troth.client.drivers.fence_table import connection_to

TAKE = "UPDATE barrier_account SET balance = balance - 30 WHERE id = 'A'"
WRONG = "UPDATE no_such_table SET x = 1"


@dataclass
class Bank:
    """`connect` is what a barrier is given; `run(connection, sql)` is what its work does."""

    kind: str
    url: str
    connect: Callable[[], Any]
    run: Callable[[Any, str], Any]
    is_async: bool = False

    def make(self) -> None:
        barrier_table.init(self.url)
        self.write("CREATE TABLE IF NOT EXISTS barrier_account (id VARCHAR(9) PRIMARY KEY, balance INT)")
        self.write("DELETE FROM barrier_account")
        self.write("INSERT INTO barrier_account VALUES ('A', 100)")

    def write(self, sql: str) -> None:
        with closing(connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            connection.commit()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    @property
    def table(self) -> str:
        return "barrier" if self.url.startswith("sqlite") else "dtm_barrier.barrier"

    def balance(self) -> int:
        return self.rows("SELECT balance FROM barrier_account")[0][0]

    def records(self, gid: str) -> list[tuple[str, ...]]:
        """op, barrier_id, reason, in the order of their names."""
        sql = f"SELECT op, barrier_id, reason FROM {self.table} WHERE gid = '{gid}' ORDER BY op, barrier_id"
        return self.rows(sql)

    def take(self, connection: Any) -> Any:
        """The work: 30 from A."""
        return self.run(connection, TAKE)

    def fails(self, connection: Any) -> Any:
        """Work that takes 30 and then raises."""
        if self.is_async:
            return self._afails(connection)
        self.take(connection)
        raise KeyError("the work fails")

    async def _afails(self, connection: Any) -> None:
        await self.take(connection)
        raise KeyError("the work fails")

    def call(self, barrier: Barrier, work: Callable[[Any], Any], barrier_id: str | None = None) -> Any:
        if self.is_async:
            return asyncio.run(barrier.acall(self.connect, work, barrier_id=barrier_id))
        return barrier.call(self.connect, work, barrier_id=barrier_id)

    def check_back(self, gid: str) -> bool:
        if self.is_async:
            return asyncio.run(acheck_back(self.connect, gid))
        return check_back(self.connect, gid)


def sqlite(path: str) -> Bank:
    return Bank("sqlite", f"sqlite:///{path}", partial(sqlite3.connect, path), lambda c, sql: c.execute(sql))


def aio_sqlite(path: str) -> Bank:
    return Bank("aiosqlite", f"sqlite:///{path}", partial(aiosqlite.connect, path), lambda c, sql: c.execute(sql), True)


def by_cursor(kind: str, url: str) -> Bank:
    def run(connection: Any, sql: str) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql)

    return Bank(kind, url, connection_to(url), run)


def aio_psycopg(url: str) -> Bank:
    return Bank(
        "psycopg-async",
        url,
        partial(psycopg.AsyncConnection.connect, url, autocommit=True),
        lambda c, sql: c.execute(sql),
        True,
    )


def aio_asyncpg(url: str) -> Bank:
    return Bank("asyncpg", url, partial(asyncpg.connect, url), lambda c, sql: c.execute(sql), True)


def aio_asyncmy(url: str) -> Bank:
    async def run(connection: Any, sql: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)

    place = connection_to(url).keywords  # type: ignore[attr-defined]  # PyMySQL's, which asyncmy takes, too
    names = ("host", "port", "user", "password", "database")
    return Bank("asyncmy", url, partial(asyncmy.connect, **{name: place[name] for name in names}), run, True)


def sqlalchemy_orm(url: str, spelled: str) -> Bank:
    engine = sqlalchemy.create_engine(spelled, poolclass=sqlalchemy.NullPool)
    return Bank("sqlalchemy", url, sessionmaker(engine), lambda s, sql: s.execute(sqlalchemy.text(sql)))


def aio_sqlalchemy(url: str) -> Bank:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=sqlalchemy.NullPool)

    def run(session: Any, sql: str) -> Any:
        return session.execute(sqlalchemy.text(sql))

    return Bank("sqlalchemy-async", url, async_sessionmaker(engine), run, True)


class RedisBank(Bank):
    """The balance is a plain key."""

    def make(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.set("balance", 100)

    def balance(self) -> int:
        with redis.Redis.from_url(self.url) as client:
            return int(client.get("balance") or 0)

    def records(self, gid: str) -> list[tuple[str, ...]]:
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            found = []
            for key in sorted(client.scan_iter(f"{gid}-*")):
                op, barrier_id = key.rsplit("-", 2)[1:]
                state = str(client.get(key))
                found.append((op, barrier_id, op if state == "op" else state))
            return found


def on_redis(url: str) -> Bank:
    client = redis.Redis.from_url(url)
    return RedisBank("redis", url, lambda: client, lambda pipeline, _: pipeline.decrby("balance", 30))
