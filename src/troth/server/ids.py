"""64-bit ids for transactions and branches, laid out as Seata's (PROTOCOL §7).

One bit 0, ten bits node, 41 bits milliseconds since 2020-05-03, twelve bits sequence; time and sequence are one
counter that only ever goes up, so a clock that steps back cannot bring an id again.
"""

from __future__ import annotations

import re

from troth.server.clock import Clock

XID_FORM = re.compile(r".+:\d{1,5}:\d{12,20}|([\w-]+(\.[\w-]+)+|localhost|\[[0-9a-f:]+\]):\d{2,5}:\d{1,20}")
"""HOST:PORT:NUMBER; but a short number behind what is no host, such as order:2026:17, is anybody's name."""
SEATA_EPOCH_MS = 1_588_435_200_000
_SEQUENCE_BITS = 12
_COUNTER_BITS = 53
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1


class IdGenerator:
    """Gives out ids above every id that the store has seen (`last_id`); `node` is 0…1023."""

    def __init__(self, clock: Clock, node: int = 0) -> None:
        self._node = (node & 1023) << _COUNTER_BITS
        self._counter = max(clock.now_ms() - SEATA_EPOCH_MS, 1) << _SEQUENCE_BITS

    def use_node(self, node: int) -> None:
        """From now on ids carry `node`, 0…1023, as a shared store has given it to this cell."""
        self._node = (node & 1023) << _COUNTER_BITS

    def start_at(self, now_ms: int) -> None:
        """From now on ids carry the time `now_ms` or later: for a clock that was set after this was made."""
        self._counter = max(now_ms - SEATA_EPOCH_MS, 1) << _SEQUENCE_BITS

    def skip_past(self, last_id: int) -> None:
        """Never give out an id at or below `last_id`, which a store remembers from an earlier life."""
        self._counter = max(self._counter, last_id & _COUNTER_MASK)

    def next(self) -> int:
        self._counter += 1
        return self._node | (self._counter & _COUNTER_MASK)

    @property
    def last(self) -> int:
        return self._node | (self._counter & _COUNTER_MASK)
