"""Locks are derived from live branches and short reservations: none without one, none missing, none left at the end."""

from __future__ import annotations

from troth.core.model import Phase
from troth.testing.checkers.checker import Checker
from troth.testing.coordinator import Coordinator


class NoOrphanLock(Checker):
    """Derives the locks from the open transactions whenever a batch is durable, and compares."""

    name = "no orphan lock"

    def batch_is_durable(self, coordinator: Coordinator) -> None:
        open_or_undone = [tx for tx in coordinator.engine.transactions().values() if tx.phase is not Phase.COMMITTING]
        live = {key: tx.xid for tx in open_or_undone for branch in tx.branches.values() for key in branch.keys}
        live |= {key: tx.xid for tx in open_or_undone for kept in tx.reservations.values() for key in kept.wait.keys}
        held = dict(coordinator.engine.cell.locks.rows())
        # every batch asks this: the sentence is made only where it is needed
        self.check(held == live, "" if held == live else f"held {held}, live branches name {live}")

    def starts(self, coordinator: Coordinator) -> None:
        self.batch_is_durable(coordinator)

    async def finish(self) -> None:
        engine = self.world.engine
        self.check(engine is not None and engine.locks_held == 0, "locks are left although everything has ended")
        self.check(engine is not None and engine.locks_queued == 0, "somebody still queues for a lock")
