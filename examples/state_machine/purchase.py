"""A purchase written in Seata's state language (purchase.json), run as a saga.

    python examples/state_machine/purchase.py

It starts a coordinator in this process and buys three times: once all is well, once the money does not suffice, and
once nobody approves. The services note under the order's key what they have done: a task that is run again after a
crash finds its own note, so it does nothing twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import troth

PRICES = {"apple": 2, "car": 20_000}


class NotEnoughMoney(Exception):
    """The account does not hold so much."""


class Stock:
    """What lies in store."""

    def __init__(self) -> None:
        self.left = {"apple": 10, "car": 1}
        self.reserved: dict[tuple[str, str], int] = {}

    def reserve(self, order: str, commodity: str, count: int) -> int:
        """Take `count` from the shelf, once an order; the price."""
        if (order, commodity) not in self.reserved:
            if self.left[commodity] < count:
                raise ValueError(f"only {self.left[commodity]} of {commodity} left")
            self.left[commodity] -= count
            self.reserved[order, commodity] = count
        return PRICES[commodity] * count

    def release(self, order: str, commodity: str, count: int) -> None:
        """Put it back, once."""
        self.left[commodity] += self.reserved.pop((order, commodity), 0)


class Account:
    """A buyer's money."""

    def __init__(self, balance: int) -> None:
        self.balance = balance
        self.paid: dict[str, int] = {}

    def debit(self, order: str, prices: list[int]) -> int:
        """Take the money, once an order."""
        if order not in self.paid:
            if self.balance < sum(prices):
                raise NotEnoughMoney(f"{self.balance} is less than {sum(prices)}")
            self.balance -= sum(prices)
            self.paid[order] = sum(prices)
        return self.paid[order]

    def credit(self, order: str) -> None:
        """Give it back, once."""
        self.balance += self.paid.pop(order, 0)


class Approval:
    """Whoever must be asked about dear orders."""

    def ask(self, order: str) -> bool:
        """Nobody approves of a car."""
        return False


def buy(machines: troth.StateMachines, order: str, items: dict[str, int]) -> str:
    """Run the machine; how it ended."""
    wanted = [{"commodity": commodity, "count": count} for commodity, count in items.items()]
    try:
        variables = machines.start("purchase", {"items": wanted}, business_key=order)
    except troth.StateMachineFailed as error:
        return str(error)
    return f"bought for {variables['paid']}"


def main() -> int:
    """Buy three times; 0 if stock and balance are as they should be."""
    stock, account = Stock(), Account(balance=15)
    with troth.embedded():
        services = {"stock": stock, "account": account, "approval": Approval()}
        definition = (Path(__file__).parent / "purchase.json").read_text()
        machines = troth.StateMachines(services, [definition])
        print("3 apples: ", buy(machines, "order-1", {"apple": 3}))
        print("5 apples: ", buy(machines, "order-2", {"apple": 5}))
        print("a car:    ", buy(machines, "order-3", {"apple": 1, "car": 1}))
    print(f"left: {stock.left}, balance: {account.balance}")
    return 0 if (stock.left, account.balance) == ({"apple": 7, "car": 1}, 9) else 1


if __name__ == "__main__":
    sys.exit(main())
