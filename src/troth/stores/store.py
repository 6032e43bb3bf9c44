"""The seam between the engine and whatever remembers.

A store is one ordered history of batches. A batch is packed deltas, not SQL, so that any engine can keep it.
The engine is the only caller and keeps one `append` in flight; every other method may run beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from troth.core.effects import Write
from troth.core.model import Global, Outcome, Phase
from troth.stores.lease import Incumbent, Tenure


class StoreError(Exception):
    """A store cannot do what it must; the text says what to do about it. The coordinator stops on it."""


class StoreInUse(StoreError):
    """Another process holds the store."""


class StoreCorrupt(StoreError):
    """What lies there is not a store of ours, or is damaged."""


class StoreTooNew(StoreError):
    """A newer troth has migrated this store; this one must not touch it."""


class StoreUnreachable(StoreError):
    """A shared store does not answer, or must not be used as it is now. It may be tried again."""


class BatchRefused(StoreError):
    """A batch is refused for what it says: nothing of it is written, and the store takes others."""


class LeaseLost(StoreError):
    """Somebody else leads the cell, or may by now: drop all memory, answer nothing, stand by."""


class Batch(msgspec.Struct, frozen=True):
    """All writes of one commit, in order. `number` counts up by one; `last_id` is the highest id given out so far."""

    number: int
    last_id: int
    writes: Sequence[Write]


class Hot(msgspec.Struct, frozen=True):
    """What a coordinator needs in memory to go on: every transaction that has not ended, and the counters."""

    transactions: Sequence[Global]
    last_batch: int
    last_id: int


class EndedPage(msgspec.Struct, frozen=True):
    """Ended transactions, newest end first; `cursor` is None on the last page."""

    outcomes: Sequence[Outcome]
    cursor: str | None


class KeyValue(msgspec.Struct, frozen=True):
    """A text that a user keeps in the store. `id` counts up; `version` is 1 when it is new, one more at each change."""

    id: int
    cat: str
    k: str
    v: str
    version: int
    create_ms: int
    update_ms: int


class Store(Protocol):
    """What the engine asks of a store. Every method raises StoreError with a sentence for the operator."""

    @property
    def url(self) -> str:
        """The URL that names this store in logs and errors (without secrets)."""
        ...

    @property
    def durable(self) -> bool:
        """False where a restart loses everything (memory)."""
        ...

    async def open(self) -> None:
        """Take sole possession, create or migrate the schema. Raises StoreInUse, StoreCorrupt, StoreTooNew."""
        ...

    async def load_hot(self) -> Hot:
        """Everything that has not ended, branches ordered by seq, memory-only fields empty.

        `next_seq` is one more than the highest seq of a kept branch. The caller may change what it gets.
        """
        ...

    async def append(self, batch: Batch) -> None:
        """Make the whole batch durable (fsync included) or raise; on return it survives a power loss.

        A batch that contradicts what is stored (a mark of what is not open, a second branch of the same id), or holds
        what cannot be stored, raises BatchRefused. That, or one out of order, leaves the store as it was. After any
        other failure it is unknown what the store holds: every later call raises until it is closed and opened again.
        """
        ...

    async def outcome(self, xid: str) -> Outcome | None:
        """How an ended transaction ended, or None if the store does not know it (or it has not ended)."""
        ...

    async def find_gid(self, gid: str) -> str | None:
        """The xid of the transaction, open or ended, whose user has named it `gid`; any text may be asked for.

        A gid is one transaction's until that is purged: a batch that opens a second one is refused.
        """
        ...

    async def kv_get(self, cat: str, key: str) -> KeyValue | None:
        """What is kept under `key` in the category `cat`."""
        ...

    async def kv_put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        """Keep `value`, durably, if what is there has `expected_version` (None: nothing is there); else False."""
        ...

    async def kv_delete(self, cat: str, key: str) -> bool:
        """Forget it, durably; False if nothing was there."""
        ...

    async def kv_scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        """At most `limit` of the category, by `id`, from the first behind `after` (0: from the start)."""
        ...

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        """A page of ended transactions; a cursor that is not one of ours raises ValueError."""
        ...

    async def purge(self, before_ms: int, limit: int) -> int:
        """Forget at most `limit` outcomes that ended before `before_ms`; returns how many went."""
        ...

    async def close(self) -> None:
        """Let go of the store. Closing twice is harmless."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that several processes reach, one of which leads at a time, by a lease (design/coordinator §3).

    Every batch is fenced by the leader's epoch, and holds the lease's row while it is written. A batch whose outcome
    is unknown, because the connection was lost, is looked for and sent again until the lease ends. What comes too
    late raises LeaseLost. `open` takes possession of a cell that was won before, or tries to win it, once.
    """

    @property
    def tenure(self) -> Tenure | None:
        """This process's turn; None before it is won."""
        ...

    async def stand_by(self) -> None:
        """Connect and check that the store may be used. Raises StoreUnreachable, StoreCorrupt, StoreTooNew."""
        ...

    async def try_lead(self) -> Incumbent | None:
        """Take the lease if nobody holds it: None, and `tenure` is set; else who does. Raises StoreUnreachable."""
        ...

    async def now_ms(self) -> int:
        """The store's clock, integer milliseconds since the Unix epoch."""
        ...

    async def renew(self) -> None:
        """Hold the lease for another term. Raises LeaseLost if it is somebody else's, StoreUnreachable."""
        ...
