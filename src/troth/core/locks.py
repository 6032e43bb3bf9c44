"""Who may hold which row, and who queues for it. State only: times and answers are the machine's.

Locks are derived from live branches, so orphans cannot exist: a row is held by one transaction through the set of its
live branches that name it, and is free when that set is empty (design/coordinator §4). Grants are all-or-nothing and
re-entrant by xid. Queues are first in, first out for a row that becomes free; a newcomer whose rows are all free
does not wait behind somebody who waits for other rows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from troth.core.events import Register
from troth.core.model import Branch, RowKey


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


class LockTable:
    """Rows, holders and queues of one cell."""

    def __init__(self) -> None:
        self._holds: dict[RowKey, Hold] = {}
        self._queues: dict[RowKey, dict[int, Register]] = {}
        self._waiting: dict[int, Register] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def holder(self, key: RowKey) -> str | None:
        hold = self._holds.get(key)
        return None if hold is None else hold.xid

    def conflicts(self, xid: str, keys: Iterable[RowKey]) -> list[tuple[RowKey, str]]:
        """Every wanted row that another transaction holds, with that transaction."""
        holds = self._holds
        return [(key, holds[key].xid) for key in keys if key in holds and holds[key].xid != xid]

    def take(self, xid: str, branch_id: int, keys: Iterable[RowKey]) -> None:
        """Hold all rows for a branch; the caller has seen that there is no conflict."""
        holds = self._holds
        for key in keys:
            hold = holds.get(key)
            if hold is None:
                holds[key] = Hold(xid, branch_id)
            else:
                hold.join(branch_id)

    def free(self, branch: Branch) -> list[RowKey]:
        """The branch is not live any more; returns the rows that nobody holds now."""
        freed = []
        for key in branch.keys:
            hold = self._holds.get(key)
            if hold is None or not hold.leave(branch.branch_id):
                continue
            if not hold.branches:
                del self._holds[key]
                freed.append(key)
        return freed

    def queue(self, register: Register) -> None:
        self._waiting[register.branch_id] = register
        for key in register.keys:
            self._queues.setdefault(key, {})[register.branch_id] = register

    def unqueue(self, register: Register) -> bool:
        """Take a registration out of every queue; False if it was in none."""
        if self._waiting.pop(register.branch_id, None) is None:
            return False
        for key in register.keys:
            queue = self._queues[key]
            del queue[register.branch_id]
            if not queue:
                del self._queues[key]
        return True

    def waiting_for(self, keys: Iterable[RowKey]) -> list[Register]:
        """Whoever queues for one of these rows, each once, longest wait first within a row."""
        found: dict[int, Register] = {}
        for key in keys:
            found.update(self._queues.get(key, {}))
        return list(found.values())

    def waiting_on(self, channel: object) -> list[Register]:
        """The registrations that came over this channel and still wait."""
        return [register for register in self._waiting.values() if register.channel is channel]

    def grantable(self, freed: Iterable[RowKey]) -> Iterator[Register]:
        """Take rows for those in the queues of `freed` who now can have all they want, first come first served."""
        for register in self.waiting_for(freed):
            if not self.conflicts(register.xid, register.keys):
                self.unqueue(register)
                self.take(register.xid, register.branch_id, register.keys)
                yield register

    def rows(self) -> Iterator[tuple[RowKey, str]]:
        """Every held row with its holder."""
        for key, hold in self._holds.items():
            yield key, hold.xid

    @property
    def queued(self) -> int:
        return len(self._waiting)
