"""What comes over the world from time to time: kills, partitions, a bad disk, strangers, questions nobody expects."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from troth.core.due import rolls_back_in_time
from troth.core.events import (
    Answered,
    CallResult,
    Claim,
    Commit,
    Due,
    LockWait,
    Record,
    Register,
    Rollback,
    Status,
    Stop,
)
from troth.core.model import BranchType, Phase, RowKey, Verb
from troth.testing import coordinator as tc
from troth.testing.network import Process
from troth.wire.seata import enums
from troth.wire.seata.enums import BranchStatus, GlobalStatus
from troth.wire.seata.lock_wait import LockWaitRequest
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchReportRequest,
    GlobalCommitRequest,
    GlobalReportRequest,
    GlobalRollbackRequest,
    GlobalStatusRequest,
    Message,
)

if TYPE_CHECKING:
    from troth.testing.world import World

_LOOK_S = 0.15


class Stranger(asyncio.Protocol):
    """Connects and sends what is no protocol of ours."""

    def __init__(self, garbage: bytes) -> None:
        self._garbage = garbage

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(self._garbage)


class Nemesis:
    """Looks at the world every 150 ms of the storm and asks the weather for each of its faults."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng: random.Random = world.rng("nemesis")
        self._strangers = Process(world.loop, "stranger", "10.0.9.9")
        self._bystander = Process(world.loop, "bystander", "10.0.3.1")

    async def storm(self) -> None:
        """Until the storm is over."""
        end_s = self._world.loop.time() + self._world.options.storm_s
        while self._world.loop.time() < end_s:
            await asyncio.sleep(_LOOK_S)
            self._harm_processes()
            self._harm_disk()
            self._harm_network()
            self._interfere()

    def _harm_processes(self) -> None:
        world, strikes = self._world, self._world.weather.strikes
        if world.coordinator is not None:
            if strikes("coordinator killed"):
                world.coordinator.die("is killed")
            elif world.coordinator.engine.running and strikes("coordinator stopped politely"):
                self._bystander.spawn(world.coordinator.stop())
        leader = world.coordinator
        if leader is not None and world.shared is not None and not leader.process.paused and strikes("leader paused"):
            world.network.pause(leader.process, self._rng.choice((0.4, 1.2, 3.0, 6.0)))
        if strikes("RM killed"):
            self._rng.choice(world.services).die()
        if strikes("TM killed"):
            self._rng.choice(world.programs).die()
        if strikes("runner killed"):
            for runner in world.runners if self._rng.random() < 0.5 else [self._rng.choice(world.runners)]:
                runner.die()

    def _harm_disk(self) -> None:
        disk, strikes = self._world.disk, self._world.weather.strikes
        if disk.refusal is None:
            if strikes("store full"):
                disk.refusal = "the disk is full"
            elif strikes("store read-only"):
                disk.refusal = "the disk is read-only"
            if disk.refusal is not None:
                self._world.loop.call_later(self._rng.choice((0.2, 1.0)), self._heal_disk)
        if disk.delay_s == 0.0 and strikes("store slow"):
            disk.delay_s = self._rng.choice((0.02, 0.3, 1.0))
            self._world.loop.call_later(self._rng.choice((1.0, 3.0)), self._speed_up)

    def _heal_disk(self) -> None:
        self._world.disk.refusal = None

    def _speed_up(self) -> None:
        self._world.disk.delay_s = 0.0

    def _harm_network(self) -> None:
        world = self._world
        if world.weather.strikes("partition"):
            names = [client.name for client in world.clients]
            some = tuple(self._rng.sample(names, self._rng.choice((1, 2, len(names)))))
            world.note("!", f"cut off: {', '.join(some)}")
            world.network.separate(some, self._rng.choice((0.3, 1.5, 5.0)))
        if world.weather.strikes("garbage bytes"):
            garbage = bytes(self._rng.randrange(256) for _ in range(self._rng.choice((1, 20, 300))))
            start = b"\xda\xda\x01" if self._rng.random() < 0.5 else b""
            self._strangers.spawn(self._connect(Stranger(start + garbage)))

    async def _connect(self, stranger: Stranger) -> None:
        try:
            transport = await self._world.network.connect(self._strangers, stranger)
        except ConnectionRefusedError:
            return
        await asyncio.sleep(1.0)
        transport.abort()

    # ---- what nobody expects ----

    def _interfere(self) -> None:
        world = self._world
        if world.weather.strikes("late question"):
            self._rng.choice(world.clients).interject(self._question(self._some_xid()))
        engine = world.engine
        if engine is not None and engine.running and world.weather.strikes("stray event"):
            self._stray(engine, self._some_xid())
            self._stray_in_run(engine)
        if engine is not None and engine.running:
            if world.weather.strikes("request at the very timeout"):
                self._ask_at_the_timeout(engine)
            if world.weather.strikes("stopped by an operator"):
                self._stop(engine)

    def _some_xid(self) -> str:
        """Rather one that is between its decision and its end: they are few, and soon gone."""
        written, engine = self._world.ledger.open(), self._world.engine
        if engine is not None and engine.running and self._rng.random() < 0.5:
            held = engine.transactions()
            ending = [entry.xid for entry in written if entry.xid not in held]  # its end is on its way to the disk
            if ending:
                return self._rng.choice(ending)
        completing = [entry.xid for entry in written if entry.phase is not Phase.OPEN]
        if completing and self._rng.random() < 0.7:
            return self._rng.choice(completing)
        return self._world.some_xid()

    def _question(self, xid: str) -> Message:
        """Repeats and stragglers over anybody's connection; none of them does local work."""
        world, decided = self._world, self._decided(xid)
        choices: list[Message] = [
            GlobalStatusRequest(xid),
            GlobalReportRequest(xid, None, GlobalStatus.Begin),
            BranchRegisterRequest(xid, enums.BranchType.AT, world.databases[0].name, "t:1"),
            BranchRegisterRequest(xid, enums.BranchType.AT, world.databases[1].name, None),
            LockWaitRequest(xid, enums.BranchType.AT, world.databases[0].name, "t:1"),
            BranchReportRequest(xid, 4711, BranchStatus.PhaseOne_Done, world.databases[0].name),
        ]
        if decided:
            choices += [GlobalCommitRequest(xid), GlobalRollbackRequest(xid)] * 2
            choices += [GlobalReportRequest(xid, None, GlobalStatus.Rollbacking)] * 2
        elif self._rng.random() < 0.2:
            choices += [GlobalRollbackRequest(xid), GlobalReportRequest(xid, None, GlobalStatus.Rollbacking)]
        return self._rng.choice(choices)

    def _decided(self, xid: str) -> bool:
        return self._world.ledger.phase(xid) not in (None, Phase.OPEN)

    def _stray(self, engine: tc.ObservedEngine, xid: str) -> None:
        """Events that come at the wrong moment; none of them may change anything that they should not."""
        tx = engine.transactions().get(xid)
        result = CallResult.RETRY if tx is not None and tx.phase is not Phase.OPEN else CallResult.DONE
        branch_id = next(iter(tx.branches), 1) if tx is not None else 1
        engine.submit(
            self._rng.choice(
                (
                    Due(xid),
                    Answered(xid, branch_id, Verb.ROLLBACK, 0, result),
                    tc.retry(xid),
                    Status(xid, tc.Unheard()),
                    Record(xid, -1, engine.ids.next(), "stray", None, False, tc.Unheard()),
                    Claim(xid, -1, "stray", None, tc.Unheard()),
                )
            )
        )

    def _stray_in_run(self, engine: tc.ObservedEngine) -> None:
        """Somebody who never had the run speaks, or an operator is impatient."""
        has_runner = [tx.xid for tx in engine.transactions().values() if tx.course is not None and tx.course.runner]
        if not has_runner:
            return
        xid, ask = self._rng.choice(has_runner), tc.Unheard()
        engine.submit(
            self._rng.choice(
                (
                    Record(xid, -1, engine.ids.next(), "stray", None, False, ask),
                    Claim(xid, -1, "stray", None, ask),
                    Commit(xid, ask, attempt=-1),
                    Rollback(xid, ask, attempt=-1),
                    tc.retry(xid),
                )
            )
        )

    def _ask_at_the_timeout(self, engine: tc.ObservedEngine) -> None:
        """In the very moment between the timeout and its timer."""
        now_ms = engine.clock.now_ms()
        undecided = [tx for tx in engine.transactions().values() if tx.phase is Phase.OPEN and rolls_back_in_time(tx)]
        near = [tx for tx in undecided if tx.deadline_ms > now_ms]
        if near:
            tx = min(near, key=lambda tx: tx.deadline_ms)
            delay_s = (tx.deadline_ms - now_ms) / 1000
            self._world.loop.call_later(delay_s, self._ask_now, engine, tx.xid)

    def _ask_now(self, engine: tc.ObservedEngine, xid: str) -> None:
        if self._world.weather.calm:
            return
        resource, number, ask = self._world.databases[0].name, engine.ids.next(), tc.Unheard()
        engine.submit(
            self._rng.choice(
                (
                    LockWait(xid, number, resource, "t:1", (RowKey(resource, "t", "1"),), None, False, ask),
                    Record(xid, None, number, "stray", None, False, ask),
                    Claim(xid, 1, "stray", None, ask),
                    Register(xid, number, BranchType.TCC, "late", "", (), None, True, "", None, False, ask),
                    Commit(xid, ask),
                )
            )
        )

    def _stop(self, engine: tc.ObservedEngine) -> None:
        """Only what no database works in: what is stopped is not undone."""
        named = [tx for tx in engine.transactions().values() if tx.terms is not None]
        pure = [tx.xid for tx in named if tx.xid not in self._world.mixed]
        if self._rng.random() < 0.2:
            pure = [xid for xid, entry in self._world.ledger.entries.items() if entry.phase.ended]
        elif self._rng.random() < 0.5:
            pure = [tx.xid for tx in named if tx.xid in pure and tx.phase is not Phase.OPEN] or pure
        if pure:
            engine.submit(Stop(self._rng.choice(pure), tc.Unheard()))


def storm(world: World) -> asyncio.Task[None]:
    """Let it begin."""
    return world.loop.create_task(Nemesis(world).storm())
