"""Java and Python in one global transaction, on one database: either side begins, and undoes what the other wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from java_app import JavaApp, JavaError
from shop import DEDUCT, Shop, open_shop, run

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.demo.servers.private import PrivateServer
from troth.wire.seata.enums import GlobalStatus

pytestmark = pytest.mark.engines


@pytest.fixture(params=["mariadb", "postgres"])
def shop(request: pytest.FixtureRequest, mariadb_shop: Shop, postgres_shop: Shop) -> Shop:
    """The same scenario on each database, with full accounts."""
    found = mariadb_shop if request.param == "mariadb" else postgres_shop
    until(lambda: found.undo_logs() == 0)
    found.read("UPDATE account SET balance = 100")
    return found


@pytest.fixture(autouse=True)
def python(coordinator: CoordinatorProcess) -> Iterator[None]:
    """Our client beside Java's."""
    troth.init(coordinator=coordinator.address, application="python-shop", lock_retry_times=3)
    yield
    troth.close()


def deduct(shop: Shop, amount: int, account: int) -> None:
    """One local transaction of Python's."""
    with closing(troth.at.connect(shop.url)) as db:
        db.cursor().execute("UPDATE account SET balance = balance - %s WHERE id = %s", (amount, account))
        db.commit()


def balances(shop: Shop) -> list[int]:
    return [shop.balance(1), shop.balance(2)]


def test_java_begins_and_commits(shop: Shop) -> None:
    xid = shop.java.call("begin")
    run(shop, xid, [DEDUCT, 10, 1])
    with troth.join(xid):
        deduct(shop, 20, 2)
    assert shop.java.call("commit", xid=xid) == "Committed"
    assert balances(shop) == [90, 80]
    until(lambda: shop.undo_logs(xid) == 0)


def test_java_begins_and_rolls_back(shop: Shop) -> None:
    xid = shop.java.call("begin")
    run(shop, xid, [DEDUCT, 10, 1])
    with troth.join(xid):
        deduct(shop, 20, 2)
    run(shop, xid, [DEDUCT, 1, 2])  # the same row: undone newest first, across the two
    assert shop.java.call("rollback", xid=xid) == "Rollbacked"
    assert (balances(shop), shop.undo_logs(xid)) == ([100, 100], 0)


def test_python_begins_and_commits(shop: Shop) -> None:
    with troth.transaction(name="mixed") as tx:
        deduct(shop, 10, 1)
        run(shop, tx.xid, [DEDUCT, 20, 2])
    assert balances(shop) == [90, 80]
    until(lambda: shop.undo_logs(tx.xid) == 0)


def test_python_begins_and_rolls_back(shop: Shop) -> None:
    tx = troth.transaction(name="mixed")
    with pytest.raises(ValueError, match="no"), tx:  # noqa: PT012
        deduct(shop, 10, 1)
        run(shop, tx.xid, [DEDUCT, 20, 2], [DEDUCT, 1, 1])
        raise ValueError("no")
    assert (balances(shop), shop.undo_logs(tx.xid)) == ([100, 100], 0)


def test_rows_of_one_side_are_locked_for_the_other(shop: Shop) -> None:
    javas = shop.java.call("begin")
    run(shop, javas, [DEDUCT, 10, 1])
    with troth.transaction(name="python's") as pythons:
        deduct(shop, 10, 2)
        with pytest.raises(troth.LockConflict, match=javas):
            deduct(shop, 10, 1)
        with pytest.raises(JavaError) as thrown:
            run(shop, javas, [DEDUCT, 10, 2])
        assert {"LockWaitTimeoutException", "LockConflictException"} & set(thrown.value.classes)
    assert shop.java.call("commit", xid=javas) == "Committed"
    assert balances(shop) == [90, 90]
    until(lambda: shop.undo_logs(pythons.xid) == 0)


def test_java_undoes_what_a_python_process_wrote_that_is_gone(shop: Shop, coordinator: CoordinatorProcess) -> None:
    xid = shop.java.call("begin")
    with troth.join(xid):
        deduct(shop, 20, 2)
    troth.close()
    assert shop.balance(2) == 80
    assert shop.java.call("rollback", xid=xid) == "Rollbacked"
    assert (balances(shop), shop.undo_logs(xid)) == ([100, 100], 0)


@pytest.mark.parametrize("kind", ["mariadb", pytest.param("postgres", marks=pytest.mark.soak)])
def test_python_undoes_what_a_java_process_wrote_that_is_gone(
    request: pytest.FixtureRequest, coordinator: CoordinatorProcess, tmp_path: Path, kind: str
) -> None:
    server: PrivateServer = request.getfixturevalue(f"{kind}_server")
    new_database: Callable[[], str] = request.getfixturevalue(f"new_{kind}_database")
    java = JavaApp(coordinator.address, tmp_path / "java.log", application="java-dies")
    tx = troth.transaction(name="survivor")
    with pytest.raises(ValueError, match="no"), tx:  # noqa: PT012
        try:
            shop = open_shop(server, new_database(), java)
            run(shop, tx.xid, [DEDUCT, 20, 2], ["DELETE FROM pair WHERE b = ?", "x"])
        finally:
            java.kill()
        deduct(shop, 10, 1)
        raise ValueError("no")
    until(lambda: tx.status() is GlobalStatus.Rollbacked)
    assert (balances(shop), shop.undo_logs(tx.xid)) == ([100, 100], 0)
    assert shop.number("SELECT n FROM pair WHERE b = 'x'") == 10
