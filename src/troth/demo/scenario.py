"""What is bought, where a purchase is made to fail, and what must stand in the databases afterwards."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

USER: Final = "U100001"
COMMODITY: Final = "C00321"
COUNT: Final = 2
PRICE: Final = 200
"""What one piece costs."""

PURCHASE_TIMEOUT: Final = timedelta(seconds=60)
SHORT_TIMEOUT: Final = timedelta(seconds=2)
"""The purchase's timeout where running out of it is the point."""


class FailAt(StrEnum):
    """Where the purchase is made to fail."""

    NONE = "none"
    STOCK = "stock"
    ORDER = "order"
    ACCOUNT = "account"
    AFTER_ALL = "after-all"
    TIMEOUT = "timeout"


class Rows(msgspec.Struct, frozen=True):
    """What stands in the three databases: the user's balance, pieces in stock, and numbers of orders and undo
    rows."""

    balance: int
    stock: int
    orders: int
    undo_logs: int


class Expected(msgspec.Struct, frozen=True):
    """How a purchase must end: Seata's name of the global status, and the rows."""

    outcome: str
    rows: Rows
    story: str


AT_START: Final = Rows(balance=999, stock=100, orders=0, undo_logs=0)
BOUGHT: Final = Rows(balance=AT_START.balance - COUNT * PRICE, stock=AT_START.stock - COUNT, orders=1, undo_logs=0)

EXPECTED: Final = MappingProxyType(
    {
        FailAt.NONE: Expected("Committed", BOUGHT, "nothing fails: all three databases keep their change"),
        FailAt.STOCK: Expected("Rollbacked", AT_START, "stock answers 500 after its local commit"),
        FailAt.ORDER: Expected("Rollbacked", AT_START, "order answers 500 after its local commit"),
        FailAt.ACCOUNT: Expected("Rollbacked", AT_START, "account answers 500 after its local commit"),
        FailAt.AFTER_ALL: Expected("Rollbacked", AT_START, "an exception after all three have committed locally"),
        FailAt.TIMEOUT: Expected("TimeoutRollbacked", AT_START, "the purchase is held open beyond its timeout"),
    }
)
