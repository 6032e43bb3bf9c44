"""The Seata port of a real coordinator, spoken to byte by byte (PROTOCOL §4 §6 §8 §9)."""

from collections.abc import Callable

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    CompressorType,
    GlobalStatus,
    MessageType,
    ResultCode,
    TransactionExceptionCode,
)

pytestmark = pytest.mark.engines

Connect = Callable[..., WireClient]


def test_a_purchase_commits_and_phase_two_reaches_the_branch(coordinator: CoordinatorProcess, connect: Connect) -> None:
    tm = connect(coordinator).register_tm()
    rm = connect(coordinator).register_rm("jdbc:one")
    xid = tm.begin()
    assert xid.rpartition(":")[0] == coordinator.ready["advertise"]
    assert tm.status(xid) is GlobalStatus.Begin
    branch = rm.branch(xid, "jdbc:one", "account:1,2", "data")
    assert branch.result_code is ResultCode.Success
    assert tm.commit(xid) is GlobalStatus.Committed
    request = rm.next_request()
    assert request.message_type is MessageType.REQUEST
    assert isinstance(request.body, m.BranchCommitRequest)
    assert (request.body.xid, request.body.branch_id, request.body.resource_id, request.body.application_data) == (
        xid,
        branch.branch_id,
        "jdbc:one",
        "data",
    )
    assert tm.status(xid) is GlobalStatus.AsyncCommitting
    assert tm.commit(xid) is GlobalStatus.Committed, "a repeated commit hears the same"
    rm.answer_branch(request)
    until(lambda: tm.status(xid) is GlobalStatus.Committed)
    assert tm.commit(xid) is GlobalStatus.Committed
    assert tm.rollback(xid) is GlobalStatus.Committed


