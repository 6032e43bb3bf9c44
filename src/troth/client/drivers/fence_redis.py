"""The fence of TCC on Redis: one key a branch, written in the same MULTI … EXEC as what the action queues.

The key is WATCHed before its state is looked at, so EXEC does nothing at all if another has moved it meanwhile. Keys of
branches that have ended expire by themselves.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from troth.client.drivers.door import RedisQueue
from troth.client.errors import BranchFailed
from troth.client.flow import Flow
from troth.client.modes.fence import (
    Branch,
    FenceStatus,
    Found,
    LateTry,
    found_at_cancel,
    found_at_confirm,
)

KEPT: Final = timedelta(days=7)
"""How long the key of an ended branch stays."""


def key_of(branch: Branch) -> str:
    """The branch's key."""
    return f"tcc_fence_log:{{{branch.xid}}}:{branch.branch_id}"


class RedisWork(RedisQueue):
    """The queue of one try, confirm or cancel; `state` is what the branch's key said."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.state: str | None = None
        self.now_ms = 0

    def begin(self, branch: Branch) -> None:
        """Watch the key and look at it."""
        self.pipeline.reset()
        self.pipeline.watch(key_of(branch))
        self._noted(self.pipeline.get(key_of(branch)), self.pipeline.time())
        self.pipeline.multi()

    async def abegin(self, branch: Branch) -> None:
        """`begin` on an async client."""
        await self.pipeline.reset()
        await self.pipeline.watch(key_of(branch))
        self._noted(await self.pipeline.get(key_of(branch)), await self.pipeline.time())
        self.pipeline.multi()

    def _noted(self, state: bytes | str | None, now: tuple[int, int]) -> None:
        self.state = state.decode() if isinstance(state, bytes) else state
        self.now_ms = now[0] * 1000 + now[1] // 1000


class RedisFence:
    """`troth.client.modes.fence.Fence` on one key. Nothing is asked here: `RedisWork.begin` has looked."""

    def __init__(self, work: RedisWork) -> None:
        self._work = work

    def tried(self, branch: Branch) -> Flow[None]:
        """See `Fence.tried`."""
        yield from self._first(branch, f"{FenceStatus.TRIED:d}")

    def trying(self, branch: Branch, deadline_ms: int) -> Flow[None]:
        """See `Fence.trying`."""
        yield from self._first(branch, f"{FenceStatus.TRYING:d} {self._work.now_ms + deadline_ms}")

    def ended(self, branch: Branch) -> Flow[None]:
        """See `Fence.ended`."""
        if self._status() is not FenceStatus.TRYING:
            raise LateTry(f"{branch} was cancelled at the deadline of its try, which ended later")
        self._queue(branch, f"{FenceStatus.TRIED:d}", ends=False)
        yield from ()

    def never_began(self, branch: Branch) -> Flow[None]:
        """See `Fence.never_began`."""
        if self._status() is not FenceStatus.TRYING:
            raise LateTry(f"{branch} was cancelled at the deadline of its try, which had not begun")
        self._queue(branch, f"{FenceStatus.SUSPENDED:d}", ends=True)
        yield from ()

    def confirm(self, branch: Branch) -> Flow[Found]:
        """See `Fence.confirm`."""
        yield from ()
        if self._status() is FenceStatus.TRIED:
            self._queue(branch, f"{FenceStatus.COMMITTED:d}", ends=True)
            return Found.RUN
        return found_at_confirm(branch, self._status())

    def cancel(self, branch: Branch) -> Flow[Found]:
        """See `Fence.cancel`."""
        yield from ()
        status = self._status()
        if status is None:
            self._queue(branch, f"{FenceStatus.SUSPENDED:d}", ends=True)
            return Found.DONE
        if status is FenceStatus.TRIED or (status is FenceStatus.TRYING and self._deadline_ms() <= self._work.now_ms):
            self._queue(branch, f"{FenceStatus.ROLLBACKED:d}", ends=True)
            return Found.RUN
        return found_at_cancel(branch, status)

    def clean_up(self, age_s: int) -> Flow[int]:
        """Nothing is left to do: the keys expire. Raises BranchFailed for an age that is not the keys' own."""
        if age_s != KEPT.total_seconds():
            raise BranchFailed(f"on Redis the fence's keys expire by themselves, {KEPT.days} days after the end")
        yield from ()
        return 0

    def _first(self, branch: Branch, state: str) -> Flow[None]:
        if self._work.state is not None:
            raise LateTry(f"{branch} was cancelled before its try came")
        self._queue(branch, state, ends=False)
        yield from ()

    def _status(self) -> FenceStatus | None:
        return None if self._work.state is None else FenceStatus(int(self._work.state.split()[0]))

    def _deadline_ms(self) -> int:
        return int((self._work.state or "0 0").split()[1])

    def _queue(self, branch: Branch, state: str, *, ends: bool) -> None:
        self._work.pipeline.set(key_of(branch), state, ex=KEPT if ends else None)
