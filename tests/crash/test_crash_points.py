"""SIGKILL at every named point of coordinator, RM and TM: what was answered is kept, all or nothing, nothing is left.

TROTH_CRASH_SEED=4711 repeats a drawn sample; a single point is run by
`pytest -m soak "tests/crash/test_crash_points.py::test_at_every_point[tc.begin.after-write]"`.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash_bank import Bank
from crash_outcomes import OUTCOMES, outcome_of
from crash_processes import (
    CrashingCoordinator,
    Program,
    Standing,
    counted,
    finished,
    judge,
    let_end,
    make_standing,
    new_coordinator_on,
)
from crash_stores import PostgresGround

from troth.demo.servers.private import PrivateServer
from troth.testing.crash.point import Role
from troth.testing.crash.points import POINTS

pytestmark = pytest.mark.engines


SAMPLE = 2
AT_TC = tuple(point.name for point in POINTS.values() if point.role is Role.TC)
ELSEWHERE = tuple(point.name for point in POINTS.values() if point.role is not Role.TC)
PATIENT_MS = 20_000
"""Timeout of the program's transactions where the coordinator dies: it must be longer than a restart takes."""
HASTY_MS = 4_000
"""Where the program itself dies and nobody else will end what it had begun."""
AT_START = frozenset(name for name in POINTS if name.startswith("tc.recovery."))
AT_STOP = frozenset(name for name in POINTS if name.startswith("tc.stop."))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("standing")
    make_standing(directory)
    return directory


@pytest.fixture
def coordinator(standing: Path, tmp_path: Path) -> Iterator[tuple[CrashingCoordinator, Standing]]:
    made = new_coordinator_on(standing, tmp_path / "coordinator")
    yield made
    made[0].close()


@pytest.fixture(scope="module")
def steady(standing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CrashingCoordinator, Standing]]:
    """A coordinator that lives on while programs die."""
    made = new_coordinator_on(standing, tmp_path_factory.mktemp("steady") / "coordinator")
    made[0].start()
    yield made
    made[0].close()


@pytest.fixture
def banks(tmp_path: Path) -> list[Bank]:
    return [Bank(f"sqlite:///{tmp_path / name}.db").make() for name in ("north", "south")]


