"""After the last fault everything ends: transactions, undo rows, local locks; and the world works as before."""

from __future__ import annotations

from troth.core.model import Phase
from troth.testing.checkers.checker import Checker
from troth.testing.database import Reservation


class Liveness(Checker):
    """Looks at what is left."""

    name = "liveness"

    async def finish(self) -> None:
        for entry in self.world.ledger.entries.values():
            self.check(entry.phase.ended, f"{entry.xid} has not ended, it is {entry.phase.value}: {entry.branches}")
        for database in self.world.databases:
            left = {
                branch: undo
                for branch, undo in database.undo.items()
                if undo.changes and self.world.ledger.phase(branch[0]) in (Phase.COMMITTED, Phase.ROLLED_BACK)
            }
            self.check(not left, f"{database.name} keeps undo rows of ended transactions: {left}")
            self.check(database.rows_locked == 0, f"{database.name} has rows locked by local transactions")
            tried = [b for b, state in database.reservations.items() if state is Reservation.TRIED]
            self.check(not tried, f"{database.name} has reservations that were never settled: {tried}")
        self.check(self.world.works_again, "after the storm a transaction over every row cannot be committed")
