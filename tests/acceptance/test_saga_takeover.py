"""`@troth.saga` on real processes: whoever runs it dies by SIGKILL at each message and inside steps; another goes on.

A step's effect is idempotent by the key that it is given, as its documentation asks for: so each is there once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures_coordinator import CoordinatorProcess
from fixtures_sagas import Workers, workers

pytestmark = pytest.mark.engines

FORWARD_MESSAGES = 6
"""Begin, a record for each of four steps, commit."""
BACKWARD_MESSAGES = 11
"""Begin, four records, the failed step's compensation, that the body has failed, three compensations, rollback."""
FORWARD_CALLS = 4
BACKWARD_CALLS = 9
SAMPLE = {("run", "--fail", "before", 8), ("arun", "", "inside", 3)}
"""These are in every test run, the others in the long one."""


def fates() -> Iterator[object]:
    """Every place where the first process may die. (Before its first message, nothing has been begun.)"""
    for role in ("run", "arun"):
        for fail, messages, calls in (
            ("", FORWARD_MESSAGES, FORWARD_CALLS),
            ("--fail", BACKWARD_MESSAGES, BACKWARD_CALLS),
        ):
            places = [("after", 1)]
            places += [(moment, number) for number in range(2, messages + 1) for moment in ("before", "after")]
            places += [("inside", number) for number in range(1, calls + 1)]
            for moment, number in places:
                fate = (role, fail, moment, number)
                marks = () if fate in SAMPLE else (pytest.mark.soak,)
                yield pytest.param(*fate, marks=marks, id="-".join(map(str, filter(None, fate))))


@pytest.mark.parametrize(("role", "fail", "moment", "number"), list(fates()))
def test_another_process_goes_on(
    role: str, fail: str, moment: str, number: int, coordinator: CoordinatorProcess, tmp_path: Path
) -> None:
    with workers(tmp_path, coordinator) as team:
        first = team.start(role, *filter(None, [fail]), "--die", moment, str(number))
        assert first.wait(30) == -signal.SIGKILL
        team.start(role.replace("run", "serve"), *filter(None, [fail]))
        assert team.outcome() == ("Rollbacked" if fail else "Committed")
        check_effects(team, failing=bool(fail))


def check_effects(team: Workers, *, failing: bool) -> None:
    effects = team.effects()
    done = ["do flight", *sorted(effects[1:3]), "do pay"]
    assert [effects[0], *sorted(effects[1:3]), effects[3]] == ["do flight", "do car", "do hotel", "do pay"]
    if not failing:
        assert len(effects) == len(done)
        return
    undone = effects[4:]
    assert undone[0] == "undo pay", "its outcome is unknown, so it is compensated, too"
    assert sorted(undone[1:3]) == ["undo car", "undo hotel"]
    assert undone[3:] == ["undo flight"]


@pytest.mark.soak
def test_the_number_of_messages_is_as_the_matrix_thinks(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    with workers(tmp_path, coordinator) as team:
        run = team.start("run")
        assert run.stdout is not None
        assert run.stdout.readline().endswith(f"after {FORWARD_MESSAGES} messages\n")
        assert team.outcome() == "Committed"
        check_effects(team, failing=False)


@pytest.mark.soak
@pytest.mark.parametrize("fail", ["", "--fail"])
@pytest.mark.parametrize("role", ["run", "arun"])
def test_a_process_that_was_only_slow_stops_loudly(
    role: str, fail: str, new_coordinator: Callable[..., CoordinatorProcess], tmp_path: Path
) -> None:
    """It sleeps inside a step until it is taken for dead; another ends the saga; then it wakes, and changes nothing."""
    coordinator = new_coordinator("limits.idle=1500ms", store="memory://").start()
    with workers(tmp_path, coordinator) as team:
        flags = list(filter(None, [fail]))
        slow = team.start(role, *flags, "--stop", "3")
        team.start(role.replace("run", "serve"), *flags)
        assert team.outcome() == ("Rollbacked" if fail else "Committed")
        before = team.effects()
        slow.send_signal(signal.SIGCONT)
        assert slow.stdout is not None
        assert slow.stdout.readline().startswith("SagaSuperseded: ")
        assert team.effects() == before
        check_effects(team, failing=bool(fail))


# --- the coordinator dies --------------------------------------------------------------------------------------------


def coordinator_fates() -> Iterator[object]:
    """Each message at which the coordinator may die; `both`: the process that runs the saga is ended a little later."""
    for both in (False, True):
        for fail, messages in (("", FORWARD_MESSAGES), ("--fail", BACKWARD_MESSAGES)):
            for number in range(2, messages + 1):
                for moment in ("before", "after"):
                    fate = (both, fail, moment, number)
                    marks = () if fate == (True, "--fail", "after", 5) else (pytest.mark.soak,)
                    name = "-".join(["both" if both else "it", *filter(None, [fail]), moment, str(number)])
                    yield pytest.param(*fate, marks=marks, id=name)


@pytest.mark.parametrize(("both", "fail", "moment", "number"), list(coordinator_fates()))
def test_a_coordinator_that_was_killed_goes_on_too(
    both: bool, fail: str, moment: str, number: int, coordinator: CoordinatorProcess, tmp_path: Path
) -> None:
    kill_the_coordinator(coordinator, tmp_path, both=both, fail=fail, place=(moment, number))


@pytest.mark.soak
@pytest.mark.parametrize("both", [False, True], ids=["it", "both"])
def test_a_coordinator_on_postgresql_that_was_killed_goes_on_too(
    both: bool,
    new_coordinator: Callable[..., CoordinatorProcess],
    new_postgres_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    coordinator = new_coordinator("lease.ttl=3s", store=new_postgres_database()).start()
    kill_the_coordinator(coordinator, tmp_path, both=both, fail="--fail", place=("after", 8))


def kill_the_coordinator(
    coordinator: CoordinatorProcess, directory: Path, *, both: bool, fail: str, place: tuple[str, int]
) -> None:
    flags = list(filter(None, [fail]))
    with workers(directory, coordinator) as team:
        assert coordinator.process is not None
        first = team.start("run", *flags, "--kill", str(coordinator.process.pid), place[0], str(place[1]))
        assert coordinator.wait() == -signal.SIGKILL
        if both:
            first.kill()
            first.wait(10)
        coordinator.start()
        if both:
            team.start("serve", *flags)
        assert team.outcome() == ("Rollbacked" if fail else "Committed")
        check_effects(team, failing=bool(fail))
