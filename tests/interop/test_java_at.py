"""Java's AT against our coordinator, on MariaDB and PostgreSQL: every sentence of phase one and two."""

from __future__ import annotations

import pytest
from java_app import JavaError
from shop import DEDUCT, FAIL, Shop, run, sql
from wiretap import Wiretap

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode

pytestmark = pytest.mark.engines


@pytest.fixture(params=["mariadb", "postgres"])
def shop(request: pytest.FixtureRequest, mariadb_shop: Shop, postgres_shop: Shop) -> Shop:
    """The same scenario on each database."""
    return mariadb_shop if request.param == "mariadb" else postgres_shop


def registered_keys(wiretap: Wiretap, since: int) -> list[str]:
    """The lock keys that Java has asked for, from frame number `since` on."""
    return [
        child.lock_key or ""
        for merged in wiretap.bodies(m.MergedWarpMessage, since)
        for child in merged.msgs
        if isinstance(child, m.BranchRegisterRequest)
    ]


def test_a_commit(shop: Shop) -> None:
    done = shop.java.call("global", name="purchase", steps=[sql(shop, [DEDUCT, 30, 1])])
    assert done["results"] == [[1]]
    assert shop.balance(1) == 70
    until(lambda: shop.java.call("status", xid=done["xid"]) == "Committed")
    until(lambda: shop.undo_logs(done["xid"]) == 0)  # Java answers first and deletes them a second later


def test_a_rollback_undoes_every_statement(shop: Shop) -> None:
    steps = [
        sql(shop, [DEDUCT, 30, 2], ["INSERT INTO account VALUES (?, ?, ?)", 77, "new", 5]),
        sql(shop, [DEDUCT, 1, 2], ["DELETE FROM account WHERE id = ?", 3]),
        FAIL,
    ]
    with pytest.raises(JavaError, match="the business says no") as thrown:
        shop.java.call("global", steps=steps)
    assert thrown.value.code == "RollbackDone"
    assert shop.read("SELECT id, balance FROM account WHERE id IN (2, 3, 77) ORDER BY id") == [
        ["2", "100"],
        ["3", "100"],
    ]
    assert shop.undo_logs(thrown.value.xid) == 0
    assert shop.java.call("status", xid=thrown.value.xid) == "Rollbacked"


def test_composite_keys(shop: Shop, wiretap: Wiretap) -> None:
    since = len(wiretap.seen)
    xid = shop.java.call("begin")
    assert run(shop, xid, ["UPDATE pair SET n = n + 1 WHERE a = ?", 1]) == [2]
    (keys,) = registered_keys(wiretap, since)
    assert keys == "pair:1_x,1_y"
    assert shop.java.call("rollback", xid=xid) == "Rollbacked"
    assert shop.read("SELECT n FROM pair ORDER BY b") == [["10"], ["20"]]


def test_generated_keys(shop: Shop, wiretap: Wiretap) -> None:
    since = len(wiretap.seen)
    kept, dropped = shop.java.call("begin"), shop.java.call("begin")
    insert = "INSERT INTO item (name) VALUES (?)"
    ids = [run(shop, xid, [insert, "thing"])[0][0][0] for xid in (kept, dropped)]  # type: ignore[index]
    assert registered_keys(wiretap, since) == [f"item:{number}" for number in ids]
    assert shop.java.call("commit", xid=kept) == "Committed"
    assert shop.java.call("rollback", xid=dropped) == "Rollbacked"
    assert shop.read("SELECT id FROM item") == [[str(ids[0])]]


def test_select_for_update_waits_for_a_global_lock(shop: Shop, wiretap: Wiretap) -> None:
    select = ["SELECT balance FROM account WHERE id = ? FOR UPDATE", 4]
    since = len(wiretap.seen)
    holder, reader = shop.java.call("begin"), shop.java.call("begin")
    run(shop, holder, [DEDUCT, 1, 4])
    with pytest.raises(JavaError) as thrown:
        run(shop, reader, select)
    assert "LockWaitTimeoutException" in thrown.value.classes
    asked = [child for merged in wiretap.bodies(m.MergedWarpMessage, since) for child in merged.msgs]
    assert any(isinstance(child, m.GlobalLockQueryRequest) and child.lock_key == "account:4" for child in asked)
    assert shop.java.call("commit", xid=holder) == "Committed"
    assert run(shop, reader, select) == [[["99"]]]
    assert shop.java.call("commit", xid=reader) == "Committed"


