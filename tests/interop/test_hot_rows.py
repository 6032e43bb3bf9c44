"""Python's additive branches and a Java client on one row: Java knows no such lock, and never sees such an undo log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from java_app import JavaError
from shop import DEDUCT, Shop, run

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.wire.seata.enums import GlobalStatus

pytestmark = pytest.mark.engines


@pytest.fixture
def shop(mariadb_shop: Shop, coordinator: CoordinatorProcess) -> Iterator[Shop]:
    found = mariadb_shop
    until(lambda: found.undo_logs() == 0)
    found.read("UPDATE account SET balance = 100")
    troth.at.init(found.url, hot_rows=True)
    troth.init(coordinator=coordinator.address, application="python-shop", lock_retry_times=3)
    yield found
    troth.close()


def take(shop: Shop, amount: int) -> None:
    with closing(troth.at.connect(shop.url, additive={"account.balance": 0})) as db:
        db.cursor().execute("UPDATE account SET balance = balance - %s WHERE id = %s", (amount, 1))
        db.commit()


def contexts(shop: Shop, xid: str) -> list[list[str]]:
    return shop.read(f"SELECT context FROM undo_log WHERE xid = '{xid}'")


def test_adders_and_java_exclude_each_other(shop: Shop) -> None:
    """Adders share the row with each other; Java's lock excludes them, and theirs Java."""
    with troth.transaction(name="one") as one:
        take(shop, 10)
        assert "serializer=troth-delta" in contexts(shop, one.xid)[0][0]
        outer = troth.current_xid()
        other = shop.java.call("begin")
        with troth.join(other):
            take(shop, 20)
        javas = shop.java.call("begin")
        with pytest.raises(JavaError) as thrown:
            run(shop, javas, [DEDUCT, 1, 1])
        assert {"LockWaitTimeoutException", "LockConflictException"} & set(thrown.value.classes)
        assert troth.current_xid() == outer
    assert shop.java.call("rollback", xid=other) == "Rollbacked"
    assert shop.balance(1) == 90
    run(shop, javas, [DEDUCT, 5, 1])
    with troth.transaction(name="late"), pytest.raises(troth.LockConflict, match=javas):
        take(shop, 1)
    assert shop.java.call("commit", xid=javas) == "Committed"
    assert shop.balance(1) == 85
    until(lambda: shop.undo_logs() == 0)
    assert shop.number("SELECT COUNT(*) FROM troth_hot_rows") == 0


def test_phase_two_of_an_adder_waits_for_one_of_ours(shop: Shop, coordinator: CoordinatorProcess) -> None:
    """A Java client serves the same resource, but would not understand the undo log: it is not asked."""
    xid = shop.java.call("begin")
    with troth.join(xid):
        take(shop, 30)
    troth.close()
    assert shop.java.call("rollback", xid=xid) != "Rollbacked"
    assert (shop.balance(1), shop.undo_logs(xid)) == (70, 1)
    client = troth.init(coordinator=coordinator.address, application="python-again")
    with closing(troth.at.connect(shop.url)):
        until(lambda: shop.balance(1) == 100)
    until(lambda: client.status(xid) is GlobalStatus.Rollbacked)
    assert shop.undo_logs(xid) == 0
