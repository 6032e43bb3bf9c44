"""TCC at the client, as flows: a try is registered, fenced and run; a confirm or cancel is run once (modes.md).

The order of a try is *register, fence, effect*: a branch that is known before anything is done can be cancelled. What
is called by `Invoke` (the action's own functions, the fence's connection) may be awaitable where the runner is async.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Protocol

from troth.client.errors import BranchFailed, TrothError
from troth.client.flow import Flow, Invoke, tell
from troth.client.modes.fence import LONGEST_ACTION, LONGEST_XID, Branch, Fence, FenceMode, Found, LateTry, NotNow
from troth.client.modes.tcc_context import ActionContext, Read, Written, read
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    BranchEndRequest,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    GlobalReportRequest,
    GlobalReportResponse,
)

Body = Callable[[ActionContext], object]


class Door(Protocol):
    """The fence's connection. Where the flow is run async, all but the properties give awaitables."""

    @property
    def connection(self) -> Any:
        """For the user's function."""
        ...

    @property
    def fence(self) -> Fence:
        """What fences on it. Known once it is open."""
        ...

    def open(self) -> object:
        """Get a connection."""
        ...

    def begin(self, branch: Branch) -> object:
        """Begin a transaction on it."""
        ...

    def commit(self) -> object:
        """Commit that."""
        ...

    def rollback(self) -> object:
        """Roll that back."""
        ...

    def close(self) -> object:
        """Give the connection back."""
        ...


class Verb(Enum):
    """What phase two asks for."""

    CONFIRM = auto()
    CANCEL = auto()


@dataclass(frozen=True, slots=True)
class Fencing:
    """How an action is fenced. `clock` gives seconds that never go back."""

    mode: FenceMode
    deadline_ms: int
    clock: Callable[[], float]


class _NotTried(Exception):
    """Carries the error of a try of which certainly nothing is left."""


def attempt(xid: str, data: Written, arguments: ActionContext, fencing: Fencing, door: Door, try_: Body) -> Flow[Any]:
    """Phase one: the whole of a try; what it returned.

    Raises:
        BranchFailed: the coordinator refused the branch, or it was cancelled before its try (LateTry).
        Exception: what the try raised. The global transaction can then only be rolled back.
    """
    branch_id = yield from _register(xid, arguments.action, data)
    context = replace(arguments, branch_id=branch_id)
    branch = Branch(xid, branch_id, context.action)
    try:
        result = yield from _tried(branch, context, fencing, door, try_)
        if result is not None:
            yield from _report(branch, BranchStatus.Registered, data.with_result(result))
    except _NotTried as nothing:
        error = nothing.__cause__ or nothing
        yield from _tell_failure(branch, data, error, nothing_left=True)
        raise error from None
    except BaseException as error:
        yield from _tell_failure(branch, data, error, nothing_left=False)
        raise
    return result


def _register(xid: str, action: str, data: Written) -> Flow[int]:
    if len(xid) > LONGEST_XID or len(action) > LONGEST_ACTION:
        raise BranchFailed(f"the xid {xid} or the action name {action} is too long for the fence's table")
    request = BranchRegisterRequest(xid, BranchType.TCC, action, None, data.text())
    answer = yield from tell(request, BranchRegisterResponse)
    if answer.result_code is not ResultCode.Success:
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"the coordinator refused {action} in {xid}: {answer.msg} ({code})")
    return answer.branch_id


def _report(branch: Branch, status: BranchStatus, data: Written) -> Flow[None]:
    """A report replaces the branch's data at the coordinator, so each carries all of it."""
    request = BranchReportRequest(branch.xid, branch.branch_id, status, branch.action, data.text(), BranchType.TCC)
    answer = yield from tell(request, BranchReportResponse)
    if answer.result_code is not ResultCode.Success:
        raise BranchFailed(f"the coordinator did not take the report of {branch}: {answer.msg}")


def _tell_failure(branch: Branch, data: Written, error: BaseException, *, nothing_left: bool) -> Flow[None]:
    """A caller that swallows the error must not commit the rest without this branch.

    Where nothing is left of the try the report says so, which every Seata server understands: it asks the branch for
    nothing. Otherwise a cancel is wanted, and a report would keep a Java server from asking for it: a vote makes the
    transaction rollback-only, where the coordinator is ours.
    """
    try:
        if nothing_left:
            yield from _report(branch, BranchStatus.PhaseOne_Failed, data)
            return
        vote = GlobalReportRequest(xid=branch.xid, global_status=GlobalStatus.Rollbacking)
        answer = yield from tell(vote, GlobalReportResponse)
        if answer.global_status is GlobalStatus.Begin:
            error.add_note("troth: this coordinator takes no votes: let the error reach who began the transaction")
    except TrothError as second:
        error.add_note(f"troth: the coordinator was not told that the try of {branch} failed: {second}")


