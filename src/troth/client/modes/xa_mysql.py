"""XA on MySQL and MariaDB, phase one: XA START before the first statement, XA END and XA PREPARE at the commit.

XA START needs the branch's id, so the branch registers first, as Java's does. The *guard*, a user lock that is taken
before the registration, tells phase two as long as the branch may still be prepared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from troth.client.errors import BranchFailed, LockConflict, NotSupported
from troth.client.flow import Flow, Invoke, query
from troth.client.modes.xa import (
    LONGEST_GTRID,
    BranchFacts,
    mysql_xid,
    quoted,
    register,
    report,
    report_failure,
    report_prepared,
    strange,
)
from troth.wire.seata.enums import BranchStatus

_XAER_OUTSIDE = 1400
_ENDED = frozenset({1397, 1399, 1402, 1613, 1614})
"""XAER_NOTA, XAER_RMFAIL (wrong state), XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK."""
_READ = re.compile(r"\s*(?:SELECT|SHOW|DESC|DESCRIBE|EXPLAIN|SET|DO)\b", re.IGNORECASE)
_NOT_ONLY_READ = re.compile(r"\bFOR\s+(?:UPDATE|SHARE)\b|\bIN\s+SHARE\s+MODE\b|\bINTO\b", re.IGNORECASE)
_COUNTS = "SHOW SESSION STATUS WHERE Variable_name IN ('Handler_write', 'Handler_update', 'Handler_delete')"
_OLDEST_MARIADB = (10, 5)


@dataclass(slots=True)
class MySqlBranch:
    """The branch that is open on a connection."""

    xid: str
    branch_id: int
    guard: str
    counts: tuple[object, ...]
    only_reads: bool = True

    @property
    def name(self) -> str:
        return mysql_xid(self.xid, self.branch_id)


class MySqlPhaseOne:
    """XA on one connection. `detach` lets go of the prepared branch and of its guard.

    `before_prepare`, if it is set, runs last inside the branch; what it raises rolls the branch back.
    """

    def __init__(self, resource_id: str, new_guard: Callable[[], str], detach: Callable[[str], None]) -> None:
        self.resource_id = resource_id
        self.before_prepare: Callable[[MySqlBranch], Flow[None]] | None = None
        self.branch: MySqlBranch | None = None
        self.abandoned = False
        self._new_guard = new_guard
        self._detach = detach

    def enter(self, xid: str | None) -> Flow[None]:
        """A statement is about to run: begin the branch, if there is none.

        Raises:
            NotSupported: a local transaction is open that is not part of this global one.
            BranchFailed: the coordinator refused.
        """
        if self.branch is not None:
            if self.branch.xid != xid:
                raise strange(self.branch.xid, xid)
            return
        if xid is None:
            return
        if len(xid.encode()) > LONGEST_GTRID:
            raise NotSupported(f"the xid {xid} is longer than the {LONGEST_GTRID} bytes of an XA id.")
        yield from self._begin(xid)

    def _begin(self, xid: str) -> Flow[None]:
        counts = yield from _counts()
        guard = self._new_guard()
        yield from query(f"SELECT GET_LOCK({quoted(guard)}, 0)")
        try:
            branch_id = yield from register(xid, self.resource_id, BranchFacts(guard=guard))
        except BaseException:
            yield from query(f"DO RELEASE_LOCK({quoted(guard)})")
            raise
        branch = MySqlBranch(xid, branch_id, guard, counts)
        try:
            yield from query(f"XA START {branch.name}")
        except BaseException as error:
            yield from self._end_failed(branch, error)
            if error.args[:1] == (_XAER_OUTSIDE,):
                raise NotSupported(
                    "the local transaction was begun before the global one.",
                    "Commit or roll it back before you enter the global transaction.",
                ) from error
            raise
        self.branch = branch

    def note(self, sql: str) -> None:
        """A statement runs."""
        if self.branch is not None and (not _READ.match(sql) or _NOT_ONLY_READ.search(sql)):
            self.branch.only_reads = False

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        if self.branch is None or self.branch.xid != xid:
            return None
        return f"its local transaction on {self.resource_id} was neither committed nor rolled back"

    def roll_back(self) -> Flow[None]:
        """End the branch with nothing done, as the user wants it: the global transaction may still commit."""
        branch, self.branch = self.branch, None
        self.abandoned = False
        if branch is None:
            return
        yield from _end_quietly(branch)
        yield from query(f"XA ROLLBACK {branch.name}")
        yield from query(f"DO RELEASE_LOCK({quoted(branch.guard)})")
        yield from self._drop_out(branch)

    def lost(self) -> None:
        """The connection is gone, and with it what was not prepared."""
        self.branch = None
        self.abandoned = False

    def commit(self, xid: str | None) -> Flow[None]:
        """Prepare the branch; what has only read is committed at once. After any error it is rolled back.

        Raises:
            BranchFailed: the coordinator or the database refused.
            LockConflict: another global transaction holds a row (where branches take row locks).
            NotSupported: the global transaction is not the one that the branch began in.
        """
        branch, self.branch = self.branch, None
        if branch is None:
            return
        try:
            if branch.xid != xid:
                raise strange(branch.xid, xid)
            if self.before_prepare is not None:
                yield from self.before_prepare(branch)
            reads = branch.only_reads and (yield from _counts()) == branch.counts
            yield from query(f"XA END {branch.name}")
            yield from query(f"XA COMMIT {branch.name} ONE PHASE" if reads else f"XA PREPARE {branch.name}")
        except BaseException as error:
            yield from self._end_failed(branch, error)
            if not isinstance(error, Exception) or isinstance(error, NotSupported | LockConflict):
                raise
            raise BranchFailed(f"branch {branch.branch_id} of {branch.xid} could not be prepared: {error}") from error
        if reads:
            yield from query(f"DO RELEASE_LOCK({quoted(branch.guard)})")
            yield from self._drop_out(branch)
        else:
            yield from self._vote(branch)

    def _vote(self, branch: MySqlBranch) -> Flow[None]:
        try:
            yield Invoke(self._detach, (branch.guard,))
            yield from report_prepared(branch.xid, branch.branch_id, self.resource_id, BranchFacts(guard=branch.guard))
        except BaseException as error:
            # Not told, the coordinator could take the branch for one that was never prepared.
            try:
                yield from query(f"XA ROLLBACK {branch.name}")
            except Exception as second:  # noqa: BLE001 - the first error is the one to tell
                error.add_note(f"XA ROLLBACK said: {second}. The coordinator rolls it back with the whole.")
            yield from self._tell_failure(branch, error)
            raise

    def _drop_out(self, branch: MySqlBranch) -> Flow[None]:
        facts = BranchFacts(guard=branch.guard, ended=True)
        yield from report(branch.xid, branch.branch_id, self.resource_id, BranchStatus.PhaseOne_RDONLY, facts)

    def _end_failed(self, branch: MySqlBranch, error: BaseException) -> Flow[None]:
        try:
            yield from _end_quietly(branch)
            yield from query(f"XA ROLLBACK {branch.name}")
            yield from query(f"DO RELEASE_LOCK({quoted(branch.guard)})")
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"XA ROLLBACK said: {second}.")
        yield from self._tell_failure(branch, error)

    def _tell_failure(self, branch: MySqlBranch, error: BaseException) -> Flow[None]:
        facts = BranchFacts(guard=branch.guard)
        yield from report_failure(error, branch.xid, branch.branch_id, self.resource_id, facts)


def _counts() -> Flow[tuple[object, ...]]:
    found = yield from query(_COUNTS)
    return tuple(row[1] for row in found.rows)


def _end_quietly(branch: MySqlBranch) -> Flow[None]:
    """XA END; where it fails since a deadlock has doomed the branch, or it was ended before, XA ROLLBACK works."""
    try:
        yield from query(f"XA END {branch.name}")
    except Exception as error:
        if not error.args or error.args[0] not in _ENDED:
            raise


def detaches_on_prepare(version: str, variables: dict[str, str]) -> bool:
    """Whether XA PREPARE itself lets go of the branch (MySQL 8.0.29+); else the connection has to be opened anew.

    The variable is asked for, since it can be switched off.

    Args:
        version: as `SELECT VERSION()` says it. variables: those of the server that begin with `xa_`.

    Raises:
        NotSupported: a server that loses prepared branches with their connection.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.removeprefix("5.5.5-"))[:3])
    if "mariadb" in version.lower() and numbers[:2] < _OLDEST_MARIADB:
        raise NotSupported(f"MariaDB {version} rolls a prepared branch back with its connection.", "It takes 10.5.")
    if "mariadb" not in version.lower() and numbers < (5, 7, 7):
        raise NotSupported(f"MySQL {version} rolls a prepared branch back with its connection.", "It takes 5.7.7.")
    return variables.get("xa_detach_on_prepare", "OFF").upper() in ("ON", "1")
