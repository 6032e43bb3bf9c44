"""troth and real Seata servers under the same load, in one run: pairs of runs that follow each other at once.

All servers run all the time, each warmed by the same seconds of load before the first round; in every round each shape
goes to one server after the other, the order turning. So a pair (one round, one shape) shares the minute, the machine
and its temperature, and only ratios of pairs are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from figures import Measurement, Shape
from generator import Generator, Length, measure, measure_from_outside
from private_server import PrivateServer, private_server

from troth.demo.servers.plan import Kind
from troth.demo.servers.private import start

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "interop"))

from seata_server import AS_SHIPPED, SeataServer, db_store_in, file_store

__all__ = ["AS_SHIPPED", "Contender", "Plan", "measure_beside", "seata"]

TROTH: Final = "troth"
FILE: Final = "seata-file"
FILE_AS_SHIPPED: Final = "seata-file-logging"
DB: Final = "seata-db"
TITLES: Final = MappingProxyType(
    {
        TROTH: "troth, SQLite, every write forced",
        FILE: "Seata, file store, quiet log",
        FILE_AS_SHIPPED: "Seata, file store, log as shipped",
        DB: "Seata, DB store (MariaDB), quiet log",
    }
)
QUIET: Final = MappingProxyType({"logging.level.root": "WARN", "logging.level.io.seata": "WARN"})
"""Seata's own log has some eight lines a transaction, twice; troth's has none: so the comparison is without them."""

BUSY: Final = Shape(8, 32)
SHAPES: Final = (Shape(1, 1), Shape(8, 8), BUSY, Shape(64, 1))


@dataclass(frozen=True, slots=True)
class Contender:
    """A server under load. `own` is set if it is ours, which can be looked into."""

    name: str
    address: str
    shapes: tuple[Shape, ...]
    own: PrivateServer | None = None

    def measure(self, generator: Generator, shape: Shape, length: Length, number: int) -> Measurement:
        """One run."""
        if self.own is not None:
            return measure(generator, self.own, shape, length, number)
        return measure_from_outside(generator, self.name, self.address, shape, length, number)


@contextmanager
def seata(directory: Path, name: str) -> Iterator[SeataServer]:
    """A Seata server in the JVM that its start script asks for; for DB mode with a MariaDB of its own."""
    place = directory / name
    place.mkdir()
    with ExitStack() as stack:
        if name == DB:
            (mariadb,) = start(Kind.MARIADB)
            stack.callback(mariadb.stop)
            store = db_store_in(mariadb, "seata_store")
        else:
            store = file_store(place)
        settings = {} if name == FILE_AS_SHIPPED else QUIET
        server = SeataServer(place, store, jvm=AS_SHIPPED, settings=settings)
        stack.callback(server.close)
        server.wait_until_it_serves()
        yield server


@contextmanager
def contenders(directory: Path) -> Iterator[list[Contender]]:
    """All servers, started; ended with the block."""
    with ExitStack() as stack:
        place = directory / TROTH
        place.mkdir()
        ours = stack.enter_context(private_server(f"sqlite:///{place / 'troth.db'}", place))
        found = [Contender(TROTH, ours.address, SHAPES, ours)]
        for name, shapes in ((FILE, SHAPES), (FILE_AS_SHIPPED, (BUSY,)), (DB, (BUSY,))):
            found.append(Contender(name, stack.enter_context(seata(directory, name)).address, shapes))
        yield found


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `warm_s` is the load that each server gets before the first round."""

    rounds: int
    length: Length
    warm_s: float
    db_transactions: int = 2_000

    def length_for(self, name: str) -> Length:
        """The DB store is measured by a number of transactions: a window may see none of them answered."""
        return replace(self.length, transactions=self.db_transactions) if name == DB else self.length

    def __str__(self) -> str:
        warm = f"each server warmed by {self.warm_s:g} s of load at {BUSY}"
        db = f"DB store: {self.db_transactions:,} transactions"
        return f"{self.rounds} interleaved rounds, {self.length} ({db}); {warm}"


def measure_beside(generator: Generator, directory: Path, plan: Plan, tell: Callable[[str], None]) -> list[Measurement]:
    """Every round, every shape, every server that has it."""
    with contenders(directory) as servers:
        for server in servers:
            run = server.measure(generator, BUSY, Length(plan.warm_s, 0.0), 0)
            tell(f"warm-up {server.name:<18} {run.line()}")
        measurements = []
        for number in range(1, plan.rounds + 1):
            turned = number % len(SHAPES)
            for shape in SHAPES[turned:] + SHAPES[:turned]:
                for server in turned_by(number, [each for each in servers if shape in each.shapes]):
                    run = server.measure(generator, shape, plan.length_for(server.name), number)
                    tell(f"round {number}/{plan.rounds} {server.name:<18} {run.line()}")
                    measurements.append(run)
    return measurements


def turned_by(number: int, servers: list[Contender]) -> list[Contender]:
    """Each round another one begins."""
    first = number % len(servers)
    return servers[first:] + servers[:first]
