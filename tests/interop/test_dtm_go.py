"""Real DTM clients, the published Go module unchanged, at our DTM door: each kind of transaction over HTTP and gRPC.

With `TROTH_TEST_DTM=http://HOST:PORT` the same tests run against a real DTM server (`-m "soak or not soak"`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from dtm_doors import BOTH, Dtm, open_dtm, open_go
from dtm_go_app import Door, DtmGo, new_gid, until

pytestmark = pytest.mark.engines
PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])
ONE_PROTOCOL = pytest.mark.parametrize("protocol", [pytest.param("http", marks=pytest.mark.soak), "grpc"])
"""Of what takes seconds, one in `make test`."""
WAIT = {"wait_result": True}
SOON = {"retry_interval": 1}


@pytest.fixture(scope="module", params=BOTH)
def dtm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dtm]:
    with open_dtm(request.param, tmp_path_factory.mktemp("coordinator")) as opened:
        yield opened


@pytest.fixture
def door(dtm: Dtm) -> Door:
    return dtm.door


@pytest.fixture(scope="module")
def go(dtm: Dtm, tmp_path_factory: pytest.TempPathFactory, new_mariadb_database: Callable[[], str]) -> Iterator[DtmGo]:
    with open_go(dtm, tmp_path_factory.mktemp("go"), new_mariadb_database) as opened:
        yield opened


# ---- saga ----


@PROTOCOLS
def test_a_saga_runs_its_steps_in_order(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    options = WAIT | {"branch_headers": {"x-tenant": "blue"}}
    ran = go.run("saga", protocol, gid, go.steps(protocol, 3), options=options)
    assert ran["error"] == ""
    assert go.seen(gid) == ["01/action", "02/action", "03/action"]
    calls = go.calls(gid)
    assert [json.loads(call["body"]) for call in calls] == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert {(call["trans_type"], call["protocol"], call["headers"]["x-tenant"]) for call in calls} == {
        ("saga", protocol, "blue")
    }
    assert door.status(gid) == "succeed"
    assert [row for row in door.statuses(gid) if row[1] == "action"] == [
        (f"0{step}", "action", "succeed") for step in (1, 2, 3)
    ]


@PROTOCOLS
def test_a_refused_step_undoes_what_ran_backwards(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["failure"]})
    ran = go.run("saga", protocol, gid, go.steps(protocol, 3), options=WAIT)
    assert ("Aborted" if protocol == "grpc" else "FAILURE") in ran["error"]
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid) == ["01/action", "02/action", "02/compensate", "01/compensate"]


@ONE_PROTOCOL
def test_ongoing_is_asked_again_after_the_interval(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["ongoing", "ok"]})
    assert go.run("saga", protocol, gid, go.steps(protocol, 2), options=SOON)["error"] == ""
    until(lambda: door.status(gid), "succeed")
    assert go.seen(gid) == ["01/action", "02/action", "02/action"]
    _, first, second = go.calls(gid)
    assert second["at_ms"] - first["at_ms"] >= 900


# ---- TCC ----


@PROTOCOLS
def test_tcc_confirms_what_was_tried(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    assert go.run("tcc", protocol, gid, go.steps(protocol, 2), options=WAIT)["error"] == ""
    assert go.seen(gid) == ["01/try", "02/try", "02/confirm", "01/confirm"]
    assert door.status(gid) == "succeed"


@PROTOCOLS
def test_tcc_cancels_when_a_try_is_refused(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/try": ["failure"]})
    assert go.run("tcc", protocol, gid, go.steps(protocol, 3))["error"]
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid) == ["01/try", "02/try", "02/cancel", "01/cancel"]


# ---- messages ----


@ONE_PROTOCOL
def test_a_message_is_delivered_until_it_is_taken(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"01/action": ["failure", "ok"]})
    ran = go.run("msg", protocol, gid, go.steps(protocol, 2), options=SOON, query_prepared=go.url(protocol))
    assert ran["error"] == ""
    until(lambda: door.status(gid), "succeed")
    assert go.seen(gid) == ["01/action", "01/action", "02/action"]


@ONE_PROTOCOL
@pytest.mark.parametrize("committed", [True, False])
def test_the_barrier_answers_the_check_back(door: Door, go: DtmGo, protocol: str, committed: bool) -> None:
    """Nobody submits; the barrier row in the service's database says whether the local transaction was committed."""
    gid = new_gid()
    order = {"options": SOON | {"timeout_to_fail": 1}, "query_prepared": go.url(protocol, "queryPrepared")}
    assert go.run("msg", protocol, gid, go.steps(protocol, 1), only="prepare", **order)["error"] == ""
    if committed:
        (account,) = go.accounts(0)
        local = go.run("msg", protocol, gid, only="local", local_movement={"name": account, "amount": 5})
        assert local["error"] == ""
    until(lambda: door.status(gid), "succeed" if committed else "failed")
    assert [call["service"] for call in go.calls(gid)] == ["queryPrepared", *(["act"] if committed else [])]


