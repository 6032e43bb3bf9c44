"""What Seata clients ask, as events: one method for each message, one table from message to method.

Everything is synchronous. What is wrong with a request is said in its answer; only what no client may send at all
raises Refused and costs the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from troth.core.effects import Conflict, Registered, Result, Unknown
from troth.core.events import (
    Begin,
    Commit,
    Event,
    LockQuery,
    LockWait,
    Register,
    Report,
    Rollback,
    Served,
    Status,
    Vote,
)
from troth.core.model import BranchType, LockMode, PhaseOne
from troth.core.modes import MODES, SEATA_MODES
from troth.core.rowkeys import LockTextError, parse_lock_text
from troth.server.config import Config
from troth.server.inbound import seata_answers as answers
from troth.server.inbound.seata_sagas import SagaRequests
from troth.server.same_database import SameDatabase
from troth.server.sessions import Channel, Sessions
from troth.server.waiters import AnyReply, BatchReply, ChildReply, MergedReply, Responder
from troth.wire.seata.enums import BranchStatus, GlobalStatus, TransactionExceptionCode
from troth.wire.seata.frame import Frame
from troth.wire.seata.lock_wait import LockWaitRequest, ModeRegisterRequest, RowLockMode, agreed, announces
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchReportRequest,
    GlobalBeginRequest,
    GlobalCommitRequest,
    GlobalLockQueryRequest,
    GlobalReportRequest,
    GlobalRollbackRequest,
    GlobalStatusRequest,
    MergedWarpMessage,
    Message,
    RegisterRMRequest,
    RegisterRMResponse,
    RegisterTMRequest,
    RegisterTMResponse,
)
from troth.wire.seata.private import announces_inquiries
from troth.wire.seata.saga import SAGA_REQUESTS
from troth.wire.seata.saga import agreed as agreed_on_sagas
from troth.wire.seata.saga import announces as announces_sagas

SPOKEN_VERSION = "2.3.0"
"""What we answer to registrations: clients pick the frame version and features by it (PROTOCOL §4)."""
LONGEST_XID = 128
"""Characters; our own are at most 64, so a longer one is nobody's."""

_MODE_OF_TYPE: Mapping[int, BranchType] = MappingProxyType({mode.value: mode for mode in SEATA_MODES})
_MODES: Mapping[int, BranchType] = MappingProxyType({**_MODE_OF_TYPE, BranchType.SAGA.value: BranchType.SAGA})
"""A compensation is registered by our own clients only: to Seata's, such a branch means something else."""
_PHASE_ONE: Mapping[BranchStatus, PhaseOne] = MappingProxyType(
    {BranchStatus.PhaseOne_Done: PhaseOne.DONE, BranchStatus.PhaseOne_Failed: PhaseOne.FAILED}
)


_LOCK_MODE: Mapping[RowLockMode, LockMode] = MappingProxyType(
    {RowLockMode.EXCLUSIVE: LockMode.EXCLUSIVE, RowLockMode.ADD: LockMode.ADD}
)


class Refused(Exception):
    """A message that this peer may not send: the connection is closed with this reason."""


class LocalState(msgspec.Struct):
    """What an AT client says in applicationData. `skipCheckLock` is ignored on purpose (design/coordinator §4)."""

    autoCommit: bool = True  # noqa: N815 - Seata's key


class RequestStats(msgspec.Struct):
    """Plain counters for /metrics."""

    branches: int = 0
    lock_conflicts: int = 0
    begins_refused: int = 0


