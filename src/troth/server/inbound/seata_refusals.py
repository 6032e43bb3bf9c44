"""Answers to requests that were decided, but that the store refuses: they have not happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from troth.server.inbound import seata_answers as answers
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.lock_wait import LockWaitRequest, ModeRegisterRequest
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchReportRequest,
    GlobalBeginRequest,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalReportRequest,
    GlobalReportResponse,
    GlobalRollbackRequest,
    GlobalRollbackResponse,
    Message,
)


def _commit(reason: str) -> Message:
    """Finished is the one status that a TM of Seata takes neither for a commit nor for a rollback."""
    return GlobalCommitResponse(ResultCode.Failed, answers.thrown(reason), global_status=GlobalStatus.Finished)


def _rollback(reason: str) -> Message:
    return GlobalRollbackResponse(ResultCode.Failed, answers.thrown(reason), global_status=GlobalStatus.Finished)


def _report(reason: str) -> Message:
    return GlobalReportResponse(ResultCode.Failed, answers.thrown(reason), global_status=GlobalStatus.UnKnown)


_REFUSALS: Mapping[type[Message], Callable[[str], Message]] = MappingProxyType(
    {
        GlobalBeginRequest: answers.begin_refusal,
        GlobalCommitRequest: _commit,
        GlobalRollbackRequest: _rollback,
        GlobalReportRequest: _report,
        BranchRegisterRequest: answers.register_refusal,
        ModeRegisterRequest: answers.register_refusal,
        BranchReportRequest: answers.branch_report_refusal,
        LockWaitRequest: answers.lock_wait_refusal,
    }
)


def refusal_of(request: Message, reason: str) -> Message | None:
    """What its sender is told; None for a request that writes nothing, or is not of Seata's."""
    refusal = _REFUSALS.get(type(request))
    return None if refusal is None else refusal(reason)
