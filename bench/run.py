"""How many transactions a second, and how long each takes: `troth serve` under load, on this machine.

Every round starts a coordinator of its own on a fresh store and runs every shape (connections x in flight) once; the
order of the shapes turns from round to round, so that a machine that gets slower does not favour one. Printed are the
median and the spread (min-max) over the rounds, and the conditions without which they mean nothing. A transaction is
begin, one AT branch with two row locks, commit; phase two is answered at once. Nothing is written unless --write is
given.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conditions import conditions
from figures import Measurement, Shape, as_markdown, as_text, rows, write_into
from private_server import PrivateServer, ServerFailed, private_server

HERE = Path(__file__).parent
SHAPES = (Shape(1, 1), Shape(8, 8), Shape(8, 32), Shape(64, 1))


class LoadFailed(Exception):
    """The generator saw something it must never see; the text says what."""


@dataclass(frozen=True, slots=True)
class Generator:
    """The program that makes the load, and what it is."""

    command: tuple[str, ...]
    version: str


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


def generate(generator: Generator, address: str, shape: Shape, options: argparse.Namespace) -> dict[str, float]:
    """Run the generator once and give its report. Raises LoadFailed when it counted an error."""
    command = [*generator.command, "--addr", address, "--json", "--warmup-s", str(options.warmup_s)]
    command += ["--connections", str(shape.connections), "--in-flight", str(shape.in_flight)]
    if options.transactions:
        command += ["--transactions", str(options.transactions)]
    else:
        command += ["--seconds", str(options.seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{shape}: the generator ended with status {done.returncode}\n{done.stdout}")
    said: dict[str, float] = json.loads(done.stdout)
    return said


def measure(
    generator: Generator, server: PrivateServer | str, shape: Shape, options: argparse.Namespace
) -> Measurement:
    """One run: the generator's figures, and for a server of our own the store commits it took."""
    if isinstance(server, str):
        said, store_commits, shared, cpu_us = generate(generator, server, shape, options), None, None, None
    else:
        before = server.counts()
        said = generate(generator, server.address, shape, options)
        after = server.counts_at(before.committed + int(said["committed_total"]))
        store_commits = after.store_commits - before.store_commits
        shared = round(said["committed_total"] / store_commits, 2) if store_commits else None
        cpu_us = round((after.cpu_s - before.cpu_s) * 1e6 / said["committed_total"], 1) if after.cpu_s else None
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
    )


@contextmanager
def coordinator(options: argparse.Namespace, directory: Path, number: int) -> Iterator[PrivateServer | str]:
    """The coordinator of one round: the one that --addr names, or a fresh one."""
    if options.addr:
        yield options.addr
        return
    place = directory / f"round-{number}"
    place.mkdir()
    store = f"sqlite:///{place / 'troth.db'}" if options.store == "sqlite" else options.store
    with private_server(store, place) as server:
        yield server
    shutil.rmtree(place)


def measure_all(
    generator: Generator, options: argparse.Namespace, directory: Path, tell: Callable[[str], None]
) -> list[Measurement]:
    """All rounds, interleaved: the shapes of a round follow each other, each round starting with another one."""
    shapes: tuple[Shape, ...] = tuple(options.shape) or SHAPES
    measurements = []
    for number in range(options.rounds):
        turned = number % len(shapes)
        with coordinator(options, directory, number) as server:
            for shape in shapes[turned:] + shapes[:turned]:
                measurement = measure(generator, server, shape, options)
                tell(f"round {number + 1}/{options.rounds} {measurement.line()}")
                measurements.append(measurement)
    return measurements


def bench(options: argparse.Namespace) -> None:
    """Measure, print, and write into the docs if asked to."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-", dir=options.directory) as temporary:
        directory = Path(temporary)
        generator = build_generator(options.generator, directory)
        store = f"unknown: the coordinator at {options.addr}" if options.addr else store_text(options.store)
        facts = conditions(directory, store, generator.version)
        facts["Runs"] = runs_text(options)
        measurements = measure_all(generator, options, directory, lambda text: print(text, file=sys.stderr, flush=True))
    table = rows(measurements)
    if options.json:
        print(json.dumps({"conditions": facts, "measurements": [m.as_json() for m in measurements]}))
    else:
        print("\n" + as_text(table) + "\n")
        print("\n".join(f"{name + ':':<13}{fact}" for name, fact in facts.items()))
    if options.write:
        write_into(options.write, as_markdown(table, facts))
        print(f"written into {options.write}", file=sys.stderr)


def store_text(store: str) -> str:
    """How the conditions name the store."""
    return "sqlite, WAL, synchronous=FULL, a fresh file each round" if store == "sqlite" else store


def runs_text(options: argparse.Namespace) -> str:
    """How the conditions name the length of the runs."""
    length = f"{options.transactions} transactions" if options.transactions else f"{options.seconds:g} s"
    return f"{options.rounds} interleaved rounds, {length} each after {options.warmup_s:g} s of warm-up"


def shape(text: str) -> Shape:
    """A shape from the command line."""
    try:
        return Shape.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not CONNECTIONSxINFLIGHT, such as 8x32") from None


def parse(args: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all shapes (default 7)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured seconds of each run (default 4)")
    parser.add_argument("--transactions", type=int, default=0, metavar="N", help="measure N transactions a run instead")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="seconds of load before each run (default 1)")
    parser.add_argument(
        "--shape",
        type=shape,
        action="append",
        default=[],
        metavar="CxF",
        help="connections x in flight, such as 8x32; may be repeated (default 1x1 8x8 8x32 64x1)",
    )
    parser.add_argument(
        "--store", default="sqlite", metavar="URL", help="`sqlite`: a fresh file each round (default), or memory://"
    )
    parser.add_argument("--directory", type=Path, help="where the temporary databases lie (default: the system's)")
    parser.add_argument("--addr", metavar="HOST:PORT", help="measure a running coordinator, such as a Seata server")
    parser.add_argument(
        "--generator",
        choices=("auto", "go", "python"),
        default="auto",
        help="auto (default) compiles bench/load with Go if there is a Go, else takes bench/load.py",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put table and conditions into docs/benchmarks.md")
    parser.add_argument("--json", action="store_true", help="print every single run as one JSON object")
    options = parser.parse_args(args)
    if options.rounds < 1 or options.seconds <= 0 or options.transactions < 0 or options.warmup_s < 0:
        parser.error("--rounds and --seconds must be positive, --transactions and --warmup-s not negative")
    return options


def main() -> int:
    """Exit status: 0 measured, 1 something was not as it must be, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated bench ends its server too
    try:
        bench(parse(sys.argv[1:]))
    except (LoadFailed, ServerFailed, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench/run.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
