"""The admin door's JSON (DESIGN §7)."""

import json
import urllib.request
from collections.abc import Callable

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m

pytestmark = pytest.mark.engines

Connect = Callable[..., WireClient]


def test_an_open_transaction_with_its_branches(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm("shop", "my_group").register_rm("jdbc:view")
    xid = client.begin(timeout_ms=30_000, name="purchase")
    branch_id = client.branch(xid, "jdbc:view", "t:1,2;u:a_b").branch_id
    shown = coordinator.transaction(xid)
    begin_time = shown.pop("begin_time")
    assert isinstance(begin_time, int)
    (branch,) = shown.pop("branches")
    assert shown == {
        "xid": xid,
        "gid": xid,
        "name": "purchase",
        "application": "shop",
        "group": "my_group",
        "status": "Begin",
        "outcome": None,
        "cause": None,
        "end_time": None,
        "timeout_ms": 30_000,
        "rollback_only": False,
        "waiting": [],
    } | {"group": shown["group"]}
    assert branch.pop("client_id").startswith("shop:127.0.0.1:")
    assert branch == {
        "branch_id": str(branch_id),
        "branch_type": "AT",
        "resource_id": "jdbc:view",
        "status": "Registered",
        "lock_keys": "t:1,2;u:a_b",
        "lock_mode": "exclusive",
        "attempts": 0,
        "next_due": None,
        "last_error": None,
        "last_attempt": None,
        "last_worker": None,
    }


def test_an_ended_transaction_has_its_outcome_and_no_branches(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    client = connect(coordinator).register_tm()
    xid = client.begin(name="short")
    client.commit(xid)
    shown = coordinator.transaction(xid)
    assert (shown["status"], shown["outcome"], shown["branches"]) == ("Committed", "Committed", [])
    assert shown["begin_time"] <= shown["end_time"]
    assert shown["cause"] == "asked"


def test_why_a_branch_is_stuck(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm()
    with WireClient(coordinator.port) as rm:
        rm.register_rm("jdbc:stuck", "stuck-service")
        xid = client.begin()
        rm.branch(xid, "jdbc:stuck", "t:1")
    until(lambda: coordinator.metrics()["troth_connections"] >= 1)
    client.post(m.GlobalRollbackRequest(xid))
    branch = until(
        lambda: next((b for b in coordinator.transaction(xid)["branches"] if b["last_error"]), None), what="an error"
    )
    assert "no client serves jdbc:stuck" in branch["last_error"] or "connection closed" in branch["last_error"]
    assert isinstance(branch["next_due"], int)
    assert coordinator.transaction(xid)["status"] == "RollbackRetrying"
    with WireClient(coordinator.port) as heir:
        heir.register_rm("jdbc:stuck", "another-service")
        heir.answer_branch(heir.next_request())
        until(lambda: coordinator.transaction(xid)["status"] == "Rollbacked")


def test_unknown_and_wrong_requests(coordinator: CoordinatorProcess) -> None:
    status, body = coordinator.get("/api/transactions/127.0.0.1:1:1")
    assert (status, list(body)) == (404, ["error"])
    assert coordinator.get("/api/transactions/127.0.0.1:1:1/retry", "POST")[0] == 404
    for query in ("status=Nonsense", "limit=0", "limit=x", "limit=1001", "cursor=%00", "cursor=AAAA", "cursor=e30"):
        status, body = coordinator.get(f"/api/transactions?{query}")
        assert (status, list(body)) == (400, ["error"]), query
    assert coordinator.get("/api/nothing")[0] == 404


def test_retry_of_what_is_not_in_phase_two(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm()
    xid = client.begin()
    assert coordinator.get(f"/api/transactions/{xid}/retry", "POST")[0] == 409
    client.commit(xid)
    assert coordinator.get(f"/api/transactions/{xid}/retry", "POST")[0] == 409


def test_paging_and_filters(new_coordinator: Callable[..., CoordinatorProcess], connect: Connect) -> None:
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm()
    running = [client.begin(name=f"open {n}") for n in range(5)]
    ended = [client.begin(name=f"ended {n}") for n in range(6)]
    for n, xid in enumerate(ended):
        client.commit(xid) if n % 2 else client.rollback(xid)

    def walk(query: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        for _ in range(20):
            status, page = coordinator.get(f"/api/transactions?{query}{cursor}")
            assert status == 200, page
            found += [tx["xid"] for tx in page["transactions"]]
            if page["cursor"] is None:
                return found
            cursor = f"&cursor={page['cursor']}"
        raise AssertionError("pages without end")

    everything = walk("limit=100")
    assert everything[:5] == running[::-1]
    assert sorted(everything[5:]) == sorted(ended)
    for limit in (1, 2, 3, 5, 7):
        assert walk(f"limit={limit}") == everything
    assert walk("status=open&limit=2") == running[::-1]
    assert sorted(walk("status=ended&limit=2")) == sorted(ended)
    assert sorted(walk("status=Committed&limit=1")) == sorted(ended[1::2])
    assert sorted(walk("status=Rollbacked&limit=2")) == sorted(ended[0::2])
    assert walk("status=Begin") == running[::-1]
    assert walk("status=TimeoutRollbacked") == []
    assert walk("status=Finished") == []


def test_metrics_count(new_coordinator: Callable[..., CoordinatorProcess], connect: Connect) -> None:
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm().register_rm("jdbc:sqlite:count")
    first, second = client.begin(), client.begin()
    client.branch(first, "jdbc:sqlite:count", "t:1")
    client.branch(second, "jdbc:sqlite:count", "t:1")
    client.commit(first)
    client.answer_branch(client.next_request())
    client.rollback(second)
    client.begin()
    until(lambda: coordinator.metrics()['troth_transactions_total{outcome="committed"}'] == 1)
    metrics = coordinator.metrics()
    assert metrics['troth_transactions_total{outcome="rolled_back"}'] == 1
    assert metrics["troth_transactions_open"] == 1
    assert metrics["troth_branches_total"] == 1
    assert metrics["troth_lock_conflicts_total"] == 1
    assert metrics["troth_connections"] == 1
    assert metrics['troth_calls_total{result="done",verb="commit"}'] == 1
    assert metrics["troth_store_commits_total"] == metrics["troth_store_commit_seconds_count"] > 0
    assert metrics['troth_frames_total{direction="in"}'] > 8


def test_openapi_document_names_every_route(coordinator: CoordinatorProcess) -> None:
    with urllib.request.urlopen(coordinator.admin + "/openapi.json") as answer:
        document = json.load(answer)
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/health",
        "/metrics",
        "/api/config",
        "/api/transactions",
        "/api/transactions/{xid}",
        "/api/transactions/{xid}/retry",
        "/api/transactions/{xid}/images",
        "/api/transactions/{xid}/branches/{branch_id}/resolve",
        "/api/audit",
    }
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas


def test_config_is_shown(coordinator: CoordinatorProcess) -> None:
    _, rows = coordinator.get("/api/config")
    assert {"key": "retry.min", "value": "50ms", "source": "--set retry.min"} in rows
