"""Phase two over a real socket: batches, order, isolation of resources, and that every request is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from troth.client.client import Client
from troth.client.participant import Participant
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchRollbackRequest,
    BranchRollbackResponse,
    GlobalCommitRequest,
    GlobalRollbackRequest,
    GlobalStatusRequest,
    Message,
    RegisterRMRequest,
    UndoLogDeleteRequest,
)

WAIT_S = 10.0


class Recorder:
    """A resource that writes down what it is asked, and may be held up."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.answered = threading.Semaphore(0)

    def hold(self) -> None:
        self.entered.clear()
        self.go.clear()

    def _enter(self, kind: str, what: object) -> None:
        self.calls.append((kind, what))
        self.entered.set()
        assert self.go.wait(WAIT_S)

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        self._enter("commit", [request.branch_id for request in requests])
        return [
            BranchCommitResponse(xid=r.xid, branch_id=r.branch_id, branch_status=BranchStatus.PhaseTwo_Committed)
            for r in requests
        ]

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        self._enter("rollback", request.branch_id)
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def delete_undo_logs(self, save_days: int) -> None:
        self._enter("delete", save_days)
        self.answered.release()


class Broken(Recorder):
    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        raise OSError("disk full")

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        raise OSError("disk full")

    def delete_undo_logs(self, save_days: int) -> None:
        self.answered.release()
        raise OSError("disk full")


def commit(branch_id: int, resource: str = "db") -> BranchCommitRequest:
    return BranchCommitRequest(xid="x", branch_id=branch_id, branch_type=BranchType.AT, resource_id=resource)


def roll_back(branch_id: int, resource: str = "db") -> BranchRollbackRequest:
    return BranchRollbackRequest(xid="x", branch_id=branch_id, branch_type=BranchType.AT, resource_id=resource)


def status_of(future: Future[Any]) -> BranchStatus:
    return future.result(WAIT_S).branch_status


@pytest.fixture
def serve(client: Client, coordinator: Any) -> Callable[..., Any]:
    def register(handler: Any, resource: str = "db") -> Any:
        client.register_resource(resource, BranchType.AT, handler)
        client.tell(GlobalStatusRequest(xid="x"))
        coordinator.rm()
        return handler

    return register


def test_commit_and_rollback_are_answered(coordinator: Any, serve: Any) -> None:
    db = serve(Recorder())
    answer = coordinator.ask(commit(1)).result(WAIT_S)
    assert answer == BranchCommitResponse(xid="x", branch_id=1, branch_status=BranchStatus.PhaseTwo_Committed)
    assert status_of(coordinator.ask(roll_back(2))) is BranchStatus.PhaseTwo_Rollbacked
    assert db.calls == [("commit", [1]), ("rollback", 2)]


def test_what_arrives_meanwhile_is_one_batch_and_rollbacks_go_first_in_order(coordinator: Any, serve: Any) -> None:
    db = serve(Recorder())
    db.hold()
    asked = [coordinator.ask(commit(0))]
    assert db.entered.wait(WAIT_S)
    asked += [coordinator.ask(request) for request in (commit(1), roll_back(2), commit(3), roll_back(4), commit(5))]
    coordinator.ask(UndoLogDeleteRequest(branch_type=BranchType.AT, resource_id="other", save_days=1))
    _wait_until_queued(coordinator)
    db.go.set()
    for future in asked:
        assert future.result(WAIT_S).result_code is ResultCode.Success
    assert db.calls == [("commit", [0]), ("rollback", 2), ("rollback", 4), ("commit", [1, 3, 5])]


def _wait_until_queued(coordinator: Any) -> None:
    """The link takes requests in order: when a later one to an unknown resource is answered, the earlier are queued."""
    assert status_of(coordinator.ask(commit(99, "unknown"))) is BranchStatus.PhaseTwo_CommitFailed_Retryable


def test_batches_are_bounded(coordinator: Any, connect: Any, quick: ClientSettings) -> None:
    client = connect(replace(quick, phase_two_batch=2))
    db = Recorder()
    client.register_resource("db", BranchType.AT, db)
    db.hold()
    asked = [coordinator.ask(commit(0))]
    assert db.entered.wait(WAIT_S)
    asked += [coordinator.ask(commit(n)) for n in range(1, 6)]
    _wait_until_queued(coordinator)
    db.go.set()
    assert {status_of(future) for future in asked} == {BranchStatus.PhaseTwo_Committed}
    assert [ids for _, ids in db.calls] == [[0], [1, 2], [3, 4], [5]]


