"""What our own clients ask about sagas that they run (wire/seata/saga.py), as events, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from troth.core.effects import Begun, Claimed, Known, Recorded, Result, Superseded, Unknown
from troth.core.events import Begin, Claim, Event, NewStep, Record
from troth.core.model import BranchType, OnTimeout, Plan, Terms
from troth.server.config import Limits, Timeout
from troth.server.ids import XID_FORM
from troth.server.inbound.seata_answers import failure, thrown
from troth.server.sessions import Channel
from troth.server.waiters import AnyReply
from troth.wire.seata.enums import ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import Message
from troth.wire.seata.saga import (
    NOBODY,
    RunClaimRequest,
    RunClaimResponse,
    SagaBeginRequest,
    SagaBeginResponse,
    StepRecordRequest,
    StepRecordResponse,
    records_text,
)

KIND = "saga"
"""What `troth inspect` calls them."""
LONGEST_XID = 128
LONGEST_KEY_BYTES = 4096
_SHORTEST_CHECK_MS = 50


class SagaRequests:
    """Turns messages about sagas into events. `obstacle` says why a transaction may not begin, or None."""

    def __init__(
        self,
        limits: Limits,
        timeout: Timeout,
        *,
        submit: Callable[[Event], None],
        next_id: Callable[[], int],
        new_xid: Callable[[], str],
        obstacle: Callable[[int, str], str | None],
    ) -> None:
        self._limits = limits
        self._timeout = timeout
        self._submit = submit
        self._next_id = next_id
        self._new_xid = new_xid
        self._obstacle = obstacle

    def handle(self, channel: Channel, message: Message, reply: AnyReply) -> None:
        """Take one request."""
        HANDLERS[type(message)](self, channel, message, reply)

    def _begin(self, channel: Channel, message: SagaBeginRequest, reply: AnyReply) -> None:
        name = message.transaction_name or ""
        # The deadline of a saga is its runner's business: the coordinator only shows it.
        timeout_ms = min(message.timeout_ms or self._timeout.default, self._timeout.max)
        reason = self._obstacle(timeout_ms, name) or self._begin_obstacle(channel, message)
        if reason is not None:
            reply.send(SagaBeginResponse(ResultCode.Failed, thrown(reason), TransactionExceptionCode.BeginFailed))
            return
        resource = message.resource_id or ""
        check_ms = max(message.check_interval_ms, _SHORTEST_CHECK_MS)
        terms = Terms(message.gid or "", KIND, b"", OnTimeout.GO_ON, retry_ms=check_ms)
        data = message.application_data
        runner = NewStep(self._next_id(), BranchType.RUNNER, resource, data, Plan(by_url=False))
        reply.translate = _begin_answer
        self._submit(
            Begin(
                self._new_xid(),
                name,
                channel.application,
                channel.group,
                timeout_ms,
                reply,
                terms=terms,
                steps=(runner,),
                client_id=channel.client_id,
                channel=channel,
            )
        )

    def _begin_obstacle(self, channel: Channel, message: SagaBeginRequest) -> str | None:
        if message.resource_id not in channel.resources:
            resource = (message.resource_id or "")[:200]
            return f"this connection does not serve {resource!r}, so nobody could go on with the saga"
        if len((message.gid or "").encode()) > LONGEST_KEY_BYTES:
            return f"the name that the saga is given is over the limit of {LONGEST_KEY_BYTES} bytes"
        if XID_FORM.fullmatch(message.gid or ""):
            return f"the name {message.gid!r} looks like an xid of the coordinator: choose another"
        if len((message.application_data or "").encode()) > self._limits.application_data_bytes:
            return f"applicationData is over the limit of {self._limits.application_data_bytes} bytes"
        return None

    def _record(self, channel: Channel, message: StepRecordRequest, reply: AnyReply) -> None:
        reply.translate = _record_answer
        xid, key, data = message.xid, message.key or "", message.application_data
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
            return
        limit = self._limits.application_data_bytes
        if not key or len(key.encode()) > LONGEST_KEY_BYTES or len((data or "").encode()) > limit:
            reason = f"a record needs a key of at most {LONGEST_KEY_BYTES} bytes, and takes {limit} bytes of data"
            reply.send(_refused(StepRecordResponse, reason))
            return
        self._submit(Record(xid, message.attempt, self._next_id(), key, data, message.failed, reply))

    def _claim(self, channel: Channel, message: RunClaimRequest, reply: AnyReply) -> None:
        reply.translate = _claim_answer(message.first)
        xid = message.xid
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        else:
            self._submit(Claim(xid, message.attempt, channel.client_id, channel, reply))


def _begin_answer(result: Result) -> Message:
    if isinstance(result, Known):
        return SagaBeginResponse(xid=result.xid, known=True)
    assert isinstance(result, Begun)
    return SagaBeginResponse(xid=result.xid)


def _record_answer(result: Result) -> Message:
    if isinstance(result, Recorded):
        return StepRecordResponse(branch_id=result.branch_id, application_data=result.application_data)
    if isinstance(result, Superseded):
        return _refused(StepRecordResponse, _newer(result), result.attempt)
    return _refused(StepRecordResponse, failure(result)[0])


def _claim_answer(first: int) -> Callable[[Result], Message]:
    def translate(result: Result) -> Message:
        if isinstance(result, Claimed):
            return RunClaimResponse(records=records_text(result.records, first), total=len(result.records))
        if isinstance(result, Superseded):
            return _refused(RunClaimResponse, _newer(result), result.attempt)
        return _refused(RunClaimResponse, failure(result)[0])

    return translate


def _newer(result: Superseded) -> str:
    return thrown(f"attempt {result.attempt} runs the saga {result.xid} now")


def _refused(
    kind: type[StepRecordResponse] | type[RunClaimResponse], reason: str, superseded_by: int = NOBODY
) -> Message:
    return kind(result_code=ResultCode.Failed, msg=reason, superseded_by=superseded_by)


# The key guarantees the type.
HANDLERS: Mapping[type[Message], Callable[..., None]] = MappingProxyType(
    {
        SagaBeginRequest: SagaRequests._begin,
        StepRecordRequest: SagaRequests._record,
        RunClaimRequest: SagaRequests._claim,
    }
)
