"""TCC of Java and of Python in one global transaction, on one `tcc_fence_log`; and ours at a real Seata server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from java_app import JavaApp
from seata_server import SeataServer, file_store
from shop import Shop, reopen

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.client.drivers.fence_table import connection_to
from troth.wire.seata.enums import GlobalStatus

pytestmark = pytest.mark.engines

TRIED, COMMITTED, ROLLBACKED, SUSPENDED = "1", "2", "3", "4"


@pytest.fixture(scope="module")
def seata_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeataServer]:
    """A real Seata server."""
    directory = tmp_path_factory.mktemp("seata-server")
    server = SeataServer(directory, file_store(directory))
    try:
        server.wait_until_it_serves()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module", params=["troth", pytest.param("seata", marks=pytest.mark.soak)])
def shop_and_address(
    request: pytest.FixtureRequest, mariadb_shop: Shop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Shop, str]]:
    """The database, Java in it, and the coordinator of both: ours, or in long runs a real Seata server."""
    if request.param == "troth":
        coordinator: CoordinatorProcess = request.getfixturevalue("coordinator")
        mariadb_shop.java.call("fence", db=mariadb_shop.name)
        yield mariadb_shop, coordinator.address
        return
    server: SeataServer = request.getfixturevalue("seata_server")
    java = JavaApp(server.address, tmp_path_factory.mktemp("java") / "java.log", application="java-at-seata")
    try:
        shop = reopen(mariadb_shop, java)
        java.call("fence", db=shop.name)
        yield shop, server.address
    finally:
        java.close()


@pytest.fixture
def shop(shop_and_address: tuple[Shop, str]) -> Iterator[Shop]:
    """Fresh books, and our client at the same coordinator as Java."""
    shop, address = shop_and_address
    for table in ("diary", "tcc_fence_log"):
        shop.read(f"DELETE FROM {table}")
    shop.read("UPDATE book SET amount = 100, reserved = 0")
    troth.init(coordinator=address, application="python-tcc")
    yield shop
    troth.close()


def python_pay(shop: Shop) -> Any:
    """The action of Java's books, in Python: the same table, a name of its own, the same fence's table."""

    def move(ctx: troth.ActionContext, verb: str, amount: int, reserved: int) -> None:
        with closing(ctx.connection.cursor()) as cursor:
            change = "UPDATE book SET amount = amount + %s, reserved = reserved + %s WHERE action = 'pay' AND id = %s"
            cursor.execute(change, (amount, reserved, ctx["id"]))
            cursor.execute("INSERT INTO diary (verb, action, id) VALUES (%s, %s, %s)", (verb, ctx.action, ctx["id"]))

    @troth.tcc(name="python-pay", connection=connection_to(shop.url))
    class Pay:
        def try_(self, ctx: troth.ActionContext, id: int, amount: int, fail: bool = False) -> dict[str, int]:
            move(ctx, "try", -amount, amount)
            if fail:
                raise ValueError("the try failed")
            return {"paid": amount}

        def confirm(self, ctx: troth.ActionContext) -> None:
            move(ctx, "confirm", 0, -ctx.result["paid"])

        def cancel(self, ctx: troth.ActionContext) -> None:
            move(ctx, "cancel", ctx["amount"], -ctx["amount"])

    return Pay()


def reserve(shop: Shop, xid: str, amount: int) -> None:
    """Java's try, in the transaction `xid`."""
    assert shop.java.call("try", xid=xid, action="reserve", book=1, amount=amount) is True


def books(shop: Shop) -> dict[str, tuple[str, str]]:
    return {row[0]: (row[1], row[2]) for row in shop.read("SELECT action, amount, reserved FROM book")}


def diary(shop: Shop) -> list[str]:
    return [" ".join(row) for row in shop.read("SELECT verb, action FROM diary ORDER BY n")]


def fence(shop: Shop, xid: str) -> dict[str, str]:
    return {row[0]: row[1] for row in shop.read(f"SELECT action_name, status FROM tcc_fence_log WHERE xid = '{xid}'")}


