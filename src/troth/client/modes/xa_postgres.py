"""XA on PostgreSQL, phase one: a local transaction becomes a branch when it commits.

PostgreSQL wants the gid at PREPARE TRANSACTION only, so the branch registers right before that, with the number of its
local transaction: a rollback that comes in between asks the database how that one stands. The vote follows when the
command tag has said that it is prepared. What has not changed anything has no number, commits at once and never
registers.
"""

from __future__ import annotations

from collections.abc import Callable

from troth.client.errors import BranchFailed
from troth.client.flow import Flow, query
from troth.client.modes.xa import (
    BranchFacts,
    postgres_gid,
    quoted,
    register,
    report_failure,
    report_prepared,
    strange,
)

_PREPARED = "PREPARE TRANSACTION"


class PostgresPhaseOne:
    """XA on one connection. `xid` is the global transaction of the open local one, if it belongs to one."""

    def __init__(self, resource_id: str) -> None:
        self.resource_id = resource_id
        self.xid: str | None = None
        self.has_written = False
        self.abandoned = False

    def enter(self, xid: str | None) -> None:
        """A statement is about to run. Raises NotSupported: its local transaction is another global one's."""
        if self.xid is None:
            self.xid = xid
        elif self.xid != xid:
            raise strange(self.xid, xid)

    def note(self, command_tag: str | None) -> None:
        """A statement has run. (A SELECT may write by a function: COMMIT still prepares that, if it is called.)"""
        if command_tag and not command_tag.startswith(("SELECT", "SHOW", "SET", "BEGIN", "DECLARE", "FETCH")):
            self.has_written = True

    def forget(self) -> None:
        """The local transaction is over."""
        self.xid = None
        self.has_written = False
        self.abandoned = False

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        if self.xid != xid or not self.has_written:
            return None
        return f"its local transaction on {self.resource_id} was not committed"

    def roll_back(self, error: BaseException | None = None) -> Flow[None]:
        """End the local transaction with nothing done. With `error`, trouble here is noted on it, not raised."""
        self.forget()
        try:
            yield from query("ROLLBACK")
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"ROLLBACK said: {second}.")

    def commit(self, xid: str | None) -> Flow[None]:
        """Prepare the local transaction as one branch; what has changed nothing is committed.

        After any error it is rolled back.

        Raises:
            BranchFailed: the coordinator or the database refused, or a statement before had failed.
            NotSupported: the global transaction is not the one that the local one began in.
            CoordinatorUnavailable: the coordinator could not be asked.
        """
        mine = self.xid or xid or ""
        try:
            if mine != xid:
                raise strange(mine, xid)
            txid = yield from transaction_number()
            if txid is None:
                done = yield from query("COMMIT")
                _verify(done.status, "COMMIT")
                self.forget()
                return
            facts = BranchFacts(txid=txid)
            branch_id = yield from register(mine, self.resource_id, facts)
        except BaseException as error:
            yield from self.roll_back(error)
            raise
        yield from prepare(mine, branch_id, self.resource_id, facts, self.forget, self.roll_back)


def transaction_number() -> Flow[str | None]:
    """The number of the local transaction, by which the database tells how it ended; None: nothing was changed.

    Raises BranchFailed: a statement before has failed, so it can only be rolled back.
    """
    try:
        found = yield from query("SELECT txid_current_if_assigned()::text")
    except Exception as error:
        raise BranchFailed(f"the local transaction cannot be prepared: {error}") from error
    number = found.rows[0][0]
    return None if number is None else str(number)


def prepare(
    xid: str,
    branch_id: int,
    resource_id: str,
    facts: BranchFacts,
    forget: Callable[[], None],
    roll_back: Callable[[BaseException], Flow[None]],
) -> Flow[None]:
    """Prepare the local transaction as a registered branch, and vote.

    Args:
        forget: called when there is no local transaction any more. roll_back: ends it with nothing done.

    Raises:
        BranchFailed: the database has not prepared it, or the coordinator does not want to know.
        CoordinatorUnavailable: the vote or its answer was lost.
    """
    try:
        done = yield from query(f"PREPARE TRANSACTION {quoted(postgres_gid(xid, branch_id))}")
        _verify(done.status, _PREPARED)
    except BaseException as error:
        yield from roll_back(error)
        yield from report_failure(error, xid, branch_id, resource_id, facts)
        if not isinstance(error, Exception):
            raise
        raise BranchFailed(f"branch {branch_id} of {xid} could not be prepared: {error}") from error
    forget()
    try:
        # A vote that is not heard makes the whole a rollback, which ends the prepared branch, too.
        yield from report_prepared(xid, branch_id, resource_id, facts)
    except BaseException as error:
        yield from report_failure(error, xid, branch_id, resource_id, facts)
        raise


def _verify(status: str | None, wanted: str) -> None:
    """PostgreSQL answers COMMIT and PREPARE of a failed transaction with ROLLBACK, and raises nothing."""
    if status != wanted:
        raise BranchFailed(
            f"the database answered {wanted} with {status}: a statement before it had failed, "
            "so nothing of the local transaction is stored"
        )


def check_settings(max_prepared_transactions: str) -> str | None:
    """Why XA cannot work on this server, with the fix; None: it can."""
    if max_prepared_transactions != "0":
        return None
    return (
        "this PostgreSQL keeps no prepared transactions (max_prepared_transactions = 0). "
        "ALTER SYSTEM SET max_prepared_transactions = 100; then restart the server (at least max_connections is safe)."
    )