def test_a_busy_resource_does_not_hold_up_another(coordinator: Any, serve: Any) -> None:
    slow, fast = serve(Recorder(), "slow"), serve(Recorder(), "fast")
    slow.hold()
    waiting = coordinator.ask(roll_back(1, "slow"))
    assert slow.entered.wait(WAIT_S)
    assert status_of(coordinator.ask(roll_back(2, "fast"))) is BranchStatus.PhaseTwo_Rollbacked
    assert fast.calls
    assert not waiting.done()
    slow.go.set()
    assert status_of(waiting) is BranchStatus.PhaseTwo_Rollbacked


def test_a_rollback_that_is_asked_again_meanwhile_or_later_is_done_once(coordinator: Any, serve: Any) -> None:
    db = serve(Recorder())
    db.hold()
    asked = [coordinator.ask(roll_back(1))]
    assert db.entered.wait(WAIT_S)
    asked += [coordinator.ask(roll_back(1)) for _ in range(2)]
    _wait_until_queued(coordinator)
    db.go.set()
    assert {status_of(future) for future in asked} == {BranchStatus.PhaseTwo_Rollbacked}
    assert status_of(coordinator.ask(roll_back(1))) is BranchStatus.PhaseTwo_Rollbacked
    assert db.calls == [("rollback", 1)]


def test_a_rollback_that_failed_is_tried_again(coordinator: Any, serve: Any) -> None:
    serve(Broken())
    assert status_of(coordinator.ask(roll_back(1))) is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    serve(Recorder())
    assert status_of(coordinator.ask(roll_back(1))) is BranchStatus.PhaseTwo_Rollbacked


def test_a_full_queue_answers_later(coordinator: Any, connect: Any, quick: ClientSettings) -> None:
    client = connect(replace(quick, phase_two_queue=2))
    db = Recorder()
    client.register_resource("db", BranchType.AT, db)
    db.hold()
    first = coordinator.ask(commit(0))
    assert db.entered.wait(WAIT_S)
    queued = [coordinator.ask(roll_back(n)) for n in (1, 2)]
    refused = coordinator.ask(roll_back(3)).result(WAIT_S)
    assert refused.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    assert "busy" in refused.msg
    db.go.set()
    assert status_of(first) is BranchStatus.PhaseTwo_Committed
    assert {status_of(future) for future in queued} == {BranchStatus.PhaseTwo_Rollbacked}


def test_an_unknown_resource_is_answered_with_the_reason(coordinator: Any, serve: Any) -> None:
    serve(Recorder())
    answer = coordinator.ask(roll_back(1, "elsewhere")).result(WAIT_S)
    assert answer.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    assert (answer.xid, answer.branch_id, answer.result_code) == ("x", 1, ResultCode.Failed)
    assert "elsewhere" in answer.msg
    other_type = BranchCommitRequest(xid="x", branch_id=1, branch_type=BranchType.XA, resource_id="db")
    assert status_of(coordinator.ask(other_type)) is BranchStatus.PhaseTwo_CommitFailed_Retryable


