"""Transaction managers: programs that begin, work in and end global transactions, by the client's own talks."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from troth.client.drive import arun
from troth.client.errors import OutcomeUnknown, TransactionRolledBack, TrothError
from troth.client.links.registration import Identity
from troth.client.links.wire import Wire
from troth.client.outcome import Verdict, verdict
from troth.client.talks import begin, commit, rollback
from troth.testing.line import ADDRESS, SETTINGS, Line
from troth.testing.network import Process
from troth.testing.rm import OpFailed, ResourceManager
from troth.wire.seata.enums import BranchType, GlobalStatus
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    GlobalBeginRequest,
    GlobalCommitRequest,
    GlobalReportRequest,
    GlobalStatusRequest,
    Message,
)

if TYPE_CHECKING:
    from troth.testing.world import World

_WORKERS = 3
_CALL_S = 1.5
"""How long a call of a service may take."""
_WORKS = ("at", "at", "at", "tcc", "look")
_TIMEOUTS_MS = (800, 2_500, 2_500, 6_000)


class TransactionManager:
    """One program with several workers. Its process may die; its successor does what is left to do."""

    def __init__(self, world: World, name: str, purchases: int) -> None:
        self.name = name
        self.purchases_left = purchases
        self._world = world
        self._rng: random.Random = world.rng(name)
        self._process = Process(world.loop, name, "10.0.3.1")
        self._line: Line | None = None
        self._busy = 0

    # ---- life ----

    @property
    def up(self) -> bool:
        return self._line is not None and not self._process.dead

    @property
    def idle(self) -> bool:
        """Nothing is left to do, and nothing under way."""
        return self.up and self.purchases_left <= 0 and self._busy == 0

    def start(self) -> None:
        """A process with its workers, unless one runs."""
        if self.up:
            return
        self._process = Process(self._world.loop, self.name, "10.0.3.1")
        identity = Identity("shop", "default_tx_group")
        self._line = self._world.line(
            self._process,
            lambda: identity.as_tm(self._process.ip, self._world.now_ms()),
            lambda: Wire(ADDRESS, SETTINGS, self._world.loop, lambda wire, frame: None),
            SETTINGS.tm_timeout_s,
        )
        self._world.note(self.name, "starts")
        self._busy = 0
        for _ in range(_WORKERS):
            self._process.spawn(self._work())

    def die(self) -> None:
        """kill -9; a successor comes after a while."""
        if not self.up:
            return
        self._world.note(self.name, "is killed")
        self._world.network.kill(self._process)
        self._world.loop.call_later(self._rng.choice((0.1, 0.8)), self.start)

    async def _work(self) -> None:
        while self.purchases_left > 0:
            self.purchases_left -= 1
            self._busy += 1
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            await self._purchase()
            self._busy -= 1

    # ---- one transaction ----

    async def _purchase(self) -> None:
        if self._world.weather.strikes("poisoned value"):
            await self._poison()
        timeout_ms = self._rng.choice(_TIMEOUTS_MS)
        try:
            xid = await arun(begin("purchase", timeout_ms, SETTINGS, self._world.loop.time), self._teller())
        except TrothError:
            return
        self._world.note(self.name, f"has begun {xid}, timeout {timeout_ms} ms")
        deadline_s = self._world.loop.time() + timeout_ms / 1000
        failure = await self._call_services(xid, deadline_s)
        await self._end(xid, deadline_s, failure)

    async def _sleep_until_about(self, moment_s: float) -> None:
        """A little before or a little after."""
        await asyncio.sleep(max(0.0, moment_s - self._world.loop.time() + self._rng.uniform(-0.015, 0.015)))

    async def _call_services(self, xid: str, deadline_s: float) -> OpFailed | None:
        for _ in range(self._rng.randint(1, 4)):
            if self._world.weather.strikes("work at the timeout"):
                await self._sleep_until_about(deadline_s)
            work = self._rng.choice(_WORKS)
            service = self._rng.choice(self._world.services)
            keys = tuple(self._rng.sample(sorted(service.database.rows), self._rng.choice((1, 2, 2))))
            try:
                await self._call(service, work, xid, keys)
            except OpFailed as failure:
                self._world.note(self.name, f"{service.name} could not do {work} for {xid}: {failure}")
                return failure
            self._world.records.believe(xid, service, work)
        return None

    async def _call(self, service: ResourceManager, work: str, xid: str, keys: tuple[str, ...]) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.003))
        task = service.begin_work(work, xid, keys)
        if self._world.weather.strikes("rolled back with work under way"):
            await asyncio.sleep(self._rng.uniform(0.0, 0.02))
            raise OpFailed("the caller does not wait")
        await asyncio.wait([task], timeout=_CALL_S)
        if not task.done():
            raise OpFailed("no answer in time")
        if task.cancelled():
            raise OpFailed("the service died")
        failure = task.result()
        if isinstance(failure, OpFailed):
            raise failure

    async def _end(self, xid: str, deadline_s: float, failure: OpFailed | None) -> None:
        strikes = self._world.weather.strikes
        if strikes("transaction abandoned"):
            return
        if strikes("commit at the timeout"):
            await self._sleep_until_about(deadline_s)
        if strikes("participant voted"):
            await self.ask(GlobalReportRequest(xid, None, GlobalStatus.Rollbacking))
        if strikes("TM killed before the commit call"):
            await self._die_here()
        if strikes("TM killed after the commit call"):
            self._world.loop.call_later(self._rng.choice((0.0015, 0.01)), self.die)
        if strikes("request asked again"):
            self._process.spawn(self.ask(GlobalCommitRequest(xid) if failure is None else GlobalStatusRequest(xid)))
        if failure is None or (failure.reported and strikes("failed branch, commit asked")):
            await self._commit(xid)
        else:
            await self._roll_back(xid)

    async def _commit(self, xid: str) -> None:
        try:
            await arun(commit(xid, SETTINGS, self._world.loop.time), self._teller())
        except TransactionRolledBack:
            self._world.concluded(self.name, xid, committed=False)
        except OutcomeUnknown as error:
            self._world.note(self.name, f"does not know how {xid} ended: {error.reason}")
        except TrothError as error:
            self._world.note(self.name, f"commit of {xid}: {error}")
        else:
            self._world.concluded(self.name, xid, committed=True)

    async def _roll_back(self, xid: str) -> None:
        try:
            status = await arun(rollback(xid, SETTINGS, self._world.loop.time), self._teller())
        except TrothError as error:
            self._world.note(self.name, f"rollback of {xid}: {error}")
            return
        if verdict(status) in (Verdict.ROLLED_BACK, Verdict.COMMITTED):
            self._world.concluded(self.name, xid, committed=verdict(status) is Verdict.COMMITTED)

    async def _die_here(self) -> None:
        self.die()
        await asyncio.get_running_loop().create_future()

    async def _poison(self) -> None:
        """What no honest client sends: it must be refused or kept, and hurt nobody."""
        message = self._rng.choice(
            (
                GlobalBeginRequest(-5, "from the past"),
                GlobalBeginRequest(700, "a NUL \x00 and \N{SNOWMAN} in the name"),
                GlobalCommitRequest("x" * 300),
                GlobalStatusRequest("\x00:\N{SNOWMAN}:1"),
                BranchRegisterRequest(self._world.some_xid(), BranchType.AT, "jdbc:mysql://x", "a:1;b"),
                BranchRegisterRequest(self._world.some_xid(), BranchType.SAGA_ANNOTATION, "jdbc:mysql://x", "a:1"),
            )
        )
        await self.ask(message)

    # ---- asking ----

    def _teller(self) -> Line:
        assert self._line is not None
        return self._line

    def interject(self, message: Message) -> None:
        """Ask something beside all else that goes on, if there is a process to ask."""
        if self.up:
            self._process.spawn(self.ask(message))

    async def ask(self, message: Message) -> Message | None:
        """Any question over this program's connection; None if no answer came."""
        try:
            return await self._teller().atell(message) if self.up else None
        except TrothError:
            return None

    async def buy_everything(self) -> bool:
        """One transaction over every row of every service: works if nobody holds anything any more."""
        xid = ""
        try:
            xid = await arun(begin("last", 20_000, SETTINGS, self._world.loop.time), self._teller())
            for service in self._world.services:
                await self._call(service, "at", xid, tuple(service.database.rows))
                await self._call(service, "tcc", xid, ())
                self._world.records.believe(xid, service, "at")
                self._world.records.believe(xid, service, "tcc")
            await arun(commit(xid, SETTINGS, self._world.loop.time), self._teller())
        except (TrothError, OpFailed) as error:
            self._world.note(self.name, f"could not buy everything: {error!r}")
            await self._roll_back(xid)
            return False
        self._world.concluded(self.name, xid, committed=True)
        return True
