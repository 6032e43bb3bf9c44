"""DTM transactions of two no-op branches over HTTP: how many a second, how long, at what CPU cost, and what they cost
beside the same three HTTP exchanges done bare.

Each round starts a coordinator on a fresh store and a bare relay (bench/bare_relay.py: the coordinator's own HTTP
server and client, no transaction), and runs every kind at every number in flight; client and branches are one Go
program, bench/dtm_load.

    .venv/bin/python bench/dtm.py                             # 7 rounds; some 6 minutes
    .venv/bin/python bench/dtm.py --rounds 2 --in-flight 16   # in short
    .venv/bin/python bench/dtm.py --base http://HOST:36789/api/dtmsvr --kind saga     # a server that runs already
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conditions import conditions
from figures import write_into
from private_server import PrivateServer, ServerFailed, cpu_seconds, end, private_server

HERE = Path(__file__).parent
KINDS = ("saga", "msg", "tcc")
BARE = "bare"
IN_FLIGHT = (1, 16, 64, 256)
AIM = 0.5


class LoadFailed(Exception):
    """The load met an answer that it must not; the text says which."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement. `cpu_us`: of the server (or relay), a transaction."""

    kind: str
    in_flight: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the load goes, and whose CPU it costs (0: not known)."""

    base: str
    pid: int


def build_load(directory: Path) -> Path:
    """Compile the load. Raises LoadFailed without Go."""
    go = shutil.which("go")
    if go is None:
        raise LoadFailed("there is no `go` on the PATH to compile bench/dtm_load with")
    binary = directory / "dtm_load"
    subprocess.run([go, "build", "-o", str(binary), "."], cwd=HERE / "dtm_load", check=True)
    return binary


def measure(load: Path, place: Place, kind: str, in_flight: int, seconds: float) -> Run:
    """One run of one kind. Raises LoadFailed."""
    command = [str(load), "--base", place.base, "--mode", kind, "--in-flight", str(in_flight)]
    command += ["--seconds", str(seconds), "--warmup-s", str(seconds / 4)]
    before = cpu_seconds(place.pid) if place.pid else 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed(f"{kind} at {place.base}: {done.stderr.strip()}")
    said = json.loads(done.stdout)
    spent = cpu_seconds(place.pid) - before if place.pid else 0.0
    return Run(kind, in_flight, said["per_second"], said["p50_ms"], said["p99_ms"], spent * 1e6 / said["total"])


@contextmanager
def relay(directory: Path) -> Iterator[Place]:
    """The bare relay, ended with the block."""
    command = [sys.executable, str(HERE / "bare_relay.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=directory)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise ServerFailed("the bare relay did not start")
        yield Place(f"http://127.0.0.1:{port}", process.pid)
    finally:
        end(process)


def door_of(server: PrivateServer) -> Place:
    """DTM's HTTP door of a private server."""
    return Place(f"http://127.0.0.1:{server.ready['dtm_http_port']}/api/dtmsvr", server.process.pid)


def measure_round(load: Path, options: argparse.Namespace, directory: Path, number: int) -> list[Run]:
    """Every kind and number in flight once; the order turns from round to round."""
    place = directory / f"round-{number}"
    place.mkdir()
    runs = []
    store = options.store if options.store != "sqlite" else f"sqlite:///{place / 'troth.db'}"
    with private_server(store, place, "--dtm-http-port", "0", "--dtm-grpc-port", "off") as server, relay(place) as bare:
        kinds = [BARE, *options.kind]
        turned = (number - 1) % len(kinds)
        for in_flight in options.in_flight:
            for kind in kinds[turned:] + kinds[:turned]:
                run = measure(load, bare if kind == BARE else door_of(server), kind, in_flight, options.seconds)
                print(
                    f"round {number}/{options.rounds} {kind:5}{in_flight:5} in flight: {run.per_second:7.0f}/s, "
                    f"p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms, {run.cpu_us:.0f} µs CPU each",
                    file=sys.stderr,
                    flush=True,
                )
                runs.append(run)
    return runs


def middle(values: list[float], digits: int = 0) -> str:
    """Median and spread."""
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def table(rounds: list[list[Run]]) -> str:
    """As Markdown: each kind beside the bare exchanges of the same round."""
    lines = [
        "| in flight | | a second | p50 ms | p99 ms | server CPU µs | beside bare |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    shapes = list(dict.fromkeys((run.in_flight, run.kind) for runs in rounds for run in runs))
    for in_flight, kind in sorted(shapes, key=lambda shape: (shape[0], (BARE, *KINDS).index(shape[1]))):
        of_kind = [run for runs in rounds for run in runs if (run.in_flight, run.kind) == (in_flight, kind)]
        bare = [run for runs in rounds for run in runs if (run.in_flight, run.kind) == (in_flight, BARE)]
        ratios = [one.per_second / two.per_second for one, two in zip(of_kind, bare, strict=True)]
        lines.append(
            f"| {in_flight} | {kind} | {middle([run.per_second for run in of_kind])} "
            f"| {middle([run.p50_ms for run in of_kind], 1)} | {middle([run.p99_ms for run in of_kind], 1)} "
            f"| {middle([run.cpu_us for run in of_kind])} | {'' if kind == BARE else '× ' + middle(ratios, 2)} |"
        )
    return "\n".join(lines)


def with_conditions(text: str, options: argparse.Namespace, directory: Path) -> str:
    """The table, what was aimed at, and the conditions."""
    store = "sqlite, WAL, synchronous=FULL, a fresh file each round" if options.store == "sqlite" else options.store
    facts = conditions(directory, store, "bench/dtm_load (Go): client and branches in one process")
    facts["Runs"] = f"{options.rounds} interleaved rounds, {options.seconds:g} s each after a quarter of that"
    facts["Command"] = "`bench/dtm.py`"
    aim = f"Aim: a saga ≥ {AIM} × the bare exchanges."
    return "\n".join([text, "", aim, "", *(f"- {name}: {fact}" for name, fact in facts.items())])


def bench(options: argparse.Namespace) -> None:
    """Measure, print, and write into the page if asked to."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-") as temporary:
        directory = Path(temporary)
        load = build_load(directory)
        if options.base:
            for in_flight in options.in_flight:
                for kind in options.kind:
                    print(measure(load, Place(options.base, 0), kind, in_flight, options.seconds))
            return
        rounds = [measure_round(load, options, directory, number) for number in range(1, options.rounds + 1)]
        text = with_conditions(table(rounds), options, directory)
    print(text)
    if options.write:
        write_into(options.write, text, "dtm")


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds over everything (default 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=list(IN_FLIGHT))
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--store", default="sqlite", help="sqlite, or a store's URL such as memory://")
    parser.add_argument("--base", help="measure this server (its /api/dtmsvr) instead, without bare exchanges")
    parser.add_argument("--write", type=Path, help="also write the table into this page")
    try:
        bench(parser.parse_args())
    except (LoadFailed, ServerFailed, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
