"""Decisions at the admin door: what is lost on the way, who may ask, and what a browser must not do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchStatus
from troth.wire.seata.private import (
    ANNOUNCEMENT,
    BranchInquiryRequest,
    BranchInquiryResponse,
    BranchReport,
    ColumnReport,
    Inquiry,
    RowReport,
)

pytestmark = pytest.mark.engines

Connect = Callable[..., WireClient]
FROZEN = BranchStatus.PhaseTwo_RollbackFailed_Unretryable
DIRTY = RowReport("t:1", "t", "dirty", (True, True, True), [ColumnReport("n", "1", "2", "7", True)], "digest")


def post(
    coordinator: CoordinatorProcess, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(coordinator.admin + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def decide(coordinator: CoordinatorProcess, xid: str, branch_id: int, **body: object) -> tuple[int, dict[str, Any]]:
    content = json.dumps({"action": "resolve", "operator": "ann", "others": "keep", **body}).encode()
    path = f"/api/transactions/{xid}/branches/{branch_id}/resolve"
    return post(coordinator, path, content, {"Content-Type": "application/json"})


def register(rm: WireClient, resource: str, *, announces: bool = True) -> WireClient:
    extra = f"{ANNOUNCEMENT}\n" if announces else ""
    rm.ask(m.RegisterRMRequest("2.3.0", "shop", "default_tx_group", extra, resource))
    return rm


def answer(rm: WireClient, report: BranchReport, action: str) -> None:
    """The next request must be an inquiry for `action`; answer it."""
    frame = rm.next_request()
    body = frame.body
    assert isinstance(body, BranchInquiryRequest)
    assert msgspec.json.decode(body.application_data or "", type=Inquiry).action == action
    text = msgspec.json.encode(report).decode()
    rm.send(rm.connection.reply(frame, BranchInquiryResponse(body.xid, body.branch_id, text)))


def frozen_branch(coordinator: CoordinatorProcess, rm: WireClient, resource: str) -> tuple[str, int]:
    """A transaction whose one branch has refused its rollback."""
    with WireClient(coordinator.port) as tm:
        xid = tm.register_tm().begin()
        branch_id = rm.branch(xid, resource, "t:1").branch_id
        tm.post(m.GlobalRollbackRequest(xid))
        rm.answer_branch(rm.next_request(), FROZEN)
        until(lambda: coordinator.transaction(xid)["status"] == "RollbackFailed")
    return xid, branch_id


def stages(coordinator: CoordinatorProcess, xid: str) -> list[str]:
    return [entry["stage"] for entry in coordinator.get(f"/api/audit?xid={xid}")[1]["entries"]]


def in_background(call: Callable[[], tuple[int, dict[str, Any]]]) -> Future[tuple[int, dict[str, Any]]]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_an_answer_that_is_lost_leaves_the_branch_frozen_and_the_decision_can_be_repeated(
    coordinator: CoordinatorProcess,
) -> None:
    with WireClient(coordinator.port) as rm:
        xid, branch_id = frozen_branch(coordinator, register(rm, "jdbc:lost"), "jdbc:lost")
        first = in_background(lambda: decide(coordinator, xid, branch_id))
        answer(rm, BranchReport("undo-log", [DIRTY], 1, 1), "examine")
        rm.next_request()  # it does as it is told, and dies before it can say so
    status, body = first.result(30)
    assert (status, "it is not known whether that was done" in body["error"]) == (503, True)
    assert coordinator.transaction(xid)["status"] == "RollbackFailed"
    assert stages(coordinator, xid) == ["unknown", "decided"]
    with WireClient(coordinator.port) as rm:
        register(rm, "jdbc:lost")
        second = in_background(lambda: decide(coordinator, xid, branch_id))
        answer(rm, BranchReport("gone"), "examine")
        answer(rm, BranchReport("gone", ended=True), "resolve")
        assert second.result(30)[0] == 200
    assert coordinator.transaction(xid)["status"] == "Rollbacked"
    assert stages(coordinator, xid) == ["done", "decided", "unknown", "decided"]
    # What the operator saw was written down before anything was done, so it is known although the answer was lost.
    entry = coordinator.get(f"/api/audit?xid={xid}")[1]["entries"][-1]
    assert entry["rows"][0]["columns"] == [{"name": "n", "before": "1", "after": "2", "now": "7", "differs": True}]


def test_the_audit_outlives_the_coordinator(new_coordinator: Callable[..., CoordinatorProcess]) -> None:
    coordinator = new_coordinator().start()
    with WireClient(coordinator.port) as rm:
        xid, branch_id = frozen_branch(coordinator, register(rm, "jdbc:kept"), "jdbc:kept")
        again = in_background(lambda: decide(coordinator, xid, branch_id, reason="ticket 7"))
        answer(rm, BranchReport("undo-log", [DIRTY], 1, 1), "examine")
        answer(rm, BranchReport("undo-log", [DIRTY], 1, 1, ended=True), "resolve")
        assert again.result(30)[0] == 200
    coordinator.kill()
    coordinator.start()
    assert coordinator.transaction(xid)["status"] == "Rollbacked"
    assert stages(coordinator, xid) == ["done", "decided"]
    assert coordinator.get(f"/api/audit?xid={xid}")[1]["entries"][0]["reason"] == "ticket 7"


def test_a_client_that_has_announced_nothing_is_never_asked(coordinator: CoordinatorProcess) -> None:
    with WireClient(coordinator.port) as rm:
        xid, branch_id = frozen_branch(coordinator, register(rm, "jdbc:java", announces=False), "jdbc:java")
        (branch,) = coordinator.get(f"/api/transactions/{xid}/images")[1]["branches"]
        assert branch["report"] is None
        assert "--db URL" in branch["next_step"]
        status, body = decide(coordinator, xid, branch_id)
        assert (status, "--db URL" in body["error"]) == (409, True)
        rm.ping()  # and nothing else has come: the answer to the ping is the first frame
    assert stages(coordinator, xid) == []


def test_who_holds_and_who_waits(coordinator: CoordinatorProcess) -> None:
    with WireClient(coordinator.port) as rm, WireClient(coordinator.port) as other:
        register(rm, "jdbc:queue", announces=False)
        register(other, "jdbc:queue", announces=False)
        xid = rm.begin()
        rm.branch(xid, "jdbc:queue", "t:1")
        waiting = other.begin()
        frame = other.post(
            m.BranchRegisterRequest(waiting, m.BranchType.AT, "jdbc:queue", "t:1", '{"autoCommit":false}')
        )
        (branch,) = coordinator.get(f"/api/transactions/{xid}/images")[1]["branches"]
        assert branch["holder"] == xid
        assert [waiter["xid"] for waiter in branch["queue"]] == [waiting]
        rm.commit(xid)
        assert other.answer_to(frame).body.result_code == m.ResultCode.Success
        other.rollback(waiting)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ],
)
@pytest.mark.parametrize("what", ["retry", "branches/1/resolve"])
def test_a_page_of_another_site_can_make_the_door_do_nothing(
    coordinator: CoordinatorProcess, headers: dict[str, str], status: int, what: str
) -> None:
    path = f"/api/transactions/127.0.0.1:1:1/{what}"
    body = b'{"action": "abandon", "operator": "x"}'
    given = {"Content-Type": "application/json", **headers}
    assert post(coordinator, path, body, given)[0] == status
    own = {"Content-Type": "application/json", "Origin": coordinator.admin, "Sec-Fetch-Site": "same-origin"}
    assert post(coordinator, path, body, own)[0] == 404  # it would have done it


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"action": "drop", "operator": "x"}', 400),
        (b'{"action": "abandon"}', 400),
        (b'{"action": "abandon", "operator": " "}', 400),
        (b'{"action": "resolve", "operator": "x", "rows": {"t:1": "maybe"}}', 400),
        (b'{"action": "resolve", "operator": "x", "typo": 1}', 400),
        (b'{"action": "resolve", "operator": "x", "direct": "done"}', 400),
        (
            b'{"action": "resolve", "operator": "x", "direct": "done", "resolution": "7", "report": {"state": "gone"}}',
            409,
        ),
        (b"x" * (5 << 20), 413),
    ],
)
def test_wrong_bodies(coordinator: CoordinatorProcess, body: bytes, status: int) -> None:
    path = "/api/transactions/127.0.0.1:1:1/branches/1/resolve"
    assert post(coordinator, path, body, {"Content-Type": "application/json"})[0] == status


def test_only_a_frozen_branch_is_resolved(coordinator: CoordinatorProcess) -> None:
    with WireClient(coordinator.port) as rm:
        register(rm, "jdbc:sound")
        xid = rm.begin()
        branch_id = rm.branch(xid, "jdbc:sound", "t:1").branch_id
        assert decide(coordinator, xid, branch_id)[0] == 409
        assert decide(coordinator, xid, branch_id + 1)[0] == 404
        rm.commit(xid)