def test_a_broken_handler_is_answered_with_the_reason_and_logged(
    coordinator: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    db = serve(Broken())
    answer = coordinator.ask(commit(1)).result(WAIT_S)
    assert answer.branch_status is BranchStatus.PhaseTwo_CommitFailed_Retryable
    assert answer.msg == "OSError: disk full"
    answer = coordinator.ask(roll_back(2)).result(WAIT_S)
    assert answer.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    assert answer.msg == "OSError: disk full"
    peer = coordinator.rm()
    peer.write(peer.connection.oneway(UndoLogDeleteRequest(branch_type=BranchType.AT, resource_id="db", save_days=7)))
    assert db.answered.acquire(timeout=WAIT_S)
    assert status_of(coordinator.ask(commit(3))) is BranchStatus.PhaseTwo_CommitFailed_Retryable
    assert caplog.text.count("disk full") >= 4


def test_a_handler_that_forgets_a_branch(coordinator: Any, serve: Any) -> None:
    class Forgetful(Recorder):
        def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
            return []

    serve(Forgetful())
    answer = coordinator.ask(commit(1)).result(WAIT_S)
    assert answer.branch_status is BranchStatus.PhaseTwo_CommitFailed_Retryable
    assert "no answer" in answer.msg


def test_undo_log_deletion_reaches_its_resource(coordinator: Any, serve: Any) -> None:
    db = serve(Recorder())
    peer = coordinator.rm()
    peer.write(peer.connection.oneway(UndoLogDeleteRequest(branch_type=BranchType.AT, resource_id="db", save_days=7)))
    assert db.answered.acquire(timeout=WAIT_S)
    assert db.calls == [("delete", 7)]


def test_a_text_that_no_frame_can_carry_is_answered_all_the_same(coordinator: Any, serve: Any) -> None:
    class Odd(Recorder):
        def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
            raise OSError("row \udcff")

    serve(Odd())
    assert status_of(coordinator.ask(roll_back(1))) is BranchStatus.PhaseTwo_RollbackFailed_Retryable


def test_a_later_handler_takes_over(coordinator: Any, serve: Any) -> None:
    serve(Broken())
    serve(Recorder())
    assert status_of(coordinator.ask(commit(1))) is BranchStatus.PhaseTwo_Committed


def test_an_answer_to_a_link_that_is_gone_is_dropped(coordinator: Any, client: Client, serve: Any) -> None:
    db = serve(Recorder())
    db.hold()
    lost = coordinator.ask(roll_back(1))
    assert db.entered.wait(WAIT_S)
    coordinator.cut_all()
    coordinator.wait_for(RegisterRMRequest, 2)
    db.go.set()
    assert client.status("x") is GlobalStatus.Begin
    assert status_of(coordinator.ask(roll_back(1))) is BranchStatus.PhaseTwo_Rollbacked
    assert not lost.done()


def test_close_finishes_what_has_arrived(coordinator: Any, client: Client, serve: Any) -> None:
    db = serve(Recorder())
    db.hold()
    asked = [coordinator.ask(roll_back(1))]
    assert db.entered.wait(WAIT_S)
    asked.append(coordinator.ask(commit(2)))
    _wait_until_queued(coordinator)
    closing = threading.Thread(target=client.close)
    closing.start()
    db.go.set()
    closing.join(WAIT_S)
    assert [status_of(future) for future in asked] == [
        BranchStatus.PhaseTwo_Rollbacked,
        BranchStatus.PhaseTwo_Committed,
    ]


class TestCloseWaits:
    """For phase two of the transactions that this process has ended, and not longer than it is told to."""

    @pytest.fixture
    def ended(self, client: Client, serve: Any) -> Callable[[Message], int]:
        """A branch of "x" is registered, and "x" ended by a message."""

        def end(message: Message) -> int:
            serve(Recorder())
            answer = client.tell(BranchRegisterRequest(xid="x", branch_type=BranchType.AT, resource_id="db"))
            client.tell(message)
            assert isinstance(answer, BranchRegisterResponse)
            return answer.branch_id

        return end

    @pytest.mark.parametrize(
        ("end", "ask"), [(GlobalCommitRequest("x"), commit), (GlobalRollbackRequest("x"), roll_back)]
    )
    def test_until_it_is_done(self, coordinator: Any, client: Client, ended: Any, end: Message, ask: Any) -> None:
        branch_id = ended(end)
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        assert coordinator.ask(ask(branch_id)).result(WAIT_S).result_code is ResultCode.Success
        closing.join(1.0)
        assert not closing.is_alive()

    def test_not_for_ever(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        client = connect(replace(quick, phase_two_wait_s=0.05))
        client.tell(BranchRegisterRequest(xid="x", branch_type=BranchType.AT, resource_id="db"))
        client.tell(GlobalCommitRequest("x"))
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 1.0

    def test_not_for_what_others_will_end_nor_for_what_failed(self, client: Client, ended: Any) -> None:
        branch_id = ended(BranchReportRequest("y", 1, BranchStatus.PhaseOne_Done))
        client.tell(BranchReportRequest("x", branch_id, BranchStatus.PhaseOne_Failed))
        client.tell(GlobalCommitRequest("x"))
        client.tell(BranchRegisterRequest(xid="other", branch_type=BranchType.AT, resource_id="db"))
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 1.0


def test_after_close_it_refuses(quick: ClientSettings) -> None:
    participant = Participant(quick)
    participant.add(BranchType.AT, "db", Recorder())
    participant.close()
    answers: list[Any] = []
    participant.serve(commit(1), answers.append)
    assert answers[0].branch_status is BranchStatus.PhaseTwo_CommitFailed_Retryable


def test_what_a_client_does_not_serve_is_logged(quick: ClientSettings, caplog: pytest.LogCaptureFixture) -> None:
    Participant(quick).serve(GlobalStatusRequest(xid="x"), lambda _: None)
    assert "does not serve" in caplog.text