def test_a_lock_conflict_is_refused_and_passes_when_the_holder_has_ended(shop: Shop) -> None:
    holder, other = shop.java.call("begin"), shop.java.call("begin")
    run(shop, holder, [DEDUCT, 10, 5])
    with pytest.raises(JavaError) as thrown:
        run(shop, other, [DEDUCT, 10, 5])
    assert {"LockWaitTimeoutException", "LockConflictException"} & set(thrown.value.classes), thrown.value
    assert shop.balance(5) == 90, "the refused change is not in"
    assert shop.java.call("rollback", xid=holder) == "Rollbacked"
    run(shop, other, [DEDUCT, 25, 5])
    assert shop.java.call("commit", xid=other) == "Committed"
    assert shop.balance(5) == 75


def test_who_waits_for_a_row_goes_on_when_the_holder_commits(shop: Shop) -> None:
    holder, other = shop.java.call("begin"), shop.java.call("begin")
    run(shop, holder, [DEDUCT, 10, 6])
    waiting = shop.java.post(thread="second", xid=other, **sql(shop, [DEDUCT, 10, 6]))  # type: ignore[arg-type]
    assert shop.java.call("commit", xid=holder) == "Committed"
    assert waiting.result(20) == [1]
    assert shop.java.call("commit", xid=other) == "Committed"
    assert shop.balance(6) == 80


def test_a_timeout_rolls_back_and_a_late_commit_hears_it(shop: Shop) -> None:
    xid = shop.java.call("begin", timeout_ms=700)
    run(shop, xid, [DEDUCT, 10, 7])
    until(lambda: shop.java.call("status", xid=xid) == "TimeoutRollbacked")
    assert shop.balance(7) == 100
    assert shop.java.call("commit", xid=xid) == "TimeoutRollbacked"
    with pytest.raises(JavaError) as thrown:
        run(shop, xid, [DEDUCT, 10, 7])
    assert thrown.value.chain[-1]["code"] == "GlobalTransactionNotActive"
    assert shop.balance(7) == 100


def test_a_business_that_is_too_slow_is_told_that_it_was_rolled_back(shop: Shop) -> None:
    steps = [sql(shop, [DEDUCT, 10, 7]), {"op": "sleep", "ms": 900}]
    with pytest.raises(JavaError) as thrown:
        shop.java.call("global", timeout_ms=600, steps=steps)
    assert thrown.value.code == "RollbackDone"
    assert shop.balance(7) == 100


def test_a_branch_whose_commit_threw_is_asked_all_the_same(shop: Shop, wiretap: Wiretap) -> None:
    """Java reports PhaseOne_Failed when COMMIT threw, and the change may be in: here it is."""
    since = len(wiretap.seen)
    with pytest.raises(JavaError, match="the answer to the commit was lost") as thrown:
        shop.java.call("global", steps=[sql(shop, [DEDUCT, 10, 8], commit_throws=True)])
    assert thrown.value.code == "RollbackDone"
    reports = {
        child.status
        for merged in wiretap.bodies(m.MergedWarpMessage, since)
        for child in merged.msgs
        if isinstance(child, m.BranchReportRequest)
    }
    assert reports == {BranchStatus.PhaseOne_Failed}
    assert len(wiretap.bodies(m.BranchRollbackRequest, since)) == 1
    assert shop.balance(8) == 100
    assert shop.undo_logs(thrown.value.xid) == 0


def test_a_commit_of_a_transaction_with_a_failed_branch_rolls_it_back(shop: Shop) -> None:
    xid = shop.java.call("begin")
    with pytest.raises(JavaError, match="the answer to the commit was lost"):
        run(shop, xid, [DEDUCT, 10, 8], commit_throws=True)
    assert shop.balance(8) == 90
    assert shop.java.call("commit", xid=xid) == "TimeoutRollbacked", "what Java takes for no success"
    assert shop.balance(8) == 100


def test_a_vote_turns_a_commit_into_a_rollback(shop: Shop) -> None:
    xid = shop.java.call("begin")
    run(shop, xid, [DEDUCT, 10, 8])
    assert shop.java.call("vote", xid=xid) == "Rollbacking"
    assert shop.java.call("commit", xid=xid) == "TimeoutRollbacked"
    assert shop.balance(8) == 100