class Requests:
    """Turns messages of registered channels into events. `overloaded` says why none may begin now, or None."""

    def __init__(
        self,
        config: Config,
        sessions: Sessions,
        *,
        submit: Callable[[Event], None],
        next_id: Callable[[], int],
        overloaded: Callable[[], str | None],
    ) -> None:
        self.stats = RequestStats()
        self.address = ""
        """`host:port` that clients reach us by; set when the port is known."""
        self._limits = config.limits
        self._timeout = config.timeout
        self._sessions = sessions
        self._databases = SameDatabase()
        self._submit = submit
        self._next_id = next_id
        self._overloaded = overloaded
        self._sagas = SagaRequests(
            config.limits,
            config.timeout,
            submit=submit,
            next_id=next_id,
            new_xid=self._new_xid,
            obstacle=self._begin_obstacle,
        )

    def handle(self, channel: Channel, message: Message, reply: AnyReply) -> None:
        """Take one request. Raises Refused."""
        method = HANDLERS.get(type(message))
        if method is None:
            raise Refused(f"{type(message).__name__} is no message for a coordinator")
        method(self, channel, message, reply)

    def handle_merged(self, channel: Channel, frame: Frame, message: MergedWarpMessage, responder: Responder) -> None:
        """Take the children of a merged request, each as if it had come alone. Raises Refused."""
        for child in message.msgs:
            if type(child) not in HANDLERS:
                raise Refused(f"{type(child).__name__} is no message for a coordinator, in a merged request")
        whole = (
            BatchReply(responder, frame, message.msg_ids)
            if channel.takes_batch_results and len(message.msg_ids) == len(message.msgs)  # else only the order tells
            else MergedReply(responder, frame, len(message.msgs))
        )
        for index, child in enumerate(message.msgs):
            self.handle(channel, child, ChildReply(whole, index))

    # ---- registration ----

    def _register_tm(self, channel: Channel, message: RegisterTMRequest, reply: AnyReply) -> None:
        channel.introduce(message.application_id, message.transaction_service_group, message.version)
        self._sessions.add_tm(channel)
        reply.send(RegisterTMResponse(version=SPOKEN_VERSION))

    def _register_rm(self, channel: Channel, message: RegisterRMRequest, reply: AnyReply) -> None:
        channel.introduce(message.application_id, message.transaction_service_group, message.version)
        resources = [resource for resource in (message.resource_ids or "").split(",") if resource]
        if len(channel.resources) + len(resources) > self._limits.resources:
            raise Refused(f"more than {self._limits.resources} resources on one connection")
        channel.answers_inquiries = channel.answers_inquiries or announces_inquiries(message.extra_data)
        new = self._sessions.add_resources(channel, resources)
        if announces(message.extra_data):
            channel.waits_cold = True
        if announces_sagas(message.extra_data):
            channel.keeps_sagas = True
        version = agreed_on_sagas(SPOKEN_VERSION) if channel.keeps_sagas else SPOKEN_VERSION
        reply.send(RegisterRMResponse(version=agreed(version) if channel.waits_cold else version))
        for resource in new:
            self._databases.note(resource)
            self._submit(Served(resource))

    # ---- global transactions ----

    def _begin(self, channel: Channel, message: GlobalBeginRequest, reply: AnyReply) -> None:
        name = message.transaction_name or ""
        reason = self._begin_obstacle(message.timeout_ms, name)
        if reason is not None:
            self.stats.begins_refused += 1
            reply.send(answers.begin_refusal(reason))
            return
        reply.translate = answers.begin_answer
        xid = self._new_xid()
        timeout_ms = message.timeout_ms or self._timeout.default
        self._submit(Begin(xid, name, channel.application, channel.group, timeout_ms, reply))

    def _new_xid(self) -> str:
        return f"{self.address}:{self._next_id()}"

    def _begin_obstacle(self, timeout_ms: int, name: str) -> str | None:
        if timeout_ms < 0:
            return f"a timeout of {timeout_ms} ms is in the past"
        if timeout_ms > self._timeout.max:
            return f"a timeout of {timeout_ms} ms is over the limit timeout.max = {self._timeout.max} ms"
        if _longer_than(name, self._limits.name_bytes):
            return f"the transaction's name is over the limit limits.name_bytes = {self._limits.name_bytes}"
        return self._overloaded()

    def _commit(self, channel: Channel, message: GlobalCommitRequest, reply: AnyReply) -> None:
        reply.translate = answers.commit_answer
        xid = message.xid
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        else:
            self._submit(Commit(xid, reply))

    def _rollback(self, channel: Channel, message: GlobalRollbackRequest, reply: AnyReply) -> None:
        reply.translate = answers.rollback_answer
        xid = message.xid
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        else:
            self._submit(Rollback(xid, reply))

    def _status(self, channel: Channel, message: GlobalStatusRequest, reply: AnyReply) -> None:
        reply.translate = answers.status_answer
        xid = message.xid
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        else:
            self._submit(Status(xid, reply))

    def _report(self, channel: Channel, message: GlobalReportRequest, reply: AnyReply) -> None:
        claimed = GlobalStatus.UnKnown if message.global_status is None else message.global_status
        reply.translate = answers.report_answer(claimed)
        xid = message.xid
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        elif claimed is GlobalStatus.Rollbacking:
            self._submit(Vote(xid, reply))
        else:
            self._submit(Status(xid, reply))

    # ---- branches ----

    def _register_branch(
        self,
        channel: Channel,
        message: BranchRegisterRequest,
        reply: AnyReply,
        lock_mode: LockMode = LockMode.EXCLUSIVE,
    ) -> None:
        reply.translate = self._count_register
        xid, resource_id = message.xid, message.resource_id
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
            return
        refusal = self._branch_obstacle(channel, message)
        if refusal is not None or resource_id is None:
            reply.send(refusal or answers.register_refusal("the branch names no resource"))
            return
        data = message.application_data
        mode = _MODES[message.branch_type]
        text = message.lock_key or "" if MODES[mode].locks_rows else ""
        try:
            keys = parse_lock_text(resource_id, text)
        except LockTextError as error:
            reply.send(answers.register_refusal(str(error)))
            return
        auto_commit = data is None or _auto_commit(data)
        self._submit(
            Register(
                xid,
                self._next_id(),
                mode,
                resource_id,
                text,
                keys,
                data,
                auto_commit,
                channel.client_id,
                channel,
                # who can wait cold lets go of its local row locks first: a hot wait would hold them
                reply.may_wait and not (auto_commit and channel.waits_cold),
                reply,
                lock_mode,
            )
        )

    def _register_moded(self, channel: Channel, message: ModeRegisterRequest, reply: AnyReply) -> None:
        self._register_branch(channel, message, reply, _LOCK_MODE[message.lock_mode])

    def _wait_for_rows(self, channel: Channel, message: LockWaitRequest, reply: AnyReply) -> None:
        reply.translate = self._count_wait
        xid, resource_id, text = message.xid, message.resource_id, message.lock_key or ""
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
            return
        if resource_id is None or _longer_than(resource_id, self._limits.name_bytes):
            reply.send(answers.lock_wait_refusal("the wait names no resource, or one with too long a name"))
            return
        try:
            keys = parse_lock_text(resource_id, text)
        except LockTextError as error:
            reply.send(answers.lock_wait_refusal(str(error)))
            return
        mode = _LOCK_MODE[message.lock_mode]
        self._submit(LockWait(xid, self._next_id(), resource_id, text, keys, channel, reply.may_wait, reply, mode))

    def _count_wait(self, result: Result) -> Message:
        if isinstance(result, Conflict):
            self.stats.lock_conflicts += 1
        return answers.lock_wait_answer(result)

    def _branch_obstacle(self, channel: Channel, message: BranchRegisterRequest) -> Message | None:
        if message.branch_type not in (_MODES if channel.keeps_sagas else _MODE_OF_TYPE):
            return answers.register_refusal(f"branch type {message.branch_type.name} is not supported by this version")
        resource_id, data = message.resource_id, message.application_data
        if resource_id is not None and _longer_than(resource_id, self._limits.name_bytes):
            return answers.register_refusal("the resource id is over the limit limits.name_bytes")
        if data is not None and _longer_than(data, self._limits.application_data_bytes):
            return answers.register_refusal(
                f"applicationData is over the limit of {self._limits.application_data_bytes} bytes",
                TransactionExceptionCode.FailedToAddBranch,
            )
        return None

    def _count_register(self, result: Result) -> Message:
        if isinstance(result, Registered):
            self.stats.branches += 1
        elif isinstance(result, Conflict):
            self.stats.lock_conflicts += 1
        return answers.register_answer(result)

    def _report_branch(self, channel: Channel, message: BranchReportRequest, reply: AnyReply) -> None:
        reply.translate = answers.branch_report_answer
        xid, data = message.xid, message.application_data
        if xid is None or len(xid) > LONGEST_XID:
            reply.answer(Unknown(xid or ""))
        elif _longer_than(data or "", self._limits.application_data_bytes):
            limit = self._limits.application_data_bytes
            reply.send(answers.branch_report_refusal(f"applicationData is over the limit of {limit} bytes"))
        else:
            phase_one = _PHASE_ONE.get(message.status)
            read_only = message.status is BranchStatus.PhaseOne_RDONLY
            self._submit(Report(xid, message.branch_id, phase_one, data, reply, read_only))

    def _saga(self, channel: Channel, message: Message, reply: AnyReply) -> None:
        if not channel.keeps_sagas:
            raise Refused(f"{type(message).__name__} was not negotiated")
        self._sagas.handle(channel, message, reply)

    def _query_locks(self, channel: Channel, message: GlobalLockQueryRequest, reply: AnyReply) -> None:
        reply.translate = answers.lock_query_answer
        try:
            keys = parse_lock_text(message.resource_id or "", message.lock_key)
        except LockTextError as error:
            reply.send(answers.lock_query_refusal(str(error)))
            return
        self._submit(LockQuery(message.xid or "", keys, reply))


