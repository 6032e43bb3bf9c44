"""Seata's own Java client as the load: what its TM and RM get out of troth, and out of their own server's file store.

One JVM a server, both warmed before the first round; in every round each loads its server once, the order turning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from beside_seata import FILE, TROTH, Plan, seata
from figures import Measurement, Shape
from generator import measured
from private_server import private_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "interop"))

from java_app import NEWEST, JavaApp, JavaError

__all__ = ["LOAD", "NEWEST", "JavaError", "measure_java"]

THREADS: Final = 64
ANSWERED_WITHIN_S: Final = 180.0
LOAD: Final = Shape(1, THREADS)
JVM: Final = ("-Xms512m", "-Xmx512m")
LIMITS: Final = MappingProxyType({"transport.rpcTmRequestTimeout": "30000", "transport.rpcRmRequestTimeout": "30000"})


@contextmanager
def clients(directory: Path) -> Iterator[dict[str, JavaApp]]:
    """A JVM for each of the two servers, which are started for it."""
    with ExitStack() as stack:
        place = directory / "java"
        place.mkdir()
        ours = stack.enter_context(private_server(f"sqlite:///{place / 'troth.db'}", place))
        theirs = stack.enter_context(seata(place, FILE))
        found = {}
        for name, address in ((TROTH, ours.address), (FILE, theirs.address)):
            settings = {**LIMITS, "org.slf4j.simpleLogger.defaultLogLevel": "warn"}
            app = JavaApp(address, place / f"{name}.log", application="load", jvm=JVM, settings=settings)
            stack.callback(app.close)
            found[name] = app
        yield found


def measure_java(directory: Path, plan: Plan, tell: Callable[[str], None]) -> list[Measurement]:
    """Every round, either server. Raises JavaError when a transaction did not commit or a phase two did not come."""
    with clients(directory) as apps:
        for name, app in apps.items():
            tell(f"warm-up Java {NEWEST} at {name:<10} {load(app, name, 0.0, plan.warm_s, 0).line()}")
        measurements = []
        for number in range(1, plan.rounds + 1):
            for name in sorted(apps, reverse=bool(number % 2)):
                run = load(apps[name], name, plan.length.warmup_s, plan.length.seconds, number)
                tell(f"round {number}/{plan.rounds} Java at {name:<10} {run.line()}")
                measurements.append(run)
    return measurements


def load(app: JavaApp, name: str, warmup_s: float, seconds: float, number: int) -> Measurement:
    """One run of all threads."""
    said = app.call("load", within_s=ANSWERED_WITHIN_S, threads=THREADS, warmup_s=warmup_s, seconds=seconds)
    return measured(said, LOAD, name, number, (None, None, None))
