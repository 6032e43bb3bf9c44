"""A transactional message: the local transaction and the message's submit, as one flow around the barrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from troth.client.errors import CoordinatorUnavailable, OutcomeUnknown
from troth.client.flow import Flow, Invoke
from troth.client.modes.barrier import (
    MESSAGE_BRANCH,
    MESSAGE_ID,
    MESSAGE_OP,
    AlreadyDone,
    Door,
    Mark,
    answered_check_back,
    entered,
    left,
)
from troth.client.modes.dtm import Kind, Link, Transaction, abort_because, prepare, submit
from troth.client.modes.fence import LateTry


def done_and_submitted(
    link: Link,
    transaction: Transaction,
    check_back_url: str,
    door: Door,
    work: Callable[[Any], Any],
) -> Flow[tuple[Any, Exception | None]]:
    """Half message, `work(connection)` in one local transaction with the barrier, submit.

    What `work` returned (None if an earlier call had done it), and why the coordinator could not be told: it will ask
    back then, and is told by the barrier's row.

    Raises:
        CoordinatorUnavailable, CoordinatorRefused: at the half message; nothing was done.
        LateTry: the coordinator asked back before the local transaction was done; it was not done.
        TransactionRolledBack: the coordinator dropped the message, though the local transaction counts (an operator).
        OutcomeUnknown: COMMIT failed, and the database cannot be asked whether it counted; the coordinator asks it.
        Exception: of `work` or the database: rolled back, and the message is dropped.
    """
    yield from prepare(link, transaction, query_prepared=check_back_url)
    mark = Mark(Kind.MESSAGE, transaction.gid, MESSAGE_BRANCH, MESSAGE_OP)
    result = None
    try:
        result = yield from _done(mark, door, work)
    except LateTry:
        raise
    except AlreadyDone:  # by a process that died before it could submit
        result = None
    except _CommitFailed as failed:
        yield from _after_failed_commit(link, transaction, door, failed.reason)
    except BaseException as error:
        yield from abort_because(link, transaction, error)
        raise
    try:
        yield from submit(link, transaction)
    except (CoordinatorUnavailable, OutcomeUnknown) as lost:
        return result, lost
    return result, None


class _CommitFailed(Exception):
    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _done(mark: Mark, door: Door, work: Callable[[Any], Any]) -> Flow[Any]:
    runs = yield from entered(mark, MESSAGE_ID, door)
    result = None
    try:
        if runs:
            result = yield Invoke(work, (door.connection,))
    except BaseException as error:
        yield from left(door, error)
        raise
    try:
        yield from left(door, None)
    except Exception as error:
        raise _CommitFailed(error) from error
    return result


def _after_failed_commit(link: Link, transaction: Transaction, door: Door, error: Exception) -> Flow[None]:
    """Whether it counted is asked of the database, at once. Returns if it did."""
    try:
        counted = yield from answered_check_back(transaction.gid, door)
    except Exception as second:  # noqa: BLE001 - every driver has errors of its own
        raise OutcomeUnknown(transaction.gid, f"COMMIT said {error}, and then: {second}") from error
    if not counted:
        yield from abort_because(link, transaction, error)
        raise error
