"""AT, phase one: the local transactions of one connection (at.md §1–§3): images → locks → undo row + COMMIT.

`PhaseOne` is the state of one connection and gives flows; it never waits for a row lock while the local transaction is
open, since on SQLite that would lock the whole file. Locks are asked for when the local transaction commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from troth.client.errors import BranchFailed, FloorReached, LockConflict, NotSupported
from troth.client.flow import Flow, Invoke, Parameters, Pause, postponed, query, tell
from troth.client.isolation import CHECK_ONLY
from troth.client.modes.additive import reserve
from troth.client.modes.additive_shares import Share, shares
from troth.client.modes.at_hot import HotStatements
from troth.client.modes.at_wait import CONFLICTS, Denied, lock_conflict, wait_outside
from troth.client.modes.at_write import LocalTransaction, Writer
from troth.client.sql.dialects.base import Dialect, Fault
from troth.client.sql.image import Outcome
from troth.client.sql.lockkeys import lock_text
from troth.client.sql.statement import Statement, Verb
from troth.client.sql.undo import NORMAL, BranchUndoLog
from troth.client.sql.undo_codec import COMPRESSOR, SERIALIZER, context_text, encode
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode
from troth.wire.seata.lock_wait import MODE_NOT_KNOWN, ModeRegisterRequest, RowLockMode
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    GlobalLockQueryRequest,
    GlobalLockQueryResponse,
)

_READ = "troth_read"
_EXPLICIT = '{"autoCommit":false}'
_LONGEST_XID = 128


@dataclass(frozen=True, slots=True)
class LockRetry:
    """How an autocommit statement waits for row locks: it is tried `times` times in all, `interval_s` apart."""

    times: int = 30
    interval_s: float = 0.01


@dataclass(frozen=True, slots=True)
class Situation:
    """How things stand at a call: the global transaction of the caller, and the connection."""

    xid: str | None
    in_transaction: bool
    implicit: bool
    """The driver opens local transactions by itself (`isolation_level` is not None)."""


Settle = Callable[[str, int], object]
"""`settle_branch` on a connection of its own: whether (xid, branch id) has committed. Awaited in an event loop."""


class PhaseOne:
    """AT on one connection. `local` is the open local transaction, if it belongs to a global one."""

    def __init__(
        self, dialect: Dialect, resource_id: str, writer: Writer, retry: LockRetry, settle: Settle | None = None
    ) -> None:
        self._dialect = dialect
        self._settle = settle
        self._resource_id = resource_id
        self._writer = writer
        self.retry = retry
        self.local: LocalTransaction | None = None
        self._denied = Denied(resource_id, "")
        self._hot = HotStatements()

    # --- statements ---

    def write(self, now: Situation, statement: Statement, sets: Sequence[Parameters]) -> Flow[Outcome]:
        """Run an INSERT, UPDATE or DELETE for each of `sets`, with images.

        Raises:
            NotSupported: the statement, its table or the moment is not one where AT could undo it.
            LockConflict: in autocommit, after all tries: another global transaction holds a row.
            BranchFailed: in autocommit, the branch could not be registered or committed.
        """
        xid = yield from self._check(now)
        if self.local is not None:
            return (yield from self._writer.write(statement, sets, self.local))
        if now.implicit:
            return (yield from self._write_first(xid, statement, sets))
        return (yield from self._write_alone(xid, statement, sets))

    def _write_first(self, xid: str, statement: Statement, sets: Sequence[Parameters]) -> Flow[Outcome]:
        """The first write of a local transaction that the user will commit."""
        local = yield from self._begin(xid)
        local.is_fresh = True
        try:
            return (yield from self._writer.write(statement, sets, local))
        except BaseException as error:
            if not local.changes and not self._dialect.errors_abort:
                yield from self.roll_back(error)
            raise

    def _write_alone(self, xid: str, statement: Statement, sets: Sequence[Parameters]) -> Flow[Outcome]:
        """A local transaction of its own; a row that another holds is waited for *outside* of it."""
        yield from self._hot.queue_ahead(xid, statement.sql, sets)
        for _ in range(self.retry.times - 1):
            try:
                return (yield from self._write_and_commit(xid, statement, sets))
            except LockConflict as conflict:
                self._hot.note(statement.sql, sets, self._denied)
                yield from wait_outside(xid, self._denied, conflict, self.retry.interval_s)
            except FloorReached as refused:
                if not refused.may_pass:
                    raise
                yield Pause(self.retry.interval_s)
        return (yield from self._write_and_commit(xid, statement, sets))

    def _write_and_commit(self, xid: str, statement: Statement, sets: Sequence[Parameters]) -> Flow[Outcome]:
        local = yield from self._begin(xid)
        local.is_fresh = True
        try:
            outcome = yield from self._writer.write(statement, sets, local)
        except BaseException as error:
            yield from self.roll_back(error)
            raise
        yield from self.commit(xid, autocommit=True)
        return outcome

    def read_locked(self, now: Situation, statement: Statement, parameters: Parameters) -> Flow[Outcome]:
        """Run a SELECT … FOR UPDATE; its rows reach the caller only if no other global transaction holds them.

        Between two tries the rows are let go: whoever holds them globally may need them to be undone.

        Raises:
            LockConflict: after all tries: another global transaction holds a row.
            NotSupported: the statement or its table is not one that AT understands.
        """
        xid = yield from self._check(now)
        if self.local is None and not now.implicit:
            return (yield from self._read_alone(xid, statement, parameters))
        local = self.local or (yield from self._begin(xid))
        for tries_left in reversed(range(self.retry.times)):
            yield from query(f"SAVEPOINT {_READ}")
            try:
                locks, outcome = yield from self._writer.read_locked(statement, parameters, local)
            except BaseException:
                if not self._dialect.errors_abort:
                    yield from query(f"RELEASE SAVEPOINT {_READ}")
                raise
            try:
                yield from self._check_free(local, locks, "SELECT … FOR UPDATE would show it")
            except LockConflict:
                yield from query(f"ROLLBACK TO SAVEPOINT {_READ}")
                if not tries_left:
                    raise
                yield Pause(self.retry.interval_s)
            else:
                break
        yield from query(f"RELEASE SAVEPOINT {_READ}")
        return outcome

    def _read_alone(self, xid: str, statement: Statement, parameters: Parameters) -> Flow[Outcome]:
        """A locking read in a local transaction of its own, which ends before it waits for rows."""
        for tries_left in reversed(range(self.retry.times)):
            local = yield from self._begin(xid)
            try:
                locks, outcome = yield from self._writer.read_locked(statement, parameters, local)
                yield from self._check_free(local, locks, "SELECT … FOR UPDATE would show it")
            except BaseException as error:
                yield from self.roll_back(error)
                if not isinstance(error, LockConflict) or not tries_left:
                    raise
                yield from wait_outside(xid, self._denied, error, self.retry.interval_s)
            else:
                yield from self.commit(xid, autocommit=True)
                return outcome
        raise AssertionError("the last try returns or raises")

    def control(self, now: Situation, statement: Statement) -> Flow[None]:
        """Run the user's own BEGIN, SAVEPOINT, RELEASE or ROLLBACK TO. (COMMIT and ROLLBACK: `commit`, `roll_back`.)"""
        match statement.verb:
            case Verb.BEGIN:
                yield from query(statement.sql)
                if now.xid is not None:
                    self.local = LocalTransaction(now.xid)
            case Verb.SAVEPOINT:
                yield from self._savepoint(now, statement)
            case Verb.RELEASE:
                yield from query(statement.sql)
                self._forget_savepoint(statement.name, keep=False)
            case _:
                yield from query(statement.sql)
                self._forget_savepoint(statement.name, keep=True)

    def _savepoint(self, now: Situation, statement: Statement) -> Flow[None]:
        if not now.in_transaction:
            if not now.implicit:
                raise NotSupported(
                    "a SAVEPOINT outside of a local transaction opens one that its RELEASE commits.",
                    "Execute BEGIN first.",
                )
            yield from self._begin((yield from self._check(now)))
        elif now.xid is not None and self.local is None:
            yield from self._adopt(now.xid)
        yield from query(statement.sql)
        if self.local is not None:
            self.local.savepoints.append((statement.name.lower(), len(self.local.changes)))

    def _forget_savepoint(self, name: str, *, keep: bool) -> None:
        """RELEASE drops the savepoint and those inside it; ROLLBACK TO keeps it and drops the changes behind it."""
        if self.local is None:
            return
        stack = self.local.savepoints
        place = max((place for place, (known, _) in enumerate(stack) if known == name.lower()), default=None)
        if place is None:  # it is older than the first write
            if keep:
                self.local.changes.clear()
                self.local.tables.clear()
                stack.clear()
            return
        if keep:
            del self.local.changes[stack[place][1] :]
            self.local.tables.clear()  # the database's locks on tables are gone, too
        del stack[place + 1 if keep else place :]

    # --- the local transaction ---

    def _begin(self, xid: str) -> Flow[LocalTransaction]:
        try:
            yield from postponed(self._dialect.begin)
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt, perhaps behind a BEGIN that was done
                yield from self.roll_back(error)
            raise
        self.local = LocalTransaction(xid)
        return self.local

    def _check(self, now: Situation) -> Flow[str]:
        """The xid to work for; refuses a local transaction that is not wholly inside this global one."""
        if now.xid is None or (self.local is not None and self.local.xid != now.xid):
            raise self._strange(now.xid)
        if now.in_transaction and self.local is None:
            yield from self._adopt(now.xid)
        if now.in_transaction and self.local is None:
            raise NotSupported(
                "the local transaction was begun before the global one, so AT could not undo all of it.",
                "Commit or roll it back before you enter the global transaction.",
            )
        return now.xid

    def forget_tables(self) -> None:
        """Names may mean other tables from now on (`SET search_path`)."""
        if self.local is not None:
            self.local.tables.clear()

    def _adopt(self, xid: str) -> Flow[None]:
        """Take over a local transaction that has only read so far."""
        if (yield from self._dialect.untouched()):
            self.local = LocalTransaction(xid)

    def notice(self, *, in_transaction: bool) -> None:
        """See whether the database has ended the local transaction by itself (disk full, say). Call it first.

        Raises:
            BranchFailed: it has, and the changes are gone.
        """
        if in_transaction:
            return
        local, self.local = self.local, None
        if local is not None and local.changes:
            raise BranchFailed("the database has rolled back the local transaction by itself; its changes are gone")

    def _strange(self, xid: str | None) -> NotSupported:
        mine = CHECK_ONLY if self.local is None else self.local.xid
        owner = "a global_lock()" if mine == CHECK_ONLY else f"the global transaction {mine}"
        other = "there is none now" if not xid else f"now it is {xid}"
        return NotSupported(
            f"the open local transaction belongs to {owner}, but {other}.",
            "Commit or roll back the local transaction before the global one ends.",
        )

    def roll_back(self, error: BaseException | None = None) -> Flow[None]:
        """End the local transaction with nothing done. With `error`, trouble here is noted on it, not raised."""
        self.local = None
        try:
            yield from query("ROLLBACK")
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"ROLLBACK said: {second}.")

    def commit(self, xid: str | None, *, autocommit: bool = False) -> Flow[None]:
        """Commit the local transaction as one branch: locks, undo row and COMMIT. If it changed nothing: COMMIT only.

        What it only added to hot rows is a branch beside that. After any error the local transaction is rolled back.

        Raises:
            LockConflict: another global transaction holds a row.
            BranchFailed: the coordinator or the database refused.
            NotSupported: the global transaction is not the one that the local one began in.
            CoordinatorUnavailable: the coordinator could not be asked.
        """
        local = self.local
        if local is None:
            yield from _commit()
            return
        branches: list[tuple[int, Share]] = []
        try:
            if local.xid != xid:
                raise self._strange(xid)
            if not local.changes:
                yield from _commit()
                self.local = None
                return
            yield from self._check_parents(local)
            if local.xid == CHECK_ONLY:
                yield from self._check_written(local)
                return
            for share in shares(local.changes):
                branches.append((yield from self._register(local, share, autocommit=autocommit)))
        except BaseException as error:
            yield from self.roll_back(error)
            yield from self._report_failed(local, branches, error)
            raise
        yield from self._commit_branches(local, branches)

    def _check_parents(self, local: LocalTransaction) -> Flow[None]:
        """The rows that written foreign keys refer to must not belong to another global transaction."""
        parents = lock_text(lock for change in local.changes for lock in change.parents)
        yield from self._check_free(local, parents, "a foreign key refers to it")

    def _check_written(self, local: LocalTransaction) -> Flow[None]:
        """Commit without a branch. The local row locks see to it that nobody takes the rows behind the answer."""
        written = lock_text(lock for change in local.changes for lock in change.locks)
        yield from self._check_free(local, written, "a local transaction under global_lock() changed it")
        yield from _commit()
        self.local = None

    def _check_free(self, local: LocalTransaction, locks: str, why: str) -> Flow[None]:
        if not locks:
            return
        request = GlobalLockQueryRequest(local.xid, BranchType.AT, self._resource_id, locks)
        answer = yield from tell(request, GlobalLockQueryResponse)
        if answer.result_code is not ResultCode.Success and answer.transaction_exception_code not in CONFLICTS:
            raise BranchFailed(f"the coordinator could not tell whether {locks} is free: {answer.msg}")
        if not answer.lockable:
            self._denied = Denied(self._resource_id, locks)
            raise lock_conflict(locks, answer.msg, why)

    def _register(self, local: LocalTransaction, share: Share, *, autocommit: bool) -> Flow[tuple[int, Share]]:
        """The branch's id, and what it is: where the coordinator does not share rows, it has them alone."""
        if len(local.xid) > _LONGEST_XID:
            raise BranchFailed(f"an xid of {len(local.xid)} characters does not fit in the undo table ({_LONGEST_XID})")
        locks = share.locks
        data = None if autocommit else _EXPLICIT
        request = BranchRegisterRequest(local.xid, BranchType.AT, self._resource_id, locks, data)
        if share.deltas:
            named = (local.xid, BranchType.AT, self._resource_id, locks, data)
            request = ModeRegisterRequest(*named, lock_mode=RowLockMode.ADD)
        answer = yield from tell(request, BranchRegisterResponse)
        if answer.result_code is ResultCode.Success:
            return answer.branch_id, share
        if answer == MODE_NOT_KNOWN:
            return (yield from self._register(local, share.alone(), autocommit=autocommit))
        if answer.transaction_exception_code in CONFLICTS:
            mode = RowLockMode.ADD if share.deltas else RowLockMode.EXCLUSIVE
            self._denied = Denied(self._resource_id, locks, mode)
            raise lock_conflict(locks, answer.msg)
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"the coordinator refused the branch of {local.xid}: {answer.msg} ({code})")

    def _commit_branches(self, local: LocalTransaction, branches: Sequence[tuple[int, Share]]) -> Flow[None]:
        try:
            for branch_id, share in branches:
                yield from self._write_undo(local, branch_id, share)
            yield from _commit()
        except BaseException as error:
            yield from self.roll_back(error)
            committed = yield from self._is_committed(local, branches, error)
            if not isinstance(error, Exception):
                raise  # an interrupt goes on, whether COMMIT was done before it or not
            if committed:
                return
            raise BranchFailed(f"branch {branches[0][0]} of {local.xid} could not be committed: {error}") from error
        self.local = None

    def _write_undo(self, local: LocalTransaction, branch_id: int, share: Share) -> Flow[None]:
        extra = self._dialect.undo_context(foreign_keys=bool(local.foreign_keys))
        context = context_text({SERIALIZER: share.serializer, COMPRESSOR: "NONE", **extra})
        log = BranchUndoLog(local.xid, branch_id, share.logs)
        row = (branch_id, local.xid, context, encode(context, log), NORMAL)
        yield from postponed(self._dialect.insert_undo, row)
        yield from reserve(self._dialect, local.xid, branch_id, share.deltas)

    def _is_committed(
        self, local: LocalTransaction, branches: Sequence[tuple[int, Share]], error: BaseException
    ) -> Flow[bool]:
        """After an error in COMMIT: the undo row says whether it happened. If not, the coordinator is told."""
        try:
            # All undo rows went down in one local transaction, so the first one speaks for all.
            if (yield from self._has_undo_row(local, branches[0][0], error)):
                return True
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            _note_not_told(error, second)
            return False
        yield from self._report_failed(local, branches, error)
        return False

    def _report_failed(
        self, local: LocalTransaction, branches: Sequence[tuple[int, Share]], error: BaseException
    ) -> Flow[None]:
        """Tell the coordinator that branches which it knows have changed nothing."""
        try:
            for branch_id, _ in branches:
                report = BranchReportRequest(local.xid, branch_id, BranchStatus.PhaseOne_Failed, self._resource_id)
                yield from tell(report, BranchReportResponse)
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            _note_not_told(error, second)

    def _has_undo_row(self, local: LocalTransaction, branch_id: int, error: BaseException) -> Flow[bool]:
        if self._settle is None:
            found = yield from query(self._dialect.select_undo, (local.xid, branch_id))
            return any(row[2] == NORMAL for row in found.rows)
        if isinstance(error, Exception) and self._dialect.fault(error) is not Fault.LOST:
            return False  # the database has said no
        return bool((yield Invoke(self._settle, (local.xid, branch_id))))


def _note_not_told(error: BaseException, second: Exception) -> None:
    error.add_note(f"The coordinator does not know of it ({second}); it will find no undo row when it rolls back.")


def _commit() -> Flow[None]:
    """COMMIT, verified: after a swallowed error some databases roll back instead, and raise nothing (at.md §3)."""
    done = yield from query("COMMIT")
    if done.status not in (None, "COMMIT"):
        raise BranchFailed(
            f"the database answered COMMIT with {done.status}: a statement before it had failed, "
            "so nothing of the local transaction is stored"
        )