def test_a_commit_repeated_after_a_lost_answer_hears_the_truth(shop: Shop, wiretap: Wiretap) -> None:
    since = len(wiretap.seen)
    wiretap.lose_next(m.GlobalCommitResponse)
    done = shop.java.call("global", steps=[sql(shop, [DEDUCT, 10, 9])])
    assert len(wiretap.bodies(m.GlobalCommitRequest, since)) == 2
    assert shop.balance(9) == 90
    until(lambda: shop.java.call("status", xid=done["xid"]) == "Committed")
    assert shop.java.call("commit", xid=done["xid"]) == "Committed", "long after it has ended, too"


def test_unknown_and_finished_transactions(shop: Shop, coordinator: CoordinatorProcess) -> None:
    unknown = f"{coordinator.ready['advertise']}:4711"
    for question in ("status", "commit", "rollback"):
        assert shop.java.call(question, xid=unknown) == "Finished"
    with pytest.raises(JavaError) as thrown:
        run(shop, unknown, [DEDUCT, 10, 10])
    assert thrown.value.chain[-1]["code"] == "GlobalTransactionNotExist"
    finished = shop.java.call("begin")
    assert shop.java.call("rollback", xid=finished) == "Rollbacked"
    assert shop.java.call("status", xid=finished) == "Rollbacked"
    assert shop.java.call("rollback", xid=finished) == "Rollbacked"


def test_the_resource_is_named_as_java_names_it(shop: Shop, wiretap: Wiretap) -> None:
    registrations = [registration.resource_ids for registration in wiretap.bodies(m.RegisterRMRequest)]
    assert any(shop.resource_id in (ids or "").split(",") for ids in registrations)
    assert all(answer.identified for answer in wiretap.bodies(m.RegisterRMResponse))


def test_nothing_but_batch_results_answers_merged_requests(shop: Shop, wiretap: Wiretap) -> None:
    """The whole module's traffic: each child of a merged request has one answer, in a 121 that carries its id."""
    xid = shop.java.call("begin")
    run(shop, xid, [DEDUCT, 1, 10])
    assert shop.java.call("commit", xid=xid) == "Committed"
    assert not wiretap.bodies(m.MergeResultMessage)
    asked = {
        (seen.line, child)
        for seen in wiretap.seen
        if isinstance(seen.body, m.MergedWarpMessage)
        for child in seen.body.msg_ids
    }
    answered = [
        (seen.line, child)
        for seen in wiretap.seen
        if isinstance(seen.body, m.BatchResultMessage)
        for child in seen.body.msg_ids
    ]
    assert len(answered) == len(set(answered))
    assert set(answered) == asked


def test_branches_are_at_branches_and_succeed(wiretap: Wiretap, mariadb_shop: Shop) -> None:
    xid = mariadb_shop.java.call("begin")
    run(mariadb_shop, xid, [DEDUCT, 1, 11], ["UPDATE pair SET n = n + 1 WHERE b = ?", "x"])
    assert mariadb_shop.java.call("commit", xid=xid) == "Committed"
    until(lambda: mariadb_shop.java.call("status", xid=xid) == "Committed")
    commits = [request for request in wiretap.bodies(m.BranchCommitRequest) if request.xid == xid]
    assert [(commit.branch_type, commit.resource_id) for commit in commits] == [
        (BranchType.AT, mariadb_shop.resource_id)
    ]
    answers = [answer for answer in wiretap.bodies(m.BranchCommitResponse) if answer.xid == xid]
    assert [(answer.result_code, answer.branch_status) for answer in answers] == [
        (ResultCode.Success, BranchStatus.PhaseTwo_Committed)
    ]


@pytest.mark.soak
def test_a_guard_lets_java_pass_where_the_database_asks_at_commit(shop: Shop) -> None:
    """On MariaDB nothing tells the trigger that a branch writes, so Java's changes and its undo are recorded there."""
    troth.at.guard(shop.url, "account")
    try:
        before = len(troth.at.foreign_writes(shop.url))
        done = shop.java.call("global", name="purchase", steps=[sql(shop, [DEDUCT, 1, 8])])
        with pytest.raises(JavaError, match="the business says no"):
            shop.java.call("global", steps=[sql(shop, [DEDUCT, 2, 8]), FAIL])
        until(lambda: shop.undo_logs(done["xid"]) == 0)
        found = [write.row for write in troth.at.foreign_writes(shop.url)]
        assert found[: len(found) - before] == ([] if shop.url.startswith("postgres") else ["account:8"] * 3)
    finally:
        troth.at.unguard(shop.url, "account")
