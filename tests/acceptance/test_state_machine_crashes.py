"""A state machine on real processes: the one that runs it dies inside each call of a service; another one goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fixtures_sagas
from fixtures_coordinator import CoordinatorProcess
from fixtures_sagas import workers

pytestmark = pytest.mark.engines

SAMPLE = {("", 3), ("--fail", 4)}
"""These are in every test run, the others in the long one."""


def fates() -> Iterator[object]:
    for fail, calls in (("", 3), ("--fail", 6)):
        for call in range(1, calls + 1):
            marks = () if (fail, call) in SAMPLE else (pytest.mark.soak,)
            yield pytest.param(fail, call, marks=marks, id=f"{fail or 'done'}-{call}")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"), store="memory://")
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixtures_sagas, "WORKER", Path(__file__).parent / "state_machine_worker.py")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("fail", "call"), list(fates()))
def test_another_process_goes_on(fail: str, call: int, coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    options = [fail] if fail else []
    with workers(tmp_path, coordinator) as team:
        first = team.start("run", *options, "--die", str(call))
        assert first.wait(30) == -signal.SIGKILL
        team.start("serve", *options)
        assert team.outcome() == ("Rollbacked" if fail else "Committed")
        effects = team.effects()
    assert sorted(effects[:2]) == ["reserve apple", "reserve pear"]
    assert effects[2] == "debit"
    assert effects[3:] == (["credit", "release pear", "release apple"] if fail else [])
