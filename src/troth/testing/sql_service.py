"""A service whose AT is the real one: the client's own flows (`client/modes`) and SQL on a real SQLite database."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from troth.client.drivers.resource import Resource
from troth.client.drivers.running import arun
from troth.client.drivers.sqlite import SqliteExecutor
from troth.client.errors import TrothError
from troth.client.flow import Query, Rows
from troth.client.modes.at import LockRetry, PhaseOne, Situation
from troth.client.modes.at_write import Writer
from troth.client.sql.dialects.sqlite import SqliteDialect
from troth.testing.database import BranchName
from troth.testing.network import Process
from troth.testing.rm import OpFailed, ResourceManager
from troth.testing.sql_database import SqlDatabase, appended
from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchEndRequest,
    BranchEndResponse,
    BranchRollbackRequest,
    GlobalLockQueryRequest,
    GlobalLockQueryResponse,
)

if TYPE_CHECKING:
    from troth.testing.world import World

_UPDATE = "UPDATE item SET v = v || ? WHERE id = ?"
_BUSY_S = 0.8
_LOOK_AGAIN_S = 0.02
_RETRY = LockRetry(times=3, interval_s=0.05)
_FROZEN = (BranchStatus.PhaseTwo_CommitFailed_Unretryable, BranchStatus.PhaseTwo_RollbackFailed_Unretryable)
_DONE = (BranchStatus.PhaseTwo_Committed, BranchStatus.PhaseTwo_Rollbacked)


class _Killed(asyncio.CancelledError):
    """The process is dead: nothing that the flow still wants happens."""


class SqlService(ResourceManager):
    """`ResourceManager` with a real database. TCC is as there."""

    def __init__(self, world: World, name: str, application: str, database: SqlDatabase, *, version: str) -> None:
        super().__init__(world, name, application, database, version=version, merges=False)
        self.sql = database
        self._dialect = SqliteDialect()

    # ---- phase one ----

    async def _change(self, xid: str, keys: tuple[str, ...]) -> None:
        """One local transaction over all keys; one key alone is perhaps an autocommit statement."""
        alone = len(keys) == 1 and self._rng.random() < 0.5
        line = self._line
        assert line is not None
        with closing(self.sql.connect()) as raw:
            work = _LocalWork(self, self._process, raw)
            phase_one = PhaseOne(self._dialect, self.sql.name, Writer(self._dialect), _RETRY)
            try:
                for key in keys:
                    token = appended(self._world.records.new_token(xid))
                    now = Situation(xid, raw.in_transaction, implicit=not alone)
                    statement = self._dialect.parse(_UPDATE)
                    await arun(phase_one.write(now, statement, [(token, key)]), work, line)
                if not alone:
                    await arun(phase_one.commit(xid), work, line)
            except (TrothError, sqlite3.Error) as error:
                raise OpFailed(f"{type(error).__name__}: {error}") from error

    async def _look(self, xid: str, keys: tuple[str, ...]) -> None:
        """Read rows that no other global transaction holds, inside a local one that keeps writers out."""
        locks = f"item:{','.join(keys)}"
        with closing(self.sql.connect()) as raw:
            work = _LocalWork(self, self._process, raw)
            try:
                await work.query(Query(self._dialect.begin))
            except sqlite3.Error as error:
                raise OpFailed(str(error)) from error
            answer = await self._ask(GlobalLockQueryRequest(xid, BranchType.AT, self.sql.name, locks, None))
            if not isinstance(answer, GlobalLockQueryResponse) or not answer.lockable:
                raise OpFailed("rows are held")
            for key in keys:
                self._world.read(xid, self.sql, key, self.sql.rows[key])

    # ---- around every COMMIT of a branch ----

    async def before_undo_row(self) -> None:
        """The branch is registered."""
        if self._world.weather.strikes("phase one late"):
            await asyncio.sleep(self._rng.choice((0.5, 2.0, 6.0)))

    async def before_commit(self) -> None:
        """Undo row and changes are in the local transaction."""
        strikes = self._world.weather.strikes
        if strikes("RM killed before the local commit"):
            await self._die_here()
        if strikes("local commit failed"):
            raise sqlite3.OperationalError("disk I/O error")

    async def after_commit(self, branch: BranchName) -> None:
        """It is committed."""
        strikes = self._world.weather.strikes
        self._world.weather.count("branch committed by SQL")
        self._world.note(self.name, f"commits locally {branch[1]} of {branch[0]} by SQL")
        if strikes("RM killed after the local commit"):
            await self._die_here()
        if strikes("local commit threw, but was applied"):
            raise sqlite3.OperationalError("interrupted")

    # ---- phase two ----

    async def _carry_out(self, request: BranchEndRequest) -> bool | None:
        if request.branch_type is BranchType.TCC:
            return await super()._carry_out(request)
        strikes = self._world.weather.strikes
        resource = Resource(SqliteDialect, self.sql.opened)
        if isinstance(request, BranchCommitRequest):
            answer: BranchEndResponse = resource.commit([request])[0]
            if strikes("undo log deleted, RM killed"):
                await self._die_here()
        else:
            assert isinstance(request, BranchRollbackRequest)
            if strikes("RM killed before the undo"):
                await self._die_here()
            answer = resource.rollback(request)
            if answer.branch_status in _DONE:
                self._world.weather.count("branch undone by SQL")
                self._world.note(self.name, f"has undone {request.branch_id} of {request.xid} by SQL")
            if strikes("RM killed after the undo"):
                await self._die_here()
        if answer.branch_status in _FROZEN:
            self._world.complain("isolation", f"AT gives up on {request.branch_id} of {request.xid}: {answer.msg}")
            return None
        return answer.branch_status in _DONE


class _LocalWork:
    """`AsyncExecutor` on one connection of a service, with the faults around its COMMIT. A lock is waited for."""

    def __init__(self, service: SqlService, process: Process, raw: sqlite3.Connection) -> None:
        self._service = service
        self._process = process
        self._raw = raw
        self._executor = SqliteExecutor(raw)
        self._branch: BranchName | None = None

    async def query(self, step: Query) -> Rows:
        """Run it as soon as the file is free."""
        self._check_alive()
        if step.sql == SqliteDialect.insert_undo:
            await self._service.before_undo_row()
            branch_id, xid = tuple(step.parameters)[:2]
            self._branch = (str(xid), int(str(branch_id)))
        if step.sql == "ROLLBACK":
            self._branch = None
        if step.sql != "COMMIT" or self._branch is None:
            return await self._when_free(step)
        branch, self._branch = self._branch, None
        await self._service.before_commit()
        changes = self._service.sql.changes(self._raw)
        done = await self._when_free(step)
        self._service.sql.committed_locally(branch, changes)
        await self._service.after_commit(branch)
        return done

    def _check_alive(self) -> None:
        if self._process.dead:
            raise _Killed

    async def _when_free(self, step: Query) -> Rows:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _BUSY_S
        while True:
            self._check_alive()
            try:
                return self._executor.query(step)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() >= deadline_s:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_S)
