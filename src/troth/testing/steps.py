"""Services that the coordinator calls itself: steps, messages and senders by URL, and processes that run a transaction.

Each keeps what it has done under the branch's id, as a barrier would: an action that comes after its own compensation
does nothing, and what has run once is done however often it is asked for.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from troth.core.effects import Call
from troth.core.events import Answered, CallResult
from troth.core.model import BranchType, Verb

if TYPE_CHECKING:
    from troth.testing.coordinator import Coordinator
    from troth.testing.world import World

RUN = "saga:trip"
"""The resource of those who run transactions, and of steps that are reached over their channels."""


@dataclass(slots=True)
class Service:
    """What the service behind one branch has done."""

    kind: BranchType
    ran: bool = False
    refused: bool = False
    undone: bool = False
    delivered: int = 0
    confirmed: bool = False


class StepServices:
    """All of them."""

    def __init__(self, world: World) -> None:
        self.services: dict[tuple[str, int], Service] = {}
        self.senders: dict[str, bool] = {}
        """Of each message's transaction: did its sender commit locally. Who was asked before he did cannot any more."""
        self._world = world
        self._rng: random.Random = world.rng("steps")

    def call(self, coordinator: Coordinator, call: Call) -> None:
        """Carry it over; the answer comes back, or does not."""
        for checker in self._world.checkers:
            checker.step_is_called(call)
        self._world.loop.create_task(self._serve(coordinator, call))

    async def _serve(self, coordinator: Coordinator, call: Call) -> None:
        strikes = self._world.weather.strikes
        await asyncio.sleep(self._rng.uniform(0.0, 0.003))
        if strikes("step call lost"):
            return
        if strikes("step call late"):
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 4.0)))
        result = self._carry_out(call)
        if strikes("step answer lost"):
            return
        if strikes("step answer late"):
            await asyncio.sleep(self._rng.choice((0.3, 1.0, 3.0)))
        if not coordinator.process.dead and not coordinator.process.paused:
            answer = Answered(call.xid, call.branch_id, call.verb, call.attempt, result, result.value, "a service")
            coordinator.engine.submit(answer)

    def _carry_out(self, call: Call) -> CallResult:
        assert call.plan is not None
        if not call.plan.by_url and self._nobody_serves():
            return CallResult.NO_CHANNEL
        if call.verb is Verb.ASK:
            return self._ask(call)
        service = self.services.setdefault((call.xid, call.branch_id), Service(call.branch_type))
        self._world.note("service", f"{call.verb.value} {call.branch_id} of {call.xid}")
        if self._world.weather.strikes("step ongoing"):
            return CallResult.ONGOING
        if self._world.weather.strikes("step failed"):
            return CallResult.RETRY
        if call.branch_type is BranchType.SAGA and call.verb is Verb.ACTION:
            return self._act(service)
        if call.verb is Verb.ROLLBACK:
            service.undone = True
        elif call.branch_type is BranchType.MESSAGE:
            service.delivered += 1
        else:
            service.confirmed = True
        return CallResult.RETRY if self._world.weather.strikes("step failed, but ran") else CallResult.DONE

    def _nobody_serves(self) -> bool:
        if not any(runner.up for runner in self._world.runners):
            return True
        if not self._world.weather.strikes("step served by nobody"):
            return False
        self._world.loop.call_later(self._rng.choice((0.05, 0.5)), self._world.runners[0].serve)
        return True

    def _act(self, service: Service) -> CallResult:
        if service.undone or service.refused:
            return CallResult.REFUSED
        if not service.ran and self._world.weather.strikes("step refused"):
            service.refused = True
            return CallResult.REFUSED
        service.ran = True
        return CallResult.RETRY if self._world.weather.strikes("step failed, but ran") else CallResult.DONE

    def _ask(self, call: Call) -> CallResult:
        assert call.plan is not None
        if call.plan.by_url:
            if self._world.weather.strikes("step ongoing"):
                return CallResult.ONGOING
            return CallResult.DONE if self.senders.setdefault(call.xid, False) else CallResult.REFUSED
        if self._world.weather.strikes("step failed"):
            return CallResult.RETRY
        chosen = self._rng.choice([runner for runner in self._world.runners if runner.up])
        return chosen.is_asked(call.xid, call.attempt)
