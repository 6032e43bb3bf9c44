"""Bounded memory: when everything has ended and its memory has run out, the coordinator holds nothing of it."""

from __future__ import annotations

from troth.testing.checkers.checker import Checker
from troth.testing.coordinator import CONFIG

_ENDS_A_CLIENT = 2


class BoundedMemory(Checker):
    """Counts what is left in every table of the coordinator."""

    name = "bounded memory"

    async def finish(self) -> None:
        engine = self.world.engine
        if engine is None:
            self.complain("no coordinator runs")
            return
        remembered_ms = CONFIG.outcomes.memory + 2 * CONFIG.outcomes.sweep
        counts = {
            "open transactions": len(engine.transactions()),
            "waiting for the store": engine.under_way,
            "in the timetable": engine.scheduled,
            "outcomes, starved": engine.cell.leftovers(engine.clock.now_ms() - remembered_ms),
            "links' unanswered requests and calls": self.world.unsettled(),
            "connections too many": max(0, self.world.network.connections - _ENDS_A_CLIENT * len(self.world.clients)),
        }
        for what, count in counts.items():
            self.check(count == 0, f"{count} left: {what}")
