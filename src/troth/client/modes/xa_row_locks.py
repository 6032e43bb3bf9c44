"""XA that takes AT's row locks, phase one: statements run as under AT, and COMMIT prepares: no undo row is written.

AT learns which rows a statement writes from its images; that is all that is wanted of them here. So the rows' lock keys
are registered before the branch is prepared, and it excludes AT branches on the same tables by the global lock: it gets
no row that an unfinished AT transaction has changed, whose undo would find a stranger's value there.

On PostgreSQL the branch itself is registered then. On MySQL it had to be registered before its first statement, so its
rows are a branch of their own beside it, of which phase two has nothing to end. That one may be gone before the other
on rollback: the database still holds the rows, and shows them as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

from troth.client.errors import BranchFailed
from troth.client.flow import Flow, tell
from troth.client.modes.additive_shares import Share
from troth.client.modes.at import PhaseOne
from troth.client.modes.at_wait import CONFLICTS, Denied, lock_conflict
from troth.client.modes.at_write import LocalTransaction, Writer
from troth.client.modes.xa import BranchFacts, ask_for_branch, report_failure
from troth.client.modes.xa_mysql import MySqlBranch
from troth.client.modes.xa_postgres import prepare, transaction_number
from troth.client.sql.image import Outcome
from troth.client.sql.lockkeys import lock_text
from troth.client.sql.statement import Statement
from troth.wire.seata.enums import BranchType, ResultCode
from troth.wire.seata.messages import BranchRegisterResponse, GlobalLockQueryRequest, GlobalLockQueryResponse


class RowLockingPhaseOne(PhaseOne):
    """XA with row locks on one connection to PostgreSQL."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._facts = BranchFacts()

    def _register(self, local: LocalTransaction, share: Share, *, autocommit: bool) -> Flow[tuple[int, Share]]:
        """A branch with its rows. Raises LockConflict: another global transaction holds one."""
        number = yield from transaction_number()
        if number is None:
            raise BranchFailed("the database knows of no change, although its rows were seen to change")
        self._facts = BranchFacts(txid=number)
        self._denied = Denied(self._resource_id, share.locks)  # if it is, the statement waits for these
        asked = ask_for_branch(local.xid, self._resource_id, self._facts, share.locks, autocommit=autocommit)
        answer = yield from asked
        _check_taken(answer, local.xid, share.locks)
        return answer.branch_id, share

    def _commit_branches(self, local: LocalTransaction, branches: Sequence[tuple[int, Share]]) -> Flow[None]:
        ((branch_id, _),) = branches  # nothing is added by deltas here, so all is one branch
        yield from prepare(local.xid, branch_id, self._resource_id, self._facts, self._forget, self.roll_back)

    def _forget(self) -> None:
        self.local = None

    def _report_failed(
        self, local: LocalTransaction, branches: Sequence[tuple[int, Share]], error: BaseException
    ) -> Flow[None]:
        for branch_id, _ in branches:
            yield from report_failure(error, local.xid, branch_id, self._resource_id, self._facts)


class RowLocks:
    """The rows that the open branch of a connection to MySQL or MariaDB has written."""

    def __init__(self, resource_id: str, writer: Writer) -> None:
        self._resource_id = resource_id
        self._writer = writer
        self._branch: MySqlBranch | None = None
        self._local = LocalTransaction("")

    def write(self, statement: Statement, branch: MySqlBranch) -> Flow[Outcome]:
        """Run an INSERT, UPDATE or DELETE, and note its rows. Raises NotSupported: AT does not understand it."""
        return (yield from self._writer.write(statement, [()], self._of(branch)))

    def forget_tables(self) -> None:
        """After ROLLBACK TO: the database's locks on tables may be gone. (Rows stay noted: too many are safe.)"""
        self._local.tables.clear()

    def _of(self, branch: MySqlBranch) -> LocalTransaction:
        if self._branch is not branch:
            self._branch, self._local = branch, LocalTransaction(branch.xid)
        return self._local

    def take(self, branch: MySqlBranch) -> Flow[None]:
        """Register the rows. Raises LockConflict: another global transaction holds one."""
        local = self._of(branch)
        self._branch = None
        yield from self._check_parents(local)
        locks = lock_text(lock for change in local.changes for lock in change.locks)
        if locks:
            facts = BranchFacts(guard=branch.guard, ended=True)
            answer = yield from ask_for_branch(local.xid, self._resource_id, facts, locks, autocommit=False)
            _check_taken(answer, local.xid, locks)

    def _check_parents(self, local: LocalTransaction) -> Flow[None]:
        """Rows that written foreign keys refer to must not belong to another global transaction."""
        parents = lock_text(lock for change in local.changes for lock in change.parents)
        if not parents:
            return
        question = GlobalLockQueryRequest(local.xid, BranchType.XA, self._resource_id, parents)
        answer = yield from tell(question, GlobalLockQueryResponse)
        if answer.result_code is not ResultCode.Success and answer.transaction_exception_code not in CONFLICTS:
            raise BranchFailed(f"the coordinator could not tell whether {parents} is free: {answer.msg}")
        if not answer.lockable:
            raise lock_conflict(parents, answer.msg, "a foreign key refers to it")


def _check_taken(answer: BranchRegisterResponse, xid: str, locks: str) -> None:
    if answer.result_code is ResultCode.Success:
        return
    if answer.transaction_exception_code in CONFLICTS:
        raise lock_conflict(locks, answer.msg)
    code = answer.transaction_exception_code.name
    raise BranchFailed(f"the coordinator refused the branch of {xid}: {answer.msg} ({code})")
