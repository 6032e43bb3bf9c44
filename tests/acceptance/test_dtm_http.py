"""DTM's HTTP door end to end: a real `troth serve`, real HTTP services, every type of transaction."""

import base64
import json
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from dtm_service import BROKEN, DONE, ONGOING, REFUSED, BranchService, DtmClient, saga, service
from fixtures_coordinator import CoordinatorProcess, until

__all__ = ["service"]
pytestmark = pytest.mark.engines

FAST = ("dtm.retry_interval=100ms", "dtm.timeout_to_fail=1s", "dtm.request_timeout=500ms", "retry.max=1s")


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.soak)])
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """One coordinator for all tests here: each names its transactions by new gids."""
    store = request.getfixturevalue("new_postgres_database")() if request.param == "postgres" else None
    one = CoordinatorProcess(tmp_path_factory.mktemp("dtm"), *FAST, store=store)
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def dtm(process: CoordinatorProcess) -> DtmClient:
    return DtmClient(process.ready["dtm_http_port"])


@pytest.fixture
def gid(dtm: DtmClient) -> str:
    return dtm.gid()


class TestSaga:
    def test_all_actions_in_order(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        assert dtm.post("submit", gid=gid, wait_result=True, **saga(service, "a", "b")) == (
            200,
            {"dtm_result": "SUCCESS"},
        )
        assert service.paths(gid) == ["/a", "/b"]
        found = dtm.query(gid)
        assert found["transaction"]["status"] == "succeed"
        assert found["transaction"]["finish_time"].startswith("20")
        assert dtm.branches(gid) == [
            ("01", "compensate", "prepared"),
            ("01", "action", "succeed"),
            ("02", "compensate", "prepared"),
            ("02", "action", "succeed"),
        ]
        assert base64.b64decode(found["branches"][0]["bin_data"]) == b'{"of": "a"}'

    def test_without_wait_result_the_answer_comes_first(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.hold["/a"] = threading.Event()
        assert dtm.post("submit", gid=gid, request_timeout=5, **saga(service, "a"))[0] == 200
        assert dtm.status(gid) == "submitted"
        service.hold["/a"].set()
        dtm.ends_as(gid, "succeed")

    def test_a_refusal_compensates_what_ran_and_the_refused_step_in_reverse(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        service.say("/b", (409, "no money"))
        status, body = dtm.post("submit", gid=gid, wait_result=True, **saga(service, "a", "b", "c"))
        assert (status, body["dtm_result"]) == (409, "FAILURE")
        assert body["message"] == f"url:{service.url('/b')} return failed: no money FAILURE"
        dtm.ends_as(gid, "failed")
        assert service.paths(gid) == ["/a", "/b", "/b-undo", "/a-undo"]
        assert dtm.query(gid)["transaction"]["rollback_reason"] == body["message"]
        assert {(branch, op): found for branch, op, found in dtm.branches(gid)} == {
            ("01", "compensate"): "succeed",
            ("01", "action"): "succeed",
            ("02", "compensate"): "succeed",
            ("02", "action"): "failed",
            ("03", "compensate"): "prepared",
            ("03", "action"): "prepared",
        }

    def test_ongoing_and_errors_are_tried_again(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/a", ONGOING, BROKEN, (204, ""), DONE)
        status, body = dtm.post("submit", gid=gid, wait_result=True, **saga(service, "a"))
        assert (status, body["dtm_result"]) == (425, "ONGOING")
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/a"] * 4

    def test_a_compensation_cannot_refuse(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/a", REFUSED)
        service.say("/a-undo", REFUSED, BROKEN, ONGOING, DONE)
        dtm.post("submit", gid=gid, **saga(service, "a"))
        dtm.ends_as(gid, "failed")
        assert service.paths(gid) == ["/a"] + ["/a-undo"] * 4

    def test_concurrent_with_orders(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.hold["/a"] = threading.Event()
        custom = json.dumps({"concurrent": True, "orders": {"2": [0, 1]}})
        dtm.post("submit", gid=gid, concurrent=True, custom_data=custom, **saga(service, "a", "b", "c"))
        until(lambda: dtm.branches(gid)[3] == ("02", "action", "succeed"))
        assert sorted(service.paths(gid)) == ["/a", "/b"]
        service.hold["/a"].set()
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid)[2:] == ["/c"]
        assert dtm.query(gid)["transaction"]["concurrent"] is True

    def test_timeout_to_fail(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/b", ONGOING)
        dtm.post("submit", gid=gid, timeout_to_fail=1, **saga(service, "a", "b", "c"))
        dtm.ends_as(gid, "failed")
        assert dtm.query(gid)["transaction"]["rollback_reason"] == "Timeout after 1 seconds"
        paths = service.paths(gid)
        assert paths[-2:] == ["/b-undo", "/a-undo"]
        assert "/c" not in paths

    def test_retry_limit(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/a", BROKEN)
        status, _ = dtm.post("submit", gid=gid, retry_limit=3, wait_result=True, **saga(service, "a"))
        assert status == 409
        dtm.ends_as(gid, "failed")
        assert service.paths(gid).count("/a") == 1 + 3
        reason = dtm.query(gid)["transaction"]["rollback_reason"]
        assert reason == "RetryCount is greater than RetryLimit, RetryLimit: 3"

    def test_a_branch_that_does_not_answer_in_time_is_called_again(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        service.hold["/a"] = threading.Event()
        dtm.post("submit", gid=gid, **saga(service, "a"))
        until(lambda: len(service.paths(gid)) == 2)
        service.hold.pop("/a").set()
        dtm.ends_as(gid, "succeed")

    def test_headers_and_requests_without_a_payload(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        body = {**saga(service, "a"), "payloads": [], "gid": gid, "wait_result": True}
        body |= {"branch_headers": {"X-Tenant": "blue"}, "passthrough_headers": ["X-Trace", "X-None"]}
        assert dtm.ask("POST", "dtmsvr/submit", body, **{"X-Trace": "t1"})[0] == 200
        called = service.calls[0]
        assert (called.method, called.query["op"]) == ("GET", "action")
        assert (called.headers["x-tenant"], called.headers["x-trace"]) == ("blue", "t1")
        assert "x-none" not in called.headers

    def test_an_empty_url_is_done_without_a_call(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        steps = [{"action": service.url("/a"), "compensate": ""}, {"action": service.url("/b"), "compensate": ""}]
        service.say("/b", REFUSED)
        assert dtm.post("submit", gid=gid, trans_type="saga", steps=steps, wait_result=True)[0] == 409
        dtm.ends_as(gid, "failed")
        assert service.paths(gid) == ["/a", "/b"]

    def test_no_steps_at_all(self, dtm: DtmClient, gid: str) -> None:
        assert dtm.post("submit", gid=gid, trans_type="saga", wait_result=True)[0] == 200
        assert dtm.status(gid) == "succeed"


class TestAgain:
    """Requests that come twice, or too late."""

    def test_a_submit_that_comes_again_changes_nothing_and_hears_the_truth(
        self, dtm: DtmClient, service: BranchService
    ) -> None:
        good, bad = dtm.gid(), dtm.gid()
        for _ in range(3):
            assert dtm.post("submit", gid=good, wait_result=True, **saga(service, "a"))[0] == 200
        service.say("/a", REFUSED)
        for _ in range(3):
            assert dtm.post("submit", gid=bad, wait_result=True, **saga(service, "a"))[0] == 409
        assert service.paths(good) == ["/a"]
        assert service.paths(bad) == ["/a", "/a-undo"]

    def test_many_submits_of_one_name_at_once_are_one_saga(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        answers: list[int] = []
        body = {"gid": gid, "wait_result": True, **saga(service, "a")}
        threads = [
            threading.Thread(target=lambda: answers.append(dtm.ask("POST", "dtmsvr/submit", body)[0])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        assert service.paths(gid) == ["/a"]

    def test_prepare_after_the_end(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        dtm.post("submit", gid=gid, wait_result=True, **saga(service, "a"))
        status, body = dtm.post("prepare", gid=gid, trans_type="saga")
        assert status == 409
        assert body["message"] == "current status 'succeed', cannot prepare. FAILURE"

    def test_one_name_for_two_kinds_harms_neither(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        assert dtm.post("prepare", gid=gid, trans_type="tcc", timeout_to_fail=100)[0] == 200
        for what in ("submit", "prepare", "abort"):
            status, body = dtm.post(what, gid=gid, trans_type="saga")
            assert status == 400
            assert "tcc" in body["message"]
        assert dtm.status(gid) == "prepared"
        assert dtm.post("submit", gid=gid, trans_type="tcc")[0] == 200

    @pytest.mark.parametrize("kind", ["saga", "workflow"])
    def test_who_undoes_itself_is_not_aborted(
        self, dtm: DtmClient, service: BranchService, gid: str, kind: str
    ) -> None:
        assert dtm.post("prepare", **{"gid": gid, **saga(service, "a"), "trans_type": kind})[0] == 200
        status, body = dtm.post("abort", gid=gid, trans_type=kind)
        assert (status, body["dtm_result"]) == (409, "FAILURE")
        assert body["message"] == f"trans type: '{kind}' current status 'prepared', cannot abort. FAILURE"
        assert dtm.status(gid) == "prepared"
        assert dtm.post("forceStop", gid=gid)[0] == 200

    @pytest.mark.parametrize(
        ("kind", "added", "taken"),
        [
            ("msg", "tcc", False),
            ("saga", "msg", False),
            ("tcc", "workflow", False),
            ("workflow", "xa", False),
            ("tcc", "xa", False),
            ("xa", "msg", True),
            ("tcc", "msg", True),
        ],
    )
    def test_branches_are_of_their_transactions_kind(
        self, dtm: DtmClient, service: BranchService, gid: str, kind: str, added: str, taken: bool
    ) -> None:
        assert dtm.post("prepare", gid=gid, trans_type=kind)[0] == 200
        branch = {"url": service.url("/b"), "confirm": service.url("/b"), "op": "action", "status": "succeed"}
        status, body = dtm.post("registerBranch", gid=gid, trans_type=added, branch_id="09", data="{}", **branch)
        assert status == (200 if taken else 400), body
        assert taken or (kind in body["message"] and added in body["message"])
        assert [row[0] for row in dtm.branches(gid)] == (["09"] if taken else [])
        assert dtm.post("forceStop", gid=gid)[0] == 200


class TestTcc:
    @staticmethod
    def branch(service: BranchService, gid: str, number: str) -> dict[str, str]:
        return {
            "gid": gid,
            "trans_type": "tcc",
            "branch_id": number,
            "data": json.dumps({"n": number}),
            "confirm": service.url(f"/confirm-{number}"),
            "cancel": service.url(f"/cancel-{number}"),
        }

    def test_confirms_in_reverse_order(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        assert dtm.post("prepare", gid=gid, trans_type="tcc")[0] == 200
        assert dtm.post("prepare", gid=gid, trans_type="tcc")[0] == 200
        for number, path in (("01", "registerBranch"), ("02", "registerTccBranch"), ("03", "registerBranch")):
            assert dtm.post(path, **self.branch(service, gid, number)) == (200, {"dtm_result": "SUCCESS"})
        service.say("/confirm-02", REFUSED, ONGOING, DONE)  # it must not refuse any more: asked until it does it
        assert dtm.post("submit", gid=gid, trans_type="tcc")[0] == 200
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/confirm-03"] + ["/confirm-02"] * 3 + ["/confirm-01"]
        assert service.calls[0].body == b'{"n": "03"}'
        assert service.calls[0].query["trans_type"] == "tcc"
        assert dtm.branches(gid)[:2] == [("01", "cancel", "prepared"), ("01", "confirm", "succeed")]

    def test_abort(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        dtm.post("prepare", gid=gid, trans_type="tcc")
        for number in ("01", "02"):
            dtm.post("registerBranch", **self.branch(service, gid, number))
        body = {"gid": gid, "trans_type": "tcc", "rollback_reason": "the try said FAILURE\0\n"}
        assert dtm.post("abort", **body)[0] == 200
        dtm.ends_as(gid, "failed")
        assert service.paths(gid) == ["/cancel-02", "/cancel-01"]
        assert dtm.query(gid)["transaction"]["rollback_reason"] == "the try said FAILURE\0\n"
        assert dtm.post("abort", **body)[0] == 200
        assert dtm.post("submit", gid=gid, trans_type="tcc")[0] == 409

    @pytest.mark.soak
    def test_a_prepared_one_is_given_up_after_its_timeout(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        dtm.post("prepare", gid=gid, trans_type="tcc", timeout_to_fail=1)
        dtm.post("registerBranch", **self.branch(service, gid, "01"))
        dtm.ends_as(gid, "failed")
        assert service.paths(gid) == ["/cancel-01"]
        assert dtm.query(gid)["transaction"]["rollback_reason"] == "Timeout after 1 seconds"
        status, body = dtm.post("registerBranch", **self.branch(service, gid, "02"))
        assert status == 409
        assert body["message"] == f"no trans with gid: {gid} status: prepared found FAILURE"

    def test_a_branch_id_is_one_branch(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        dtm.post("prepare", gid=gid, trans_type="tcc")
        branch = self.branch(service, gid, "01")
        assert dtm.post("registerBranch", **branch)[0] == 200
        assert dtm.post("registerBranch", **branch)[0] == 200
        status, body = dtm.post("registerBranch", **{**branch, "data": "other"})
        assert status == 400
        assert "registered already" in body["message"]
        dtm.post("submit", gid=gid, trans_type="tcc", wait_result=True)
        assert service.paths(gid) == ["/confirm-01"]
        assert dtm.post("registerBranch", **branch)[0] == 409


class TestXa:
    @pytest.mark.parametrize(
        ("end", "op", "status"), [("submit", "commit", "succeed"), ("abort", "rollback", "failed")]
    )
    def test_in_order_and_always_by_post(
        self, dtm: DtmClient, service: BranchService, gid: str, end: str, op: str, status: str
    ) -> None:
        dtm.post("prepare", gid=gid, trans_type="xa")
        for number, path in (("01", "registerXaBranch"), ("02", "registerBranch")):
            url = service.url(f"/xa-{number}")
            assert dtm.post(path, gid=gid, trans_type="xa", branch_id=number, url=url)[0] == 200
        dtm.post(end, gid=gid, trans_type="xa")
        dtm.ends_as(gid, status)
        assert [(called.method, called.path, called.op) for called in service.calls] == [
            ("POST", "/xa-01", op),
            ("POST", "/xa-02", op),
        ]


class TestMsg:
    @staticmethod
    def msg(service: BranchService, gid: str, *names: str) -> dict[str, object]:
        return {"gid": gid, "trans_type": "msg", "steps": [{"action": service.url(f"/{name}")} for name in names]}

    def test_each_is_delivered_in_order_until_it_is_taken(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        service.say("/a", REFUSED, BROKEN, ONGOING, DONE)
        assert dtm.post("submit", **self.msg(service, gid, "a", "b"), payloads=["1", "2"])[0] == 200
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/a"] * 4 + ["/b"]
        assert [called.op for called in service.calls] == ["action"] * 5
        assert dtm.branches(gid) == [("01", "action", "succeed"), ("02", "action", "succeed")]

    def test_what_was_prepared_is_delivered_whatever_the_submit_says(
        self, dtm: DtmClient, service: BranchService, gid: str
    ) -> None:
        asked = service.url("/asked")
        assert dtm.post("prepare", **self.msg(service, gid, "a"), query_prepared=asked)[0] == 200
        assert dtm.status(gid) == "prepared"
        assert dtm.post("submit", **self.msg(service, gid, "other"))[0] == 200
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/a"]

    @pytest.mark.parametrize(
        ("answers", "status", "paths"),
        [
            pytest.param([DONE], "succeed", ["/asked", "/a"], marks=pytest.mark.soak),
            ([REFUSED], "failed", ["/asked"]),
            ([ONGOING, BROKEN, DONE], "succeed", ["/asked", "/asked", "/asked", "/a"]),
        ],
    )
    def test_check_back(
        self, dtm: DtmClient, service: BranchService, gid: str, answers: list, status: str, paths: list[str]
    ) -> None:
        service.say("/asked", *answers)
        dtm.post("prepare", **self.msg(service, gid, "a"), query_prepared=service.url("/asked"), timeout_to_fail=1)
        dtm.ends_as(gid, status)
        assert service.paths(gid) == paths
        asked = service.calls[0]
        assert (asked.method, asked.query["branch_id"], asked.op) == ("GET", "00", "msg")

    def test_abort_drops_it(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        dtm.post("prepare", **self.msg(service, gid, "a"), query_prepared=service.url("/asked"))
        assert dtm.post("abort", gid=gid, trans_type="msg")[0] == 200
        assert dtm.status(gid) == "failed"
        assert service.paths(gid) == []

    def test_delay(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        began = time.time()
        dtm.post("submit", **self.msg(service, gid, "a"), custom_data='{"delay":1}')
        assert dtm.status(gid) == "submitted"
        dtm.ends_as(gid, "succeed")
        assert time.time() - began >= 0.9

    def test_concurrent(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/a", BROKEN, DONE)
        dtm.post("submit", **self.msg(service, gid, "a", "b", "c"), concurrent=True)
        dtm.ends_as(gid, "succeed")
        assert sorted(service.paths(gid)[:3]) == ["/a", "/b", "/c"]

    def test_topics(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        topic = f"orders-{gid}"
        steps = {"gid": gid, "trans_type": "msg", "steps": [{"action": f"topic://{topic}"}], "payloads": ["1"]}
        status, body = dtm.post("submit", **steps)
        assert status == 404
        assert "topic not found" in body["message"]
        for name in ("a", "b"):
            assert dtm.get("subscribe", topic=topic, url=service.url(f"/{name}"), remark=name)[0] == 200
        assert dtm.get("subscribe", topic=topic, url=service.url("/a"))[0] == 400
        kv = dtm.get("queryKV", cat="topics", key=topic)[1]["kv"]
        assert (kv[0]["k"], kv[0]["version"]) == (topic, 2)
        assert json.loads(kv[0]["v"])[1] == {"url": service.url("/b"), "remark": "b"}
        assert topic in [one["k"] for one in dtm.get("scanKV", cat="topics", limit=1000)[1]["kv"]]
        assert dtm.post("submit", **steps)[0] == 200
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/a", "/b"]
        assert [row[0] for row in dtm.branches(gid)] == ["01-01", "01-02"]
        assert dtm.get("unsubscribe", topic=topic, url=service.url("/a"))[0] == 200
        assert dtm.get("unsubscribe", topic=topic, url=service.url("/a"))[0] == 404
        assert dtm.ask("DELETE", f"dtmsvr/topic/{topic}")[0] == 200
        assert dtm.ask("DELETE", f"dtmsvr/topic/{topic}")[0] == 404

    def test_what_is_prepared_needs_its_topic_no_more(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        topic = f"short-{gid}"
        body = {"gid": gid, "trans_type": "msg", "steps": [{"action": f"topic://{topic}"}], "payloads": ["1"]}
        assert dtm.get("subscribe", topic=topic, url=service.url("/a"))[0] == 200
        assert dtm.post("prepare", **body, query_prepared=service.url("/asked"))[0] == 200
        assert dtm.ask("DELETE", f"dtmsvr/topic/{topic}")[0] == 200
        for _ in range(2):  # the answer to the first may be lost
            assert dtm.post("submit", **body) == (200, {"dtm_result": "SUCCESS"})
        dtm.ends_as(gid, "succeed")
        assert service.paths(gid) == ["/a"]
        assert dtm.post("prepare", **body)[0] == 409


class TestWorkflow:
    @staticmethod
    def body(service: BranchService, gid: str) -> dict[str, object]:
        data = {"name": "trip", "data": base64.b64encode(b"seat 7").decode()}
        return {
            "gid": gid,
            "trans_type": "workflow",
            "query_prepared": service.url("/run"),
            "protocol": "http",
            "custom_data": json.dumps(data),
        }

    def step(self, dtm: DtmClient, gid: str, number: str, op: str, status: str, data: str = "ok") -> tuple[int, dict]:
        body = {"gid": gid, "trans_type": "workflow", "branch_id": number, "op": op, "status": status, "data": data}
        return dtm.post("registerBranch", **body)

    def test_progress_and_success(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        status, body = dtm.post("prepareWorkflow", **self.body(service, gid), retry_interval=60)
        assert (status, body["transaction"]["status"], body["progresses"]) == (200, "prepared", [])
        assert self.step(dtm, gid, "01", "action", "succeed", "seat")[0] == 200
        assert self.step(dtm, gid, "01", "action", "succeed", "seat")[0] == 200
        assert self.step(dtm, gid, "01", "action", "succeed", "other")[0] == 400
        _, body = dtm.post("prepareWorkflow", **self.body(service, gid))
        row = body["progresses"][0]
        assert (row["branch_id"], row["op"], row["status"]) == ("01", "action", "succeed")
        assert base64.b64decode(row["bin_data"]) == b"seat"
        end = {"gid": gid, "trans_type": "workflow", "req_extra": {"status": "succeed", "result": "b2s="}}
        assert dtm.post("submit", **end)[0] == 200
        _, body = dtm.post("prepareWorkflow", **self.body(service, gid))
        assert (body["transaction"]["status"], body["transaction"]["result"]) == ("succeed", "b2s=")
        assert dtm.post("submit", **end)[0] == 200
        assert service.paths(gid) == []

    def test_failure(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        dtm.post("prepareWorkflow", **self.body(service, gid), retry_interval=60)
        self.step(dtm, gid, "01", "action", "succeed")
        self.step(dtm, gid, "02", "action", "failed")
        self.step(dtm, gid, "01", "rollback", "succeed")
        extra = {"status": "failed", "rollback_reason": "no seat FAILURE"}
        assert dtm.post("submit", gid=gid, trans_type="workflow", req_extra=extra)[0] == 200
        _, body = dtm.post("prepareWorkflow", **self.body(service, gid))
        assert body["transaction"]["status"] == "failed"
        assert body["transaction"]["rollback_reason"] == "no seat FAILURE"
        assert [(row["branch_id"], row["op"], row["status"]) for row in body["progresses"]] == [
            ("01", "action", "succeed"),
            ("02", "action", "failed"),
            ("01", "rollback", "succeed"),
        ]

    def test_whoever_does_not_finish_is_called_back(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        def finish(called: object) -> None:
            if len(service.calls) == 3:
                extra = {"status": "succeed", "result": ""}
                assert dtm.post("submit", gid=gid, trans_type="workflow", req_extra=extra)[0] == 200

        service.say("/run", BROKEN, ONGOING, DONE)
        service.on_call = finish
        dtm.post("prepareWorkflow", **self.body(service, gid))
        dtm.ends_as(gid, "succeed")
        run = service.calls[0]
        assert (run.method, run.body, run.op) == ("POST", b"seat 7", "trip")
        assert (run.query["branch_id"], run.query["trans_type"]) == ("00", "workflow")


class TestOperators:
    def test_force_stop(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/b", ONGOING)
        dtm.post("submit", gid=gid, **saga(service, "a", "b"))
        until(lambda: "/b" in service.paths(gid))
        assert dtm.post("forceStop", gid=gid)[0] == 200
        assert dtm.status(gid) == "failed"
        assert not [path for path in service.paths(gid) if "undo" in path]
        status, body = dtm.post("forceStop", gid=gid)
        assert (status, body["dtm_result"]) == (409, "FAILURE")
        assert dtm.post("forceStop", gid="nobody")[0] == 404

    def test_resets_make_it_due_now(self, dtm: DtmClient, service: BranchService) -> None:
        one, many = dtm.gid(), dtm.gid()
        service.say("/a", BROKEN, BROKEN, DONE)
        for gid in (one, many):
            dtm.post("submit", gid=gid, retry_interval=600, **saga(service, "a"))
        later = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 300))
        for gid in (one, many):
            until(lambda gid=gid: dtm.query(gid)["transaction"]["next_cron_time"] > later)
        assert dtm.post("resetNextCronTime", gid=one)[0] == 200
        dtm.ends_as(one, "succeed")
        status, body = dtm.get("resetCronTime", timeout=10, limit=100)
        assert (status, body) == (200, {"has_remaining": False, "succeed_count": 1})
        dtm.ends_as(many, "succeed")

    def test_a_reset_takes_nobodys_time(self, dtm: DtmClient, service: BranchService) -> None:
        """A prepared message that is asked for early is refused for good; a delay is what the sender wanted."""
        prepared, delayed, tried = dtm.gid(), dtm.gid(), dtm.gid()
        msg = {"trans_type": "msg", "steps": [{"action": service.url("/m")}], "timeout_to_fail": 600}
        assert dtm.post("prepare", gid=prepared, query_prepared=service.url("/asked"), **msg)[0] == 200
        assert dtm.post("submit", gid=delayed, custom_data='{"delay":600}', **msg)[0] == 200
        for gid in (prepared, delayed):
            assert dtm.post("resetNextCronTime", gid=gid) == (200, {"dtm_result": "SUCCESS"})
        service.say("/a", BROKEN, DONE)
        dtm.post("submit", gid=tried, retry_interval=600, **saga(service, "a"))
        until(lambda: service.paths(tried) == ["/a"])
        until(lambda: dtm.get("resetCronTime", timeout=100, limit=1)[1]["succeed_count"] == 1)
        dtm.ends_as(tried, "succeed")
        assert dtm.get("resetCronTime", timeout=100, limit=1)[1] == {"has_remaining": False, "succeed_count": 0}
        assert (dtm.status(prepared), dtm.status(delayed)) == ("prepared", "submitted")
        assert service.paths() == ["/a", "/a"]
        for gid in (prepared, delayed):
            assert dtm.post("forceStop", gid=gid)[0] == 200

    def test_a_name_is_found_whatever_else_there_is(self, dtm: DtmClient, service: BranchService) -> None:
        wanted = dtm.gid()
        dtm.post("submit", gid=wanted, wait_result=True, **saga(service, "a"))
        for _ in range(60):  # more than the pages of one that a request reads
            dtm.post("submit", gid=dtm.gid(), trans_type="tcc", wait_result=True)
        _, body = dtm.get("all", gid=wanted, limit=1)
        assert ([tx["gid"] for tx in body["transactions"]], body["next_position"]) == ([wanted], "")
        assert dtm.get("all", gid=wanted, status="failed")[1] == {"transactions": [], "next_position": ""}
        status, body = dtm.get("all", transType="saga", limit=100_000)
        assert status == 200
        assert wanted in [tx["gid"] for tx in body["transactions"]]

    def test_all_in_pages(self, dtm: DtmClient, service: BranchService) -> None:
        since = int(time.time() * 1000) - 1
        gids = [dtm.gid() for _ in range(5)]
        service.say("/a", ONGOING)
        for number, gid in enumerate(gids):
            dtm.post("submit", gid=gid, wait_result=number > 2, **saga(service, "b" if number > 2 else "a"))
        found, position = [], ""
        while True:
            _, body = dtm.get("all", limit=2, position=position, createTimeStart=since, transType="saga")
            found += [tx["gid"] for tx in body["transactions"]]
            position = body["next_position"]
            if not position:
                break
        assert sorted(found) == sorted(gids)
        assert found[:3] == gids[2::-1]
        assert [tx["gid"] for tx in dtm.get("all", gid=gids[4])[1]["transactions"]] == [gids[4]]
        assert {
            tx["status"] for tx in dtm.get("all", status="submitted", createTimeStart=since)[1]["transactions"]
        } == {"submitted"}
        for gid in gids[:3]:
            dtm.post("forceStop", gid=gid)

    def test_metrics_and_health(self, dtm: DtmClient, process: CoordinatorProcess, service: BranchService) -> None:
        dtm.post("submit", gid=dtm.gid(), wait_result=True, **saga(service, "a"))
        with urllib.request.urlopen(f"{dtm.base}/metrics") as answer:
            text = answer.read().decode()
        for name in (
            'dtm_server_process_total{api="submit",status="ok",type="http"}',
            'dtm_server_response_duration_count{api="submit",type="http"}',
            'dtm_server_response_duration_bucket{api="submit",le="10.0",type="http"}',
            'dtm_transaction_process_total{model="saga",status="ok"}',
            'dtm_transaction_handled_duration_count{model="saga"}',
            'dtm_branch_process_total{branchid="01",branchtype="action",model="saga",status="ok"}',
            "troth_store_commits_total",
        ):
            assert name in text
        assert process.get("/health")[0] == 200


class TestNames:
    @pytest.mark.parametrize("gid", ["a\0b", "x" * 4096, "'; drop table", 'é\u2028 \\ "', "../..", "order:2026:17"])
    def test_any_text_is_a_name_and_nobody_elses(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        kept = gid.replace(";", "")
        assert dtm.post("submit", gid=gid, wait_result=True, **saga(service, "a"))[0] == 200
        assert dtm.status(kept) == "succeed"
        assert service.paths(kept) == ["/a"]

    @pytest.mark.parametrize("gid", ["127.0.0.1:8091:123", "shop:8091:847431701098497", "[::1]:8091:5"])
    def test_a_name_that_looks_like_an_xid_must_be_one(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        status, body = dtm.post("submit", gid=gid, **saga(service, "a"))
        assert status == 400
        assert "looks like an xid" in body["message"]

    def test_unknown_ones(self, dtm: DtmClient) -> None:
        assert dtm.query("nobody") == {"transaction": None, "branches": []}
        assert dtm.post("abort", gid="nobody", trans_type="tcc")[0] == 404
        assert dtm.post("resetNextCronTime", gid="nobody")[0] == 404
        branch = {"gid": "nobody", "trans_type": "tcc", "branch_id": "01", "confirm": "", "cancel": ""}
        assert dtm.post("registerBranch", **branch)[0] == 409


GOOD_STEP = {"action": "http://127.0.0.1:1/a", "compensate": ""}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "submit", b"{"),
        ("POST", "submit", b""),
        ("POST", "submit", {"gid": ""}),
        ("POST", "submit", {"gid": "", "trans_type": "saga"}),
        ("POST", "submit", {"gid": "x", "trans_type": "nothing"}),
        ("POST", "submit", {"gid": "x"}),
        ("POST", "submit", {"gid": 1, "trans_type": "saga"}),
        ("POST", "submit", {"gid": "x" * 4097, "trans_type": "saga"}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [{"action": "no url"}]}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [{"action": "http://a/\n"}]}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [GOOD_STEP], "payloads": ["1", "2"]}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [GOOD_STEP], "payloads": ["x" * 70_000]}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [GOOD_STEP] * 1001}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [GOOD_STEP], "timeout_to_fail": -1}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "steps": [GOOD_STEP], "retry_interval": 10**12}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "branch_headers": {"a\r\nb": "c"}}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "concurrent": True, "custom_data": "{"}),
        ("POST", "submit", {"gid": "x", "trans_type": "saga", "protocol": "smtp"}),
        ("POST", "submit", {"gid": "x", "trans_type": "workflow"}),
        ("POST", "submit", {"gid": "x", "trans_type": "workflow", "req_extra": {"status": "succeed"}}),
        ("POST", "prepareWorkflow", {"gid": "x", "trans_type": "workflow", "query_prepared": "http://a/"}),
        ("POST", "prepareWorkflow", {"gid": "x", "trans_type": "saga"}),
        ("POST", "registerBranch", {"gid": "x", "branch_id": 1}),
        ("POST", "registerBranch", {"gid": "x"}),
        ("POST", "abort", b"[]"),
        ("POST", "forceStop", {}),
        ("GET", "query?gid=", None),
        ("GET", "query", None),
        ("GET", "all?limit=x", None),
        ("GET", "all?limit=99999999999999999999999", None),
        ("GET", "all?position=FAILURE", None),
        ("GET", "all?status=ONGOING", None),
        ("GET", "all?position=eyJ0eXBlIjoiZW5kZWQiLCJzdG9yZSI6IngifQ", None),
        ("GET", "resetCronTime?timeout=-1", None),
        ("GET", "subscribe?topic=&url=http://a/", None),
        ("GET", "subscribe?topic=t&url=", None),
        ("GET", "subscribe?topic=%00&url=http://a/", None),
        ("GET", "queryKV?cat=", None),
        ("GET", "scanKV?cat=topics&position=x", None),
        ("GET", "nothing-here", None),
        ("PUT", "submit", b"{}"),
    ],
)
def test_bad_input_is_told_in_a_4xx_with_a_reason(dtm: DtmClient, method: str, path: str, body: object) -> None:
    status, answer = dtm.ask(method, f"dtmsvr/{path}", body)
    assert 400 <= status < 500
    assert status not in (409, 425)
    assert answer["message"]
    assert "dtm_result" not in answer


class TestJsonRpc:
    @staticmethod
    def call(dtm: DtmClient, method: str, **params: object) -> dict:
        body = {"jsonrpc": "2.0", "id": "7", "method": method, "params": params}
        status, answer = dtm.ask("POST", "json-rpc", body)
        assert status == 200
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", "7")
        return answer

    def test_a_saga_over_json_rpc(self, dtm: DtmClient, service: BranchService) -> None:
        gid = self.call(dtm, "newGid")["result"]["gid"]
        rpc_done = (200, '{"jsonrpc":"2.0","id":"1","result":{}}')
        service.say("/rpc", rpc_done)
        step = {"action": service.url("/rpc?method=pay"), "compensate": service.url("/rpc?method=refund")}
        body = {"gid": gid, "trans_type": "saga", "protocol": "json-rpc", "wait_result": True}
        answer = self.call(dtm, "submit", **body, steps=[step], payloads=['{"amount":1}'])
        assert answer["error"] is None
        assert json.loads(service.calls[0].body)["params"] == {
            "amount": 1,
            "gid": gid,
            "trans_type": "saga",
            "branch_id": "01",
            "op": "action",
        }

    def test_errors(self, dtm: DtmClient, service: BranchService, gid: str) -> None:
        service.say("/a", REFUSED)
        answer = self.call(dtm, "submit", gid=gid, wait_result=True, **saga(service, "a"))
        assert answer["error"]["code"] == -32901
        service.say("/a", ONGOING)
        other = dtm.gid()
        assert self.call(dtm, "submit", gid=other, wait_result=True, **saga(service, "a"))["error"]["code"] == -32902
        dtm.post("forceStop", gid=other)
        assert self.call(dtm, "nothing")["error"]["code"] == -32601
        assert self.call(dtm, "submit", gid="")["error"]["code"] == -32603
        assert dtm.ask("POST", "json-rpc", b"{")[1]["error"]["code"] == -32700
        assert dtm.ask("POST", "json-rpc", {"id": 1})[1]["error"]["code"] == -32600
