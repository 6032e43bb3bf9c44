"""A shop in one global transaction of both worlds: the order by AT, the money by TCC over HTTP, and a message.

    python examples/transfer_dtm/shop.py

"Order placed" is delivered if and only if the purchase commits: once it works, once the buyer has not enough.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from bank import Bank, coordinator, until_is

import troth
import troth.dtm


class Shop:
    """Orders in a database under AT."""

    def __init__(self, file: Path, buyer: Bank, told: Bank, dtm: troth.dtm.DtmClient) -> None:
        self._file = file
        self._buyer = buyer
        self._told = told
        self._dtm = dtm
        troth.at.init(f"sqlite:///{file}")  # as `troth at init URL`
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price INTEGER)")

    @troth.global_transaction(name="purchase")
    def purchase(self, price: int) -> None:
        """Three branches: AT, a message, TCC by URL."""
        with closing(troth.at.connect(f"sqlite:///{self._file}")) as connection:
            connection.execute("INSERT INTO orders (price) VALUES (?)", (price,))
            connection.commit()
        self._dtm.deliver_on_commit(f"{self._told.url}/deposit", {"amount": 1})  # a point for the buyer
        at = self._buyer.url
        doors = {"confirm": f"{at}/confirm", "cancel": f"{at}/cancel"}
        self._dtm.tcc_inside().call(f"{at}/try", **doors, payload={"amount": price})

    def __str__(self) -> str:
        with closing(sqlite3.connect(self._file)) as connection:
            return f"{connection.execute('SELECT count(*) FROM orders').fetchone()[0]} orders"


def main() -> None:
    """Buy twice."""
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name)) as ready:
        folder = Path(name)
        dtm = troth.dtm.connect(f"http://127.0.0.1:{ready['dtm_http_port']}")
        buyer, points = Bank(folder / "buyer.db", "buyer", 1000), Bank(folder / "points.db", "points", 0)
        with dtm, buyer.serving(), points.serving(), troth.init(str(ready["address"]), "shop"):
            shop = Shop(folder / "orders.db", buyer, points, dtm)
            shop.purchase(400)
            print(
                f"bought:  {until_is(shop, '1 orders')}, {until_is(buyer, 'buyer 600')}, {until_is(points, 'points 1')}"
            )
            try:
                shop.purchase(700)
            except troth.dtm.BranchRefused:
                print(f"refused: {until_is(shop, '1 orders')}, {buyer}, {points}")


if __name__ == "__main__":
    main()
