"""Serializable writes, in the manner of Elle: rows are lists to append to, so each value tells its history.

Every append has read the row before it in the same branch. From the final lists follow the order of versions and, over
all rows, who must have come before whom; a cycle in that is an anomaly (G0/G1c/G2 of read-modify-writes). Reads under
the global lock must not see what was rolled back (G1a).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from troth.core.model import Phase
from troth.testing.checkers.checker import Checker
from troth.testing.database import BranchName, Database, UndoRow, Value

if TYPE_CHECKING:
    from troth.testing.world import World


class Isolation(Checker):
    """Collects reads and before images while the world runs; judges at the end."""

    name = "isolation"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reads: list[tuple[str, str, Value]] = []
        self._before: dict[str, Value] = {}

    def reads(self, xid: str, database: Database, key: str, value: Value) -> None:
        self._reads.append((xid, f"{database.name}.{key}", value))

    def commits_locally(self, database: Database, branch: BranchName, undo: UndoRow) -> None:
        for change in undo.changes:
            self._before[change.after[-1]] = change.before

    async def finish(self) -> None:
        owner = {token: xid for token, (xid, _) in self.world.records.tokens.items()}
        self._check_reads(owner)
        after: dict[str, set[str]] = {}
        for database in self.world.databases:
            for key, row in sorted(database.rows.items()):
                self._check_row(f"{database.name}.{key}", row, owner)
                for earlier, later in pairwise(owner.get(token, token) for token in row):
                    if earlier != later:
                        after.setdefault(earlier, set()).add(later)
        for circle in cycles(after):
            self.complain(f"these transactions each came before the other: {circle}")
        self.looked += sum(map(len, after.values()))

    def _check_reads(self, owner: dict[str, str]) -> None:
        for reader, row, value in self._reads:
            for token in value:
                writer = owner.get(token, "nobody")
                rolled_back = self.world.ledger.phase(writer) is Phase.ROLLED_BACK and writer != reader
                self.check(not rolled_back, f"{reader} read {token} in {row}, which was rolled back")

    def _check_row(self, name: str, row: Value, owner: dict[str, str]) -> None:
        self.check(len(set(row)) == len(row), f"{name} holds a change twice: {row}")
        for place, token in enumerate(row):
            before = self._before.get(token, ())
            self.check(
                before == row[:place],
                f"{name}: {token} of {owner.get(token)} was written upon {before}, it stands upon {row[:place]}",
            )


def cycles(after: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan, without recursion)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for root in sorted(after):
        work = [] if root in number else [(root, iter(sorted(after[root])))]
        while work:
            node, rest = work[-1]
            if node not in number:
                number[node] = lowest[node] = len(number)
                stack.append(node)
            for follower in rest:
                if follower not in number:
                    work.append((follower, iter(sorted(after.get(follower, ())))))
                    break
                if follower in stack:
                    lowest[node] = min(lowest[node], number[follower])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    found.append(_pop_to(stack, node))
    return [component for component in found if len(component) > 1]


def _pop_to(stack: list[str], node: str) -> list[str]:
    place = stack.index(node)
    component = stack[place:]
    del stack[place:]
    return component