def _longer_than(text: str, limit_bytes: int) -> bool:
    """True if `text` in UTF-8 is longer than the limit; most are so short that nothing need be encoded."""
    return len(text) * 4 > limit_bytes and len(text.encode()) > limit_bytes


def _auto_commit(application_data: str) -> bool:
    """False only where an AT client says that it is inside a local transaction (PROTOCOL §9)."""
    if '"autoCommit"' not in application_data:
        return True
    try:
        return msgspec.json.decode(application_data, type=LocalState).autoCommit
    except (msgspec.MsgspecError, RecursionError):
        return True  # other modes put whatever they like here


# Each method takes its own message; the table's key is what guarantees the type.
HANDLERS: Mapping[type[Message], Callable[..., None]] = MappingProxyType(
    {
        RegisterTMRequest: Requests._register_tm,
        RegisterRMRequest: Requests._register_rm,
        GlobalBeginRequest: Requests._begin,
        GlobalCommitRequest: Requests._commit,
        GlobalRollbackRequest: Requests._rollback,
        GlobalStatusRequest: Requests._status,
        GlobalReportRequest: Requests._report,
        BranchRegisterRequest: Requests._register_branch,
        ModeRegisterRequest: Requests._register_moded,
        LockWaitRequest: Requests._wait_for_rows,
        BranchReportRequest: Requests._report_branch,
        GlobalLockQueryRequest: Requests._query_locks,
        **dict.fromkeys(SAGA_REQUESTS, Requests._saga),
    }
)
REGISTRATIONS = frozenset({RegisterTMRequest, RegisterRMRequest})