def test_rollback_goes_newest_first_and_is_answered_when_done(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    tm = connect(coordinator).register_tm()
    rm = connect(coordinator).register_rm("jdbc:two")
    xid = tm.begin()
    first = rm.branch(xid, "jdbc:two", "t:1").branch_id
    second = rm.branch(xid, "jdbc:two", "t:1").branch_id
    asked = tm.post(m.GlobalRollbackRequest(xid))
    for expected in (second, first):
        request = rm.next_request()
        assert isinstance(request.body, m.BranchRollbackRequest)
        assert request.body.branch_id == expected
        rm.answer_branch(request)
    assert tm.answer_to(asked).body.global_status is GlobalStatus.Rollbacked
    assert tm.commit(xid) is GlobalStatus.TimeoutRollbacked, "a commit asker must not take it for success"
    assert tm.rollback(xid) is GlobalStatus.Rollbacked


def test_a_lock_conflict_names_the_holder_and_a_retry_later_works(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:sqlite:three")
    holder, other = client.begin(), client.begin()
    assert client.branch(holder, "jdbc:sqlite:three", "t:1;u:7").result_code is ResultCode.Success
    refused = client.branch(other, "jdbc:sqlite:three", "t:2,1")
    assert refused.result_code is ResultCode.Failed
    assert refused.transaction_exception_code is TransactionExceptionCode.LockKeyConflict
    assert refused.msg.startswith(f"TransactionException[Global lock acquire failed xid = {other} branchId = ")
    assert holder in refused.msg
    query = m.GlobalLockQueryRequest(other, BranchType.AT, "jdbc:sqlite:three", "t:1")
    assert client.ask(query).lockable is False
    assert client.ask(m.GlobalLockQueryRequest(holder, BranchType.AT, "jdbc:sqlite:three", "t:1")).lockable is True
    assert client.branch(holder, "jdbc:sqlite:three", "t:1").result_code is ResultCode.Success, "own rows again"
    assert client.commit(holder) is GlobalStatus.Committed
    assert client.branch(other, "jdbc:sqlite:three", "t:2,1").result_code is ResultCode.Success, "free at the decision"


def test_a_hot_wait_is_granted_when_the_holder_commits(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:hot")
    holder, other = client.begin(), client.begin()
    client.branch(holder, "jdbc:hot", "t:1")
    waiting = client.post(m.BranchRegisterRequest(other, BranchType.AT, "jdbc:hot", "t:1"))
    assert client.commit(holder) is GlobalStatus.Committed
    assert client.answer_to(waiting).body.result_code is ResultCode.Success


def test_a_waiter_fails_fast_when_the_holder_rolls_back(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:fast")
    holder, other = client.begin(), client.begin()
    client.branch(holder, "jdbc:fast", "t:1")
    register = m.BranchRegisterRequest(other, BranchType.AT, "jdbc:fast", "t:1", '{"autoCommit":false}')
    waiting = client.post(register)
    client.post(m.GlobalRollbackRequest(holder))
    refused = client.answer_to(waiting).body
    assert refused.transaction_exception_code is TransactionExceptionCode.LockKeyConflictFailFast
    client.answer_branch(client.next_request())


def test_a_vote_turns_commit_into_rollback(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm()
    xid = client.begin()
    assert client.report(xid, GlobalStatus.Committed) is GlobalStatus.Begin, "other reports change nothing"
    assert client.report(xid, GlobalStatus.Rollbacking) is GlobalStatus.Rollbacking
    assert client.commit(xid) is GlobalStatus.TimeoutRollbacked
    assert client.status(xid) is GlobalStatus.Rollbacked


def test_unknown_xids(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:unknown")
    for xid in ("10.0.0.1:8091:1", "nonsense", "x" * 30_000, None):
        assert client.commit(xid) is GlobalStatus.Finished
        assert client.rollback(xid) is GlobalStatus.Finished
        assert client.status(xid) is GlobalStatus.Finished
        assert client.report(xid, GlobalStatus.RollbackFailed) is GlobalStatus.RollbackFailed
        assert client.report(xid, GlobalStatus.Rollbacking) is GlobalStatus.Rollbacking
        refused = client.branch(xid, "jdbc:unknown", "t:1")
        assert refused.transaction_exception_code is TransactionExceptionCode.GlobalTransactionNotExist
        assert refused.msg.startswith("TransactionException[Could not found global transaction xid = ")
        assert client.ask(m.GlobalLockQueryRequest(xid, BranchType.AT, "jdbc:unknown", "t:1")).lockable is True
        report = client.ask(m.BranchReportRequest(xid, 1, BranchStatus.PhaseOne_Done))
        assert report.result_code is ResultCode.Failed


def test_refusals_of_branches(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:refuse")
    xid = client.begin()
    code = TransactionExceptionCode
    saga = client.ask(m.BranchRegisterRequest(xid, BranchType.SAGA, "action"))
    assert (saga.transaction_exception_code, saga.result_code) == (code.BranchRegisterFailed, ResultCode.Failed)
    assert "branch type SAGA is not supported by this version" in saga.msg
    unclean = client.branch(xid, "jdbc:refuse", "t:1;;u:2")
    assert unclean.transaction_exception_code is code.BranchRegisterFailed
    assert client.branch(xid, "jdbc:refuse", "t:1;").result_code is ResultCode.Success, "Go clients end with ;"
    big = client.branch(xid, "jdbc:refuse", "t:2", "é" * 32_001)
    assert big.transaction_exception_code is code.FailedToAddBranch
    assert client.branch(xid, "jdbc:refuse", "t:2", "é" * 32_000).result_code is ResultCode.Success
    assert client.ask(m.BranchRegisterRequest(xid, BranchType.AT, None, "t:1")).result_code is ResultCode.Failed
    no_branch = client.ask(m.BranchReportRequest(xid, 12345, BranchStatus.PhaseOne_Done))
    assert no_branch.transaction_exception_code is code.BranchTransactionNotExist
    client.post(m.GlobalRollbackRequest(xid))
    late = client.branch(xid, "jdbc:refuse", "t:9")
    assert late.transaction_exception_code is code.GlobalTransactionNotActive


def test_begin_checks_its_timeout(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm()
    assert coordinator.transaction(client.begin(timeout_ms=0))["timeout_ms"] == 60_000
    refused = client.ask(m.GlobalBeginRequest(-1, "x"))
    assert refused.result_code is ResultCode.Failed
    assert refused.transaction_exception_code is TransactionExceptionCode.BeginFailed
    assert refused.xid is None


def test_a_branch_report_overwrites_application_data(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:report")
    xid = client.begin()
    branch_id = client.branch(xid, "jdbc:report", "t:1", "first").branch_id
    report = m.BranchReportRequest(xid, branch_id, BranchStatus.PhaseOne_Done, "jdbc:report", None)
    assert client.ask(report).result_code is ResultCode.Success
    assert client.commit(xid) is GlobalStatus.Committed
    request = client.next_request()
    assert request.body.application_data is None
    client.answer_branch(request)


def test_a_failed_phase_one_turns_commit_into_rollback(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:failed")
    xid = client.begin()
    branch_id = client.branch(xid, "jdbc:failed", "t:1").branch_id
    client.ask(m.BranchReportRequest(xid, branch_id, BranchStatus.PhaseOne_Failed, "jdbc:failed"))
    asked = client.post(m.GlobalCommitRequest(xid))
    request = client.next_request()
    assert isinstance(request.body, m.BranchRollbackRequest)
    client.answer_branch(request)
    assert client.answer_to(asked).body.global_status is GlobalStatus.TimeoutRollbacked


def test_a_version_0_client_is_answered_in_version_0(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator, version=0).register_tm().register_rm("jdbc:v0")
    xid = client.begin()
    assert client.branch(xid, "jdbc:v0", "t:1").result_code is ResultCode.Success
    assert client.commit(xid) is GlobalStatus.Committed
    request = client.next_request()
    assert request.protocol_version == 0
    client.answer_branch(request)
    until(lambda: client.status(xid) is GlobalStatus.Committed)
    client.ping()


@pytest.mark.parametrize("compressor", [CompressorType.GZIP, CompressorType.ZIP, CompressorType.DEFLATER])
def test_an_answer_repeats_the_compressor(
    coordinator: CoordinatorProcess, connect: Connect, compressor: CompressorType
) -> None:
    client = connect(coordinator, compressor=compressor)
    frame = client.post(m.RegisterTMRequest("2.3.0", "shop", "default_tx_group", ""))
    assert client.answer_to(frame).compressor is compressor
    assert client.answer_to(client.post(m.GlobalBeginRequest(1000, "x"))).compressor is compressor


def test_a_one_way_registration_is_answered(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator)
    frame = client.send(client.connection.oneway(m.RegisterTMRequest("1.1.0", "go", "default_tx_group", "")))
    assert client.answer_to(frame).body.identified


def test_heartbeats_need_no_registration(coordinator: CoordinatorProcess, connect: Connect) -> None:
    connect(coordinator).ping()


def test_phase_two_goes_to_a_successor_when_the_branchs_own_process_is_gone(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    tm = connect(coordinator).register_tm()
    with WireClient(coordinator.port) as rm:
        rm.register_rm("jdbc:heir", "inventory")
        xid = tm.begin()
        branch_id = rm.branch(xid, "jdbc:heir", "t:1").branch_id
        assert tm.commit(xid) is GlobalStatus.Committed
        rm.next_request()  # and dies before it answers
    until(lambda: coordinator.transaction(xid)["branches"][0]["last_error"])
    heir = connect(coordinator).register_rm("jdbc:heir", "inventory")
    request = heir.next_request()
    assert request.body.branch_id == branch_id
    heir.answer_branch(request)
    until(lambda: tm.status(xid) is GlobalStatus.Committed)


def test_a_failed_branch_is_asked_again_and_a_refusal_waits_for_an_operator(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:again")
    xid = client.begin()
    client.branch(xid, "jdbc:again", "t:1")
    asked = client.post(m.GlobalRollbackRequest(xid))
    client.answer_branch(client.next_request(), BranchStatus.PhaseTwo_RollbackFailed_Retryable)
    assert client.answer_to(asked).body.global_status is GlobalStatus.RollbackRetrying, "after the first round"
    client.answer_branch(client.next_request(), BranchStatus.PhaseTwo_RollbackFailed_Unretryable)
    until(lambda: client.status(xid) is GlobalStatus.RollbackFailed)
    assert client.commit(xid) is GlobalStatus.TimeoutRollbackFailed
    branch = coordinator.transaction(xid)["branches"][0]
    assert branch["status"] == "PhaseTwo_RollbackFailed_Unretryable"
    assert branch["attempts"] == 2
    assert branch["last_error"] == "PhaseTwo_RollbackFailed_Unretryable"
    assert coordinator.get(f"/api/transactions/{xid}/retry", "POST") == (200, {"xid": xid, "branches": 1})
    client.answer_branch(client.next_request())
    until(lambda: client.status(xid) is GlobalStatus.Rollbacked)


def test_a_timeout_rolls_back(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm().register_rm("jdbc:timeout")
    xid = client.begin(timeout_ms=150)
    client.branch(xid, "jdbc:timeout", "t:1")
    request = client.next_request()
    assert isinstance(request.body, m.BranchRollbackRequest)
    assert client.status(xid) is GlobalStatus.TimeoutRollbacking
    client.answer_branch(request)
    until(lambda: client.status(xid) is GlobalStatus.TimeoutRollbacked)
    assert client.commit(xid) is GlobalStatus.TimeoutRollbacked


def test_an_answer_follows_its_client_to_a_new_connection(coordinator: CoordinatorProcess, connect: Connect) -> None:
    """PROTOCOL §5: a TM's answer goes to another channel of the same client if its own is gone."""
    rm = connect(coordinator).register_rm("jdbc:moved", "warehouse")
    with WireClient(coordinator.port) as tm:
        tm.register_tm("mover")
        xid = tm.begin()
        rm.branch(xid, "jdbc:moved", "t:1")
        asked = tm.post(m.GlobalRollbackRequest(xid))
        request = rm.next_request()
    again = connect(coordinator)
    for _ in range(asked.request_id + 1):  # the same process goes on counting
        again.connection.request(m.HeartbeatMessage())
    again.register_tm("mover")
    until(lambda: coordinator.metrics()["troth_connections"] >= 2)
    rm.answer_branch(request)
    assert again.answer_to(asked).body.global_status is GlobalStatus.Rollbacked
