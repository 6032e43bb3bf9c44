"""The real coordinator (core, engine, Seata door) as a simulated process that is killed, stopped and started again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from troth.core.cell import Cell
from troth.core.decision import Decision
from troth.core.effects import Call, Result, Settled
from troth.core.events import Event, Retry
from troth.core.retry import Backoff
from troth.core.rules import Rules
from troth.server.clock import Clock
from troth.server.config import Config
from troth.server.engine import Engine, Housekeeping
from troth.server.inbound.seata import SeataDoor
from troth.server.inbound.seata_link import SeataLink
from troth.server.inbound.seata_requests import Requests
from troth.server.leadership import Leadership, StoreClock
from troth.server.outbound.seata import SeataOutbound
from troth.server.outside import Fence, Outbound
from troth.server.sessions import Sessions
from troth.stores.store import Store, StoreError
from troth.testing.disk import Disk, DiskStore
from troth.testing.loop import VirtualLoop
from troth.testing.network import Process
from troth.testing.shared_disk import POLL_S, LeaseRow, SharedDiskStore

if TYPE_CHECKING:
    from troth.testing.world import World

EPOCH_MS = 1_800_000_000_000
CONFIG = Config.model_validate(
    {
        "retry": {"min": "100ms", "max": "800ms"},
        "lock": {"hot_wait": "300ms"},
        "answer": {"timeout": "1500ms", "first_round": "1s"},
        "outcomes": {"memory": "400ms", "sweep": "250ms"},
        "limits": {"unregistered_timeout": "2s", "idle": "4s"},
    }
)
_ADDRESS = "10.0.0.1:8091"


class SkewedClock:
    """Virtual time, on a wall clock that may have been set wrong before this life of the coordinator began."""

    def __init__(self, loop: VirtualLoop, skew_ms: int) -> None:
        self._loop = loop
        self._offset_ms = EPOCH_MS + skew_ms

    def not_before(self, floor_ms: int) -> None:
        """See `Clock`."""
        self._offset_ms += max(0, floor_ms - self.now_ms())

    def now_ms(self) -> int:
        """See `Clock`."""
        return self._offset_ms + round(self._loop.time() * 1000)


class ObservedCell(Cell):
    """The real cell; `seen` hears of every turn."""

    def __init__(self, rules: Rules, seen: Callable[[Event, Decision], None]) -> None:
        super().__init__(rules)
        self._seen = seen

    def decide(self, event: Event, now: int) -> Decision:
        decision = super().decide(event, now)
        self._seen(event, decision)
        return decision

    def leftovers(self, before_ms: int) -> int:
        """Entries in its books that should be gone: outcomes that ended before then, and who waits for a resource."""
        old = sum(outcome.end_ms < before_ms for outcome in self._outcomes.values())
        kept = [tx.terms for tx in self._transactions.values()] + [tx.terms for tx in self._outcomes.values()]
        unnamed = len(self._gids) - sum(terms is not None and bool(terms.gid) for terms in kept)
        return old + sum(map(len, self._starved.values())) + len(self._runs) + unnamed


class ObservedEngine(Engine):
    """The real engine on an observed cell; it can be killed."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        outbound: Outbound,
        clock: Clock,
        door: Callable[[], SeataDoor],
        settled: Callable[[Settled], None],
        failed: Callable[[BaseException], None],
        seen: Callable[[Event, Decision], None],
        fence: Fence | None = None,
    ) -> None:
        super().__init__(
            store,
            rules=rules,
            outbound=outbound,
            clock=clock,
            released=lambda: door().flush(),
            settled=settled,
            failed=failed,
            housekeeping=Housekeeping(keep_outcomes_ms=CONFIG.outcomes.keep, interval_ms=CONFIG.outcomes.sweep),
            fence=fence,
        )
        self.cell = ObservedCell(rules, seen)
        self._cell = self.cell

    def kill(self) -> None:
        """Nothing that was under way goes on."""
        self._running = False
        self._pending.clear()
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            task.cancel()

    @property
    def under_way(self) -> int:
        """What still waits for the store."""
        return len(self._pending) + len(self._lookups) + len(self._gid_lookups)

    @property
    def scheduled(self) -> int:
        """Transactions that are due at some time."""
        return len(self._scheduler)


class Unheard:
    """Asks the engine something and does not listen."""

    def answer(self, result: Result) -> None:
        """See `Waiter`."""

    def refuse(self, reason: str) -> None:
        """See `Waiter`."""


