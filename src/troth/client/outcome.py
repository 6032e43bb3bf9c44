"""What an answer to commit, rollback or a vote means: tables over Seata's statuses, no I/O (PROTOCOL §8)."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from troth.wire.seata.enums import GlobalStatus


class Verdict(Enum):
    """What a status tells about the decision."""

    COMMITTED = auto()
    """Decided to commit: done, or certain to be done."""
    ROLLED_BACK = auto()
    """Decided to roll back: done, or being done."""
    COMMIT_FAILED = auto()
    """Decided to commit, but given up on a branch."""
    ROLLBACK_FAILED = auto()
    """Decided to roll back, but given up on a branch."""
    FORGOTTEN = auto()
    """The coordinator does not know the transaction (any more)."""
    UNDECIDED = auto()
    """No decision in this answer."""


_COMMITTED: Final = frozenset(
    {
        GlobalStatus.Committing,
        GlobalStatus.CommitRetrying,
        GlobalStatus.AsyncCommitting,
        GlobalStatus.Committed,
    }
)
_ROLLED_BACK: Final = frozenset(
    {
        GlobalStatus.Rollbacking,
        GlobalStatus.RollbackRetrying,
        GlobalStatus.TimeoutRollbacking,
        GlobalStatus.TimeoutRollbackRetrying,
        GlobalStatus.Rollbacked,
        GlobalStatus.TimeoutRollbacked,
    }
)
_COMMIT_FAILED: Final = frozenset(
    {GlobalStatus.CommitFailed, GlobalStatus.CommitRetryTimeout, GlobalStatus.StopCommitOrCommitRetry}
)
_ROLLBACK_FAILED: Final = frozenset(
    {
        GlobalStatus.RollbackFailed,
        GlobalStatus.TimeoutRollbackFailed,
        GlobalStatus.RollbackRetryTimeout,
        GlobalStatus.StopRollbackOrRollbackRetry,
    }
)
_TIMEOUT: Final = frozenset(
    {
        GlobalStatus.TimeoutRollbacking,
        GlobalStatus.TimeoutRollbackRetrying,
        GlobalStatus.TimeoutRollbacked,
        GlobalStatus.TimeoutRollbackFailed,
    }
)


def verdict(status: GlobalStatus) -> Verdict:
    """What `status` tells about the decision."""
    if status in _COMMITTED:
        return Verdict.COMMITTED
    if status in _ROLLED_BACK:
        return Verdict.ROLLED_BACK
    if status in _COMMIT_FAILED:
        return Verdict.COMMIT_FAILED
    if status in _ROLLBACK_FAILED:
        return Verdict.ROLLBACK_FAILED
    if status is GlobalStatus.Finished:
        return Verdict.FORGOTTEN
    return Verdict.UNDECIDED


def cause_of_rollback(status: GlobalStatus) -> str:
    """Why a transaction that was to be committed is rolled back, as far as its status tells."""
    if status in _TIMEOUT:
        return "its timeout ran out before it was committed"
    return "a participant voted to roll it back, or a branch failed"
