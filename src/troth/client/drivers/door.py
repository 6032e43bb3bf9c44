"""Doors: a user's own connection for one local transaction that a fence or a barrier shares, blocking or async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from troth.client.drivers.fence_kinds import Kind, arun_query, kind_of, required_kind, run_query
from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Query, Rows
from troth.client.modes.fence import LateTry

Connect = Callable[[], Any]
"""Gives a connection of its own for one transaction (it is closed afterwards), or a context manager of one: a pool's
`connection`, a SQLAlchemy `sessionmaker`, `functools.partial(sqlite3.connect, path)`. On Redis: the client, which stays
open."""

_MOVED: Final = "another has moved the branch's key at the same moment, so nothing of this was done"
_SQLALCHEMY_NAMES: Final = MappingProxyType({"mariadb": "mysql"})


class RedisQueue:
    """One MULTI … EXEC on Redis: `pipeline` is what the user's function queues on; it watches what it looked at."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.pipeline = client.pipeline(transaction=True)
        self._moved: type[Exception] = import_module("redis").WatchError

    def commit(self) -> None:
        """EXEC. Raises LateTry: another has moved a key, and nothing was done."""
        try:
            self.pipeline.execute()
        except self._moved as error:
            raise LateTry(_MOVED) from error

    async def acommit(self) -> None:
        """`commit` on an async client."""
        try:
            await self.pipeline.execute()
        except self._moved as error:
            raise LateTry(_MOVED) from error

    def reset(self) -> Any:
        """Forget what is queued, and watch nothing."""
        return self.pipeline.reset()


class Opened:
    """What both doors share. Who derives from it says in `_adopt` what shares the transaction."""

    def __init__(self, connect: Connect | None) -> None:
        self._connect = connect
        self._raw: Any = None
        self._around: Any = None
        self._kind: Kind | None = None
        self._queue: RedisQueue | None = None

    @property
    def connection(self) -> Any:
        """For the user's function; on Redis the pipeline that it queues on."""
        return self._raw if self._queue is None else self._queue.pipeline

    @property
    def kind(self) -> Kind:
        """Which sort of connection it is."""
        if self._kind is None:
            raise RuntimeError("the connection is not open")
        return self._kind

    def _adopt(self, connection: Any) -> RedisQueue | None:
        """Take what the user gave; on Redis the queue. Raises NotSupported for a database that is not known."""
        raise NotSupported(f"nothing is kept on a {type(connection).__qualname__} here.")

    def _given(self) -> Any:
        if self._connect is None:
            raise NotSupported("this action has no fence, so it has no connection.", "Give `connection=`.")
        return self._connect()

    def _take(self, connection: Any, *, is_async: bool) -> None:
        self._kind = required_kind(connection, is_async=is_async)
        self._raw = connection
        self._queue = self._adopt(connection)

    def commit(self) -> Any:
        """Commit; awaitable where the connection is."""
        if self._queue is not None:
            return self._queue.acommit() if self.kind.is_async else self._queue.commit()
        return self.kind.commit(self._raw)

    def rollback(self) -> Any:
        """Roll back; awaitable where the connection is.

        Raises BranchFailed: the action has ended the transaction by itself, so it is not known what is left.
        """
        if self._queue is not None:
            return self._queue.reset()
        if not self.kind.is_open(self._raw):
            raise BranchFailed("the action's transaction was ended before its time: leave commit and rollback to troth")
        return self.kind.rollback(self._raw)


class BlockingOpened(Opened):
    """A door to a blocking connection, and the executor of queries on it."""

    def open(self) -> None:
        """Get the connection."""
        given = self._given()
        try:
            if kind_of(given) is None and hasattr(given, "__enter__"):
                around, given = given, given.__enter__()
                self._around = around
            self._take(given, is_async=False)
        except BaseException:
            closing = given.close() if self._around is None and hasattr(given, "close") else None
            if inspect.iscoroutine(closing):
                closing.close()  # an async connection, which nobody awaits here
            self._leave()
            raise

    def query(self, step: Query) -> Rows:
        """Run a query on it."""
        return run_query(self.kind, self._raw, step)

    def close(self) -> None:
        """Give the connection back."""
        raw, self._raw = self._raw, None
        if self._queue is not None:
            self._queue.reset()
        if self._around is not None:
            self._leave()
        elif raw is not None and self._queue is None:
            raw.close()

    def _leave(self) -> None:
        around, self._around = self._around, None
        if around is not None:
            around.__exit__(None, None, None)


class AsyncOpened(Opened):
    """`BlockingOpened` for coroutines."""

    async def open(self) -> None:
        """Get the connection."""
        given = self._given()
        try:
            if inspect.isawaitable(given) and (kind_of(given) is not None or not hasattr(given, "__aenter__")):
                given = await given
            if kind_of(given) is None and hasattr(given, "__aenter__"):
                around, given = given, await given.__aenter__()
                self._around = around
            self._take(given, is_async=True)
        except BaseException:
            if self._around is None and hasattr(given, "close"):
                await _closed(given)
            await self._leave()
            raise

    async def query(self, step: Query) -> Rows:
        """Run a query on it."""
        return await arun_query(self.kind, self._raw, step)

    async def close(self) -> None:
        """Give the connection back."""
        raw, self._raw = self._raw, None
        if self._queue is not None:
            await self._queue.reset()
        if self._around is not None:
            await self._leave()
        elif raw is not None and self._queue is None:
            await _closed(raw)

    async def _leave(self) -> None:
        around, self._around = self._around, None
        if around is not None:
            await around.__aexit__(None, None, None)


async def _closed(connection: Any) -> None:
    """Say good-bye, and close. (asyncmy's `close` is the one that does not.)"""
    closing = getattr(connection, "ensure_closed", connection.close)()
    if inspect.isawaitable(closing):
        await closing


def dialect_name(kind: Kind, connection: Any) -> str:
    """The database behind it: `sqlite`, `postgresql`, `mysql`, or what else SQLAlchemy calls it."""
    if kind.name != "sqlalchemy":
        return kind.name
    bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
    name = str(bind.dialect.name)
    return _SQLALCHEMY_NAMES.get(name, name)
