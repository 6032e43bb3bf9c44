"""Banks on real engines, each reached by one kind of connection: an account with a frozen part, and an action on it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import asyncmy
import asyncpg
import psycopg
import redis
import redis.asyncio
import sqlalchemy
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

import troth
from troth.client.drivers import fence_table
from troth.client.flow import ResourceClient
from troth.client.modes.fence import FenceStatus

FREEZE = "UPDATE account SET balance = balance - ?, frozen = frozen + ? WHERE id = ?"
TAKE = "UPDATE account SET frozen = frozen - ? WHERE id = ?"
THAW = "UPDATE account SET balance = balance + ?, frozen = frozen - ? WHERE id = ?"


@dataclass
class Bank:
    """`connect` is what the action is given; `run` is what its functions do on `ctx.connection`."""

    kind: str
    connect: Callable[[], Any]
    run: Callable[..., Any]
    is_async: bool = False
    url: str = ""
    log: list[str] = field(default_factory=list)
    contexts: list[troth.ActionContext] = field(default_factory=list)
    hooks: dict[str, Callable[[], Any]] = field(default_factory=dict)
    """By what is about to happen: connect, try, tried, confirm, cancel. Called once."""

    def reached(self, what: str) -> None:
        hook = self.hooks.pop(what, None)
        if hook is not None:
            hook()

    def opened(self) -> Any:
        self.reached("connect")
        return self.connect()

    def __enter__(self) -> Bank:
        return self

    def make(self) -> None:
        """Fresh books: A has 100."""
        fence_table.init(self.url)
        with closing(fence_table.connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS account (id VARCHAR(9) PRIMARY KEY, balance INT, frozen INT)")
            cursor.execute("DELETE FROM account")
            cursor.execute("DELETE FROM tcc_fence_log")
            cursor.execute("INSERT INTO account VALUES ('A', 100, 0)")
            connection.commit()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(fence_table.connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    def books(self) -> tuple[int, int]:
        """Balance and frozen."""
        ((balance, frozen),) = self.rows("SELECT balance, frozen FROM account")
        return balance, frozen

    def fences(self) -> list[FenceStatus]:
        return [FenceStatus(row[0]) for row in self.rows("SELECT status FROM tcc_fence_log ORDER BY branch_id")]

    def let_the_deadline_pass(self) -> None:
        """Of every try that runs."""
        with closing(fence_table.connection_to(self.url)()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("UPDATE tcc_fence_log SET gmt_modified = '2020-01-01 00:00:00.000' WHERE status = 5")
            connection.commit()


class RedisBank(Bank):
    """Amounts are plain keys."""

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def make(self) -> None:
        with self.client() as client:
            client.flushall()
            client.mset({"balance": 100, "frozen": 0})

    def books(self) -> tuple[int, int]:
        with self.client() as client:
            return int(client.get("balance") or 0), int(client.get("frozen") or 0)

    def let_the_deadline_pass(self) -> None:
        with self.client() as client:
            for key in client.scan_iter("tcc_fence_log:*"):
                client.set(key, f"{FenceStatus.TRYING:d} 1577836800000")

    def fences(self) -> list[FenceStatus]:
        with self.client() as client:
            keys = sorted(client.scan_iter("tcc_fence_log:*"))
            return [FenceStatus(int(str(client.get(key)).split()[0])) for key in keys]


def sqlite(path: str) -> Bank:
    def run(connection: sqlite3.Connection, sql: str, *values: object) -> None:
        connection.execute(sql, values)

    return Bank("sqlite", functools.partial(sqlite3.connect, path), run, url=f"sqlite:///{path}")


def by_cursor(kind: str, url: str) -> Bank:
    """psycopg, PyMySQL."""

    def run(connection: Any, sql: str, *values: object) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql.replace("?", "%s"), values)

    return Bank(kind, fence_table.connection_to(url), run, url=url)


def sqlalchemy_orm(path: str) -> Bank:
    factory = sessionmaker(sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool))

    def run(work: Any, sql: str, *values: object) -> None:
        work.connection().exec_driver_sql(sql, values)

    return Bank("sqlalchemy", factory, run, url=f"sqlite:///{path}")


def sqlalchemy_mariadb(url: str) -> Bank:
    """A Core connection; SQLAlchemy asks MySQL for the number of found rows, not of changed ones."""
    engine = sqlalchemy.create_engine(url.replace("mysql:", "mysql+pymysql:"), poolclass=sqlalchemy.NullPool)

    def run(connection: Any, sql: str, *values: object) -> None:
        connection.exec_driver_sql(sql.replace("?", "%s"), values)

    return Bank("sqlalchemy-mariadb", engine.connect, run, url=url)


def aio_sqlite(path: str) -> Bank:
    async def run(connection: Any, sql: str, *values: object) -> None:
        await connection.execute(sql, values)

    return Bank("aiosqlite", functools.partial(aiosqlite.connect, path), run, is_async=True, url=f"sqlite:///{path}")


def aio_psycopg(url: str) -> Bank:
    async def run(connection: Any, sql: str, *values: object) -> None:
        await connection.execute(sql.replace("?", "%s"), values)

    @contextlib.asynccontextmanager
    async def connect() -> Any:
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        try:
            yield connection
        finally:
            await connection.close()

    return Bank("psycopg-async", connect, run, is_async=True, url=url)


def aio_asyncpg(url: str) -> Bank:
    async def run(connection: Any, sql: str, *values: object) -> None:
        for number in range(len(values)):
            sql = sql.replace("?", f"${number + 1}", 1)
        await connection.execute(sql, *values)

    return Bank("asyncpg", functools.partial(asyncpg.connect, url), run, is_async=True, url=url)


def aio_asyncmy(url: str) -> Bank:
    place = fence_table.connection_to(url).keywords  # type: ignore[attr-defined]  # PyMySQL's, which asyncmy takes, too
    names = ("host", "port", "user", "password", "database")
    connect = functools.partial(asyncmy.connect, **{name: place[name] for name in names})

    async def run(connection: Any, sql: str, *values: object) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(sql.replace("?", "%s"), values)

    return Bank("asyncmy", connect, run, is_async=True, url=url)


def aio_sqlalchemy(url: str) -> Bank:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=sqlalchemy.NullPool)

    async def run(work: Any, sql: str, *values: object) -> None:
        names = {f"v{number}": value for number, value in enumerate(values)}
        for name in names:
            sql = sql.replace("?", f":{name}", 1)
        await work.execute(sqlalchemy.text(sql), names)

    return Bank("sqlalchemy-async", async_sessionmaker(engine), run, is_async=True, url=url)


def on_redis(url: str) -> Bank:
    client = redis.Redis.from_url(url)
    return RedisBank("redis", lambda: client, _run_on_redis, url=url)


def on_redis_async(url: str) -> Bank:
    async def run(pipeline: Any, sql: str, *values: Any) -> None:
        _run_on_redis(pipeline, sql, *values)

    @contextlib.asynccontextmanager
    async def connect() -> Any:
        async with redis.asyncio.Redis.from_url(url) as client:
            yield client

    return RedisBank("redis-async", connect, run, is_async=True, url=url)


def _run_on_redis(pipeline: Any, sql: str, *values: Any) -> None:
    """Queue it: nothing happens before the fence does."""
    amount = values[0]
    if sql != TAKE:
        pipeline.decrby("balance", amount if sql == FREEZE else -amount)
    pipeline.incrby("frozen", amount if sql == FREEZE else -amount)


def withdraw(bank: Bank, fence: str = "local-tx", client: ResourceClient | None = None, **options: Any) -> Any:
    """The action `withdraw` on the bank: a class whose instances serve it."""
    connection = None if fence == "off" else bank.opened

    @troth.tcc(name=f"withdraw-{bank.kind}", connection=connection, fence=fence, client=client, **options)
    class Blocking:
        def try_(self, ctx: troth.ActionContext, account: str, amount: int, fail: bool = False) -> dict[str, int]:
            _note(bank, "try", ctx)
            bank.run(ctx.connection, FREEZE, amount, amount, account)
            return _tried(bank, amount, fail)

        def confirm(self, ctx: troth.ActionContext) -> None:
            bank.run(ctx.connection, TAKE, ctx["amount"], ctx["account"])
            _note(bank, "confirm", ctx)

        def cancel(self, ctx: troth.ActionContext) -> None:
            bank.run(ctx.connection, THAW, ctx["amount"], ctx["amount"], ctx["account"])
            _note(bank, "cancel", ctx)

    @troth.tcc(name=f"withdraw-{bank.kind}", connection=connection, fence=fence, client=client, **options)
    class Awaited:
        async def try_(self, ctx: troth.ActionContext, account: str, amount: int, fail: bool = False) -> dict[str, int]:
            _note(bank, "try", ctx)
            await bank.run(ctx.connection, FREEZE, amount, amount, account)
            return _tried(bank, amount, fail)

        async def confirm(self, ctx: troth.ActionContext) -> None:
            await bank.run(ctx.connection, TAKE, ctx["amount"], ctx["account"])
            _note(bank, "confirm", ctx)

        async def cancel(self, ctx: troth.ActionContext) -> None:
            await bank.run(ctx.connection, THAW, ctx["amount"], ctx["amount"], ctx["account"])
            _note(bank, "cancel", ctx)

    return (Awaited if bank.is_async else Blocking)()


def _note(bank: Bank, what: str, ctx: troth.ActionContext) -> None:
    bank.log.append(what)
    bank.contexts.append(ctx)
    bank.reached(what)


def _tried(bank: Bank, amount: int, fail: bool) -> dict[str, int]:
    bank.reached("tried")
    if fail:
        raise ValueError("the try failed")
    return {"reserved": amount}


def play(action: Any, *steps: dict[str, Any], error: Exception | None = None) -> str:
    """A global transaction of these tries, then `error`; its xid."""
    blocking = not inspect.iscoroutinefunction(type(action).confirm)
    return _play(action, steps, error) if blocking else asyncio.run(_aplay(action, steps, error))


def _play(action: Any, steps: tuple[dict[str, Any], ...], error: Exception | None) -> str:
    with troth.transaction(name="play") as tx:
        for step in steps:
            action.try_("A", **step)
        if error is not None:
            raise error
    return tx.xid


async def _aplay(action: Any, steps: tuple[dict[str, Any], ...], error: Exception | None) -> str:
    async with troth.transaction(name="play") as tx:
        for step in steps:
            await action.try_("A", **step)
        if error is not None:
            raise error
    return tx.xid