@pytest.fixture(scope="module")
def ground(
    postgres_server: PrivateServer, _database_numbers: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> PostgresGround:
    return PostgresGround(postgres_server, tmp_path_factory.mktemp("ground"), _database_numbers)


Crew = tuple[tuple[CrashingCoordinator, Standing], list[Bank], Path]


@pytest.fixture
def crew(coordinator: tuple[CrashingCoordinator, Standing], banks: list[Bank], tmp_path: Path) -> Crew:
    return coordinator, banks, tmp_path


def drawn() -> random.Random:
    """The chance of this run, from a seed that is printed."""
    seed = int(os.environ.get("TROTH_CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"TROTH_CRASH_SEED={seed}")
    return random.Random(seed)


def replay(name: str, nth: int) -> str:
    return (
        f"again: TROTH_CRASH_NTH={nth} .venv/bin/pytest -m soak -s "
        f'"tests/crash/test_crash_points.py::test_at_every_point[{name}]"'
    )


def rounds(crash: str) -> int:
    """A point that is to kill at the N-th time is reached at least once a round."""
    return int(crash.partition(":")[2])


def die_at(name: str, nth: int, crew: Crew) -> str:
    """Let the process with this point die there, judge what comes of it; how the transaction under way has ended."""
    print(f"{name}, time {nth}; {replay(name, nth)}")
    if name in AT_START or name in AT_STOP:
        return _without_program(f"{name}:{nth}", crew, at_start=name in AT_START)
    by_coordinator = POINTS[name].role is Role.TC
    return (_coordinator_dies if by_coordinator else _program_dies)(f"{name}:{nth}", crew)


def _without_program(crash: str, crew: Crew, *, at_start: bool) -> str:
    (coordinator, standing), _, _ = crew
    coordinator.crash = crash
    if at_start:
        coordinator.start_in_vain()
    else:
        coordinator.start()
        assert coordinator.process is not None
        coordinator.process.send_signal(signal.SIGTERM)
    coordinator.dies_at_its_point()
    standing.check(coordinator.start())
    return "nothing"


def _coordinator_dies(crash: str, crew: Crew) -> str:
    (coordinator, standing), banks, folder = crew
    coordinator.crash = crash
    coordinator.start()
    program = Program(coordinator, banks, folder / "program.log", PATIENT_MS)
    with program.running(rounds(crash)) as process:
        coordinator.dies_at_its_point(process)
        xid = program.under_way()
        coordinator.start()
        standing.check(coordinator)
        finished(process)
        ended = judge(coordinator, banks, program, standing)
        assert let_end(process) == 0, program.errors()
    standing.check(coordinator)
    return outcome_of(xid, ended)


def _program_dies(crash: str, crew: Crew) -> str:
    (coordinator, standing), banks, folder = crew
    program = Program(coordinator, banks, folder / "program.log", HASTY_MS)
    with program.running(rounds(crash), crash) as process:
        assert process.wait(60) == -signal.SIGKILL, program.errors()
    xid = program.under_way()
    with program.running(0) as process:
        ended = judge(coordinator, banks, program, standing)
        finished(process)
        assert let_end(process) == 0, program.errors()
    standing.check(coordinator)
    return outcome_of(xid, ended)


def test_every_point_is_reached(crew: Crew) -> None:
    """Nobody dies here: the points only count."""
    (coordinator, standing), banks, folder = crew
    coordinator.crash = "--count"
    coordinator.start()
    program = Program(coordinator, banks, folder / "program.log", PATIENT_MS)
    with program.running(1, "--count") as process:
        finished(process)
        judge(coordinator, banks, program, standing)
        assert let_end(process) == 0, program.errors()
    assert coordinator.stop() == 0
    at_coordinator, at_program = counted(coordinator.log()), counted(program.errors())
    assert at_coordinator.keys() == at_program.keys() == POINTS.keys()
    for point in POINTS.values():
        reached = at_coordinator if point.role is Role.TC else at_program
        assert reached[point.name] >= 1, point.name


def test_at_a_drawn_sample_of_points(
    standing: Path, steady: tuple[CrashingCoordinator, Standing], tmp_path: Path
) -> None:
    chance = drawn()
    for name in [name for names in (AT_TC, ELSEWHERE) for name in chance.sample(names, SAMPLE // 2)]:
        folder = tmp_path / name
        folder.mkdir()
        banks = [Bank(f"sqlite:///{folder / bank}.db").make() for bank in ("north", "south")]
        made = steady
        if POINTS[name].role is Role.TC:
            made = new_coordinator_on(standing, folder / "coordinator")
        try:
            check(name, die_at(name, 1, (made, banks, folder)))
        finally:
            if made is not steady:
                made[0].close()


def dies_on_a_shared_store(name: str, ground: PostgresGround, banks: list[Bank], folder: Path) -> None:
    made = ground.new_coordinator(folder / "coordinator")
    try:
        check(name, die_at(name, 1, (made, banks, folder)))
    finally:
        made[0].close()


def test_at_a_drawn_point_on_a_shared_store(ground: PostgresGround, banks: list[Bank], tmp_path: Path) -> None:
    dies_on_a_shared_store(drawn().choice(AT_TC), ground, banks, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", AT_TC)
def test_at_every_point_on_a_shared_store(name: str, ground: PostgresGround, banks: list[Bank], tmp_path: Path) -> None:
    dies_on_a_shared_store(name, ground, banks, tmp_path)


def check(name: str, outcome: str) -> None:
    assert outcome in OUTCOMES[name], f"{name}: the transaction under way is {outcome}, not {OUTCOMES[name]}"


@pytest.mark.soak
@pytest.mark.parametrize("name", POINTS)
def test_at_every_point(name: str, crew: Crew, steady: tuple[CrashingCoordinator, Standing]) -> None:
    nth = int(os.environ.get("TROTH_CRASH_NTH", "1"))
    if POINTS[name].role is not Role.TC:
        crew = (steady, *crew[1:])
    outcome = die_at(name, nth, crew)
    print(f"the transaction under way: {outcome}")
    if nth == 1:
        check(name, outcome)


ON_POSTGRES = ("rm.local-commit.after", "rm.rollback.undone", "rm.rollback.before-answer", "rm.commit.deleted")


@pytest.mark.soak
@pytest.mark.parametrize("name", ON_POSTGRES)
def test_on_postgres(
    name: str,
    steady: tuple[CrashingCoordinator, Standing],
    new_postgres_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    banks = [Bank(new_postgres_database()).make() for _ in range(2)]
    check(name, die_at(name, 1, (steady, banks, tmp_path)))
