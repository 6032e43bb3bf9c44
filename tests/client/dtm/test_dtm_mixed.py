"""One global transaction with branches of both worlds: AT on a channel; TCC by URL and a message at the DTM door."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dtm_bank import Bank

import troth
import troth.dtm
from fixtures_coordinator import CoordinatorProcess, until

pytestmark = pytest.mark.engines


class Shop:
    """Orders under AT; stock (a bank's account A) by TCC at a URL; a message to the one who is told (account B)."""

    def __init__(self, server: CoordinatorProcess, bank: Bank, directory: Path) -> None:
        self.path = str(directory / "orders.db")
        self.url = f"sqlite:///{self.path}"
        troth.at.init(self.url)
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INT)")
        self.bank = bank
        self.client = troth.Client(server.address, "shop")
        self.dtm = troth.dtm.connect(f"http://127.0.0.1:{server.ready['dtm_http_port']}")

    def close(self) -> None:
        self.client.close()
        self.dtm.close()

    def order(self, amount: int) -> None:
        """Three branches of three kinds."""
        with closing(troth.at.connect(self.url, client=self.client)) as connection:
            connection.execute("INSERT INTO orders (amount) VALUES (?)", (amount,))
            connection.commit()
        doors = {verb: self.bank.url_of(f"/{verb}") for verb in ("confirm", "cancel")}
        payload = {"account": "A", "amount": amount}
        self.dtm.deliver_on_commit(self.bank.url_of("/in"), {"account": "B", "amount": amount})
        self.dtm.tcc_inside().call(self.bank.url_of("/try"), **doors, payload=payload)

    def orders(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    def undo_logs(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute("SELECT count(*) FROM undo_log").fetchone()[0])


@pytest.fixture
def shop(troth_server: CoordinatorProcess, bank: Bank, tmp_path: Path) -> Iterator[Shop]:
    opened = Shop(troth_server, bank, tmp_path)
    yield opened
    opened.close()


def test_order_stock_and_message_commit_together(shop: Shop) -> None:
    with troth.transaction(name="order", client=shop.client) as tx:
        shop.order(30)
        assert shop.bank.balances() == (70, 100, 30)
        assert "/in" not in shop.bank.paths(tx.xid)  # nobody is told before it is true
    until(lambda: shop.bank.balances() == (70, 130, 0), what="confirmed and delivered")
    until(lambda: shop.undo_logs() == 0, what="the undo log is deleted")
    assert shop.orders() == 1
    assert sorted(shop.bank.paths(tx.xid)) == ["/confirm", "/in", "/try"]


def test_order_stock_and_message_roll_back_together(shop: Shop) -> None:
    with pytest.raises(troth.dtm.BranchRefused), troth.transaction(name="order", client=shop.client) as tx:
        shop.order(1000)
    until(lambda: shop.undo_logs() == 0 and shop.orders() == 0, what="the order is undone")
    until(lambda: "/cancel" in shop.bank.paths(tx.xid), what="the try is cancelled")
    assert shop.bank.balances() == (100, 100, 0)
    assert "/in" not in shop.bank.paths(tx.xid)


def test_a_receiver_that_is_away_is_asked_again_and_told_once(shop: Shop) -> None:
    shop.bank.faults["/in"] = [ConnectionError("away"), troth.dtm.BranchRefused("a receiver cannot refuse")]
    shop.bank.after["/in"] = [ConnectionError("the answer is lost")]
    with troth.transaction(name="order", client=shop.client) as tx:
        shop.order(30)
    until(lambda: shop.bank.paths(tx.xid).count("/in") == 4, within_s=20)
    until(lambda: shop.bank.balances() == (70, 130, 0))


def test_outside_of_a_transaction_nothing_is_promised(shop: Shop) -> None:
    with pytest.raises(troth.NoTransaction):
        shop.dtm.deliver_on_commit(shop.bank.url_of("/in"))
    with pytest.raises(troth.NoTransaction):
        shop.dtm.tcc_inside()
    with pytest.raises(troth.CoordinatorRefused):
        shop.dtm.deliver_on_commit(shop.bank.url_of("/in"), xid="127.0.0.1:1:1")
