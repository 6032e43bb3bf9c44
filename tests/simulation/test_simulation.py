"""Seeds of the simulated world: nothing wrong in any, every fault struck, every arrow of the table taken."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest

from troth.testing.simulator import Batch, describe, main, run_seeds, simulate, timeline
from troth.testing.weather import BY_ITSELF
from troth.testing.world import Options

CI_SEEDS = 2_000
CI_SECONDS = 45.0
JOBS = os.cpu_count() or 1
SOAK_SEEDS = int(os.environ.get("TROTH_SOAK_SEEDS", "100000"))
SOAK_HOURS = 3
ENOUGH_FOR_ZEROES = 400


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The coordinator says much about its deaths."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def judge(batch: Batch) -> None:
    print(*batch.lines(), sep="\n")
    assert not batch.failed, "\n".join(line for report in batch.failed for line in describe(report))
    if batch.seeds >= ENOUGH_FOR_ZEROES:
        assert not batch.zeroes()


def test_a_few_seeds() -> None:
    judge(run_seeds(1, 12, seconds=20.0))


def test_a_seed_is_always_the_same_run() -> None:
    one, other = simulate(7), simulate(7)
    assert one.digest == other.digest
    assert one.digest != simulate(8).digest


def test_without_faults_every_transaction_is_told_its_outcome() -> None:
    report = simulate(3, Options(violence=0.0, tasks=0))
    assert not report.complaints
    assert not {name for name, count in report.faults.items() if count} - set(BY_ITSELF)
    told = [line for line in timeline(report) if "concludes that" in line]
    assert len(told) == report.transactions


def test_without_faults_every_saga_message_and_run_is_committed_or_was_meant_to_be_rolled_back() -> None:
    report = simulate(3, Options(violence=0.0, purchases=0, tasks=20))
    assert not report.complaints
    assert report.looked["steps"] > 100
    assert report.rows_taken["forward --Ran--> committing"] > 5
    assert not report.rows_taken["forward --Answered[refused]--> rolling-back"]


def test_a_seed_replays_with_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert f"digest {simulate(7).digest}" in printed
    assert "GlobalBeginRequest" in printed


def test_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--seconds", "20"]) == 0
    printed = capsys.readouterr().out
    assert "3 seeds, " in printed
    assert " x message delayed" in printed
    assert " looks of atomicity" in printed


def test_seeds_are_the_same_in_several_processes() -> None:
    alone, shared = run_seeds(1, 10, 60.0), run_seeds(1, 10, 60.0, jobs=2)
    assert (alone.seeds, alone.faults, alone.looked) == (shared.seeds, shared.faults, shared.looked)


@pytest.mark.engines
def test_many_seeds() -> None:
    first = random.SystemRandom().randrange(1, 1_000_000)
    print(f"seeds from {first} on")
    judge(run_seeds(first, CI_SEEDS, CI_SECONDS, jobs=JOBS))


@pytest.mark.soak
def test_very_many_seeds() -> None:
    first = random.SystemRandom().randrange(1_000_000, 2_000_000_000)
    print(f"seeds from {first} on")
    judge(run_seeds(first, SOAK_SEEDS, SOAK_HOURS * 3600, jobs=JOBS))
