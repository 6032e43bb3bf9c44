"""The logic of begin and end without sockets: what each answer means, what is asked again, what is raised."""

from __future__ import annotations

from typing import Any

import pytest

from troth.client.errors import (
    ClientClosed,
    CommitFailed,
    CoordinatorRefused,
    CoordinatorUnavailable,
    OutcomeUnknown,
    TransactionRolledBack,
)
from troth.client.outcome import Verdict, verdict
from troth.client.settings import ClientSettings
from troth.client.talks import Ask, Pause, begin, commit, rollback
from troth.wire.seata.enums import GlobalStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalRollbackResponse,
    GlobalStatusRequest,
    GlobalStatusResponse,
    Message,
)

XID = "127.0.0.1:8091:1"
LOST = CoordinatorUnavailable("lost")
SETTINGS = ClientSettings(
    begin_retry_timeout_s=10, commit_retry_timeout_s=10, rollback_retry_timeout_s=10, retry_pause_s=1
)


class World:
    """Answers a talk from a list (the last item for ever) and lets time pass as the talk asks for it."""

    def __init__(self, *answers: Message | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Message] = []
        self.now_s = 0.0

    def run(self, talk: Any) -> Any:
        try:
            step = next(talk)
            while True:
                if isinstance(step, Pause):
                    self.now_s += step.seconds
                    step = talk.send(None)
                    continue
                assert isinstance(step, Ask)
                self.asked.append(step.message)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                step = talk.throw(answer) if isinstance(answer, Exception) else talk.send(answer)
        except StopIteration as end:
            return end.value

    def commit(self) -> Any:
        return self.run(commit(XID, SETTINGS, lambda: self.now_s))

    def rollback(self) -> Any:
        return self.run(rollback(XID, SETTINGS, lambda: self.now_s))

    def begin(self) -> Any:
        return self.run(begin("purchase", 1000, SETTINGS, lambda: self.now_s))


def ended(status: GlobalStatus) -> GlobalCommitResponse:
    return GlobalCommitResponse(global_status=status)


COMMITTED = [2, 3, 8, 9]
ROLLED_BACK = [4, 5, 6, 7, 11, 12, 13, 14, 17, 20]
COMMIT_FAILED = [10, 16, 19]
UNKNOWN = [0, 1, 15, 18]


def test_each_status_is_in_one_class() -> None:
    assert sorted(COMMITTED + ROLLED_BACK + COMMIT_FAILED + UNKNOWN) == sorted(GlobalStatus)


@pytest.mark.parametrize("code", COMMITTED)
def test_decided_to_commit(code: int) -> None:
    assert World(ended(GlobalStatus(code))).commit() == code


@pytest.mark.parametrize("code", ROLLED_BACK)
def test_rolled_back_instead_is_raised(code: int) -> None:
    with pytest.raises(TransactionRolledBack, match=XID) as caught:
        World(ended(GlobalStatus(code)), GlobalStatusResponse(global_status=GlobalStatus(code))).commit()
    assert caught.value.status == code
    assert ("timeout ran out" in caught.value.cause) == (code in (6, 7, 13, 14))


def test_the_cause_is_asked_for_because_a_commit_is_answered_by_timeout_statuses_only() -> None:
    answered = ended(GlobalStatus.TimeoutRollbacked)
    told = World(answered, GlobalStatusResponse(global_status=GlobalStatus.Rollbacked))
    with pytest.raises(TransactionRolledBack, match="voted") as caught:
        told.commit()
    assert caught.value.status is GlobalStatus.Rollbacked
    assert told.asked == [GlobalCommitRequest(xid=XID), GlobalStatusRequest(xid=XID)]
    for useless in (LOST, GlobalStatusResponse(global_status=GlobalStatus.Finished)):
        with pytest.raises(TransactionRolledBack) as caught:
            World(answered, useless).commit()
        assert caught.value.status is GlobalStatus.TimeoutRollbacked


@pytest.mark.parametrize("code", COMMIT_FAILED)
def test_a_commit_that_was_given_up_is_raised(code: int) -> None:
    with pytest.raises(CommitFailed):
        World(ended(GlobalStatus(code))).commit()


@pytest.mark.parametrize("code", UNKNOWN)
def test_no_decision_is_never_taken_for_one(code: int) -> None:
    with pytest.raises(OutcomeUnknown):
        World(ended(GlobalStatus(code))).commit()


def test_a_lost_commit_is_asked_again_and_hears_the_truth() -> None:
    world = World(LOST, LOST, ended(GlobalStatus.Committed))
    assert world.commit() is GlobalStatus.Committed
    assert world.asked == [GlobalCommitRequest(xid=XID)] * 3
    with pytest.raises(TransactionRolledBack):
        World(LOST, ended(GlobalStatus.TimeoutRollbacked)).commit()


def test_a_lost_commit_that_is_forgotten_is_unknown() -> None:
    with pytest.raises(OutcomeUnknown, match="does not know it"):
        World(LOST, ended(GlobalStatus.Finished)).commit()


def test_a_commit_is_asked_within_bounds() -> None:
    world = World(LOST)
    with pytest.raises(OutcomeUnknown, match="lost") as caught:
        world.commit()
    assert caught.value.xid == XID
    assert len(world.asked) == 10


def test_a_refused_commit_without_a_decision_is_asked_again() -> None:
    refused = GlobalCommitResponse(
        result_code=ResultCode.Failed, msg="store is away", global_status=GlobalStatus.UnKnown
    )
    assert World(refused, ended(GlobalStatus.Committed)).commit() is GlobalStatus.Committed
    with pytest.raises(OutcomeUnknown, match="store is away"):
        World(refused).commit()


def test_a_client_closed_under_a_commit_leaves_it_unknown() -> None:
    with pytest.raises(OutcomeUnknown, match="closed"):
        World(LOST, ClientClosed("closed")).commit()


def test_a_foreign_answer_is_an_error() -> None:
    with pytest.raises(CoordinatorRefused, match="wrong kind"):
        World(GlobalBeginResponse(xid=XID)).commit()


def test_begin() -> None:
    assert World(GlobalBeginResponse(xid=XID)).begin() == XID
    assert World(LOST, GlobalBeginResponse(xid=XID)).begin() == XID
    with pytest.raises(CoordinatorUnavailable, match="lost"):
        World(LOST).begin()
    refused = GlobalBeginResponse(
        result_code=ResultCode.Failed, msg="too many", transaction_exception_code=TransactionExceptionCode.BeginFailed
    )
    with pytest.raises(CoordinatorRefused, match="too many") as caught:
        World(refused).begin()
    assert caught.value.code is TransactionExceptionCode.BeginFailed
    for wrong in (GlobalBeginResponse(), GlobalStatusResponse()):
        with pytest.raises(CoordinatorRefused):
            World(wrong).begin()


def test_rollback_returns_what_the_coordinator_says() -> None:
    for status in (GlobalStatus.Rollbacked, GlobalStatus.RollbackFailed, GlobalStatus.Finished):
        assert World(LOST, GlobalRollbackResponse(global_status=status)).rollback() is status
    with pytest.raises(OutcomeUnknown):
        World(LOST).rollback()


def test_verdict_of_finished() -> None:
    assert verdict(GlobalStatus.Finished) is Verdict.FORGOTTEN
