"""Breaks the coordinator in every listed way, one at a time: some seed of the simulated world must see each.

python -m troth.testing.mutations                     # all of them; a survivor makes the exit status 1
python -m troth.testing.mutations --list
python -m troth.testing.mutations --sample 3 --seed 7 # three, drawn by that seed
python -m troth.testing.mutations "answers before the write"
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import troth
from troth.testing.mutation_list import MUTATIONS, Mutation

PACKAGE = Path(troth.__file__).parent
MOST_SEEDS = 1000
MOST_SECONDS = 300.0
WRONG_USE = 2


class NotInTheCode(Exception):
    """The text that a mutation replaces is not there, or there more than once."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The first seed that fails with a mutation, and its first complaint; seed None: no seed can even start."""

    seed: int | None
    complaint: str

    def __str__(self) -> str:
        return f"{'import' if self.seed is None else f'seed {self.seed}'}: {self.complaint}"


def places(mutation: Mutation) -> int:
    """How often the text that is to be replaced stands in the code; anything but 1 is a mistake in the list."""
    return (PACKAGE / mutation.path).read_text(encoding="utf-8").count(mutation.old)


def mutated(mutation: Mutation, folder: Path) -> None:
    """Put a copy of the package into `folder`, with this one thing wrong. Raises NotInTheCode."""
    if places(mutation) != 1:
        raise NotInTheCode(f"{mutation.name}: {places(mutation)} places in {mutation.path} look like the old text")
    shutil.copytree(PACKAGE, folder / "troth", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "troth" / mutation.path
    path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")


def seed_that_sees(mutation: Mutation, *, seeds: int = MOST_SEEDS, seconds: float = MOST_SECONDS) -> Seen | None:
    """Run the simulation with the mutation until a seed complains; None: it has survived them all."""
    with tempfile.TemporaryDirectory() as folder:
        mutated(mutation, Path(folder))
        run = subprocess.run(
            [
                *(sys.executable, "-m", "troth.testing.simulator", "--failures", "1", "--judge-zeroes", "no"),
                *("--seeds", str(seeds), "--seconds", str(seconds)),
            ],
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"seed (\d+) FAILED\n  (.*)", run.stdout)
    if found is not None:
        return Seen(int(found[1]), found[2])
    if run.returncode != 0:
        return Seen(None, run.stderr.strip().splitlines()[-1])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. The exit status: 0 if each was seen, 1 if one survived, 2 for wrong options."""
    parser = argparse.ArgumentParser(prog="python -m troth.testing.mutations", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them, drawn by --seed")
    parser.add_argument("--seed", type=int, help="of the draw [a random one, printed]")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        parser.error(f"not in the list: {', '.join(sorted(unknown))}")
    picked = [mutation for mutation in MUTATIONS if not chosen.names or mutation.name in chosen.names]
    if chosen.list:
        _print(*(mutation.name for mutation in picked))
        return 0
    if chosen.sample is not None:
        seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
        _print(f"--sample {chosen.sample} --seed {seed}")
        picked = random.Random(seed).sample(picked, min(chosen.sample, len(picked)))
    survivors = [mutation.name for mutation in picked if not _is_seen(mutation)]
    _print(f"{len(picked)} mutations, {len(survivors)} survivors", *survivors)
    return 1 if survivors else 0


def _is_seen(mutation: Mutation) -> bool:
    started_s = time.monotonic()
    seen = seed_that_sees(mutation)
    verdict = "SURVIVES" if seen is None else str(seen)[:110]
    _print(f"{mutation.name:66} {time.monotonic() - started_s:5.1f} s  {verdict}")
    return seen is not None


def _print(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - this is a command


if __name__ == "__main__":
    sys.exit(main())
