"""Runs seeds of the simulated world, and says what happened.

python -m troth.testing.simulator --seeds 2000 --seconds 120
python -m troth.testing.simulator --seed 4711          # one seed again, with its timeline
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context

from troth.testing.loop import Stuck, VirtualLoop, run_virtually
from troth.testing.nemesis import storm
from troth.testing.weather import BY_ITSELF, RATES
from troth.testing.world import Moment, Options, World, rows_of_table

_ENOUGH_FOR_ZEROES = 400
"""From so many seeds on, a fault that never struck or an arrow never taken is a failure of the run itself."""

_SEEDS_PER_JOB = 8


@dataclass(frozen=True, slots=True)
class Report:
    """How one seed went. `digest` is of the whole timeline: equal for equal runs."""

    seed: int
    options: Options
    complaints: tuple[str, ...]
    faults: Counter[str]
    looked: Counter[str]
    rows_taken: Counter[str]
    transactions: int
    virtual_s: float
    timeline: tuple[Moment, ...]

    @property
    def digest(self) -> str:
        text = "\n".join(f"{line.at_s:.6f} {line.who} {line.what}" for line in self.timeline)
        return hashlib.sha256(text.encode()).hexdigest()


def simulate(seed: int, options: Options | None = None) -> Report:
    """One run. Whatever is wrong is in `complaints`."""
    chosen = options or Options()
    worlds: list[World] = []

    async def main(loop: VirtualLoop) -> None:
        world = World(loop, seed, chosen)
        worlds.append(world)
        await world.run(storm)

    stuck = None
    try:
        run_virtually(main)
    except Stuck as error:
        stuck = f"liveness: {error}"
    world = worlds[0]
    return Report(
        seed,
        chosen,
        tuple(world.complaints if stuck is None else [*world.complaints, stuck]),
        world.weather.struck,
        Counter({checker.name: checker.looked for checker in world.checkers}),
        world.rows_taken,
        len(world.ledger.entries),
        world.loop.time(),
        tuple(world.timeline),
    )


@dataclass(slots=True)
class Batch:
    """What many seeds add up to."""

    seeds: int = 0
    transactions: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    looked: Counter[str] = field(default_factory=Counter)
    rows_taken: Counter[str] = field(default_factory=Counter)
    failed: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """One more."""
        self.seeds += 1
        self.transactions += report.transactions
        self.virtual_s += report.virtual_s
        self.faults += report.faults
        self.looked += report.looked
        self.rows_taken += report.rows_taken
        if report.complaints:
            self.failed.append(report)

    def merge(self, other: Batch) -> None:
        """All of another batch, too."""
        self.seeds += other.seeds
        self.transactions += other.transactions
        self.virtual_s += other.virtual_s
        self.faults += other.faults
        self.looked += other.looked
        self.rows_taken += other.rows_taken
        self.failed += other.failed

    def zeroes(self) -> list[str]:
        """What this batch has not seen at all, although it should have."""
        faults = [f"fault never struck: {name}" for name in (*RATES, *BY_ITSELF) if not self.faults[name]]
        rows = [f"transition never taken: {row}" for row in sorted(rows_of_table() - self.rows_taken.keys())]
        looks = [f"checker never looked: {name}" for name, count in self.looked.items() if not count]
        return faults + rows + looks

    def lines(self) -> list[str]:
        """For people."""
        taken = len(rows_of_table() & self.rows_taken.keys())
        text = [f"{self.faults[name]:9} x {name}" for name in (*RATES, *BY_ITSELF)]
        text += [f"{count:9} looks of {name}" for name, count in self.looked.items()]
        text.append(f"{taken} of {len(rows_of_table())} transitions taken")
        text.append(
            f"{self.seeds} seeds, {self.transactions} transactions, {self.virtual_s / 3600:.1f} virtual hours, "
            f"{len(self.failed)} failed"
        )
        return text


def run_seeds(
    first: int, count: int, seconds: float, options: Options | None = None, stop_at: int = 5, jobs: int = 1
) -> Batch:
    """Seeds from `first` on, until `count` are done, the time is over, or `stop_at` have failed; in `jobs` processes.

    Each seed is the same run whichever process has it; with several jobs the failed reports are without timelines.
    """
    batch = Batch()
    end_s = time.monotonic() + seconds
    if jobs > 1:
        _run_in_processes(batch, _slices(first, count), end_s, options, stop_at, jobs)
        return batch
    for seed in range(first, first + count):
        batch.add(simulate(seed, options))
        if time.monotonic() >= end_s or len(batch.failed) >= stop_at:
            break
    return batch


def _slices(first: int, count: int) -> Iterator[range]:
    end = first + count
    return (range(start, min(start + _SEEDS_PER_JOB, end)) for start in range(first, end, _SEEDS_PER_JOB))


def _run_in_processes(
    batch: Batch, slices: Iterator[range], end_s: float, options: Options | None, stop_at: int, jobs: int
) -> None:
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_be_quiet) as pool:
        out: set[Future[Batch]] = {pool.submit(_run_slice, seeds, options) for seeds in islice(slices, 2 * jobs)}
        while out:
            done, out = wait(out, return_when=FIRST_COMPLETED)
            for future in done:
                batch.merge(future.result())
            if time.monotonic() < end_s and len(batch.failed) < stop_at:
                out |= {pool.submit(_run_slice, seeds, options) for seeds in islice(slices, len(done))}


def _run_slice(seeds: range, options: Options | None) -> Batch:
    batch = Batch()
    for seed in seeds:
        batch.add(simulate(seed, options))
    batch.failed = [replace(report, timeline=()) for report in batch.failed]
    return batch


def _be_quiet() -> None:
    """The coordinator says much about its deaths."""
    logging.disable(logging.CRITICAL)


def describe(report: Report) -> list[str]:
    """A failed seed, and how to see it again."""
    lines = [f"seed {report.seed} FAILED", *(f"  {complaint}" for complaint in report.complaints)]
    violence = "" if report.options == Options() else f" --violence {report.options.violence}"
    return [*lines, f"  again: python -m troth.testing.simulator --seed {report.seed}{violence}"]


def timeline(report: Report) -> list[str]:
    """Every line of a run."""
    return [f"{line.at_s:9.4f}  {line.who:12} {line.what}" for line in report.timeline]


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m troth.testing.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, help="run this one and print its timeline")
    parser.add_argument("--seeds", type=int, default=2000, help="run so many")
    parser.add_argument("--first", type=int, default=1, help="from this one on")
    parser.add_argument("--seconds", type=float, default=120.0, help="but no longer than this")
    parser.add_argument("--jobs", type=int, default=1, help="in so many processes")
    parser.add_argument("--failures", type=int, default=5, help="stop when so many have failed")
    parser.add_argument(
        "--judge-zeroes", choices=("yes", "no"), default="yes", help="whether a fault that never struck is a failure"
    )
    parser.add_argument("--grep", default="", help="with --seed: only lines with this text, and the faults")
    parser.add_argument("--violence", type=float, default=1.0, help="how likely faults are, 0 for none")
    chosen = parser.parse_args(arguments)
    _be_quiet()
    options = Options(violence=chosen.violence)
    if chosen.seed is not None:
        report = simulate(chosen.seed, options)
        kept = [line for line in timeline(report) if chosen.grep in line or "WRONG" in line or "  !  " in line]
        _print(kept, [f"digest {report.digest}"], describe(report) if report.complaints else ["nothing wrong"])
        return 1 if report.complaints else 0
    batch = run_seeds(chosen.first, chosen.seeds, chosen.seconds, options, chosen.failures, chosen.jobs)
    enough = batch.seeds >= _ENOUGH_FOR_ZEROES and chosen.judge_zeroes == "yes"
    zeroes = batch.zeroes() if enough else []
    _print(batch.lines(), zeroes, *(describe(report) for report in batch.failed))
    return 1 if batch.failed or zeroes else 0


def _print(*groups: list[str]) -> None:
    for group in groups:
        for line in group:
            print(line)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
