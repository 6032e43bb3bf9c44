"""An undoable call in a plain global transaction, as a flow: a branch whose rollback is its compensation.

The order is *register, run, report*: a call that is known before it has an effect can be compensated, whatever happens
to the process. Errors by themselves never roll back what others did: the caller decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from troth.client.errors import BranchFailed, TrothError
from troth.client.flow import Flow, tell
from troth.client.modes.saga import UndoFailed, Work, failure, register_undo, tried, undo_tried
from troth.client.modes.saga_records import StepContext, Undo, UndoContext, written
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    BranchReportRequest,
    BranchReportResponse,
    GlobalReportRequest,
    GlobalReportResponse,
)


@dataclass(slots=True)
class Place:
    """One call in the global transaction `xid`: `saga.Trial`."""

    xid: str
    forward: bool = False
    late: bool = False
    causes: dict[str, BaseException] = field(default_factory=dict)

    def check(self) -> None:
        """There is always time for another attempt."""

    def halt(self, error: TrothError) -> TrothError:
        """The error itself."""
        return error


def perform(
    xid: str, work: Work, key: str, arguments: dict[str, Any], call: Callable[[StepContext], object]
) -> Flow[Any]:
    """The call; what it returned. `key` names it, if its caller has named it; else its branch does.

    Raises:
        StepFailed: `refused`: nothing is left behind. Else what may have been left is compensated.
        BranchFailed: the coordinator does not know of the call, or not how it ended.
    """
    intent = Undo(work.name, key, arguments)
    branch_id = yield from register_undo(xid, work.resource_id, intent)
    key = key or unnamed(work.name, branch_id)
    place = Place(xid)
    ended = yield from tried(work, key, arguments, call, place)
    if not ended.failed:
        done = Undo(work.name, key, arguments, ended.result, known=True)
        yield from _report(xid, branch_id, work, done)
        return ended.result
    if not ended.refused:
        yield from _undo_now(xid, work, UndoContext(xid, work.name, key, arguments, known=False))
    yield from _report(xid, branch_id, work, Undo(work.name, key, settled=True))
    raise failure(ended) from place.causes.pop(key, None)


def unnamed(step: str, branch_id: int) -> str:
    """The key of a call that nobody has named."""
    return f"{step}.{branch_id}"


def _undo_now(xid: str, work: Work, context: UndoContext) -> Flow[None]:
    """Nobody may commit over what is neither done nor undone."""
    try:
        yield from undo_tried(work, context, work.policy.undo_attempts)
    except UndoFailed as error:
        yield from tell(GlobalReportRequest(xid=xid, global_status=GlobalStatus.Rollbacking), GlobalReportResponse)
        raise BranchFailed(
            f"{work.name} failed, and so did its compensation: {error}. The transaction can only be rolled back; "
            "the coordinator asks for the compensation then."
        ) from error


def _report(xid: str, branch_id: int, work: Work, data: Undo) -> Flow[None]:
    """A report replaces the branch's data; it says nothing of phase one, which is the caller's business."""
    text = written(f"what {work.name} returned", data)
    request = BranchReportRequest(xid, branch_id, BranchStatus.Registered, work.resource_id, text, BranchType.SAGA)
    answer = yield from tell(request, BranchReportResponse)
    if answer.result_code is not ResultCode.Success:
        raise BranchFailed(f"the coordinator did not take the report of {work.name} in {xid}: {answer.msg}")
