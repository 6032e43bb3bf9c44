"""A bank with one TCC action: makes one transaction with it, or only serves. Run by `test_tcc_crashes.py`."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from contextlib import suppress
from datetime import timedelta

import troth


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--end", choices=("commit", "rollback", "serve"), required=True)
    chosen = parser.parse_args()

    @troth.tcc(name="freeze", connection=lambda: sqlite3.connect(chosen.file, timeout=10))
    class Freeze:
        def try_(self, ctx: troth.ActionContext, amount: int) -> None:
            ctx.connection.execute("UPDATE account SET balance = balance - ?, frozen = frozen + ?", (amount, amount))

        def confirm(self, ctx: troth.ActionContext) -> None:
            ctx.connection.execute("UPDATE account SET frozen = frozen - ?", (ctx["amount"],))

        def cancel(self, ctx: troth.ActionContext) -> None:
            ctx.connection.execute(
                "UPDATE account SET balance = balance + ?, frozen = frozen - ?", (ctx["amount"], ctx["amount"])
            )

    freeze = Freeze()  # before there is a client: it is served from `init` on, also by who tries nothing
    troth.init(coordinator=chosen.coordinator, application="tcc-bank", reconnect_min_s=0.05, reconnect_max_s=0.2)
    if chosen.end == "serve":
        sys.stdin.read()  # until the test closes it
    elif chosen.end == "commit":
        with troth.transaction(name="freeze", timeout=timedelta(seconds=3)):
            freeze.try_(30)
    else:
        with suppress(KeyError), troth.transaction(name="freeze", timeout=timedelta(seconds=3)):
            freeze.try_(30)
            raise KeyError


if __name__ == "__main__":
    main()
