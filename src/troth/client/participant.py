"""Phase two: the coordinator's requests find their resource's handler, each resource on a thread of its own.

Per resource there is one bounded queue and one worker. Whatever has arrived is taken at once: rollbacks first, one at a
time in their order of arrival (others wait for their rows), then all commits as one batch. A request is always
answered, also when the queue is full, the resource unknown or the handler broken: then with "later" (Retryable) and the
reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable

import msgspec

from troth.client.flow import InquiryHandler, ResourceHandler
from troth.client.links.link import Reply
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    Message,
    UndoLogDeleteRequest,
)
from troth.wire.seata.private import BranchInquiryRequest, BranchInquiryResponse, BranchReport, Inquiry

log = logging.getLogger(__name__)

_UNDONE_KEPT = 1000
"""How many answers "rolled back" are remembered per resource, for repeated requests that crossed with them."""


ResourceKey = tuple[BranchType, str]
BranchKey = tuple[str | None, int]
PhaseTwoRequest = BranchCommitRequest | BranchRollbackRequest | UndoLogDeleteRequest | BranchInquiryRequest


def later(request: BranchCommitRequest | BranchRollbackRequest, reason: str) -> Message:
    """The answer that makes the coordinator ask again, with the reason for `troth inspect`."""
    reason = reason.encode("utf-8", "replace").decode()  # an error's text may hold what no frame can carry
    if isinstance(request, BranchCommitRequest):
        return BranchCommitResponse(
            result_code=ResultCode.Failed,
            msg=reason,
            xid=request.xid,
            branch_id=request.branch_id,
            branch_status=BranchStatus.PhaseTwo_CommitFailed_Retryable,
        )
    return BranchRollbackResponse(
        result_code=ResultCode.Failed,
        msg=reason,
        transaction_exception_code=TransactionExceptionCode.BranchRollbackFailed_Retriable,
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=BranchStatus.PhaseTwo_RollbackFailed_Retryable,
    )


def _refuse(request: PhaseTwoRequest, reply: Reply, reason: str) -> None:
    log.warning("phase two is put off: %s: %s", reason, request)
    _put_off(request, reply, reason)


def _put_off(request: PhaseTwoRequest, reply: Reply, reason: str) -> None:
    if isinstance(request, BranchInquiryRequest):
        reply(reported(request, BranchReport("unknown", problem=reason)))
    elif not isinstance(request, UndoLogDeleteRequest):
        reply(later(request, reason))


def reported(request: BranchInquiryRequest, report: BranchReport) -> Message:
    """The answer to an inquiry."""
    return BranchInquiryResponse(request.xid, request.branch_id, msgspec.json.encode(report).decode())


class Participant:
    """All resources of a client, and who serves them."""

    def __init__(self, settings: ClientSettings, handlers: Iterable[tuple[ResourceKey, ResourceHandler]] = ()) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._handlers = dict(handlers)
        self._workers: dict[ResourceKey, _Worker] = {}
        self._closed = False

    def add(self, branch_type: BranchType, resource_id: str, handler: ResourceHandler) -> None:
        """Serve `resource_id` by `handler` from now on, in place of one that served it before."""
        with self._lock:
            self._handlers[branch_type, resource_id] = handler

    def resource_ids(self) -> tuple[str, ...]:
        """All resources, each once, in the order they came."""
        with self._lock:
            return tuple(dict.fromkeys(resource_id for _, resource_id in self._handlers))

    def serve(self, message: Message, reply: Reply) -> None:
        """Take a request of the coordinator. Never blocks, never raises; `reply` gets the answer later."""
        if not isinstance(message, PhaseTwoRequest):
            log.error("the coordinator sent a request that a client does not serve: %s", message)
            return
        worker = self._worker_for((message.branch_type, message.resource_id or ""))
        if self._closed:
            _put_off(message, reply, "the client is being closed")
        elif worker is None:
            _refuse(message, reply, f"no {message.branch_type.name} resource {message.resource_id!r} in this process")
        elif not worker.put(message, reply):
            _refuse(message, reply, f"the resource {message.resource_id!r} is busy")

    def _worker_for(self, key: ResourceKey) -> _Worker | None:
        with self._lock:
            if key not in self._handlers or self._closed:
                return None
            if key not in self._workers:
                self._workers[key] = _Worker(key, self, self._settings)
            return self._workers[key]

    def handler(self, key: ResourceKey) -> ResourceHandler:
        """Who serves the resource now."""
        with self._lock:
            return self._handlers[key]

    def close(self) -> None:
        """Finish what has arrived, within `close_wait_s`; refuse what comes later."""
        with self._lock:
            self._closed = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        deadline = time.monotonic() + self._settings.close_wait_s
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> Participant:
        """In a forked child, where no worker runs and a lock may be held for ever: the same resources, all else new."""
        return Participant(self._settings, self._handlers.items())


class _Worker:
    """One resource's queue and thread."""

    def __init__(self, key: ResourceKey, participant: Participant, settings: ClientSettings) -> None:
        self._key = key
        self._participant = participant
        self._settings = settings
        self._changed = threading.Condition()
        self._rollbacks: dict[BranchKey, list[tuple[BranchRollbackRequest, Reply]]] = {}
        """By branch, the one being rolled back included: a request that is repeated meanwhile gets the same answer."""
        self._asked_rollbacks = 0
        self._undone: OrderedDict[BranchKey, Message] = OrderedDict()
        self._commits: deque[tuple[BranchCommitRequest, Reply]] = deque()
        self._deletes: deque[UndoLogDeleteRequest] = deque()
        self._inquiries: deque[tuple[BranchInquiryRequest, Reply]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"troth-phase-two {key[1]}", daemon=True)
        self._thread.start()

    def put(self, request: PhaseTwoRequest, reply: Reply) -> bool:
        """Queue a request; False: there is no room, or the worker stops."""
        with self._changed:
            if self._stopping or self._size() >= self._settings.phase_two_queue:
                return False
            if isinstance(request, BranchRollbackRequest):
                self._rollbacks.setdefault((request.xid, request.branch_id), []).append((request, reply))
                self._asked_rollbacks += 1
            elif isinstance(request, BranchCommitRequest):
                self._commits.append((request, reply))
            elif isinstance(request, BranchInquiryRequest):
                self._inquiries.append((request, reply))
            else:
                self._deletes.append(request)
            self._changed.notify()
            return True

    def stop(self) -> None:
        """End the thread when the queue is empty."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("phase two of %s still runs; the coordinator will ask again for what is left", self._key[1])

    def _size(self) -> int:
        return self._asked_rollbacks + len(self._commits) + len(self._deletes) + len(self._inquiries)

    def _run(self) -> None:
        while self._wait_for_work():
            self._roll_back()
            self._answer_inquiries()
            self._commit()
            self._delete_undo_logs()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._size() or self._stopping)
            return self._size() > 0

    def _roll_back(self) -> None:
        with self._changed:
            branches = [(key, asked[0][0]) for key, asked in self._rollbacks.items()]
        for key, request in branches:
            # Undone again, a branch without an undo row would get a guard row that nobody needs.
            answer = self._undone.get(key) or self._rolled_back(request)
            if isinstance(answer, BranchRollbackResponse) and answer.branch_status is BranchStatus.PhaseTwo_Rollbacked:
                self._undone[key] = answer
                if len(self._undone) > _UNDONE_KEPT:
                    self._undone.popitem(last=False)
            with self._changed:
                asked = self._rollbacks.pop(key)
                self._asked_rollbacks -= len(asked)
            for _, reply in asked:
                reply(answer)

    def _rolled_back(self, request: BranchRollbackRequest) -> Message:
        try:
            return self._participant.handler(self._key).rollback(request)
        except Exception as error:
            log.exception("rolling back branch %s of %s failed", request.branch_id, request.xid)
            return later(request, f"{type(error).__name__}: {error}")

    def _answer_inquiries(self) -> None:
        while self._inquiries:
            request, reply = self._inquiries.popleft()
            try:
                report = self._report(request)
            except Exception as error:
                log.exception("looking at branch %s of %s failed", request.branch_id, request.xid)
                report = BranchReport("unknown", problem=f"{type(error).__name__}: {error}")
            reply(reported(request, report))

    def _report(self, request: BranchInquiryRequest) -> BranchReport:
        handler = self._participant.handler(self._key)
        if not isinstance(handler, InquiryHandler):
            return BranchReport("unknown", problem=f"{self._key[0].name} branches have no images")
        inquiry = msgspec.json.decode(request.application_data or "{}", type=Inquiry)
        return handler.inquire(request.xid or "", request.branch_id, inquiry)

    def _commit(self) -> None:
        jobs = [self._commits.popleft() for _ in range(min(len(self._commits), self._settings.phase_two_batch))]
        if not jobs:
            return
        answers: dict[tuple[str | None, int], Message] = {}
        reason = "the resource gave no answer for this branch"
        try:
            for answer in self._participant.handler(self._key).commit([request for request, _ in jobs]):
                answers[answer.xid, answer.branch_id] = answer
        except Exception as error:
            log.exception("committing %d branches of %s failed", len(jobs), self._key[1])
            reason = f"{type(error).__name__}: {error}"
        for request, reply in jobs:
            reply(answers.get((request.xid, request.branch_id)) or later(request, reason))

    def _delete_undo_logs(self) -> None:
        while self._deletes:
            request = self._deletes.popleft()
            try:
                self._participant.handler(self._key).delete_undo_logs(request.save_days)
            except Exception:
                log.exception("deleting old undo logs of %s failed", self._key[1])