class Coordinator:
    """One life of the coordinator, built as `troth.server.app` builds it, on a simulated disk and network."""

    def __init__(self, world: World, process: Process, disk: Disk, shared: LeaseRow | None, skew_ms: int) -> None:
        """`shared`: the row of a store that another coordinator may lead; else the disk is this one's alone."""
        self.process = process
        self._world = world
        self.sessions = Sessions()
        self._outbound = SeataOutbound(self.sessions, lambda event: self.engine.submit(event))
        self.leadership: Leadership | None = None
        if shared is None:
            self.clock: SkewedClock | StoreClock = SkewedClock(world.loop, skew_ms)
            store: Store = DiskStore(disk, process)
        else:
            self.clock = StoreClock(world.loop.time)
            store = shared_store = SharedDiskStore(disk, shared, process)
            self.leadership = Leadership(
                shared_store, self.clock, poll_s=POLL_S, lost=lambda error: self.engine.step_down(error)
            )
        self.engine = ObservedEngine(
            store,
            _rules(),
            self,
            self.clock,
            lambda: self.door,
            lambda settled: None,
            self._failed,
            world.decided,
            self.leadership,
        )
        requests = Requests(
            CONFIG,
            self.sessions,
            submit=self.engine.submit,
            next_id=self.engine.ids.next,
            overloaded=lambda: None,
        )
        requests.address = _ADDRESS
        self.door = SeataDoor(
            CONFIG.limits,
            requests,
            self.sessions,
            submit=self.engine.submit,
            settle=self._outbound.settle,
            call_keep_s=10 * CONFIG.answer.timeout / 1000,
        )
        process.dies = lambda: self.die("is killed")

    # ---- life ----

    async def start(self) -> None:
        """Wait for our turn, load what is durable, then accept."""
        try:
            if self.leadership is not None:
                await self._take_turn(self.leadership)
            await self.engine.start()
        except StoreError as error:
            self.die(f"cannot start: {error}")
            return
        loop = self._world.loop
        self._world.network.listen(self.process, lambda: SeataLink(self.door, loop))
        self._world.started(self)

    async def _take_turn(self, leadership: Leadership) -> None:
        if not await leadership.stand_by(patient=True):
            await leadership.win()
        self.engine.ids.use_node(leadership.tenure.node)
        self.engine.ids.start_at(self.engine.clock.now_ms())

    def die(self, why: str) -> None:
        """kill -9; or it steps down, and drops everything."""
        if self.process.dead:
            return
        self._world.note(self.process.name, why)
        self._world.network.refuse(self.process)
        self._world.network.kill(self.process)
        self.engine.kill()
        if self.leadership is not None:
            self._world.loop.create_task(self.leadership.stop())
        self._world.coordinator_gone(self)

    async def stop(self) -> None:
        """SIGTERM: what was decided becomes durable and is answered."""
        if self.process.dead:
            return
        self._world.note(self.process.name, "stops")
        self._world.network.refuse(self.process)
        await self.engine.stop()
        for link in self.links():
            link.close()
        await asyncio.sleep(0.05)
        self.die("has stopped")

    def links(self) -> list[SeataLink]:
        """Open connections, oldest first."""
        return sorted(self.door._links, key=lambda link: link._channel.port)

    def call(self, call: Call) -> None:
        """Hand a call on; see `Outbound`."""
        self._world.note(
            self.process.name, f"calls {call.verb.value} {call.branch_id} of {call.xid}, try {call.attempt}"
        )
        if call.plan is None:
            self._outbound.call(call)
        else:
            self._world.steps.call(self, call)

    def _failed(self, error: BaseException) -> None:
        """As the real process: whatever the reason, it ends; but only the store may be one."""
        if not isinstance(error, StoreError) or "refused" in str(error) or "out of order" in str(error):
            self._world.complain("internal", f"the engine failed: {type(error).__name__}: {error}")
        self.die(f"fails: {error}")


def _rules() -> Rules:
    return Rules(
        hot_wait_ms=CONFIG.lock.hot_wait,
        cold_wait_ms=CONFIG.lock.cold_wait,
        answer_timeout_ms=CONFIG.answer.timeout,
        first_round_ms=CONFIG.answer.first_round,
        backoff=Backoff(min_ms=CONFIG.retry.min, max_ms=CONFIG.retry.max),
        outcome_memory_ms=CONFIG.outcomes.memory,
        outcome_memory_max=CONFIG.outcomes.memory_max,
    )


def skew_ms(rng: random.Random, strikes: Callable[[str], bool], before_ms: int, since_start_ms: int) -> int:
    """How wrong the wall clock is at a start of the coordinator, `before_ms` having been so in its life before.

    A step back may lead to the very moment at which that life began, `since_start_ms` ago.
    """
    if strikes("clock stepped back"):
        return before_ms - rng.choice((50, 3_000, 30_000, since_start_ms))
    if strikes("clock stepped forward"):
        return before_ms + rng.choice((50, 3_000, 30_000))
    return before_ms


def retry(xid: str) -> Retry:
    """An operator wants the next attempt now."""
    return Retry(xid, Unheard())
