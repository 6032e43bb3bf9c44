"""The program that makes the load: compiled once a run, started once a measurement."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from figures import Measurement, Shape
from private_server import PrivateServer

HERE = Path(__file__).parent


class LoadFailed(Exception):
    """The generator saw something it must never see; the text says what."""


@dataclass(frozen=True, slots=True)
class Generator:
    """The program that makes the load, and what it is."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Length:
    """How long a measurement is: `transactions` if that is not 0, else `seconds`; and the load before it."""

    seconds: float
    warmup_s: float
    transactions: int = 0

    def __str__(self) -> str:
        measured = f"{self.transactions} transactions" if self.transactions else f"{self.seconds:g} s"
        return f"{measured} each after {self.warmup_s:g} s of the same load"


def build_generator(wanted: str, directory: Path) -> Generator:
    """Compile the Go generator into `directory`, or take the Python one."""
    go = shutil.which("go")
    if wanted == "python" or (wanted == "auto" and go is None):
        return Generator((sys.executable, str(HERE / "load.py")), "bench/load.py (Python: often the limit itself)")
    if go is None:
        raise LoadFailed("there is no `go` on the PATH to compile bench/load with; try --generator python")
    binary = directory / "load"
    subprocess.run([go, "build", "-o", str(binary), "."], cwd=HERE / "load", check=True)
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    return Generator((str(binary),), f"bench/load ({version})")


def generate(generator: Generator, address: str, shape: Shape, length: Length) -> dict[str, float]:
    """Run the generator once and give its report. Raises LoadFailed when it counted an error."""
    command = [*generator.command, "--addr", address, "--json", "--warmup-s", str(length.warmup_s)]
    command += ["--connections", str(shape.connections), "--in-flight", str(shape.in_flight)]
    if length.transactions:
        command += ["--transactions", str(length.transactions)]
    else:
        command += ["--seconds", str(length.seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{shape} at {address}: the generator ended with status {done.returncode}\n{done.stdout}")
    said: dict[str, float] = json.loads(done.stdout)
    return said


def measure(generator: Generator, server: PrivateServer, shape: Shape, length: Length, number: int) -> Measurement:
    """One run against a `troth serve` of our own: the generator's figures, and the store commits and CPU it took."""
    before = server.counts()
    said = generate(generator, server.address, shape, length)
    after = server.counts_at(before.committed + int(said["committed_total"]))
    store_commits = after.store_commits - before.store_commits
    shared = round(said["committed_total"] / store_commits, 2) if store_commits else None
    cpu_us = round((after.cpu_s - before.cpu_s) * 1e6 / said["committed_total"], 1) if after.cpu_s else None
    return measured(said, shape, "troth", number, (store_commits, shared, cpu_us))


def measure_from_outside(
    generator: Generator, name: str, address: str, shape: Shape, length: Length, number: int
) -> Measurement:
    """One run against a server that only the generator can look at."""
    return measured(generate(generator, address, shape, length), shape, name, number, (None, None, None))


def measured(
    said: dict[str, float],
    shape: Shape,
    server: str,
    number: int,
    inside: tuple[int | None, float | None, float | None],
) -> Measurement:
    """The generator's report as a measurement; `inside` is what the server itself counted."""
    store_commits, shared, cpu_us = inside
    return Measurement(
        shape=shape,
        transactions=int(said["transactions"]),
        tx_per_s=said["tx_per_s"],
        whole_per_s=said["whole_per_s"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        max_ms=said["max_ms"],
        store_commits=store_commits,
        tx_per_store_commit=shared,
        server_cpu_us_per_tx=cpu_us,
        server=server,
        round=number,
    )
