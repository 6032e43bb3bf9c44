"""Moves money between banks, each time in a global transaction, and keeps a journal of what it was told.

`python bank_tm.py --coordinator HOST:PORT --bank NAME=PORT … --threads N`. Standard input has one JSON object a line:
`{"go": SEED, "prefix": TEXT, "journal": FILE}` starts the load, `{"stop": true}` ends it and prints `stopped`. The
journal's lines are on their way to the file before the next step is taken, so that a kill -9 loses none:
`{"id", "source": [bank, account], "target": …, "amount"}`, `{"id", "xid"}`, `{"id", "told", "why"}`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bank_settings import ACCOUNTS, BANKS, CLIENT, TRANSACTION_TIMEOUT

import troth

HTTP_TIMEOUT_S = 5.0
PAUSE_AFTER_FAILURE_S = 0.02


class NotWanted(Exception):
    """The share of transfers that is undone on purpose."""


class BankFailed(Exception):
    """A bank did not do its part, or we do not know that it did."""


@dataclass(frozen=True)
class Transfer:
    id: str
    source: tuple[str, int]
    target: tuple[str, int]
    amount: int
    wanted: bool


def draw(chance: random.Random, name: str) -> Transfer:
    source, target = chance.sample(BANKS, 2)
    accounts = chance.randint(1, ACCOUNTS), chance.randint(1, ACCOUNTS)
    return Transfer(
        name, (source, accounts[0]), (target, accounts[1]), chance.randint(1, 50), wanted=chance.random() < 0.7
    )


def ask(port: int, xid: str, body: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("POST", "/move", json.dumps(body), {"TX_XID": xid})
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise BankFailed(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise BankFailed(text)


class Load:
    """Threads that transfer until told to stop."""

    def __init__(self, ports: dict[str, int], threads: int, order: dict[str, Any]) -> None:
        self._ports = ports
        self._order = order
        self._stop = threading.Event()
        self._journal = os.open(order["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._pool = ThreadPoolExecutor(threads)
        self._running: list[Future[None]] = [self._pool.submit(self._work, number) for number in range(threads)]

    def stop(self) -> None:
        self._stop.set()
        for work in self._running:
            work.result()
        self._pool.shutdown()
        os.close(self._journal)

    def _note(self, **line: object) -> None:
        os.write(self._journal, (json.dumps(line) + "\n").encode())

    def _work(self, thread: int) -> None:
        chance = random.Random(f"{self._order['go']}/{thread}")
        number = 0
        while not self._stop.is_set():
            number += 1
            transfer = draw(chance, f"{self._order['prefix']}-{thread}-{number}")
            self._note(id=transfer.id, source=transfer.source, target=transfer.target, amount=transfer.amount)
            told, why = self._outcome(transfer)
            self._note(id=transfer.id, told=told, why=why)
            if why:
                time.sleep(PAUSE_AFTER_FAILURE_S)

    def _outcome(self, transfer: Transfer) -> tuple[str, str]:
        """What we may believe: a rollback that we want ends as one, whether its answer comes or not."""
        begun: list[str] = []
        try:
            self._transfer(transfer, begun)
        except NotWanted:
            return "undone", ""
        except (BankFailed, troth.TransactionRolledBack, troth.CoordinatorUnavailable) as error:
            return "undone", f"{type(error).__name__}: {error}"
        except troth.OutcomeUnknown as error:
            return "unknown", str(error)
        except troth.CoordinatorRefused as error:
            return "unexpected" if begun else "undone", f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - nothing else is to be expected: the check fails with it
            return "unexpected", f"{type(error).__name__}: {error}"
        return "committed", ""

    def _transfer(self, transfer: Transfer, begun: list[str]) -> None:
        with troth.transaction(name=transfer.id, timeout=TRANSACTION_TIMEOUT) as scope:
            self._note(id=transfer.id, xid=scope.xid)
            begun.append(scope.xid)
            for (bank, account), delta in ((transfer.source, -transfer.amount), (transfer.target, transfer.amount)):
                ask(self._ports[bank], scope.xid, {"id": transfer.id, "account": account, "delta": delta})
            if not transfer.wanted:
                raise NotWanted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--bank", action="append", required=True, help="NAME=PORT")
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    ports = {name: int(port) for name, port in (bank.split("=") for bank in chosen.bank)}
    with troth.init(coordinator=chosen.coordinator, application="bank-transfers", **CLIENT):
        print("ready", flush=True)
        load: Load | None = None
        for line in sys.stdin:
            order = json.loads(line)
            if "go" in order:
                load = Load(ports, chosen.threads, order)
            elif load is not None:
                load.stop()
                load = None
                print("stopped", flush=True)


if __name__ == "__main__":
    main()
