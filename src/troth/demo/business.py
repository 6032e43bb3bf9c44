"""The business: `purchase` calls the stock and the order service, and both do it or neither does.

As a process: `python -m troth.demo.business --coordinator HOST:PORT --admin URL --stock URL --order URL`.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta

import httpx

import troth
from troth.demo.admin import Admin
from troth.demo.events import Begun, Ending, Heard, Listed, tell
from troth.demo.scenario import COMMODITY, COUNT, PURCHASE_TIMEOUT, SHORT_TIMEOUT, USER, FailAt
from troth.demo.tethered import tether
from troth.integrations.httpx import install

CALL_TIMEOUT_S = 30.0


class ChangedMyMind(Exception):
    """Raised after everything went well, to see it undone."""


class Shop:
    """Sells things. The services are reached by httpx clients that carry the xid."""

    def __init__(self, stock: httpx.Client, order: httpx.Client) -> None:
        self.stock = stock
        self.order = order

    def purchase(self, user: str, commodity: str, count: int) -> None:
        """Take the pieces out of the stock, then order them (which debits the user's account)."""
        self.stock.post("/deductions", json={"commodity": commodity, "count": count}).raise_for_status()
        self.order.post("/orders", json={"user": user, "commodity": commodity, "count": count}).raise_for_status()


def main() -> int:
    """Buy once; what happens is told as events. Exit status 0, however the purchase ends."""
    parser = argparse.ArgumentParser(prog="troth.demo.business")
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--admin", required=True, help="base URL of the coordinator's admin door")
    parser.add_argument("--stock", required=True, help="base URL of the stock service")
    parser.add_argument("--order", required=True, help="base URL of the order service")
    parser.add_argument("--fail-at", type=FailAt, choices=list(FailAt), default=FailAt.NONE)
    parser.add_argument("--tethered", action="store_true", help="end when standard input ends")
    chosen = parser.parse_args()
    if chosen.tethered:
        tether()
    timeout = SHORT_TIMEOUT if chosen.fail_at is FailAt.TIMEOUT else PURCHASE_TIMEOUT
    shop = Shop(stock=_client(chosen.stock), order=_client(chosen.order))
    admin = Admin(chosen.admin)

    @troth.global_transaction(name="purchase", timeout=timeout)
    def purchase() -> None:
        xid = troth.current_xid() or ""
        tell(Begun(xid=xid, timeout_s=timeout.total_seconds()))
        try:
            shop.purchase(USER, COMMODITY, COUNT)
        except httpx.HTTPStatusError as error:
            tell(Ending(asks="rollback", why=f"{error.request.url} answered {error.response.status_code}"))
            raise
        _end(admin, xid, chosen.fail_at, timeout)

    with troth.init(coordinator=chosen.coordinator, application="business"):
        try:
            purchase()
        except Exception as error:  # noqa: BLE001 - how the purchase ended is what this process tells
            first_line = str(error).partition("\n")[0]
            tell(Heard(text=f"{type(error).__name__}: {first_line}"))
        else:
            tell(Heard(text="purchase() returned: bought"))
    return 0


def _end(admin: Admin, xid: str, fail_at: FailAt, timeout: timedelta) -> None:
    seen = admin.transaction(xid)
    tell(Listed(branches=[] if seen is None else seen.branches))
    if fail_at is FailAt.AFTER_ALL:
        tell(Ending(asks="rollback", why="purchase() raises an exception, after all three have committed locally"))
        raise ChangedMyMind("everything worked, and it is not wanted any more")
    if fail_at is FailAt.TIMEOUT:
        held_s = timeout.total_seconds() + 0.5
        why = f"purchase() waits {held_s:g} s, its timeout is {timeout.total_seconds():g} s"
        tell(Ending(asks="commit", why=why))
        time.sleep(held_s)
        return
    tell(Ending(asks="commit", why="purchase() returns"))


def _client(base_url: str) -> httpx.Client:
    return install(httpx.Client(base_url=base_url, timeout=CALL_TIMEOUT_S, trust_env=False))


if __name__ == "__main__":
    sys.exit(main())