def _tried(branch: Branch, context: ActionContext, fencing: Fencing, door: Door, try_: Body) -> Flow[Any]:
    if fencing.mode is FenceMode.OFF:
        return (yield Invoke(try_, (context,)))
    try:
        yield Invoke(door.open)
    except Exception as error:
        raise _NotTried from error
    try:
        if fencing.mode is FenceMode.LOCAL_TX:
            return (yield from _tried_in_one(branch, context, door, try_))
        return (yield from _tried_after_intent(branch, context, fencing, door, try_))
    finally:
        yield Invoke(door.close)


def _tried_in_one(branch: Branch, context: ActionContext, door: Door, try_: Body) -> Flow[Any]:
    try:
        yield Invoke(door.begin, (branch,))
        yield from door.fence.tried(branch)
        result = yield Invoke(try_, (replace(context, connection=door.connection),))
    except BaseException as error:
        if (yield from _roll_back(door, error)):
            raise _NotTried from error
        raise
    yield from _commit(door)
    return result


def _tried_after_intent(branch: Branch, context: ActionContext, fencing: Fencing, door: Door, try_: Body) -> Flow[Any]:
    start_s = fencing.clock()
    try:
        yield Invoke(door.begin, (branch,))
        yield from door.fence.trying(branch, fencing.deadline_ms)
    except BaseException as error:
        if (yield from _roll_back(door, error)):
            raise _NotTried from error
        raise
    yield from _commit(door)
    try:
        yield Invoke(door.begin, (branch,))
        result, is_late = None, (fencing.clock() - start_s) * 1000 >= fencing.deadline_ms
        if is_late:
            yield from door.fence.never_began(branch)
        else:
            result = yield Invoke(try_, (replace(context, connection=door.connection),))
            yield from door.fence.ended(branch)
    except BaseException as error:
        yield from _roll_back(door, error)
        yield from _mark_ended(branch, door, error)
        raise
    yield from _commit(door)
    if is_late:
        raise LateTry(f"the try of {branch} did not begin before its deadline of {fencing.deadline_ms} ms")
    return result


def _mark_ended(branch: Branch, door: Door, error: BaseException) -> Flow[None]:
    """A try that threw may have done something: let it be cancelled now, not at the deadline."""
    try:
        yield Invoke(door.begin, (branch,))
        yield from door.fence.ended(branch)
        yield from _commit(door)
    except Exception as second:  # noqa: BLE001 - the deadline does it
        error.add_note(f"troth: the fence could not be told that the try ended ({second}); its deadline will end it")
        yield from _roll_back(door, error)


def settle(request: BranchEndRequest, verb: Verb, fencing: Fencing, door: Door, body: Body) -> Flow[None]:
    """Phase two of one branch: run `body` (the confirm or the cancel), if it is the first.

    Raises:
        NotNow: the fence does not let it through, or `body` returned False.
        Exception: what `body` raised, or the database. Nothing is marked as done then.
    """
    found = read(request.application_data, fenced=fencing.mode is not FenceMode.OFF)
    branch = Branch(request.xid or "", request.branch_id, request.resource_id or "")
    context = ActionContext(branch.xid, branch.branch_id, branch.action, found.arguments, found.result)
    if not _is_fenced(branch, found, fencing):
        yield from _run_body(branch, verb, body, context)
        return
    yield Invoke(door.open)
    try:
        yield from _settle_fenced(branch, verb, door, body, context)
    finally:
        yield Invoke(door.close)


def _is_fenced(branch: Branch, found: Read, fencing: Fencing) -> bool:
    """As its try was: an action may have been given a fence, or lost it, since then."""
    if found.fenced and fencing.mode is FenceMode.OFF:
        raise NotNow(f"{branch} was tried behind a fence, and this process has none for the action")
    return found.fenced


def _settle_fenced(branch: Branch, verb: Verb, door: Door, body: Body, context: ActionContext) -> Flow[None]:
    try:
        yield Invoke(door.begin, (branch,))
        fence = door.fence
        first = yield from (fence.confirm(branch) if verb is Verb.CONFIRM else fence.cancel(branch))
        if first is Found.RUN:
            yield from _run_body(branch, verb, body, replace(context, connection=door.connection))
        yield from _commit(door)
    except BaseException as error:
        yield from _roll_back(door, error)
        raise


def _run_body(branch: Branch, verb: Verb, body: Body, context: ActionContext) -> Flow[None]:
    if (yield Invoke(body, (context,))) is False:
        raise NotNow(f"{verb.name.lower()} of {branch} returned False")


def _commit(door: Door) -> Flow[None]:
    yield Invoke(door.commit)


def _roll_back(door: Door, error: BaseException) -> Flow[bool]:
    """Whether it is certain that nothing is left."""
    try:
        yield Invoke(door.rollback)
    except Exception as second:  # noqa: BLE001 - the first error is the one to raise
        error.add_note(f"troth: ROLLBACK said: {second}")
        return False
    return True
