"""What is due becomes a Due event. The only timer of the coordinator.

A wheel of coarse slots instead of a heap of moments: most due times are global timeouts that never come, and taking one
out again must cost nothing.
"""

from __future__ import annotations

import heapq


class Scheduler:
    """Remembers one due time per xid. Pure bookkeeping: the engine asks for `next_ms` and takes what is `due`."""

    def __init__(self, slot_ms: int = 10) -> None:
        self._slot_ms = slot_ms
        self._slots: dict[int, dict[str, None]] = {}
        self._order: list[int] = []
        self._slot_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def set(self, xid: str, due_ms: int | None) -> None:
        """`xid` is due at `due_ms` (rounded up to a slot), and at no other time; None: never."""
        slot = None if due_ms is None else -(-due_ms // self._slot_ms)
        old = self._slot_of.get(xid)
        if old == slot:
            return
        if old is not None:
            self._slots[old].pop(xid, None)
            del self._slot_of[xid]
        if slot is not None:
            members = self._slots.get(slot)
            if members is None:
                members = self._slots[slot] = {}
                heapq.heappush(self._order, slot)
            members[xid] = None
            self._slot_of[xid] = slot

    def next_ms(self) -> int | None:
        """When the earliest slot that holds anything is due."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * self._slot_ms if self._order else None

    def take_due(self, now_ms: int) -> list[str]:
        """Every xid whose time has come, earliest first; they are forgotten here."""
        found: list[str] = []
        while self._order and self._order[0] * self._slot_ms <= now_ms:
            members = self._slots.pop(heapq.heappop(self._order))
            found.extend(members)
            for xid in members:
                del self._slot_of[xid]
        return found
