"""The parts of `make bench`: each measures one thing in interleaved rounds, and gives its tables and pictures."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import page
from at_cost import measure_at
from beside_seata import AS_SHIPPED, TROTH, Plan, measure_beside
from conditions import conditions
from generator import Generator, Length
from java_load import JVM, NEWEST, THREADS, measure_java

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each part is. `at_rounds` blocks are made of about `at_block_s` seconds of plain transactions."""

    seata: Plan
    java: Plan
    at_rounds: int
    at_block_s: float


FULL: Final = Lengths(Plan(7, Length(2.0, 0.5), 15.0), Plan(7, Length(3.0, 0.5), 15.0), 21, 0.2)
QUICK: Final = Lengths(Plan(2, Length(1.0, 0.2), 10.0, 500), Plan(2, Length(1.0, 0.2), 5.0), 3, 0.05)


@dataclass(frozen=True, slots=True)
class Part:
    """What one part says, and every single figure behind it."""

    sections: list[page.Section]
    measured: list[dict[str, object]]


def seata(generator: Generator, directory: Path, lengths: Lengths, tell: Tell) -> Part:
    """troth beside real Seata servers, in file mode and in DB mode"""
    store = "sqlite, WAL, synchronous=FULL, one file for the whole run"
    facts = conditions(directory, store, generator.version)
    facts["Seata"] = f"2.0.0, {jvm_text(AS_SHIPPED)}; file store with its default, flush-disk-mode=async (no fsync)"
    facts["Seata's DB"] = "MariaDB of its own, innodb_flush_log_at_trx_commit=1, pool of 2 to 20"
    facts["Seata's log"] = "WARN (quiet), or as shipped: some eight lines a transaction, to stdout and to a file"
    facts["Runs"] = str(lengths.seata)
    facts["Command"] = "`bench/run.py --seata`"
    measurements = measure_beside(generator, directory, lengths.seata, tell)
    ours = [run for run in measurements if run.server == TROTH]
    sections = [page.beside(measurements, facts), page.alone(ours, facts)]
    return Part(sections, [run.as_json() for run in measurements])


def java(generator: Generator, directory: Path, lengths: Lengths, tell: Tell) -> Part:
    """Seata's own Java client as the load, on troth and on Seata's file store"""
    load = f"seata-all {NEWEST}, {THREADS} threads of one JVM ({jvm_text(JVM)}), no database behind the branches"
    facts = conditions(directory, "sqlite, WAL, synchronous=FULL, one file for the whole run", load)
    facts["Seata"] = f"2.0.0, {jvm_text(AS_SHIPPED)}; file store, no fsync, log at WARN"
    facts["Runs"] = f"{lengths.java.rounds} interleaved rounds, {lengths.java.length}; " + (
        f"each pair of client and server warmed by {lengths.java.warm_s:g} s of the same load"
    )
    facts["Command"] = "`bench/run.py --java`"
    measurements = measure_java(directory, lengths.java, tell)
    return Part([page.java(measurements, facts)], [run.as_json() for run in measurements])


def at(_generator: Generator, directory: Path, lengths: Lengths, tell: Tell) -> Part:
    """what AT costs a local transaction, on SQLite, PostgreSQL and MariaDB"""
    facts = dict(conditions(directory, "sqlite", "one thread of this process, one connection each way"))
    del facts["Store"]
    facts["Durability"] = (
        "SQLite synchronous=FULL; PostgreSQL synchronous_commit=on;"
        " MariaDB innodb_flush_log_at_trx_commit=1, sync_binlog=1"
    )
    facts["Runs"] = f"{lengths.at_rounds} interleaved rounds; a figure is the median of a block's transactions"
    facts["Command"] = "`bench/run.py --at`"
    costs = measure_at(directory, lengths.at_rounds, lengths.at_block_s, tell)
    return Part([page.at(costs, facts)], [asdict(cost) for cost in costs])


def jvm_text(options: tuple[str, ...]) -> str:
    """Which JVM, with which options."""
    program = shutil.which("java") or "java"
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    return f"{told.splitlines()[0] if told else 'no JVM'}, {' '.join(options)}"


PARTS: Final[Mapping[str, Callable[[Generator, Path, Lengths, Tell], Part]]] = MappingProxyType(
    {"seata": seata, "java": java, "at": at}
)
