"""What a coordinator refuses of sagas, byte by byte."""

from __future__ import annotations

from typing import Any

from fixtures_coordinator import WireClient
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, ResultCode
from troth.wire.seata.lock_wait import ANNOUNCEMENT as LOCK_WAITS
from troth.wire.seata.saga import ANNOUNCEMENT, RunClaimRequest, SagaBeginRequest, StepRecordRequest


def runner(saga_coordinator: Any) -> WireClient:
    """A client that has negotiated sagas, on the wire."""
    client = WireClient(saga_coordinator.ready.port)
    extra = f"{ANNOUNCEMENT}\n{LOCK_WAITS}\n"
    answer = client.ask(m.RegisterRMRequest("2.3.0", "travel", "default_tx_group", extra, "saga:travel:trip"))
    assert isinstance(answer, m.RegisterRMResponse)
    assert answer.version == "2.3.0+saga+lock-wait"
    return client


def test_who_has_not_negotiated_is_cut_off(saga_coordinator: Any) -> None:
    with WireClient(saga_coordinator.ready.port).register_rm("saga:travel:trip") as stranger:
        stranger.post(SagaBeginRequest(0, "trip", "saga:travel:trip", "{}", 1000))
        assert stranger.is_closed()


def test_a_java_client_gets_no_saga_branch(saga_coordinator: Any) -> None:
    with WireClient(saga_coordinator.ready.port).register_tm().register_rm("db") as java:
        xid = java.begin()
        answer = java.ask(m.BranchRegisterRequest(xid, BranchType.SAGA, "db", None, None))
        assert isinstance(answer, m.BranchRegisterResponse)
        assert answer.result_code is ResultCode.Failed


def test_hostile_requests_are_refused_and_harm_nobody(saga_coordinator: Any) -> None:
    with runner(saga_coordinator) as client:
        for begin in (
            SagaBeginRequest(0, "trip", "saga:travel:other", "{}", 1000),
            SagaBeginRequest(0, "trip", None, "{}", 1000),
            SagaBeginRequest(0, "trip", "saga:travel:trip", "x" * 64_001, 1000),
            SagaBeginRequest(-5, "trip", "saga:travel:trip", "{}", 1000),
            SagaBeginRequest(0, "trip", "saga:travel:trip", "{}", 1000, "127.0.0.1:8091:847423590301756"),
        ):
            assert client.ask(begin).result_code is ResultCode.Failed  # type: ignore[attr-defined]
        begun = client.ask(SagaBeginRequest(0, "tr\0ip", "saga:travel:trip", "{}", -1))
        xid = begun.xid  # type: ignore[attr-defined]
        assert xid
        for odd in (
            StepRecordRequest(xid, 0, None, "{}", False),
            StepRecordRequest(xid, 0, "k" * 5000, "{}", False),
            StepRecordRequest(xid, 0, "k", "x" * 64_001, False),
            StepRecordRequest("x" * 200, 0, "k", "{}", False),
            StepRecordRequest("1.2.3.4:5:6", 0, "k", "{}", False),
            StepRecordRequest(None, 0, "k", "{}", False),
            RunClaimRequest(None, 1),
            RunClaimRequest("1.2.3.4:5:6", 1),
        ):
            assert client.ask(odd).result_code is ResultCode.Failed, odd  # type: ignore[attr-defined]
        assert client.ask(StepRecordRequest(xid, 0, "k\0", "{}", False)).result_code is ResultCode.Success  # type: ignore[attr-defined]
        again = client.ask(StepRecordRequest(xid, 0, "k\0", '{"other": 1}', True))
        assert again.application_data == "{}", "the first stays"  # type: ignore[attr-defined]
        claimed = client.ask(RunClaimRequest(xid, 7, -3))
        assert claimed.total == 1  # type: ignore[attr-defined]
        late = client.ask(StepRecordRequest(xid, 0, "l", "{}", False))
        assert (late.result_code, late.superseded_by) == (ResultCode.Failed, 7)  # type: ignore[attr-defined]
        client.commit(xid)
