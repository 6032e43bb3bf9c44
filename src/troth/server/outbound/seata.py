"""Phase two over Seata channels: a call becomes a BranchCommit or BranchRollback, its answer an Answered event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from troth.core.effects import Call
from troth.core.events import Answered, CallResult
from troth.core.model import Verb
from troth.server.sessions import Sessions
from troth.wire.seata.enums import BranchStatus, ResultCode
from troth.wire.seata.enums import BranchType as SeataBranchType
from troth.wire.seata.messages import BranchCommitRequest, BranchEndRequest, BranchEndResponse, BranchRollbackRequest
from troth.wire.seata.saga import RunAskRequest

LONGEST_DETAIL = 2048
"""Characters of an answer's text that are kept with the branch (design/coordinator §9)."""

REQUESTS: Mapping[Verb, type[BranchEndRequest]] = MappingProxyType(
    {Verb.COMMIT: BranchCommitRequest, Verb.ROLLBACK: BranchRollbackRequest}
)
RESULTS: Mapping[BranchStatus, CallResult] = MappingProxyType(
    {
        BranchStatus.PhaseTwo_Committed: CallResult.DONE,
        BranchStatus.PhaseTwo_Rollbacked: CallResult.DONE,
        BranchStatus.PhaseTwo_CommitFailed_Unretryable: CallResult.REFUSED,
        BranchStatus.PhaseTwo_RollbackFailed_Unretryable: CallResult.REFUSED,
        BranchStatus.PhaseOne_Done: CallResult.ONGOING,
    }
)
"""Everything else is asked again."""
_BRANCH_TYPES = tuple(SeataBranchType)
"""By ordinal."""
_DONE = MappingProxyType(
    {
        Verb.COMMIT: BranchStatus.PhaseTwo_Committed,
        Verb.ROLLBACK: BranchStatus.PhaseTwo_Rollbacked,
        Verb.ASK: BranchStatus.PhaseTwo_Committed,
    }
)


def request_for(call: Call) -> BranchEndRequest:
    """The message that asks a branch to do `call`."""
    if call.verb is Verb.ASK:
        kind = SeataBranchType.SAGA  # what Seata calls nearest to it
        return RunAskRequest(call.xid, call.branch_id, kind, call.resource_id, call.application_data, call.attempt)
    return REQUESTS[call.verb](
        call.xid, call.branch_id, _BRANCH_TYPES[call.branch_type], call.resource_id, call.application_data
    )


def answered(call: Call, response: BranchEndResponse, worker: str) -> Answered:
    """What an RM's answer to `call` means: its branch status decides, whatever the result code, as in Seata.

    Only a success of the other verb, or one that says Failed in the same breath, is not believed and asked again;
    a failure carries its reason only with Failed (PROTOCOL §3), so a refusal with it is a refusal.
    """
    status = response.branch_status
    result = RESULTS.get(status, CallResult.RETRY)
    if result is CallResult.ONGOING and call.verb is not Verb.ASK:
        result = CallResult.RETRY
    believed = response.result_code is ResultCode.Success and status is _DONE.get(call.verb)
    if result is CallResult.DONE and not believed:
        result = CallResult.RETRY
    detail = None
    if result is not CallResult.DONE:
        detail = f"{status.name}: {response.msg}"[:LONGEST_DETAIL] if response.msg else status.name
    return Answered(call.xid, call.branch_id, call.verb, call.attempt, result, detail, worker)


def unanswered(call: Call, result: CallResult, detail: str, worker: str | None) -> Answered:
    """`call` came to nothing."""
    return Answered(call.xid, call.branch_id, call.verb, call.attempt, result, detail[:LONGEST_DETAIL], worker)


class CallStats(msgspec.Struct):
    """How often which verb ended how."""

    results: dict[tuple[Verb, CallResult], int] = {}

    def count(self, event: Answered) -> None:
        """One more."""
        key = (event.verb, event.result)
        self.results[key] = self.results.get(key, 0) + 1


class CallsOut:
    """The calls that are out on one channel, by request id. Those that the core has given up are forgotten."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._calls: OrderedDict[int, tuple[Call, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, request_id: int, call: Call, now: float) -> None:
        """`call` went out at `now` (seconds of the loop's clock)."""
        while self._calls:
            oldest, (_, sent) = next(iter(self._calls.items()))
            if now - sent < self._keep_s:
                break
            del self._calls[oldest]
        self._calls[request_id] = (call, now)

    def take(self, request_id: int) -> Call | None:
        """The call that this answer answers; None if it is too late, or answers nothing."""
        found = self._calls.pop(request_id, None)
        return None if found is None else found[0]

    def take_all(self) -> list[Call]:
        """The channel is gone."""
        calls = [call for call, _ in self._calls.values()]
        self._calls.clear()
        return calls


class SeataOutbound:
    """Finds the channel for each call."""

    def __init__(self, sessions: Sessions, submit: Callable[[Answered], None]) -> None:
        self.stats = CallStats()
        self._sessions = sessions
        self._submit = submit

    def call(self, call: Call) -> None:
        """Send it, or say at once that nobody is there."""
        channel = self._sessions.find(call)
        if channel is None:
            self.settle(unanswered(call, CallResult.NO_CHANNEL, f"no client serves {call.resource_id}", None))
        else:
            channel.link.call_branch(call)

    def settle(self, event: Answered) -> None:
        """How a call ended goes to the engine, and into the statistics."""
        self.stats.count(event)
        self._submit(event)
