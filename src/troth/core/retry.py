"""Back-off: arithmetic on attempt numbers, no clock and no chance."""

from __future__ import annotations

import msgspec

_SPREAD_STEPS = 16


class Backoff(msgspec.Struct, frozen=True):
    """Delays that double from `min_ms` to `max_ms` and stay there: a retry is never given up silently.

    >>> [Backoff(min_ms=100, max_ms=1000).delay_ms(n) for n in (1, 2, 3, 4, 5, 60)]
    [100, 200, 400, 800, 1000, 1000]
    """

    min_ms: int = 1_000
    max_ms: int = 60_000

    def delay_ms(self, attempt: int, spread: int = 0) -> int:
        """Milliseconds to wait after attempt number `attempt` (1, 2, …).

        `spread` (an id, say) takes off up to a quarter, so that what failed together does not return together.
        """
        doublings = min(max(attempt, 1) - 1, 40)
        delay = min(self.min_ms << doublings, self.max_ms)
        return delay - delay * (spread % _SPREAD_STEPS) // (4 * _SPREAD_STEPS)
