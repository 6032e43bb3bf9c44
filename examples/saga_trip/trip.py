"""A trip as a saga: a flight, then a hotel and a car side by side, then the payment.

    python examples/saga_trip/trip.py

It runs a coordinator in this process and books three times: all goes well; the card is refused, and what was booked is
given back; and the process that books dies in the middle, by SIGKILL, and this one goes on where it was.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import troth

LEDGER = os.environ.get("TRIP_LEDGER", "")
"""A database in place of the four services: what they have done, each under the idempotency key that it was given."""


class CardRefused(Exception):
    """The bank says no, and has taken nothing."""


def note(key: str, customer: str, what: str) -> None:
    """A service does something: once, however often it is asked with this key."""
    with closing(sqlite3.connect(LEDGER, timeout=20)) as db, db:
        db.execute("INSERT OR IGNORE INTO done VALUES (?, ?, ?)", (key, customer, what))


def give_back(ctx: troth.UndoContext) -> None:
    """Compensate any of the bookings. It must bear that there is nothing to give back (`ctx.known` is False then)."""
    note(ctx.idempotency_key, ctx["customer"], f"give back the {ctx.step}")


@troth.step(name="flight", compensate=give_back)
def book_flight(customer: str) -> str:
    note(troth.current_step().idempotency_key, customer, "book the flight")
    return "LH 454"


@troth.step(name="hotel", compensate=give_back)
def book_hotel(customer: str) -> str:
    note(troth.current_step().idempotency_key, customer, "book the hotel")
    return "room 7"


@troth.step(name="car", compensate=give_back)
def rent_car(customer: str) -> str:
    note(troth.current_step().idempotency_key, customer, "rent the car")
    if customer == "cleo" and "--begin" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)  # the car is rented, and nobody has written that down
    return "a red one"


@troth.step(name="payment", compensate=None, final=(CardRefused,))
def pay(customer: str) -> None:
    if customer == "bob":
        raise CardRefused("not enough on the card")
    note(troth.current_step().idempotency_key, customer, "pay")


@troth.saga(name="trip", timeout=timedelta(minutes=10), check_every=timedelta(milliseconds=200))
def trip(customer: str) -> list[str]:
    flight = book_flight(customer)
    hotel, car = troth.parallel(lambda: book_hotel(customer), lambda: rent_car(customer))
    pay(customer)
    return [flight, hotel, car]


def done_for(customer: str) -> list[str]:
    """What the services have done for a customer, in order; what may go side by side is sorted."""
    with closing(sqlite3.connect(LEDGER)) as db:
        found = [what for (what,) in db.execute("SELECT what FROM done WHERE customer = ? ORDER BY rowid", (customer,))]
    return [found[0], *sorted(found[1:3]), *sorted(found[3:5]), *found[5:]]


def main() -> None:
    """Book three times."""
    coordinator = troth.embedded(application="agency", retry__min="50ms")
    with coordinator:
        print("ann:", ", ".join(trip("ann")))
        try:
            trip("bob")
        except troth.StepFailed as error:
            print(f"bob: {error}")
        print("    ", "; ".join(done_for("bob")))
        died = subprocess.run([sys.executable, __file__, "--begin", coordinator.address], check=False)
        while "pay" not in done_for("cleo"):
            time.sleep(0.01)
        print(f"cleo: the process that booked was ended by signal {-died.returncode}, and another one went on")
        print("     ", "; ".join(done_for("cleo")))


def begin(address: str) -> None:
    """Another process begins a trip."""
    troth.init(address, "agency")
    trip("cleo")


if __name__ == "__main__":
    if "--begin" in sys.argv:
        begin(sys.argv[-1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            LEDGER = os.environ["TRIP_LEDGER"] = str(Path(folder) / "ledger.db")
            with closing(sqlite3.connect(LEDGER)) as made:
                made.execute("CREATE TABLE done (key TEXT PRIMARY KEY, customer TEXT, what TEXT)")
            main()
