"""A row that was locked in mode `add`: additions commute, so several transactions may hold it at once (at.md §6)."""

from __future__ import annotations

from troth.core.model import LockMode


class SharedHold:
    """The live branches that name a row of which at least one is, or was, an addition."""

    __slots__ = ("branches", "xid")

    def __init__(self) -> None:
        self.branches: dict[int, tuple[str, LockMode]] = {}
        self.xid = ""
        """The holder, if it is only one; empty for several."""

    @property
    def xids(self) -> list[str]:
        """Every holder, the first first."""
        return list(dict.fromkeys(xid for xid, _ in self.branches.values()))

    def others(self, xid: str, mode: LockMode) -> list[str]:
        """Who keeps `xid` from holding the row in `mode`: for an addition, only those who hold it exclusively."""
        found = {
            other: None
            for other, held in self.branches.values()
            if other != xid and (mode is LockMode.EXCLUSIVE or held is LockMode.EXCLUSIVE)
        }
        return list(found)

    def join(self, xid: str, branch_id: int, mode: LockMode) -> None:
        """One more branch names the row. An exclusive one stays exclusive, whatever it is named for again."""
        known = self.branches.get(branch_id)
        if known is None or known[1] is LockMode.ADD:
            self.branches[branch_id] = xid, mode
        self._note_sole_holder()

    def leave(self, branch_id: int) -> bool:
        """The branch is not live any more; False if it did not name the row."""
        left = self.branches.pop(branch_id, None) is not None
        self._note_sole_holder()
        return left

    def _note_sole_holder(self) -> None:
        xids = self.xids
        self.xid = xids[0] if len(xids) == 1 else ""
