"""A transfer from bank A to bank C in DTM's styles: saga, TCC, message, workflow.

    python examples/transfer_dtm/transfer.py

It starts a coordinator and both banks, and transfers in each style; the saga once more, with more money than A has.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from bank import Bank, coordinator, until_is

import troth
import troth.dtm
from troth.integrations.dtm_asgi import DtmMiddleware


def saga(client: troth.dtm.DtmClient, a: Bank, c: Bank, amount: int) -> None:
    """Each step with what undoes it."""
    steps = client.saga()
    steps.add(f"{a.url}/withdraw", f"{a.url}/withdraw-undo", {"amount": amount})
    steps.add(f"{c.url}/deposit", f"{c.url}/deposit-undo", {"amount": amount})
    steps.submit(wait=True)


def tcc(client: troth.dtm.DtmClient, a: Bank, c: Bank, amount: int) -> None:
    """Freeze in A, then in C the other way round; the coordinator confirms both."""
    with client.tcc(wait=True) as block:
        for bank, sign in ((a, 1), (c, -1)):
            doors = {"confirm": f"{bank.url}/confirm", "cancel": f"{bank.url}/cancel"}
            block.call(f"{bank.url}/try", **doors, payload={"amount": sign * amount})
        print(f"  tried:     {a}, {c}")


def message(client: troth.dtm.DtmClient, a: Bank, c: Bank, amount: int) -> None:
    """A pays in a local transaction; C hears of it if and only if that commits."""
    note = client.message().add(f"{c.url}/deposit", {"amount": amount})
    note.do(f"{a.url}/check-back", a.connect, lambda connection: a.add(connection, -amount))


def workflows(client: troth.dtm.DtmClient, a: Bank, c: Bank) -> troth.dtm.Workflow:
    """Plain code; each step's result is kept, and after a crash the coordinator calls back at A."""

    @client.workflow("transfer", callback=f"{a.url}/workflow")
    def transfer(steps: troth.dtm.Steps, data: dict[str, int]) -> str:
        withdraw = troth.dtm.barrier(a.connect)(functools.partial(_withdraw, a))
        steps.do(lambda: withdraw(data["amount"]))
        steps.call(f"{c.url}/deposit", data, rollback=f"{c.url}/deposit-undo")
        return "transferred"

    return transfer


def _withdraw(bank: Bank, connection: object, amount: int) -> None:
    bank.add(connection, -amount)  # type: ignore[arg-type]  # an sqlite3 connection


def main() -> None:
    """In all styles."""
    with tempfile.TemporaryDirectory() as name, coordinator(Path(name)) as ready:
        client = troth.dtm.connect(f"http://127.0.0.1:{ready['dtm_http_port']}")
        first, second = Bank(Path(name) / "a.db", "A", 1000), Bank(Path(name) / "c.db", "C", 100)
        first.app.add_middleware(DtmMiddleware, workflows={"/workflow": client})
        with client, first.serving() as a, second.serving() as c:
            saga(client, a, c, 200)
            print(f"saga:        {a}, {c}")
            try:
                saga(client, a, c, 9000)
            except troth.TransactionRolledBack as refused:
                print(f"  refused:   {'not enough money' in refused.cause}; {a}, {c}")
            tcc(client, a, c, 50)
            print(f"tcc:         {until_is(a, 'A 750')}, {until_is(c, 'C 350')}")
            message(client, a, c, 50)
            print(f"message:     {a}, {until_is(c, 'C 400')}")
            done = workflows(client, a, c).execute({"amount": 100})
            print(f"workflow:    {a}, {c}, {done}")


if __name__ == "__main__":
    main()
