"""Doors: the fence's connection for one try, confirm or cancel, blocking or async; and the table `tcc_fence_log`."""

from __future__ import annotations

from typing import Any

from troth.client.drivers.door import AsyncOpened, BlockingOpened, Connect, Opened, RedisQueue, dialect_name
from troth.client.drivers.fence_redis import RedisFence, RedisWork
from troth.client.errors import NotSupported
from troth.client.modes.fence import DIALECTS, Branch, Fence, SqlFence

__all__ = ["AsyncDoor", "BlockingDoor", "Connect"]


class _Fenced(Opened):
    """What both doors share."""

    def __init__(self, connect: Connect | None) -> None:
        super().__init__(connect)
        self._work: RedisWork | None = None
        self._fence: Fence | None = None

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

    def _adopt(self, connection: Any) -> RedisQueue | None:
        if self.kind.name == "redis":
            self._work = RedisWork(connection)
            self._fence = RedisFence(self._work)
            return self._work
        name = dialect_name(self.kind, connection)
        if name not in DIALECTS:
            raise NotSupported(f"TCC has no fence on {name}.", f"It has one on {', '.join(DIALECTS)}, and on Redis.")
        self._fence = SqlFence(DIALECTS[name])
        return None


class BlockingDoor(_Fenced, BlockingOpened):
    """`troth.client.modes.tcc.Door`, and the executor of its queries."""

    def begin(self, branch: Branch) -> Any:
        """Begin a transaction for `branch`."""
        return self.kind.begin(self._raw) if self._work is None else self._work.begin(branch)


class AsyncDoor(_Fenced, AsyncOpened):
    """`BlockingDoor` for coroutines."""

    def begin(self, branch: Branch) -> Any:
        """Begin a transaction for `branch`; awaitable."""
        return self.kind.begin(self._raw) if self._work is None else self._work.abegin(branch)
