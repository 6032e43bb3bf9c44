"""How many transactions a second, and how long each takes: `troth serve` under load, on this machine.

Without --seata, --java, --at or --all: troth alone. Every round starts a coordinator of its own on a fresh store and
runs every shape (connections x in flight) once; the order of the shapes turns from round to round, so that a machine
that gets slower does not favour one. Printed are the median and the spread (min-max) over the rounds, and the
conditions without which they mean nothing. A transaction is begin, one AT branch with two row locks, commit; phase two
is answered at once.

With --seata beside real Seata servers, with --java under Seata's own Java client, with --at what AT costs on each
database; --all is everything, and what `make bench` runs. Nothing is written unless --write is given.
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
from pathlib import Path

from conditions import conditions
from figures import Measurement, Shape, as_text, rows
from generator import Generator, Length, LoadFailed, build_generator, measure, measure_from_outside
from java_load import JavaError
from page import Section, alone
from parts import FULL, PARTS, QUICK
from private_server import PrivateServer, ServerFailed, private_server

from troth.demo.servers.plan import ServersMissing

SHAPES = (Shape(1, 1), Shape(8, 8), Shape(8, 32), Shape(64, 1))
FAILURES = (LoadFailed, ServerFailed, ServersMissing, JavaError, ValueError, OSError, subprocess.SubprocessError)


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


def measure_alone(
    generator: Generator, options: argparse.Namespace, directory: Path, tell: Callable[[str], None]
) -> list[Measurement]:
    """All rounds, interleaved: the shapes of a round follow each other, each round starting with another one."""
    shapes: tuple[Shape, ...] = tuple(options.shape) or SHAPES
    length = Length(options.seconds, options.warmup_s, options.transactions)
    measurements = []
    for number in range(1, options.rounds + 1):
        turned = (number - 1) % len(shapes)
        with coordinator(options, directory, number) as server:
            for shape in shapes[turned:] + shapes[:turned]:
                if isinstance(server, str):
                    run = measure_from_outside(generator, server, server, shape, length, number)
                else:
                    run = measure(generator, server, shape, length, number)
                tell(f"round {number}/{options.rounds} {run.line()}")
                measurements.append(run)
    return measurements


def tell(text: str) -> None:
    """To whoever watches."""
    print(text, file=sys.stderr, flush=True)


def bench_alone(options: argparse.Namespace, generator: Generator, directory: Path) -> None:
    """troth alone: measure, print, and write into the docs if asked to."""
    store = f"unknown: the coordinator at {options.addr}" if options.addr else store_text(options.store)
    facts = conditions(directory, store, generator.version)
    length = Length(options.seconds, options.warmup_s, options.transactions)
    facts["Runs"] = f"{options.rounds} interleaved rounds, {length}"
    measurements = measure_alone(generator, options, directory, tell)
    if options.json:
        print(json.dumps({"conditions": facts, "measurements": [m.as_json() for m in measurements]}))
    else:
        print("\n" + as_text(rows(measurements)) + "\n")
        print("\n".join(f"{name + ':':<13}{fact}" for name, fact in facts.items()))
    if options.write:
        alone(measurements, facts).write(options.write)
        tell(f"written into {options.write}")


def bench_parts(options: argparse.Namespace, generator: Generator, directory: Path) -> None:
    """What --seata, --java and --at ask for; each part is printed, and written if asked to, as soon as it is there."""
    measured: dict[str, list[dict[str, object]]] = {}
    for name in wanted_parts(options):
        part = PARTS[name](generator, directory, QUICK if options.quick else FULL, tell)
        measured[name] = part.measured
        for section in part.sections:
            show(section, options)
    if options.json:
        print(json.dumps(measured))


def wanted_parts(options: argparse.Namespace) -> list[str]:
    """Those that are named, or all of them."""
    named = [name for name in PARTS if getattr(options, name)]
    return list(PARTS) if options.all or (options.quick and not named) else named


def show(section: Section, options: argparse.Namespace) -> None:
    """Print a section, and write it."""
    if not options.json:
        print("\n" + section.text, flush=True)
    if options.write:
        section.write(options.write)
        tell(f"{section.name}: written into {options.write}")


def bench(options: argparse.Namespace) -> None:
    """Measure in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-", dir=options.directory) as temporary:
        directory = Path(temporary)
        generator = build_generator(options.generator, directory)
        if wanted_parts(options):
            bench_parts(options, generator, directory)
        else:
            bench_alone(options, generator, directory)


def store_text(store: str) -> str:
    """How the conditions name the store."""
    return "sqlite, WAL, synchronous=FULL, a fresh file each round" if store == "sqlite" else store


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
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"{part.__doc__} (its lengths are its own)")
    parser.add_argument("--all", action="store_true", help="all of these")
    parser.add_argument("--quick", action="store_true", help="the same in short, to see that it works: no figures")
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
    if options.quick and options.write:
        parser.error("--quick gives no figures worth writing")
    if options.rounds < 1 or options.seconds <= 0 or options.transactions < 0 or options.warmup_s < 0:
        parser.error("--rounds and --seconds must be positive, --transactions and --warmup-s not negative")
    return options


def main() -> int:
    """Exit status: 0 measured, 1 something was not as it must be, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated bench ends its server too
    try:
        bench(parse(sys.argv[1:]))
    except (
        LoadFailed,
        ServerFailed,
        ServersMissing,
        JavaError,
        ValueError,
        OSError,
        subprocess.SubprocessError,
    ) as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench/run.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
