"""Doors: the connection that one call shares with DTM's barrier, blocking or async; and the table, made and checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from troth.client.drivers.barrier_redis import KEPT, RedisBarrier, RedisBarrierQueue
from troth.client.drivers.door import AsyncOpened, BlockingOpened, Connect, Opened, RedisQueue, dialect_name
from troth.client.drivers.fence_kinds import kind_of
from troth.client.drivers.fence_table import connection_to
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Flow
from troth.client.modes.barrier import DIALECTS, Barrier, Mark, SqlBarrier

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where and how long the barrier remembers. `table`: None means DTM's own name; `kept` is for Redis."""

    table: str | None = None
    kept: timedelta = KEPT


def connect_by(given: object) -> Connect:
    """What gives the connection: `given` is a connection (which stays open), a URL, or a callable that gives one.

    Raises NotSupported: none of these.
    """
    if isinstance(given, str):
        return connection_to(given)
    if kind_of(given) is not None:
        return partial(nullcontext, given)
    if callable(given):
        return given
    raise NotSupported(
        f"a barrier cannot live on a {type(given).__qualname__}.",
        "Give a connection, a URL, or a callable that gives a connection (`engine.connect`, `pool.connection`).",
    )


class _Barred(Opened):
    """What both doors share."""

    def __init__(self, connect: Connect, keeping: Keeping) -> None:
        super().__init__(connect)
        self._keeping = keeping
        self._keys: RedisBarrierQueue | None = None
        self._barrier: Barrier | None = None

    @property
    def barrier(self) -> Barrier:
        """What remembers on this connection."""
        if self._barrier is None:
            raise RuntimeError("the barrier's connection is not open")
        return self._barrier

    @property
    def sql(self) -> SqlBarrier:
        """`barrier`, where it is a table. Raises NotSupported."""
        if not isinstance(self._barrier, SqlBarrier):
            raise NotSupported("on Redis the barrier has no table.")
        return self._barrier

    def _adopt(self, connection: Any) -> RedisQueue | None:
        if self.kind.name == "redis":
            self._keys = RedisBarrierQueue(connection, self._keeping.kept)
            self._barrier = RedisBarrier(self._keys)
            return self._keys
        name = dialect_name(self.kind, connection)
        if name not in DIALECTS:
            raise NotSupported(f"there is no barrier on {name}.", f"There is on {', '.join(DIALECTS)}, and on Redis.")
        self._barrier = SqlBarrier(DIALECTS[name], self._keeping.table)
        return None

    def commit(self) -> Any:
        """Commit. Raises BranchFailed: the user's function has ended the transaction itself."""
        if self._keys is None and not self.kind.is_open(self._raw):
            raise BranchFailed("the barrier's transaction was ended by the work itself: leave commit to the barrier")
        return super().commit()

    def _check_free(self) -> None:
        if self.kind.is_open(self._raw):
            raise BranchFailed(
                "a transaction is open on this connection, and the barrier would commit it: end it before, or give a "
                "connection of its own"
            )


class BlockingDoor(_Barred, BlockingOpened):
    """`troth.client.modes.barrier.Door`, and the executor of its queries."""

    def begin(self, mark: Mark, barrier_id: str) -> Any:
        """Begin a transaction. Raises BranchFailed: one is open already."""
        if self._keys is not None:
            return self._keys.begin(mark, barrier_id)
        self._check_free()
        return self.kind.begin(self._raw)


class AsyncDoor(_Barred, AsyncOpened):
    """`BlockingDoor` for coroutines."""

    def begin(self, mark: Mark, barrier_id: str) -> Any:
        """Begin a transaction; awaitable where the connection is. Raises BranchFailed: one is open already."""
        if self._keys is not None:
            return self._keys.abegin(mark, barrier_id)
        self._check_free()
        return self.kind.begin(self._raw)


# --- the table ---


def init(url: str, table: str | None = None) -> None:
    """Make the table, if it is not there. Raises the driver's errors."""
    _run(url, table, lambda barrier: barrier.create(), keep=True)


def check(url: str, table: str | None = None) -> list[str]:
    """What is wrong with the table, in sentences; empty if nothing is. Raises the driver's errors."""
    return _run(url, table, lambda barrier: barrier.check(), keep=False)


def clean_up(url: str, older_than: timedelta, table: str | None = None) -> int:
    """Delete the rows that were written longer ago; how many. Raises the driver's errors."""
    return _run(url, table, lambda barrier: barrier.clean_up(older_than // timedelta(seconds=1)), keep=True)


def _run(url: str, table: str | None, flow: Callable[[SqlBarrier], Flow[R]], *, keep: bool) -> R:
    door = BlockingDoor(connection_to(url), Keeping(table))
    door.open()
    try:
        door.begin(Mark("msg", "troth", "00", "msg"), "01")
        result = run(flow(door.sql), door, NoCoordinator())
        if keep and door.kind.is_open(door.connection):  # MySQL commits by itself at DDL
            door.commit()
        elif door.kind.is_open(door.connection):
            door.rollback()
    finally:
        door.close()
    return result
