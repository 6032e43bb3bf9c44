"""The rest of what real DTM clients (the Go module) do at our door: each option, each way to fail, each crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from dtm_doors import BOTH, Dtm, open_dtm, open_go
from dtm_go_app import Door, DtmGo, fetch, new_gid, until

pytestmark = [pytest.mark.engines, pytest.mark.soak]
PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])
WAIT = {"wait_result": True}
SOON = {"retry_interval": 1}


@pytest.fixture(scope="module", params=BOTH)
def dtm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dtm]:
    with open_dtm(request.param, tmp_path_factory.mktemp("coordinator")) as opened:
        yield opened


@pytest.fixture
def door(dtm: Dtm) -> Door:
    return dtm.door


@pytest.fixture(scope="module", params=["mariadb", "postgres"])
def go(
    request: pytest.FixtureRequest,
    dtm: Dtm,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DtmGo]:
    new_database: Callable[[], str] = request.getfixturevalue(f"new_{request.param}_database")
    with open_go(dtm, tmp_path_factory.mktemp("go"), new_database) as opened:
        yield opened


@pytest.fixture
def starter(go: DtmGo, dtm: Dtm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DtmGo]:
    """A second process that begins transactions, to be killed; it shares the database of `go`."""
    with open_go(dtm, tmp_path_factory.mktemp("starter"), lambda: go.database) as opened:
        yield opened


def crashes(starter: DtmGo, *order: object, **more: object) -> None:
    with pytest.raises(OSError):
        starter.run(*order, **more)  # type: ignore[arg-type]
    starter.wait_for_death()


# ---- gids, protocols ----


@PROTOCOLS
def test_gids_are_new(door: Door, go: DtmGo, protocol: str) -> None:
    def one() -> str:
        return fetch(f"{door.http}/newGid")[1]["gid"]

    assert go.run("newGid", protocol, "")["result"] not in ("", one(), one())


@pytest.mark.parametrize("kind", ["saga", "tcc", "msg"])
def test_json_rpc_at_the_door(door: Door, go: DtmGo, kind: str) -> None:
    gid = new_gid()
    ran = go.run(kind, "json-rpc", gid, go.steps("http", 2), options=SOON, query_prepared=go.url("http"))
    assert ran["error"] == ""
    until(lambda: door.status(gid), "succeed")


# ---- saga ----


@PROTOCOLS
def test_a_concurrent_saga_keeps_its_orders(door: Door, go: DtmGo, protocol: str) -> None:
    """03 after 01 and 02, which run side by side."""
    gid = go.script({"01/action": ["slow:1500"], "02/action": ["slow:1500"]})
    options = WAIT | {"concurrent": True, "orders": {"2": [0, 1]}}
    assert go.run("saga", protocol, gid, go.steps(protocol, 3), options=options)["error"] == ""
    first, second, third = go.calls(gid)
    assert {first["branch_id"], second["branch_id"]} == {"01", "02"}
    assert second["at_ms"] - first["at_ms"] < 1000
    assert third["branch_id"] == "03"
    assert third["at_ms"] - second["at_ms"] >= 1000


@PROTOCOLS
def test_a_concurrent_saga_undoes_all_that_may_have_run(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["failure"]})
    options = SOON | {"concurrent": True, "orders": {"2": [1]}}
    go.run("saga", protocol, gid, go.steps(protocol, 3), options=options)
    until(lambda: door.status(gid), "failed")
    seen = go.seen(gid)
    assert {"01/compensate", "02/compensate"} <= set(seen)
    assert not [call for call in seen if call.startswith("03")]


@PROTOCOLS
def test_a_retry_limit_turns_a_saga_back(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"01/action": ["error"]})
    go.run("saga", protocol, gid, go.steps(protocol, 1), options=SOON | {"retry_limit": 3})
    until(lambda: door.status(gid), "failed")
    seen = go.seen(gid)
    assert seen.count("01/action") == 1 + 3
    assert seen[-1] == "01/compensate"
    assert "RetryLimit" in door.query(gid)["transaction"]["rollback_reason"]


@PROTOCOLS
def test_a_timeout_turns_a_saga_back(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["ongoing"]})
    go.run("saga", protocol, gid, go.steps(protocol, 2), options=SOON | {"timeout_to_fail": 2})
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid)[-2:] == ["02/compensate", "01/compensate"]
    assert "Timeout after 2 seconds" in door.query(gid)["transaction"]["rollback_reason"]


@PROTOCOLS
def test_no_answer_within_the_request_timeout_is_asked_again(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"01/action": ["lost:2500", "ok"]})
    go.run("saga", protocol, gid, go.steps(protocol, 1), options=SOON | {"request_timeout": 1})
    until(lambda: door.status(gid), "succeed")
    first, second = go.calls(gid)
    assert second["at_ms"] - first["at_ms"] > 900


@PROTOCOLS
def test_errors_are_asked_again_and_compensations_until_they_succeed(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"01/action": ["error", "ok"], "02/action": ["failure"], "01/compensate": ["failure", "ok"]})
    go.run("saga", protocol, gid, go.steps(protocol, 2), options=SOON)
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid) == [
        *("01/action", "01/action", "02/action"),
        *("02/compensate", "01/compensate", "01/compensate"),
    ]


@PROTOCOLS
def test_wait_result_of_an_undecided_one_is_no_success(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"01/action": ["ongoing", "ok"]})
    ran = go.run("saga", protocol, gid, go.steps(protocol, 1), options=SOON | WAIT)
    assert ran["error"]
    until(lambda: door.status(gid), "succeed")


@PROTOCOLS
def test_a_gid_is_used_once(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    for _ in range(2):  # the same submit again is the same transaction
        go.run("saga", protocol, gid, go.steps(protocol, 1), options=SOON)
    until(lambda: door.status(gid), "succeed")
    again = go.run("saga", protocol, gid, go.steps(protocol, 1))["error"]
    assert bool(again) is door.real, "DTM refuses; we say what is true: it has succeeded"
    assert go.seen(gid).count("01/action") == 1


@PROTOCOLS
@pytest.mark.parametrize("kind", ["saga", "tcc"])
def test_an_empty_url_is_done_without_a_call(door: Door, go: DtmGo, protocol: str, kind: str) -> None:
    gid = new_gid()
    branches = go.steps(protocol, 2)
    branches[1]["confirm"] = branches[1]["compensate"] = ""
    if kind == "saga":
        branches[1]["url"] = ""
    assert go.run(kind, protocol, gid, branches, options=WAIT)["error"] == ""
    assert door.status(gid) == "succeed"
    assert go.seen(gid) == (["01/action"] if kind == "saga" else ["01/try", "02/try", "01/confirm"])


# ---- TCC ----


@PROTOCOLS
def test_a_nested_tcc(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    branches = [*go.steps(protocol, 1, "nested"), *go.steps(protocol, 1)]
    assert go.run("tcc", protocol, gid, branches, options=SOON)["error"] == ""
    until(lambda: door.status(gid), "succeed")
    seen = go.seen(gid)
    assert seen[:3] == ["01/try", "0101/try", "02/try"]
    assert sorted(seen[3:]) == ["01/confirm", "0101/confirm", "02/confirm"]


@PROTOCOLS
def test_a_confirm_is_asked_until_it_succeeds(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/confirm": ["error", "failure", "ongoing", "ok"]})
    assert go.run("tcc", protocol, gid, go.steps(protocol, 2), options=SOON)["error"] == ""
    until(lambda: door.status(gid), "succeed", within_s=40)
    assert go.seen(gid) == ["01/try", "02/try", *["02/confirm"] * 4, "01/confirm"]


@PROTOCOLS
def test_a_tcc_whose_starter_fails_is_cancelled(door: Door, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    assert go.run("tcc", protocol, gid, go.steps(protocol, 2), ends="error")["error"]
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid) == ["01/try", "02/try", "02/cancel", "01/cancel"]
    assert "scripted trouble" in door.query(gid)["transaction"]["rollback_reason"]


@PROTOCOLS
def test_a_tcc_whose_starter_dies_is_cancelled_at_its_timeout(
    door: Door, go: DtmGo, starter: DtmGo, protocol: str
) -> None:
    gid = new_gid()
    options = SOON | {"timeout_to_fail": 1}
    crashes(starter, "tcc", protocol, gid, go.steps(protocol, 2), options=options, ends="crash")
    until(lambda: door.status(gid), "failed")
    assert go.seen(gid) == ["01/try", "02/try", "02/cancel", "01/cancel"]


@PROTOCOLS
def test_the_barrier_guards_a_tcc(door: Door, go: DtmGo, protocol: str) -> None:
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    go.script({"01/confirm": ["done-error", "ok"], "02/confirm": ["done-error", "ok"]}, gid)
    payloads = [{"name": giver, "amount": -30}, {"name": taker, "amount": 30}]
    assert go.run("tcc", protocol, gid, go.steps(protocol, 2, "bank", payloads), options=SOON)["error"] == ""
    until(lambda: door.status(gid), "succeed")
    assert go.balances(giver, taker) == [(70, 0), (30, 0)]


# ---- messages ----


@PROTOCOLS
@pytest.mark.parametrize(
    ("local", "ends", "kind"), [("ok", "succeed", ""), ("failure", "failed", "failure"), ("error", "failed", "error")]
)
def test_do_and_submit(door: Door, go: DtmGo, protocol: str, local: str, ends: str, kind: str) -> None:
    """The local transaction and the message, both or neither, by one call of the real client."""
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    ran = go.run(
        "msg",
        protocol,
        gid,
        go.steps(protocol, 1, "bank", [{"name": taker, "amount": 30}]),
        options=SOON,
        query_prepared=go.url(protocol, "queryPrepared"),
        local=local,
        local_movement={"name": giver, "amount": -30},
    )
    assert ran["kind"] == kind
    until(lambda: door.status(gid), ends)
    assert go.balances(giver, taker) == ([(70, 0), (30, 0)] if ends == "succeed" else [(100, 0), (0, 0)])


@PROTOCOLS
@pytest.mark.parametrize(("local", "ends"), [("crash", "failed"), ("done-crash", "succeed")])
def test_a_starter_that_dies_is_asked_back_by_the_barrier(
    door: Door, go: DtmGo, starter: DtmGo, protocol: str, local: str, ends: str
) -> None:
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    crashes(
        starter,
        "msg",
        protocol,
        gid,
        go.steps(protocol, 1, "bank", [{"name": taker, "amount": 30}]),
        options=SOON | {"timeout_to_fail": 1},
        query_prepared=go.url(protocol, "queryPrepared"),
        local=local,
        local_movement={"name": giver, "amount": -30},
    )
    until(lambda: door.status(gid), ends)
    assert go.balances(giver, taker) == ([(70, 0), (30, 0)] if ends == "succeed" else [(100, 0), (0, 0)])


@PROTOCOLS
def test_a_check_back_may_say_not_yet(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"00/msg": ["ongoing", "error", "ok"]})
    order = {"options": SOON | {"timeout_to_fail": 1}, "query_prepared": go.url(protocol)}
    assert go.run("msg", protocol, gid, go.steps(protocol, 1), only="prepare", **order)["error"] == ""
    until(lambda: door.status(gid), "succeed")
    assert go.seen(gid) == ["00/msg", "00/msg", "00/msg", "01/action"]


@PROTOCOLS
def test_a_message_may_be_delayed(door: Door, go: DtmGo, protocol: str) -> None:
    gid, begun_ms = new_gid(), time.time() * 1000
    ran = go.run("msg", protocol, gid, go.steps(protocol, 1), options=SOON | {"delay": 2}, only="submit")
    assert ran["error"] == ""
    assert go.seen(gid) == []
    assert door.status(gid) == "submitted"
    until(lambda: door.status(gid), "succeed")
    assert go.calls(gid)[0]["at_ms"] - begun_ms >= 2000


@PROTOCOLS
def test_a_topic_reaches_each_subscriber(door: Door, go: DtmGo, protocol: str) -> None:
    topic, gid = new_gid(), new_gid()
    urls = [go.url(protocol), go.url(protocol, "nested")]
    for url in urls:
        door.get("subscribe", topic=topic, url=url, remark="test")
    if door.real:
        until(lambda: go.run("msg", protocol, new_gid(), [{"topic": topic}], only="submit")["error"], "")
    ran = go.run("msg", protocol, gid, [{"topic": topic, "payload": {"n": 1}}], options=SOON, only="submit")
    assert ran["error"] == ""
    until(lambda: door.status(gid), "succeed")
    assert sorted(go.seen(gid)) == ["01-01/action", "01-02/action"]
    assert {call["service"] for call in go.calls(gid)} == {"act", "nested"}
    assert [json.loads(call["body"]) for call in go.calls(gid)] == [{"n": 1}, {"n": 1}]


def test_a_concurrent_message(door: Door, go: DtmGo) -> None:
    gid = go.script({"01/action": ["slow:1500"]})
    options = SOON | {"concurrent": True}
    assert go.run("msg", "http", gid, go.steps("http", 2), options=options, only="submit")["error"] == ""
    until(lambda: door.status(gid), "succeed")
    first, second = go.calls(gid)
    assert abs(second["at_ms"] - first["at_ms"]) < 1000


# ---- workflows ----


@PROTOCOLS
def test_a_workflow_of_every_kind_of_step(door: Door, go: DtmGo, protocol: str) -> None:
    """A call with compensation, a TCC with confirm and cancel, a local step with the barrier, an XA."""
    gid, (local, xa) = new_gid(), go.accounts(0, 0)
    saga, tcc = go.steps(protocol, 2)
    branches = [
        saga | {"confirm": ""},
        tcc,
        {"kind": "local", "payload": {"name": local, "amount": 5}},
        {"kind": "xa", "payload": {"name": xa, "amount": 7}},
    ]
    assert go.run("workflow", protocol, gid, branches)["error"] == ""
    assert door.status(gid) == "succeed"
    assert go.seen(gid) == ["01/action", "02/action", "02/commit"]
    assert go.balances(local, xa) == [(5, 0), (7, 0)]


@PROTOCOLS
def test_a_workflow_undoes_every_kind_of_step(door: Door, go: DtmGo, protocol: str) -> None:
    gid, (xa,) = new_gid(), go.accounts(0)
    saga, tcc, last = go.steps(protocol, 3)
    go.script({"04/action": ["failure"]}, gid)
    branches = [saga | {"confirm": ""}, {"kind": "xa", "payload": {"name": xa, "amount": 7}}, tcc, last]
    assert go.run("workflow", protocol, gid, branches)["kind"] == "failure"
    assert door.status(gid) == "failed"
    assert go.seen(gid) == ["01/action", "03/action", "04/action", "03/rollback", "01/rollback"]
    assert go.balances(xa) == [(0, 0)]


@PROTOCOLS
def test_an_ongoing_workflow_is_resumed_by_the_coordinator(door: Door, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/action": ["ongoing", "ok"]})
    assert go.run("workflow", protocol, gid, go.steps(protocol, 2))["kind"] == "ongoing"
    until(lambda: door.status(gid), "succeed", within_s=30)
    actions = [call for call in go.seen(gid) if call.endswith("/action")]
    assert actions == ["01/action", "02/action", "02/action"]


# ---- crashes ----


@PROTOCOLS
@pytest.mark.parametrize("kind", ["saga", "tcc", "msg"])
def test_a_service_that_dies_is_called_again(door: Door, go: DtmGo, starter: DtmGo, protocol: str, kind: str) -> None:
    """The second process is the service: it does the work and dies with the answer; the barrier makes it once."""
    gid, (taker,) = new_gid(), go.accounts(0)
    op = {"saga": "action", "tcc": "confirm", "msg": "action"}[kind]
    starter.script({f"01/{op}": ["done-crash", "ok"]}, gid)
    branches = starter.steps(protocol, 1, "bank", [{"name": taker, "amount": 30}])
    order = {"options": SOON, "query_prepared": go.url(protocol)}
    assert go.run(kind, protocol, gid, branches, **order)["error"] == ""
    starter.wait_for_death()
    starter.start()
    until(lambda: door.status(gid), "succeed", within_s=30)
    assert go.balances(taker) == [(30, 0)]
    assert starter.seen(gid).count(f"01/{op}") == 2


@PROTOCOLS
@pytest.mark.parametrize("turn", ["forward", "compensating"])
def test_a_coordinator_that_dies_goes_on(dtm: Dtm, go: DtmGo, protocol: str, turn: str) -> None:
    gid, (giver, taker) = new_gid(), go.accounts(100, 0)
    slow = (
        {"02/action": ["lost:600"]} if turn == "forward" else {"03/action": ["failure"], "02/compensate": ["lost:600"]}
    )
    go.script(slow, gid)
    payloads = [{"name": giver, "amount": -30}, {"name": taker, "amount": 30}, {"name": taker, "amount": 1}]
    go.run("saga", protocol, gid, go.steps(protocol, 3, "bank", payloads), options=SOON)
    awaited = "02/action" if turn == "forward" else "02/compensate"
    until(lambda: awaited in go.seen(gid), True)
    dtm.restart()
    until(lambda: dtm.door.status(gid), "succeed" if turn == "forward" else "failed", within_s=30)
    assert go.balances(giver, taker) == ([(70, 0), (31, 0)] if turn == "forward" else [(100, 0), (0, 0)])


@PROTOCOLS
def test_a_coordinator_that_dies_between_try_and_confirm(dtm: Dtm, go: DtmGo, protocol: str) -> None:
    gid = go.script({"02/confirm": ["slow:600"]})
    assert go.run("tcc", protocol, gid, go.steps(protocol, 2), options=SOON)["error"] == ""
    until(lambda: "02/confirm" in go.seen(gid), True)
    dtm.restart()
    until(lambda: dtm.door.status(gid), "succeed", within_s=30)
    assert go.seen(gid)[-2:] == ["02/confirm", "01/confirm"]


@PROTOCOLS
def test_a_coordinator_that_dies_asks_back_for_a_prepared_message(dtm: Dtm, go: DtmGo, protocol: str) -> None:
    gid = new_gid()
    order = {"options": SOON | {"timeout_to_fail": 1}, "query_prepared": go.url(protocol)}
    assert go.run("msg", protocol, gid, go.steps(protocol, 1), only="prepare", **order)["error"] == ""
    dtm.restart()
    until(lambda: dtm.door.status(gid), "succeed", within_s=30)
    assert go.seen(gid) == ["00/msg", "01/action"]


@PROTOCOLS
def test_a_coordinator_that_dies_within_a_workflow(dtm: Dtm, go: DtmGo, protocol: str) -> None:
    """The client cannot tell of its step; the coordinator, back again, resumes it."""
    gid = go.script({"02/action": ["ongoing", "ok"]})
    assert go.run("workflow", protocol, gid, go.steps(protocol, 2))["kind"] == "ongoing"
    dtm.restart()
    until(lambda: dtm.door.status(gid), "succeed", within_s=30)
    assert go.seen(gid).count("01/action") == 1