def test_python_begins_and_commits(shop: Shop) -> None:
    pay = python_pay(shop)
    with troth.transaction(name="mixed") as tx:
        reserve(shop, tx.xid, 30)
        pay.try_(1, 20)
        assert books(shop) == {"reserve": ("70", "30"), "pay": ("80", "20")}
    assert books(shop) == {"reserve": ("70", "0"), "pay": ("80", "0")}
    assert fence(shop, tx.xid) == {"reserve": COMMITTED, "python-pay": COMMITTED}


def test_python_begins_and_rolls_back(shop: Shop) -> None:
    pay = python_pay(shop)
    tx = troth.transaction(name="mixed")
    with pytest.raises(ValueError, match="no"), tx:  # noqa: PT012
        pay.try_(1, 20)
        reserve(shop, tx.xid, 30)
        raise ValueError("no")
    until(lambda: books(shop) == {"reserve": ("100", "0"), "pay": ("100", "0")})
    assert fence(shop, tx.xid) == {"reserve": ROLLBACKED, "python-pay": ROLLBACKED}
    assert sorted(diary(shop)) == sorted(["try python-pay", "try reserve", "cancel reserve", "cancel python-pay"])


def test_java_begins_and_commits(shop: Shop) -> None:
    pay = python_pay(shop)
    xid = shop.java.call("begin")
    with troth.join(xid):
        pay.try_(1, 20)
    reserve(shop, xid, 30)
    assert shop.java.call("commit", xid=xid) == "Committed"
    assert books(shop) == {"reserve": ("70", "0"), "pay": ("80", "0")}


def test_java_begins_and_rolls_back(shop: Shop) -> None:
    pay = python_pay(shop)
    xid = shop.java.call("begin")
    reserve(shop, xid, 30)
    with troth.join(xid), pytest.raises(ValueError, match="the try failed"):
        pay.try_(1, 20, fail=True)
    assert shop.java.call("rollback", xid=xid) == "Rollbacked"
    until(lambda: books(shop) == {"reserve": ("100", "0"), "pay": ("100", "0")})
    assert "cancel python-pay" not in diary(shop), "its try has left nothing"


def test_a_java_owner_that_swallows_the_error_of_a_python_try_commits_nothing_of_it(
    shop: Shop, request: pytest.FixtureRequest
) -> None:
    """C22. Our coordinator rolls the whole back; a Seata server skips the branch whose try is reported as failed."""
    pay = python_pay(shop)
    xid = shop.java.call("begin")
    reserve(shop, xid, 30)
    with troth.join(xid), pytest.raises(ValueError, match="the try failed"):
        pay.try_(1, 20, fail=True)
    if "seata" in request.node.name:
        assert shop.java.call("commit", xid=xid) == "Committed"
        assert books(shop) == {"reserve": ("70", "0"), "pay": ("100", "0")}
    else:
        assert shop.java.call("commit", xid=xid) != "Committed"
        until(lambda: books(shop) == {"reserve": ("100", "0"), "pay": ("100", "0")})


@pytest.mark.soak
def test_tcc_of_ours_alone_at_a_real_seata_server(seata_server: SeataServer, tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []

    def confirm(ctx: troth.ActionContext) -> bool:
        seen.append(("confirm", ctx.result))
        return len(seen) != 2  # the first confirm is to be asked for again

    def cancel(ctx: troth.ActionContext) -> None:
        seen.append(("cancel", ctx["room"]))

    @troth.tcc(name="book", fence="off", confirm=confirm, cancel=cancel)
    def book(ctx: troth.ActionContext, room: str) -> str:
        seen.append(("try", room))
        return f"key of {room}"

    with troth.init(coordinator=seata_server.address, application="python-alone") as client:
        with troth.transaction(name="trip") as tx:
            book("12")
        until(lambda: client.status(tx.xid) in (GlobalStatus.Committed, GlobalStatus.Finished), within_s=30)
        assert seen == [("try", "12"), ("confirm", "key of 12"), ("confirm", "key of 12")]
        with pytest.raises(KeyError), troth.transaction(name="trip"):  # noqa: PT012
            book("13")
            book("14")
            raise KeyError
        until(lambda: len(seen) == 7, within_s=30)
        assert sorted(seen[5:]) == [("cancel", "13"), ("cancel", "14")], "in what order is the server's business"
