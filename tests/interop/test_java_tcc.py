"""Java's TCC, with its fence, against our coordinator: confirms, cancels in reverse, cancels that come too early."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from java_app import JavaApp, JavaError
from shop import DEDUCT, FAIL, Shop, reopen, sql
from wiretap import Wiretap

from fixtures_coordinator import until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType

pytestmark = pytest.mark.engines

TRIED, COMMITTED, ROLLBACKED, SUSPENDED = "1", "2", "3", "4"


@pytest.fixture(scope="module", params=["mariadb", pytest.param("postgres", marks=pytest.mark.soak)])
def fenced_shop(
    request: pytest.FixtureRequest, wiretap: Wiretap, seata_version: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """The database in which Java's fence keeps its rows; a JVM has one such, so PostgreSQL's is another JVM."""
    found: Shop = request.getfixturevalue(f"{request.param}_shop")
    if request.param == "mariadb":
        found.java.call("fence", db=found.name)
        yield found
        return
    log = tmp_path_factory.mktemp("java-postgres") / "java.log"
    java = JavaApp(wiretap.address, log, application=f"java-postgres-{seata_version}", version=seata_version)
    try:
        reopened = reopen(found, java)
        java.call("fence", db=reopened.name)
        yield reopened
    finally:
        java.close()


@pytest.fixture
def shop(fenced_shop: Shop) -> Shop:
    """Fresh books."""
    for table in ("diary", "tcc_fence_log"):
        fenced_shop.read(f"DELETE FROM {table}")
    fenced_shop.read("UPDATE book SET amount = 100, reserved = 0")
    return fenced_shop


def attempt(action: str, amount: int, **more: object) -> dict[str, object]:
    return {"op": "try", "action": action, "book": 1, "amount": amount, **more}


def books(shop: Shop) -> dict[str, tuple[str, str]]:
    return {row[0]: (row[1], row[2]) for row in shop.read("SELECT action, amount, reserved FROM book")}


def diary(shop: Shop) -> list[str]:
    return [" ".join(row) for row in shop.read("SELECT verb, action FROM diary ORDER BY n")]


def fence(shop: Shop, xid: str) -> dict[str, str]:
    return {row[0]: row[1] for row in shop.read(f"SELECT action_name, status FROM tcc_fence_log WHERE xid = '{xid}'")}


def test_a_commit_confirms_before_the_caller_hears_of_it(shop: Shop) -> None:
    done = shop.java.call("global", steps=[attempt("reserve", 30), attempt("pay", 20)])
    assert books(shop) == {"reserve": ("70", "0"), "pay": ("80", "0")}
    assert diary(shop)[:2] == ["try reserve", "try pay"]
    assert sorted(diary(shop)[2:]) == ["confirm pay", "confirm reserve"]
    assert fence(shop, done["xid"]) == {"reserve": COMMITTED, "pay": COMMITTED}
    assert shop.java.call("status", xid=done["xid"]) == "Committed"


def test_a_rollback_cancels_in_reverse(shop: Shop) -> None:
    with pytest.raises(JavaError, match="the business says no") as thrown:
        shop.java.call("global", steps=[attempt("reserve", 30), attempt("pay", 20), FAIL])
    assert thrown.value.code == "RollbackDone"
    assert diary(shop) == ["try reserve", "try pay", "cancel pay", "cancel reserve"]
    assert books(shop) == {"reserve": ("100", "0"), "pay": ("100", "0")}
    assert fence(shop, thrown.value.xid) == {"reserve": ROLLBACKED, "pay": ROLLBACKED}


def test_a_try_that_failed_is_cancelled_by_the_fence_alone(shop: Shop) -> None:
    with pytest.raises(JavaError, match="the try failed") as thrown:
        shop.java.call("global", steps=[attempt("reserve", 30), attempt("pay", 20, fail=True)])
    assert thrown.value.code == "RollbackDone"
    assert diary(shop) == ["try reserve", "cancel reserve"], "pay's try is not in, and its cancel found nothing"
    assert fence(shop, thrown.value.xid) == {"reserve": ROLLBACKED, "pay": SUSPENDED}


def test_a_timeout_cancels(shop: Shop) -> None:
    xid = shop.java.call("begin", timeout_ms=700)
    assert shop.java.call(xid=xid, **attempt("reserve", 30)) is True  # type: ignore[arg-type]
    assert books(shop)["reserve"] == ("70", "30")
    until(lambda: shop.java.call("status", xid=xid) == "TimeoutRollbacked")
    assert books(shop)["reserve"] == ("100", "0")


def test_a_branch_carries_its_action_and_gets_its_context_back(shop: Shop, wiretap: Wiretap) -> None:
    since = len(wiretap.seen)
    shop.java.call("global", steps=[attempt("reserve", 30)])
    (register,) = [
        child
        for merged in wiretap.bodies(m.MergedWarpMessage, since)
        for child in merged.msgs
        if isinstance(child, m.BranchRegisterRequest)
    ]
    assert (register.branch_type, register.resource_id, register.lock_key) == (BranchType.TCC, "reserve", None)
    (commit,) = wiretap.bodies(m.BranchCommitRequest, since)
    assert (commit.branch_type, commit.resource_id) == (BranchType.TCC, "reserve")
    assert commit.application_data == register.application_data
    assert json.loads(commit.application_data)["actionContext"]["amount"] == 30


def test_at_and_tcc_in_one_transaction(shop: Shop) -> None:
    steps = [attempt("reserve", 30), sql(shop, [DEDUCT, 10, 12]), attempt("pay", 20)]
    done = shop.java.call("global", steps=steps)
    assert shop.balance(12) == 90
    until(lambda: shop.java.call("status", xid=done["xid"]) == "Committed")
    with pytest.raises(JavaError, match="the business says no"):
        shop.java.call("global", steps=[*steps, FAIL])
    until(lambda: shop.balance(12) == 90)
    until(lambda: books(shop) == {"reserve": ("70", "0"), "pay": ("80", "0")})
