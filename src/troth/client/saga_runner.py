"""Answers the coordinator's question whether a saga is being run, and goes on with one that nobody runs."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from troth.client.modes.saga import RunEnds
from troth.client.participant import later
from troth.client.saga_errors import NeedsHuman, SagaSuperseded
from troth.client.saga_loop import LoopDoor
from troth.wire.seata.enums import BranchStatus
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
)
from troth.wire.seata.saga import RunAskRequest

if TYPE_CHECKING:
    from troth.client.saga_run import Saga

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64
"""So many sagas of one name that were begun elsewhere are gone on with at once in a process."""
_KEPT: Final = 10_000


class RunHandler:
    """`troth.client.flow.ResourceHandler` of one saga."""

    def __init__(self, saga: Saga[Any, Any]) -> None:
        self._saga = saga
        self.loop = LoopDoor()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._running: Counter[str] = Counter()
        self._taken = 0
        self._put_off: OrderedDict[str, str] = OrderedDict()

    @contextmanager
    def running(self, xid: str) -> Iterator[None]:
        """This process runs `xid` meanwhile."""
        self._begin(xid)
        try:
            yield
        finally:
            self._end(xid)

    def _begin(self, xid: str) -> None:
        with self._lock:
            self._forget_the_parents()
            self._running[xid] += 1

    def _end(self, xid: str) -> None:
        with self._lock:
            self._running[xid] -= 1
            if self._running[xid] <= 0:
                del self._running[xid]

    def _forget_the_parents(self) -> None:
        """After a fork, what the parent runs is not run here."""
        if self._pid != os.getpid():
            self._pid, self._taken = os.getpid(), 0
            self._running.clear()

    # --- what the coordinator asks ------------------------------------------------------------------------------------

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """The coordinator asks whether somebody runs its sagas."""
        return [self._asked(request) for request in requests]

    def _asked(self, request: BranchCommitRequest) -> BranchCommitResponse:
        if not isinstance(request, RunAskRequest):
            return _said(request, BranchStatus.PhaseTwo_Committed)
        xid = request.xid or ""
        with self._lock:
            self._forget_the_parents()
            if xid in self._running:
                return _said(request, BranchStatus.PhaseOne_Done)
            full = self._taken >= _AT_ONCE
            if not full:
                self._taken += 1
                self._running[xid] += 1
            reason = self._put_off.pop(xid, None)
        if full:
            return _later(request, f"this process goes on with {_AT_ONCE} others")
        threading.Thread(target=self._go_on, args=(request,), name=f"troth-saga {xid}", daemon=True).start()
        # What came of the run before is told now, for whoever looks; the next one is under way.
        return _said(request, BranchStatus.PhaseOne_Done) if reason is None else _later(request, reason)

    def _go_on(self, request: RunAskRequest) -> None:
        xid = request.xid or ""
        log.info("going on with saga %s %s, attempt %d", self._saga.name, xid, request.attempt)
        try:
            if self._saga.is_async:
                self.loop.run(lambda: self._saga.ago_on(request))
            else:
                self._saga.go_on(request)
        except SagaSuperseded as error:
            log.info("%s", error)
        except (RunEnds, NeedsHuman) as error:
            log.warning("saga %s %s: %s", self._saga.name, xid, error)
            self._note_put_off(xid, str(error))
        except Exception as error:
            # Nobody here waits for its result. A compensated saga has ended with this; any other is asked for again.
            log.exception("saga %s %s, which this process has gone on with, ended by an error", self._saga.name, xid)
            self._note_put_off(xid, f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._taken -= 1
            self._end(xid)

    def _note_put_off(self, xid: str, reason: str) -> None:
        with self._lock:
            self._put_off[xid] = reason
            if len(self._put_off) > _KEPT:
                self._put_off.popitem(last=False)

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """A runner has nothing to roll back."""
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def delete_undo_logs(self, save_days: int) -> None:
        """There are none."""


def _said(request: BranchCommitRequest, status: BranchStatus) -> BranchCommitResponse:
    return BranchCommitResponse(xid=request.xid, branch_id=request.branch_id, branch_status=status)


def _later(request: BranchCommitRequest, reason: str) -> BranchCommitResponse:
    answer = later(request, reason)
    assert isinstance(answer, BranchCommitResponse)
    return answer
