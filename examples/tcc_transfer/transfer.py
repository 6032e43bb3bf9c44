"""A transfer from account A to account C by try, confirm and cancel, each bank with a database of its own.

    python examples/tcc_transfer/transfer.py

It runs a coordinator in this process, transfers once, and once more with an account that is closed: A's money is frozen
by then, and is given back.
"""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import troth
from troth.client.drivers import fence_table


class Closed(Exception):
    """The account takes no money."""


def bank(file: Path, account: str, balance: int) -> Path:
    """A database with one account, and the fence's table (as `troth tcc init URL` makes it)."""
    fence_table.init(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE account (id TEXT PRIMARY KEY, balance INTEGER, frozen INTEGER)")
        connection.execute("INSERT INTO account VALUES (?, ?, 0)", (account, balance))
    return file


def withdrawals(file: Path) -> object:
    """The action of the bank that pays: freeze the amount, then take it or give it back."""

    @troth.tcc(name="withdraw", connection=functools.partial(sqlite3.connect, file))
    class Withdraw:
        def try_(self, ctx: troth.ActionContext, account: str, amount: int) -> None:
            frozen = ctx.connection.execute(
                "UPDATE account SET balance = balance - ?, frozen = frozen + ? WHERE id = ? AND balance >= ?",
                (amount, amount, account, amount),
            )
            if frozen.rowcount != 1:
                raise ValueError(f"account {account} has no {amount}")

        def confirm(self, ctx: troth.ActionContext) -> None:
            ctx.connection.execute(
                "UPDATE account SET frozen = frozen - ? WHERE id = ?", (ctx["amount"], ctx["account"])
            )

        def cancel(self, ctx: troth.ActionContext) -> None:
            ctx.connection.execute(
                "UPDATE account SET balance = balance + ?, frozen = frozen - ? WHERE id = ?",
                (ctx["amount"], ctx["amount"], ctx["account"]),
            )

    return Withdraw()


def deposits(file: Path) -> object:
    """The action of the bank that is paid, as three functions: nobody sees the money before the confirm."""

    def put(ctx: troth.ActionContext) -> None:
        ctx.connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (ctx["amount"], ctx["account"]))

    def forget(ctx: troth.ActionContext) -> None:
        """The try has changed nothing."""

    @troth.tcc(name="deposit", connection=functools.partial(sqlite3.connect, file), confirm=put, cancel=forget)
    def deposit(ctx: troth.ActionContext, account: str, amount: int) -> None:
        if not ctx.connection.execute("SELECT 1 FROM account WHERE id = ?", (account,)).fetchall():
            raise Closed(account)

    return deposit


def main() -> None:
    """Transfer twice."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = bank(Path(folder) / "a.db", "A", 1000), bank(Path(folder) / "c.db", "C", 0)
        withdraw, deposit = withdrawals(first), deposits(second)

        @troth.global_transaction(name="transfer")
        def transfer(source: str, target: str, amount: int) -> None:
            withdraw.try_(source, amount)
            print(f"frozen by the try: {show(first)}")
            deposit(target, amount)

        with troth.embedded():
            transfer("A", "C", 200)
            print(f"transferred:       {show(first)}, {show(second)}")
            try:
                transfer("A", "D", 300)
            except Closed as closed:
                print(f"{closed} is closed:       {show(first)}, {show(second)}")


def show(file: Path) -> str:
    """The account."""
    with closing(sqlite3.connect(file)) as connection:
        ((account, balance, frozen),) = connection.execute("SELECT id, balance, frozen FROM account").fetchall()
    return f"{account} {balance}" + (f" and {frozen} frozen" if frozen else "")


if __name__ == "__main__":
    main()
