"""Doors: the fence's connection for one try, confirm or cancel, blocking or async; and the table `tcc_fence_log`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from troth.client.drivers.fence_kinds import Kind, arun_query, kind_of, required_kind, run_query
from troth.client.drivers.fence_redis import RedisFence, RedisWork
from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Query, Rows
from troth.client.modes.fence import DIALECTS, Branch, Fence, SqlFence

Connect = Callable[[], Any]
"""Gives a connection of its own for one transaction (it is closed afterwards), or a context manager of one: a pool's
`connection`, a SQLAlchemy `sessionmaker`, `functools.partial(sqlite3.connect, path)`. On Redis: the client, which stays
open."""


class _Opened:
    """What both doors share."""

    def __init__(self, connect: Connect | None) -> None:
        self._connect = connect
        self._raw: Any = None
        self._around: Any = None
        self._kind: Kind | None = None
        self._work: RedisWork | None = None
        self._fence: Fence | None = None

    @property
    def connection(self) -> Any:
        """For the user's function; on Redis the pipeline that it queues on."""
        return self._raw if self._work is None else self._work.pipeline

    @property
    def fence(self) -> Fence:
        """What fences on this connection."""
        if self._fence is None:
            raise RuntimeError("the fence's connection is not open")
        return self._fence

    @property
    def sql(self) -> SqlFence:
        """`fence`, where it is a table. Raises NotSupported."""
        if not isinstance(self._fence, SqlFence):
            raise NotSupported("on Redis the fence has no table.")
        return self._fence

    @property
    def kind(self) -> Kind:
        """Which sort of connection it is."""
        if self._kind is None:
            raise RuntimeError("the fence's connection is not open")
        return self._kind

    def _given(self) -> Any:
        if self._connect is None:
            raise NotSupported("this action has no fence, so it has no connection.", "Give `connection=`.")
        return self._connect()

    def _take(self, connection: Any, *, is_async: bool) -> None:
        self._kind = required_kind(connection, is_async=is_async)
        self._raw = connection
        if self._kind.name == "redis":
            self._work = RedisWork(connection)
            self._fence = RedisFence(self._work)
        else:
            self._fence = SqlFence(DIALECTS[_dialect_name(self._kind, connection)])

    def commit(self) -> Any:
        """Commit; awaitable where the connection is."""
        if self._work is not None:
            return self._work.acommit() if self.kind.is_async else self._work.commit()
        return self.kind.commit(self._raw)

    def rollback(self) -> Any:
        """Roll back; awaitable where the connection is.

        Raises BranchFailed: the action has ended the fence's transaction by itself, so it is not known what is left.
        """
        if self._work is not None:
            return self._work.reset()
        if not self.kind.is_open(self._raw):
            raise BranchFailed("the action's transaction was ended before its time: leave commit and rollback to troth")
        return self.kind.rollback(self._raw)


class BlockingDoor(_Opened):
    """`troth.client.modes.tcc.Door`, and the executor of its queries."""

    def open(self) -> None:
        """Get the connection."""
        given = self._given()
        try:
            if kind_of(given) is None and hasattr(given, "__enter__"):
                self._around = given
                given = given.__enter__()
            self._take(given, is_async=False)
        except BaseException:
            if hasattr(given, "close"):
                given.close()
            raise

    def begin(self, branch: Branch) -> Any:
        """Begin a transaction for `branch`."""
        return self.kind.begin(self._raw) if self._work is None else self._work.begin(branch)

    def query(self, step: Query) -> Rows:
        """Run one of the fence's queries."""
        return run_query(self.kind, self._raw, step)

    def close(self) -> None:
        """Give the connection back."""
        raw, self._raw = self._raw, None
        around, self._around = self._around, None
        if self._work is not None:
            self._work.reset()
        if around is not None:
            around.__exit__(None, None, None)
        elif raw is not None and self._work is None:
            raw.close()


class AsyncDoor(_Opened):
    """`BlockingDoor` for coroutines."""

    async def open(self) -> None:
        """Get the connection."""
        given = self._given()
        if inspect.isawaitable(given):
            given = await given
        try:
            if kind_of(given) is None and hasattr(given, "__aenter__"):
                self._around = given
                given = await given.__aenter__()
            self._take(given, is_async=True)
        except BaseException:
            closing = given.close() if hasattr(given, "close") else None
            if inspect.isawaitable(closing):
                await closing
            raise

    def begin(self, branch: Branch) -> Any:
        """Begin a transaction for `branch`; awaitable."""
        return self.kind.begin(self._raw) if self._work is None else self._work.abegin(branch)

    async def query(self, step: Query) -> Rows:
        """Run one of the fence's queries."""
        return await arun_query(self.kind, self._raw, step)

    async def close(self) -> None:
        """Give the connection back."""
        raw, self._raw = self._raw, None
        around, self._around = self._around, None
        if self._work is not None:
            await self._work.reset()
        if around is not None:
            await around.__aexit__(None, None, None)
        elif raw is not None and self._work is None:
            await raw.close()


_SQLALCHEMY_NAMES: Final = MappingProxyType({"mariadb": "mysql"})


def _dialect_name(kind: Kind, connection: Any) -> str:
    if kind.name != "sqlalchemy":
        return kind.name
    bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
    name = str(bind.dialect.name)
    name = _SQLALCHEMY_NAMES.get(name, name)
    if name not in DIALECTS:
        raise NotSupported(f"TCC has no fence on {name}.", f"It has one on {', '.join(DIALECTS)}, and on Redis.")
    return name
