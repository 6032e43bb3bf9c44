"""One batch reduced to its net change, so that a store writes each row once.

Between different transactions order does not matter; within one it does, and that order is what is folded here:
of several marks the last one counts, a branch that is added and dropped leaves nothing, and the end of a transaction
swallows everything else that the batch says of it. What remains may be written kind by kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.stores.store import BatchRefused


@dataclass(frozen=True, slots=True)
class NetChange:
    """What a batch amounts to: drops first, then opens, adds, marks and ends, each kind in any order."""

    drops: list[DropBranch]
    opens: list[OpenGlobal]
    adds: list[AddBranch]
    branch_marks: list[MarkBranch]
    marks: list[MarkGlobal]
    ends: list[EndGlobal]


def fold(writes: Iterable[Write]) -> NetChange:
    """The net change of `writes`; raises BatchRefused where one of them contradicts an earlier one."""
    folding = _Folding()
    for write in writes:
        folding.take(write)
    return folding.net_change()


def merged(before: MarkBranch | None, mark: MarkBranch) -> MarkBranch:
    """The two marks of one branch as one: the later counts, but where it leaves the client as it was."""
    if mark.client_id is not None or before is None or before.client_id is None:
        return mark
    return replace(mark, client_id=before.client_id)


BranchKey = tuple[str, int]


class _Folding:
    def __init__(self) -> None:
        self.opens: dict[str, OpenGlobal] = {}
        self.gids: set[str] = set()
        self.marks: dict[str, MarkGlobal] = {}
        self.ends: dict[str, EndGlobal] = {}
        self.adds: dict[BranchKey, AddBranch] = {}
        self.branch_marks: dict[BranchKey, MarkBranch] = {}
        self.drops: dict[BranchKey, DropBranch | None] = {}

    def take(self, write: Write) -> None:
        if write.xid in self.ends:
            raise _contradiction(write, "has ended in this batch")
        match write:
            case OpenGlobal(xid=xid):
                if xid in self.opens:
                    raise _contradiction(write, "is open already")
                if write.terms is not None and write.terms.gid:
                    if write.terms.gid in self.gids:
                        raise _contradiction(write, "has a gid that is known already")
                    self.gids.add(write.terms.gid)
                self.opens[xid] = write
            case MarkGlobal(xid=xid):
                self.marks[xid] = write
            case EndGlobal(xid=xid):
                self.ends[xid] = write
            case _:
                self._take_branch(write, (write.xid, write.branch_id))

    def _take_branch(self, write: AddBranch | MarkBranch | DropBranch, key: BranchKey) -> None:
        if key in self.drops:
            raise _contradiction(write, f"has dropped branch {key[1]} in this batch")
        match write:
            case AddBranch():
                if key in self.adds:
                    raise _contradiction(write, f"has branch {key[1]} already")
                self.adds[key] = write
            case MarkBranch():
                self.branch_marks[key] = merged(self.branch_marks.get(key), write)
            case DropBranch():
                self.branch_marks.pop(key, None)
                added_here = self.adds.pop(key, None) is not None
                self.drops[key] = None if added_here else write

    def net_change(self) -> NetChange:
        ends = self.ends
        return NetChange(
            drops=[drop for drop in self.drops.values() if drop is not None and drop.xid not in ends],
            opens=list(self.opens.values()),
            adds=[add for add in self.adds.values() if add.xid not in ends],
            branch_marks=[mark for mark in self.branch_marks.values() if mark.xid not in ends],
            marks=[mark for mark in self.marks.values() if mark.xid not in ends],
            ends=list(ends.values()),
        )


def _contradiction(write: Write, reason: str) -> BatchRefused:
    return BatchRefused(f"{type(write).__name__} is refused: transaction {write.xid} {reason}")
