"""DTM's barrier on Redis: a key for each (gid, branch, op, barrier id), as DTM's clients name it.

Two ways. `RedisBarrier` shares one MULTI … EXEC with what the user's function queues; the keys are WATCHed before they
are looked at, so EXEC does nothing at all if another has moved one. `ADJUST` is a script that adds to one number.
On a cluster all keys of a call must be in one slot: put a hash tag into the gid and into the business keys.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from troth.client.drivers.door import RedisQueue
from troth.client.flow import Flow
from troth.client.modes.barrier import ORIGIN, Mark, Recorded

KEPT: Final = timedelta(days=7)
"""How long a key stays: longer than any transaction may be open."""
_DONE: Final = "op"
_REVERSED: Final = "rollback"
_OPS: Final = ("try", "action", "cancel", "compensate", "rollback", "msg")

ADJUST: Final = """
local own, origin, number = KEYS[1], KEYS[2], KEYS[3]
local amount, reverses, seconds, is_msg = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4] == '1'
local before = redis.call('GET', own)
if before == 'rollback' then return 'LATE' end
if not reverses and redis.call('EXISTS', unpack(KEYS, 4)) > 0 then return 'LATE' end
if before then return is_msg and 'DUPLICATE' or 'DONE' end
if reverses and not redis.call('GET', origin) then
  redis.call('SET', own, 'op', 'EX', seconds)
  redis.call('SET', origin, 'rollback', 'EX', seconds)
  return 'EMPTY'
end
local value = redis.call('GET', number)
if not value or value + amount < 0 then return 'FAILURE' end
redis.call('SET', own, 'op', 'EX', seconds)
redis.call('INCRBY', number, amount)
return 'RUN'
"""
"""Keys: this op's, that of what it reverses (or this op's again), the number, those of what reverses it (or a key that
is never there). Arguments: what is added, whether it reverses, seconds to keep, whether it is a message's."""


def key_of(mark: Mark, op: str, barrier_id: str) -> str:
    """DTM's name for the key."""
    return f"{mark.gid}-{mark.branch_id}-{op}-{barrier_id}"


def adjust_keys(mark: Mark, barrier_id: str, number: str) -> list[str]:
    """The keys of `ADJUST`."""
    reversals = [op for op, origin in ORIGIN.items() if origin == mark.op] or ["-"]
    ops = [mark.op, ORIGIN.get(mark.op, mark.op)]
    first = [key_of(mark, op, barrier_id) for op in ops]
    return [*first, number, *(key_of(mark, op, barrier_id) for op in reversals)]


class RedisBarrierQueue(RedisQueue):
    """The queue of one call; `states` is what the keys of its branch said."""

    def __init__(self, client: Any, kept: timedelta) -> None:
        super().__init__(client)
        self.kept = kept
        self.states: dict[str, str] = {}

    def begin(self, mark: Mark, barrier_id: str) -> None:
        """Watch the keys and look at them."""
        keys = [key_of(mark, op, barrier_id) for op in _watched(mark)]
        self.pipeline.reset()
        self.pipeline.watch(*keys)
        self._noted(_watched(mark), self.pipeline.mget(keys))
        self.pipeline.multi()

    async def abegin(self, mark: Mark, barrier_id: str) -> None:
        """`begin` on an async client."""
        keys = [key_of(mark, op, barrier_id) for op in _watched(mark)]
        await self.pipeline.reset()
        await self.pipeline.watch(*keys)
        self._noted(_watched(mark), await self.pipeline.mget(keys))
        self.pipeline.multi()

    def _noted(self, ops: tuple[str, ...], values: list[bytes | str | None]) -> None:
        texts = [value.decode() if isinstance(value, bytes) else value for value in values]
        self.states = {op: text for op, text in zip(ops, texts, strict=True) if text is not None}


def _watched(mark: Mark) -> tuple[str, ...]:
    return tuple(dict.fromkeys((mark.op, *_OPS)))


class RedisBarrier:
    """`troth.client.modes.barrier.Barrier` on keys. Nothing is asked here: the queue's `begin` has looked."""

    def __init__(self, queue: RedisBarrierQueue) -> None:
        self._queue = queue

    def insert(self, mark: Mark, op: str, barrier_id: str) -> Flow[bool]:
        """See `Barrier.insert`."""
        yield from ()
        if op in self._queue.states:
            return False
        state = _DONE if op == mark.op else _REVERSED
        self._queue.states[op] = state
        self._queue.pipeline.set(key_of(mark, op, barrier_id), state, ex=self._queue.kept)
        return True

    def recorded(self, mark: Mark, barrier_id: str) -> Flow[list[Recorded]]:
        """See `Barrier.recorded`."""
        yield from ()
        return [Recorded(op, op if state == _DONE else _REVERSED) for op, state in self._queue.states.items()]