# ---- XA and the barrier, on MariaDB ----


@PROTOCOLS
def test_xa_commits_in_a_real_database(door: Door, go: DtmGo, protocol: str) -> None:
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    payloads = [{"name": giver, "amount": -30}, {"name": taker, "amount": 30}]
    assert go.run("xa", protocol, gid, go.steps(protocol, 2, "xa", payloads), options=WAIT)["error"] == ""
    assert go.balances(giver, taker) == [(70, 0), (30, 0)]
    assert go.seen(gid) == ["01/action", "02/action", "01/commit", "02/commit"]


@PROTOCOLS
def test_xa_rolls_back_in_a_real_database(door: Door, go: DtmGo, protocol: str) -> None:
    gid, (giver, taker) = new_gid(), go.accounts(20, 0)
    payloads = [{"name": taker, "amount": 30}, {"name": giver, "amount": -30}]
    assert go.run("xa", protocol, gid, go.steps(protocol, 2, "xa", payloads))["error"]
    until(lambda: door.status(gid), "failed")
    assert go.balances(giver, taker) == [(20, 0), (0, 0)]


@ONE_PROTOCOL
def test_the_barrier_guards_a_saga(door: Door, go: DtmGo, protocol: str) -> None:
    """The refused step is compensated too: the barrier makes that an empty one. A repeated call changes nothing."""
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    go.script({"01/action": ["done-error", "ok"], "01/compensate": ["done-error", "ok"]}, gid)
    payloads = [{"name": taker, "amount": 130}, {"name": giver, "amount": -130}]
    go.run("saga", protocol, gid, go.steps(protocol, 2, "bank", payloads), options=SOON)
    until(lambda: door.status(gid), "failed")
    assert go.balances(giver, taker) == [(100, 0), (0, 0)]
    assert go.seen(gid) == [
        *("01/action", "01/action", "02/action"),
        *("02/compensate", "01/compensate", "01/compensate"),
    ]


# ---- workflows ----


@PROTOCOLS
def test_a_workflow_commits_and_remembers_its_result(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    ran = go.run("workflow", protocol, gid, go.steps(protocol, 2), result="sold")
    assert (ran["error"], ran["result"]) == ("", "sold")
    assert door.status(gid) == "succeed"
    calls = go.seen(gid)
    again = go.run("workflow", protocol, gid, go.steps(protocol, 2), result="never run")
    assert again["error"] == ""
    assert go.seen(gid) == calls
    if protocol == "http":
        assert again["result"] == "sold"


@PROTOCOLS
def test_a_workflow_rolls_back(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["failure"]})
    assert go.run("workflow", protocol, gid, go.steps(protocol, 2))["kind"] == "failure"
    assert door.status(gid) == "failed"
    assert go.seen(gid) == ["01/action", "02/action", "01/rollback"]
    assert "scripted" in go.run("workflow", protocol, gid, go.steps(protocol, 2))["error"]
    assert len(go.seen(gid)) == 3


# ---- crashes ----


@ONE_PROTOCOL
def test_a_killed_coordinator_goes_on_with_a_saga(dtm: Dtm, go: DtmGo, protocol: str) -> None:
    """It dies while a step is under way: the step is called again, what ran before is not."""
    gid = go.script({"02/action": ["slow:700"]})
    assert go.run("saga", protocol, gid, go.steps(protocol, 3), options=SOON)["error"] == ""
    until(lambda: go.seen(gid), ["01/action", "02/action"])
    dtm.restart()
    until(lambda: dtm.door.status(gid), "succeed")
    seen = go.seen(gid)
    assert seen[:3] == ["01/action", "02/action", "02/action"]
    assert seen[-1] == "03/action"


@ONE_PROTOCOL
def test_a_workflow_goes_on_after_its_service_has_crashed(door: Door, go: DtmGo, protocol: str) -> None:
    """The service dies within its second step; the coordinator's call-back resumes the workflow behind the first."""
    gid = go.script({"02/action": ["crash", "ok"]})
    with pytest.raises(OSError):
        go.run("workflow", protocol, gid, go.steps(protocol, 3), result="sold")
    go.wait_for_death()
    go.start()
    until(lambda: door.status(gid), "succeed", within_s=30)
    actions = [call for call in go.seen(gid) if call.endswith("/action")]
    assert actions == ["01/action", "02/action", "02/action", "03/action"]
