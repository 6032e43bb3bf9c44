"""Programs that begin sagas, messages, runs and mixes of all modes, through a door in their own process's reach.

The door is plain: an event goes to the engine, its answer comes back; either may be lost, and then the program asks
again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.model import BranchType, LockMode, OnTimeout, Phase, Plan, Terms
from troth.server.waiters import FutureReply
from troth.testing.network import Process
from troth.testing.rm import OpFailed
from troth.testing.steps import RUN

if TYPE_CHECKING:
    from troth.testing.coordinator import ObservedEngine
    from troth.testing.world import World

_ANSWER_S = 1.5
_WORKERS = 2
_KINDS = ("saga", "saga", "message", "run", "mix")
EventOf = Callable[["ObservedEngine", object], ev.Event]


class Runner:
    """One program. Its process may die; its successor does what is left to do, and takes over runs when it is asked."""

    def __init__(self, world: World, name: str, tasks: int) -> None:
        self.name = name
        self.tasks_left = tasks
        self._world = world
        self._rng: random.Random = world.rng(name)
        self._process = Process(world.loop, name, "10.0.4.1")
        self._process.dead = True
        self._busy = 0
        self._numbers = 0
        self._lives = 0

    # ---- life ----

    @property
    def up(self) -> bool:
        return not self._process.dead

    @property
    def idle(self) -> bool:
        """Nothing is left to do, and nothing under way."""
        return self.up and self.tasks_left <= 0 and self._busy == 0

    def start(self) -> None:
        """A process with its workers, unless one runs."""
        if self.up:
            return
        self._lives += 1
        self._process = Process(self._world.loop, self.name, "10.0.4.1")
        self._busy = 0
        self._world.note(self.name, "starts")
        self.serve()
        for _ in range(_WORKERS):
            self._process.spawn(self._work())

    def serve(self) -> None:
        """It has connected, and says what it serves."""
        if self.up:
            self.tell(lambda engine: engine.submit(ev.Served(RUN)))

    def die(self) -> None:
        """kill -9; a successor comes after a while."""
        if not self.up:
            return
        self._world.note(self.name, "is killed")
        gone = self._process
        self._world.network.kill(gone)
        self.tell(lambda engine: engine.submit(ev.ChannelClosed(gone)))
        self._world.loop.call_later(self._rng.choice((0.1, 0.8, 2.5)), self.start)

    def tell(self, what: Callable[[ObservedEngine], None]) -> None:
        """Do something with the engine that runs now, if one does."""
        engine = self._world.engine
        if engine is not None and engine.running:
            what(engine)

    @property
    def client_id(self) -> str:
        """This very process."""
        return f"{self.name}:10.0.4.1:{self._lives}"

    async def _work(self) -> None:
        while self.tasks_left > 0:
            self.tasks_left -= 1
            self._busy += 1
            await asyncio.sleep(self._rng.uniform(0.0, 4.0))
            await self._task()
            self._busy -= 1

    async def _task(self) -> None:
        kind = self._rng.choice(_KINDS)
        self._numbers += 1
        gid = f"{self.name}/{self._lives}/{self._numbers}" if self._rng.random() < 0.8 else ""
        await {"saga": self._saga, "message": self._message, "run": self._run, "mix": self._mix}[kind](gid)

    # ---- the door ----

    async def _say(self, event_of: EventOf) -> fx.Result | None:
        """Ask until an answer is heard; None: the coordinator was not to be reached for long."""
        strikes = self._world.weather.strikes
        for _ in range(8):
            coordinator = self._world.coordinator
            lost = coordinator is None or not coordinator.engine.running or coordinator.process.paused
            if lost or coordinator is None or strikes("request to the door lost"):
                await asyncio.sleep(0.3)
                continue
            reply = FutureReply()
            coordinator.engine.submit(event_of(coordinator.engine, reply))
            await asyncio.wait([reply.result], timeout=_ANSWER_S)
            if reply.result.done() and not strikes("answer of the door lost"):
                return reply.result.result()
        return None

    async def _begin(
        self, gid: str, terms: Terms, timeout_ms: int, drafts: list[tuple[BranchType, Plan]], *, submit: bool
    ) -> str | None:
        wait = self._rng.random() < 0.5

        def event(engine: ObservedEngine, reply: object) -> ev.Event:
            steps = tuple(
                ev.NewStep(engine.ids.next(), kind, "http://service" if plan.by_url else RUN, "{}", plan)
                for kind, plan in drafts
            )
            xid = f"10.0.0.1:8091:{engine.ids.next()}"
            return ev.Begin(
                *(xid, "trip", self.name, "g", timeout_ms, reply, terms, steps, submit, wait),
                *(self.client_id, self._process),
            )

        match await self._say(event):
            case fx.Begun(xid) | fx.Known(xid):
                return xid
            case fx.Stands(standing):
                self._conclude(standing.xid, standing.phase)
                return standing.xid
            case _:
                return None

    async def _end(self, xid: str, *, commit: bool, attempt: int | None = None) -> None:
        kind = ev.Commit if commit else ev.Rollback
        wait = self._rng.random() < 0.5
        answer = await self._say(lambda engine, reply: kind(xid, reply, wait, None, attempt))
        if isinstance(answer, fx.Stands):
            self._conclude(xid, answer.standing.phase)

    def _conclude(self, xid: str, phase: Phase) -> None:
        if phase.ended:
            self._world.concluded(self.name, xid, committed=phase is Phase.COMMITTED)

    async def _die_here(self) -> None:
        self.die()
        await asyncio.get_running_loop().create_future()

    # ---- sagas ----

    def _steps(self, most: int) -> list[tuple[BranchType, Plan]]:
        """In a line, side by side, or as a DAG."""
        count, shape = self._rng.randint(1, most), self._rng.choice(("line", "wide", "dag"))
        by_url = self._rng.random() < 0.6
        plans = []
        for place in range(1, count + 1):
            earlier = range(1, place)
            some = self._rng.sample(earlier, self._rng.randint(0, min(2, len(earlier))))
            after = {"line": [place - 1] if place > 1 else [], "wide": [], "dag": sorted(some)}[shape]
            plans.append((BranchType.SAGA, Plan(by_url, tuple(after))))
        return plans

    def _terms(self, gid: str, on_timeout: OnTimeout | None = None) -> Terms:
        return Terms(
            gid,
            "saga",
            b"detail",
            on_timeout or self._rng.choice((OnTimeout.ROLL_BACK, OnTimeout.GO_ON)),
            self._rng.choice((None, 150, 400)),
            self._rng.choice((0, 0, 2, 2)),
            self._rng.choice((None, 300)),
            self._rng.choice((0, 0, 0, 600)),
        )

    async def _saga(self, gid: str) -> None:
        steps = self._steps(4)
        await self._begin(gid, self._terms(gid), self._rng.choice((800, 4_000)), steps, submit=True)

    # ---- messages ----

    async def _message(self, gid: str) -> None:
        strikes, senders = self._world.weather.strikes, self._world.steps.senders
        drafts = [(BranchType.RUNNER, Plan(by_url=True)), (BranchType.MESSAGE, Plan(by_url=True))]
        if self._rng.random() < 0.5:
            drafts.append((BranchType.MESSAGE, Plan(True, (2,))))
        xid = await self._begin(gid, self._terms(gid, OnTimeout.ASK), 800, drafts, submit=False)
        if xid is None:
            return
        if strikes("sender slow"):
            await asyncio.sleep(self._rng.choice((0.5, 1.5, 3.0)))
        if self._rng.random() < 0.2:
            senders.setdefault(xid, False)
            await self._end(xid, commit=False)
            return
        if not senders.setdefault(xid, True):  # he was asked before, and that keeps him from committing now
            return
        if strikes("sender killed after its local commit"):
            await self._die_here()
        await self._end(xid, commit=True)

    # ---- runs ----

    async def _run(self, gid: str) -> None:
        terms = self._terms(gid, OnTimeout.GO_ON)
        drafts = [(BranchType.RUNNER, Plan(by_url=False))]
        xid = await self._begin(gid, terms, 60_000, drafts, submit=False)
        if xid is not None:
            await self._go_through(xid, 0, frozenset())

    async def _go_through(self, xid: str, attempt: int, done: frozenset[str]) -> None:
        """Do what is not done yet, tell of each step, and end it."""
        strikes, client_id = self._world.weather.strikes, self.client_id
        for key in ("book", "fly", "pay"):
            if key in done:
                continue
            if strikes("run slow"):
                await asyncio.sleep(self._rng.choice((0.5, 2.0)))
            if strikes("run killed before it tells"):
                await self._die_here()
            answer = await self._say(partial(_record, xid, attempt, key, f"{attempt}/{client_id}"))
            if not isinstance(answer, fx.Recorded):
                return
        await self._end(xid, commit=not xid.endswith("7"), attempt=attempt)

    def is_asked(self, xid: str, attempt: int) -> ev.CallResult:
        """Somebody is to run `xid`."""
        self._process.spawn(self._take_over(xid, attempt))
        return ev.CallResult.ONGOING

    async def _take_over(self, xid: str, attempt: int) -> None:
        claim = await self._say(lambda engine, reply: ev.Claim(xid, attempt, self.client_id, self._process, reply))
        if isinstance(claim, fx.Claimed):
            await self._go_through(xid, attempt, frozenset(key for key, _, _ in claim.records))

    # ---- all modes in one ----

    async def _mix(self, gid: str) -> None:
        drafts = [*self._steps(2), (BranchType.MESSAGE, Plan(by_url=True))]
        xid = await self._begin(gid, self._terms(gid, OnTimeout.ROLL_BACK), 2_500, drafts, submit=False)
        if xid is None:
            return
        self._world.mixed.add(xid)
        good = await self._work_in(xid) and await self._register_by_url(xid)
        if not self._world.weather.strikes("transaction abandoned"):
            await self._end(xid, commit=good)

    async def _work_in(self, xid: str) -> bool:
        for work in ("at", "tcc"):
            service = self._rng.choice(self._world.services)
            try:
                task = service.begin_work(work, xid, (self._rng.choice(sorted(service.database.rows)),))
            except OpFailed:
                return False
            await asyncio.wait([task], timeout=_ANSWER_S)
            if not task.done() or task.cancelled() or task.result() is not None:
                return False
            self._world.records.believe(xid, service, work)
        return True

    async def _register_by_url(self, xid: str) -> bool:
        for kind in (BranchType.TCC, BranchType.TCC, BranchType.XA):
            answer = await self._say(partial(_register, xid, kind))
            if not isinstance(answer, fx.Registered):
                return False
        return True


def _record(xid: str, attempt: int, key: str, data: str, engine: ObservedEngine, reply: object) -> ev.Event:
    return ev.Record(xid, attempt, engine.ids.next(), key, data, False, reply)


def _register(xid: str, kind: BranchType, engine: ObservedEngine, reply: object) -> ev.Event:
    number, plan = engine.ids.next(), Plan(by_url=True)
    return ev.Register(
        xid, number, kind, "http://service", "", (), "{}", True, "", None, False, reply, LockMode.EXCLUSIVE, plan
    )
