"""A process that runs the saga `trip`, or serves it for others; it may die, or kill its coordinator, at a message.

    saga_worker.py COORDINATOR LEDGER run|arun|serve [fail] [--die before|after|inside N] [--stop N]
                                          [--kill PID before|after N]

Messages to the coordinator are counted from 1; `inside N` is inside the Nth call of a step or compensation, after its
effect and before its return; `--stop N` stops the process there (SIGSTOP). Effects are rows of LEDGER under the
idempotency key that each step is given.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sqlite3
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import troth
import troth.client.holder
from troth.client.client import Client
from troth.client.settings import ClientSettings
from troth.wire.seata.messages import GlobalCommitRequest, GlobalRollbackRequest, Message
from troth.wire.seata.saga import SAGA_REQUESTS

STEPS = ("flight", "hotel", "car", "pay")


class Fate:
    """What is to happen at which message, or in which call."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.messages = itertools.count(1)
        self.calls = itertools.count(1)

    def at_message(self, moment: str, number: int) -> None:
        if self.options.die == [moment, str(number)]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.kill and self.options.kill[1:] == [moment, str(number)]:
            os.kill(int(self.options.kill[0]), signal.SIGKILL)

    def inside_call(self) -> None:
        number = str(next(self.calls))
        if self.options.die == ["inside", number]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.stop == number:
            os.kill(os.getpid(), signal.SIGSTOP)


class Ledger:
    """The services' database: an effect under a key that is there already is no second effect."""

    def __init__(self, path: str, fate: Fate) -> None:
        self.path = path
        self.fate = fate
        with sqlite3.connect(path, timeout=20) as db:
            db.execute("CREATE TABLE IF NOT EXISTS effects(n INTEGER PRIMARY KEY, key TEXT UNIQUE, what TEXT)")

    def do(self, key: str, what: str) -> None:
        db = sqlite3.connect(self.path, timeout=20)
        with db:
            db.execute("INSERT OR IGNORE INTO effects(key, what) VALUES (?, ?)", (key, what))
        db.close()
        self.fate.inside_call()


def make_steps(ledger: Ledger, failing: bool, is_async: bool) -> list[Any]:
    def compensate(ctx: troth.UndoContext) -> None:
        ledger.do(ctx.idempotency_key, f"undo {ctx['what']}")

    def effect(what: str) -> str:
        ledger.do(troth.current_step().idempotency_key, f"do {what}")
        if failing and what == "pay":
            raise ValueError("the card is refused, or is it?")
        return f"{what} booked"

    def blocking(what: str) -> str:
        return effect(what)

    async def awaited(what: str) -> str:
        await asyncio.sleep(0)
        return effect(what)

    async def acompensate(ctx: troth.UndoContext) -> None:
        compensate(ctx)

    function, undo = (awaited, acompensate) if is_async else (blocking, compensate)
    made = []
    for what in STEPS:
        decorate = troth.step(name=what, compensate=undo, attempts=2, pause=timedelta(milliseconds=1))
        made.append(decorate(function))
    return made


def make_saga(ledger: Ledger, failing: bool, is_async: bool) -> troth.Saga[..., Any]:
    flight, hotel, car, pay = make_steps(ledger, failing, is_async)
    every = timedelta(milliseconds=300)

    def body(who: str) -> list[str]:
        first = flight("flight")
        second, third = troth.parallel(lambda: hotel("hotel"), lambda: car("car"))
        return [first, second, third, pay("pay")]

    async def abody(who: str) -> list[str]:
        first = await flight("flight")
        second, third = await asyncio.gather(hotel("hotel"), car("car"))
        return [first, second, third, await pay("pay")]

    return troth.saga(name="trip", check_every=every)(abody if is_async else body)


class FatedClient(Client):
    """Counts what a saga says to its coordinator."""

    fate: Fate

    def tell(self, message: Message) -> Message:
        number = self._number(message)
        self.fate.at_message("before", number)
        answer = super().tell(message)
        self.fate.at_message("after", number)
        return answer

    async def atell(self, message: Message) -> Message:
        number = self._number(message)
        self.fate.at_message("before", number)
        answer = await super().atell(message)
        self.fate.at_message("after", number)
        return answer

    def _number(self, message: Message) -> int:
        ours = isinstance(message, (*SAGA_REQUESTS, GlobalCommitRequest, GlobalRollbackRequest))
        return next(self.fate.messages) if ours else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator")
    parser.add_argument("ledger")
    parser.add_argument("role", choices=["run", "arun", "serve", "aserve"])
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--die", nargs=2)
    parser.add_argument("--kill", nargs=3)
    parser.add_argument("--stop")
    options = parser.parse_args()
    fate = Fate(options)
    settings = ClientSettings(heartbeat_s=0.3, idle_timeout_s=5.0)
    # Each test is an application of its own: what one has left open is not gone on with in another.
    client = FatedClient(options.coordinator, Path(options.ledger).parent.name, settings=settings)
    client.fate = fate
    troth.client.holder.use(client.start())
    saga = make_saga(Ledger(options.ledger, fate), options.fail, options.role.startswith("a"))
    print("ready", flush=True)
    if options.role.endswith("serve"):
        sys.stdin.read()
        return
    try:
        result = asyncio.run(saga("ann")) if options.role == "arun" else saga("ann")
    except troth.TrothError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    else:
        print(f"done {result} after {next(fate.messages) - 1} messages", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
