"""Who may hold which row, and who queues for it. State only: times and answers are the machine's.

Locks are derived from live branches, so orphans cannot exist: a row is held by one transaction through the set of its
live branches that name it, and is free when that set is empty (design/coordinator §4). Grants are all-or-nothing and
re-entrant by xid. Queues are first in, first out for a row that becomes free; a newcomer whose rows are all free
does not wait behind somebody who waits for other rows as well.

In mode `add` several transactions may hold a row at once (`core/shared.py`); nobody joins them while somebody queues to
have the row alone. A granted cold wait holds its rows as a branch does, under the number of the wait: a reservation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from troth.core.events import LockWait, Register
from troth.core.model import Branch, LockMode, RowKey
from troth.core.shared import SharedHold

Waiter = Register | LockWait
"""Who queues: a registration (hot: it holds local row locks) or a wait without any (cold)."""

_EXCLUSIVE, _ADD = LockMode.EXCLUSIVE, LockMode.ADD


class Hold:
    """One row's holder. Freed with the newest branch alone, an older one would find a stranger's value.

    `branches` are the live ones that name the row; the bare id while it is one, as nearly always: a set a row would
    take more memory than all else of an open transaction.
    """

    __slots__ = ("branches", "xid")

    def __init__(self, xid: str, branch_id: int) -> None:
        self.xid = xid
        self.branches: set[int] | int | None = branch_id

    def join(self, branch_id: int) -> None:
        """One more branch names the row."""
        if isinstance(self.branches, set):
            self.branches.add(branch_id)
        elif self.branches is None:
            self.branches = branch_id
        elif self.branches != branch_id:
            self.branches = {self.branches, branch_id}

    def leave(self, branch_id: int) -> bool:
        """The branch is not live any more; False if it did not name the row."""
        if isinstance(self.branches, set):
            if branch_id not in self.branches:
                return False
            self.branches.discard(branch_id)
        elif self.branches != branch_id:
            return False
        else:
            self.branches = None
        return True

    def shared(self) -> SharedHold:
        """The same, where a branch in mode `add` joins."""
        branches = self.branches if isinstance(self.branches, set) else {self.branches}
        hold = SharedHold()
        for branch_id in branches:
            if branch_id is not None:
                hold.join(self.xid, branch_id, _EXCLUSIVE)
        return hold


class LockTable:
    """Rows, holders and queues of one cell."""

    def __init__(self) -> None:
        self._holds: dict[RowKey, Hold | SharedHold] = {}
        self._shared = 0
        """How many of them are shared: while there is none, nothing about modes need be asked."""
        self._queues: dict[RowKey, dict[int, Waiter]] = {}
        self._waiting: dict[int, Waiter] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def holder(self, key: RowKey) -> str | None:
        """Who holds the row; of several that share it, the one who came first."""
        hold = self._holds.get(key)
        return None if hold is None else hold.xid if isinstance(hold, Hold) else hold.xids[0]

    def conflicts(
        self, xid: str, keys: Iterable[RowKey], mode: LockMode = _EXCLUSIVE, waiter_id: int | None = None
    ) -> list[tuple[RowKey, str]]:
        """Every wanted row that `xid` cannot have now, with a transaction that is in the way.

        `waiter_id`: who asks is in the queues already, under this number.
        """
        holds = self._holds
        if self._shared:
            blocked = ((key, self._in_the_way(xid, key, mode, waiter_id)) for key in keys)
            return [(key, others[0]) for key, others in blocked if others]
        return [(key, holds[key].xid) for key in keys if key in holds and holds[key].xid != xid]

    def blockers(self, waiter: Waiter) -> list[str]:
        """Every transaction that `waiter`, who queues, waits for; each once."""
        found: dict[str, None] = {}
        for key in waiter.keys:
            found.update(dict.fromkeys(self._in_the_way(waiter.xid, key, waiter.lock_mode, waiter.branch_id)))
        return list(found)

    def _in_the_way(self, xid: str, key: RowKey, mode: LockMode, waiter_id: int | None) -> list[str]:
        hold = self._holds.get(key)
        if hold is None:
            return []
        if isinstance(hold, Hold):
            return [] if hold.xid == xid else [hold.xid]
        others = hold.others(xid, mode)
        if others or mode is not _ADD or xid in hold.xids:
            return others
        return self._queueing_to_be_alone(xid, key, waiter_id)

    def _queueing_to_be_alone(self, xid: str, key: RowKey, waiter_id: int | None) -> list[str]:
        """Who asked before to have the row alone: he would starve if ever more joined those who share it."""
        found = []
        for number, waiter in self._queues.get(key, {}).items():
            if number == waiter_id:
                break
            if waiter.lock_mode is _EXCLUSIVE and waiter.xid != xid:
                found.append(waiter.xid)
        return found

    def take(self, xid: str, branch_id: int, keys: Iterable[RowKey], mode: LockMode = _EXCLUSIVE) -> None:
        """Hold all rows for a branch; the caller has seen that there is no conflict."""
        if self._shared or mode is _ADD:
            self._share(xid, branch_id, keys, mode)
            return
        holds = self._holds
        for key in keys:
            hold = holds.get(key)
            if hold is None:
                holds[key] = Hold(xid, branch_id)
            else:
                hold.join(branch_id)  # type: ignore[call-arg,arg-type]  # none is shared

    def _share(self, xid: str, branch_id: int, keys: Iterable[RowKey], mode: LockMode) -> None:
        for key in keys:
            hold = self._holds.get(key)
            if mode is _ADD and not isinstance(hold, SharedHold):
                hold = self._holds[key] = SharedHold() if hold is None else hold.shared()
                self._shared += 1
            if hold is None:
                self._holds[key] = Hold(xid, branch_id)
            elif isinstance(hold, SharedHold):
                hold.join(xid, branch_id, mode)
            else:
                hold.join(branch_id)

    def free(self, gone: Branch | LockWait) -> list[RowKey]:
        """The branch is not live any more, or the reservation has ended; returns the rows that others may have now."""
        freed = []
        holds = self._holds
        branch_id = gone.branch_id
        for key in gone.keys:
            hold = holds.get(key)
            if hold is None or not hold.leave(branch_id):
                continue
            if not hold.branches:
                del holds[key]
                freed.append(key)
                if self._shared and isinstance(hold, SharedHold):
                    self._shared -= 1
            elif isinstance(hold, SharedHold):
                freed.append(key)
        return freed

    def queue(self, waiter: Waiter) -> None:
        """Let it wait for all its rows."""
        self._waiting[waiter.branch_id] = waiter
        for key in waiter.keys:
            self._queues.setdefault(key, {})[waiter.branch_id] = waiter

    def unqueue(self, waiter: Waiter) -> bool:
        """Take it out of every queue; False if it was in none."""
        if self._waiting.pop(waiter.branch_id, None) is None:
            return False
        for key in waiter.keys:
            queue = self._queues[key]
            del queue[waiter.branch_id]
            if not queue:
                del self._queues[key]
        return True

    def waiting_for(self, keys: Iterable[RowKey]) -> list[Waiter]:
        """Whoever queues for one of these rows, each once, longest wait first within a row."""
        found: dict[int, Waiter] = {}
        for key in keys:
            found.update(self._queues.get(key, {}))
        return list(found.values())

    def waiting_on(self, channel: object) -> list[Waiter]:
        """Those that came over this channel and still wait."""
        return [waiter for waiter in self._waiting.values() if waiter.channel is channel]

    def grantable(self, freed: Iterable[RowKey]) -> Iterator[Waiter]:
        """Take rows for those in the queues of `freed` who now can have all they want, first come first served."""
        for waiter in self.waiting_for(freed):
            if not self.conflicts(waiter.xid, waiter.keys, waiter.lock_mode, waiter.branch_id):
                self.unqueue(waiter)
                self.take(waiter.xid, waiter.branch_id, waiter.keys, waiter.lock_mode)
                yield waiter

    def rows(self) -> Iterator[tuple[RowKey, str]]:
        """Every held row with its holder; a shared one once for each of them."""
        for key, hold in self._holds.items():
            if isinstance(hold, Hold):
                yield key, hold.xid
            else:
                yield from ((key, xid) for xid in hold.xids)

    def is_queued(self, waiter: Waiter) -> bool:
        """True while it waits."""
        return waiter.branch_id in self._waiting

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)
