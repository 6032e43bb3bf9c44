"""Resource managers: services that work on a database inside global transactions, and carry out phase two."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from troth.client.errors import TrothError
from troth.client.links.registration import SPOKEN_VERSION
from troth.client.links.wire import Wire
from troth.testing.database import (
    BranchName,
    Change,
    Database,
    Dirty,
    GuardFound,
    LocalLockTimeout,
    Reservation,
    UndoRow,
)
from troth.testing.line import ADDRESS, SETTINGS, Line, MergingWire
from troth.testing.network import Process
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.frame import Frame
from troth.wire.seata.lock_wait import ANNOUNCEMENT, LockWaitRequest, LockWaitResponse
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchEndRequest,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    GlobalLockQueryRequest,
    GlobalLockQueryResponse,
    Message,
    RegisterRMRequest,
)

if TYPE_CHECKING:
    from troth.testing.world import World

OLD_VERSION = "1.4.2"
"""A client of this version is answered by 60 instead of 121."""
_LOCAL_LOCK_S = 0.8
_TRIES = 3
_CONFLICTS = (TransactionExceptionCode.LockKeyConflict, TransactionExceptionCode.LockKeyConflictFailFast)


class OpFailed(Exception):
    """The service could not do it. `reported`: the coordinator has acknowledged a report that phase one failed."""

    def __init__(self, reason: str, *, reported: bool = False) -> None:
        super().__init__(reason)
        self.reported = reported


class _Conflict(Exception):
    """Another global transaction holds a row."""


class ResourceManager:
    """One service. Its process may die and be followed by another; the database stays."""

    def __init__(
        self, world: World, name: str, application: str, database: Database, *, version: str, merges: bool
    ) -> None:
        self.name = name
        self.database = database
        self.tcc_resource = f"tcc-{name}"
        self._application = application
        self._version = version
        self._merges = merges
        self._world = world
        self._rng: random.Random = world.rng(name)
        self._waits_cold = not merges and world.rng(f"{name} waits").random() < 0.5
        self._lives = 0
        self._ip = f"10.0.1.{len(name) + sum(name.encode()) % 100}"
        self._process = Process(world.loop, name, self._ip)
        self._line: Line | None = None

    # ---- life ----

    @property
    def up(self) -> bool:
        return self._line is not None and not self._process.dead

    def start(self) -> None:
        """A process for this service, unless one runs."""
        if self.up:
            return
        self._lives += 1
        if self._lives > 1 and self._world.weather.strikes("successor on another host"):
            self._ip = f"10.0.2.{self._lives}"
        self._process = Process(self._world.loop, self.name, self._ip)
        resources = f"{self.database.name},{self.tcc_resource}"
        asks_for = ANNOUNCEMENT if self._waits_cold else None
        registration = RegisterRMRequest(self._version, self._application, "default_tx_group", asks_for, resources)
        self._line = self._world.line(self._process, lambda: registration, self._new_wire, SETTINGS.rm_timeout_s)
        self._world.note(self.name, f"starts at {self._ip}")

    def die(self) -> None:
        """kill -9: local transactions are rolled back by the database; a successor comes after a while."""
        if not self.up:
            return
        self._world.note(self.name, "is killed")
        self._world.network.kill(self._process)
        self._world.loop.call_later(self._rng.choice((0.05, 0.5, 2.0)), self.start)

    async def _die_here(self) -> None:
        self.die()
        await asyncio.get_running_loop().create_future()

    def _new_wire(self) -> Wire:
        if self._merges:
            return MergingWire(self._world.loop, self._take, self._world.weather)
        return Wire(ADDRESS, SETTINGS, self._world.loop, self._take)

    # ---- phase one ----

    def begin_work(self, work: str, xid: str, keys: tuple[str, ...]) -> asyncio.Task[object]:
        """Do `work` (at, tcc or look) for `xid` in this service; the task's result is an OpFailed, or None.

        Raises OpFailed if the service is down.
        """
        if not self.up:
            raise OpFailed(f"{self.name} is down")
        return self._process.spawn(self._do(work, xid, keys))

    async def _do(self, work: str, xid: str, keys: tuple[str, ...]) -> OpFailed | None:
        try:
            if work == "tcc":
                await self._reserve(xid)
            elif work == "look":
                await self._look(xid, keys)
            else:
                await self._change(xid, keys)
        except OpFailed as failure:
            return failure
        return None

    async def _change(self, xid: str, keys: tuple[str, ...]) -> None:
        """An AT branch: append to rows; a conflict is tried again from the start, as with autoCommit."""
        if self._waits_cold and self._rng.random() < 0.5:  # without a conflict before, as a straggler
            await self._wait_for_rows(xid, keys)
        for _ in range(_TRIES):
            owner = object()
            try:
                await self.database.lock(owner, keys, _LOCAL_LOCK_S)
                return await self._change_locked(xid, keys)
            except _Conflict:
                pass
            except LocalLockTimeout as error:
                raise OpFailed(str(error)) from error
            finally:
                self.database.release(owner)
            if self._waits_cold:
                await self._wait_for_rows(xid, keys)
            else:
                await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        raise OpFailed("lock conflict")

    async def _wait_for_rows(self, xid: str, keys: tuple[str, ...]) -> None:
        """A cold wait: without local row locks, until the rows are kept for `xid`."""
        answer = await self._ask(LockWaitRequest(xid, BranchType.AT, self.database.name, f"t:{','.join(keys)}"))
        if not isinstance(answer, LockWaitResponse) or answer.result_code is not ResultCode.Success:
            raise OpFailed(f"the rows cannot be had: {answer}")

    async def _change_locked(self, xid: str, keys: tuple[str, ...]) -> None:
        strikes = self._world.weather.strikes
        data = None if self._rng.random() < 0.5 else '{"autoCommit":false}'
        branch = (xid, await self._register(xid, BranchType.AT, self.database.name, f"t:{','.join(keys)}", data))
        if strikes("branch without local work"):
            return
        if strikes("phase one late"):
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 6.0)))
        if strikes("RM killed before the local commit"):
            await self._die_here()
        if strikes("local commit failed"):
            raise OpFailed("COMMIT failed", reported=await self._report_failed(branch, BranchType.AT))
        self._commit(branch, keys)
        if strikes("RM killed after the local commit"):
            await self._die_here()
        if strikes("local commit threw, but was applied"):
            raise OpFailed("COMMIT threw", reported=await self._report_failed(branch, BranchType.AT))
        if self._rng.random() < 0.2:
            await self._report(branch, BranchType.AT, BranchStatus.PhaseOne_Done)

    def _commit(self, branch: BranchName, keys: tuple[str, ...]) -> None:
        changes = []
        for key in keys:
            before = self.database.rows[key]
            token = self._world.records.new_token(branch[0])
            changes.append(Change(key, before, (*before, token)))
        try:
            self.database.commit_branch(branch, UndoRow(tuple(changes)))
        except GuardFound as error:
            raise OpFailed(str(error)) from error
        self._world.note(self.name, f"commits locally {branch[1]} of {branch[0]} on {','.join(keys)}")

    async def _reserve(self, xid: str) -> None:
        """A TCC branch: its try."""
        branch = (xid, await self._register(xid, BranchType.TCC, self.tcc_resource, None, '{"actionContext":{}}'))
        if self._world.weather.strikes("phase one late"):
            await asyncio.sleep(self._rng.choice((0.5, 2.0)))
        try:
            self.database.reserve(branch)
        except GuardFound as error:
            raise OpFailed(str(error)) from error
        self._world.records.reserved[branch] = self.database

    async def _look(self, xid: str, keys: tuple[str, ...]) -> None:
        """SELECT FOR UPDATE: read rows that no other transaction holds."""
        owner = object()
        query = GlobalLockQueryRequest(xid, BranchType.AT, self.database.name, f"t:{','.join(keys)}", None)
        try:
            await self.database.lock(owner, keys, _LOCAL_LOCK_S)
            answer = await self._ask(query)
            if not isinstance(answer, GlobalLockQueryResponse) or not answer.lockable:
                raise OpFailed("rows are held")
            for key in keys:
                self._world.read(xid, self.database, key, self.database.rows[key])
        except LocalLockTimeout as error:
            raise OpFailed(str(error)) from error
        finally:
            self.database.release(owner)

    async def _register(self, xid: str, kind: BranchType, resource: str, locks: str | None, data: str | None) -> int:
        if self._line is not None and self._world.weather.strikes("connection cut during a registration"):
            self._world.loop.call_later(self._rng.uniform(0.0, 0.25), self._line.cut)
        answer = await self._ask(BranchRegisterRequest(xid, kind, resource, locks, data))
        if isinstance(answer, BranchRegisterResponse) and answer.result_code is ResultCode.Success:
            return answer.branch_id
        if isinstance(answer, BranchRegisterResponse) and answer.transaction_exception_code in _CONFLICTS:
            raise _Conflict
        raise OpFailed(f"refused: {answer}")

    async def _report_failed(self, branch: BranchName, kind: BranchType) -> bool:
        try:
            return await self._report(branch, kind, BranchStatus.PhaseOne_Failed)
        except OpFailed:
            return False

    async def _report(self, branch: BranchName, kind: BranchType, status: BranchStatus) -> bool:
        xid, branch_id = branch
        answer = await self._ask(BranchReportRequest(xid, branch_id, status, self.database.name, None, kind))
        return isinstance(answer, BranchReportResponse) and answer.result_code is ResultCode.Success

    async def _ask(self, message: Message) -> Message:
        assert self._line is not None
        try:
            return await self._line.atell(message)
        except TrothError as error:
            raise OpFailed(f"{type(message).__name__}: {error}") from error

    def interject(self, message: Message) -> None:
        """Ask something beside all else that goes on, if there is a process to ask."""
        if self.up:
            self._process.spawn(self.ask(message))

    async def ask(self, message: Message) -> Message | None:
        """Any question over this service's connection; None if no answer came."""
        try:
            return await self._ask(message) if self.up else None
        except OpFailed:
            return None

    # ---- phase two ----

    def _take(self, wire: Wire, frame: Frame) -> None:
        if isinstance(frame.body, BranchCommitRequest | BranchRollbackRequest):
            self._process.spawn(self._serve(wire, frame, frame.body))

    async def _serve(self, wire: Wire, frame: Frame, request: BranchEndRequest) -> None:
        self._world.called(self.name, request)
        strikes = self._world.weather.strikes
        if strikes("phase two unanswered"):
            return
        if strikes("phase two slow"):
            await asyncio.sleep(self._rng.choice((0.3, 1.0, 3.0)))
        await asyncio.sleep(self._rng.uniform(0.0, 0.003))
        if strikes("phase two failed"):
            done: bool | None = False
        elif strikes("phase two refused"):
            done = None
        else:
            done = await self._carry_out(request)
        answer = _answer(request, done)
        wire.answer(frame, answer)
        wire.flush()
        if strikes("phase two answered twice"):
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))
            wire.answer(frame, answer)
            wire.flush()

    async def _carry_out(self, request: BranchEndRequest) -> bool | None:
        """True: done. False: try again. None: cannot be done."""
        branch = (request.xid or "", request.branch_id)
        if request.branch_type is BranchType.TCC:
            return self._settle(branch, confirm=isinstance(request, BranchCommitRequest))
        strikes = self._world.weather.strikes
        if isinstance(request, BranchCommitRequest):
            self.database.forget_undo(branch)
            if strikes("undo log deleted, RM killed"):
                await self._die_here()
            return True
        if strikes("RM killed before the undo"):
            await self._die_here()
        try:
            await self.database.roll_back(branch, _LOCAL_LOCK_S)
        except LocalLockTimeout:
            return False
        except Dirty as error:
            self._world.complain("isolation", f"the undo of a branch finds a stranger's value: {error}")
            return None
        self._world.note(self.name, f"has undone {branch[1]} of {branch[0]}")
        if strikes("RM killed after the undo"):
            await self._die_here()
        return True

    def _settle(self, branch: BranchName, *, confirm: bool) -> bool:
        database = self._world.records.reserved.get(branch, self.database)
        now = database.settle(branch, confirm=confirm)
        opposite = (Reservation.CANCELLED, Reservation.SUSPENDED) if confirm else (Reservation.CONFIRMED,)
        if now in opposite:
            self._world.complain("atomicity", f"TCC branch {branch} is {now.value}, now it is asked for the opposite")
        return True


def _answer(request: BranchEndRequest, done: bool | None) -> Message:
    """True: done, False: later, None: refused."""
    commit = isinstance(request, BranchCommitRequest)
    status = {
        (True, True): BranchStatus.PhaseTwo_Committed,
        (True, False): BranchStatus.PhaseTwo_CommitFailed_Retryable,
        (True, None): BranchStatus.PhaseTwo_CommitFailed_Unretryable,
        (False, True): BranchStatus.PhaseTwo_Rollbacked,
        (False, False): BranchStatus.PhaseTwo_RollbackFailed_Retryable,
        (False, None): BranchStatus.PhaseTwo_RollbackFailed_Unretryable,
    }[commit, done]
    kind = BranchCommitResponse if commit else BranchRollbackResponse
    return kind(
        result_code=ResultCode.Success if done else ResultCode.Failed,
        msg=None if done else "simulated",
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=status,
    )


__all__ = ["OLD_VERSION", "SPOKEN_VERSION", "OpFailed", "ResourceManager"]
