"""`scripts/lanes.py`: two lanes run every test once, and nothing that goes wrong in one of them is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fixtures_coordinator import until

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
PROGRAM = "import sys, lanes; sys.exit(lanes.main(sys.argv[2:], check=[sys.argv[1]]))"
CONFTEST = f"""
import signal, sys
sys.path.insert(0, {str(HERE)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
pytest_plugins = ("lanes",)
"""

HEAD = """
import os, time
import pytest

def said(text):
    with open({said!r}, "a") as file:
        file.write(text + "\\n")
"""


def suite(directory: Path, **files: str) -> None:
    """A small suite of tests; `said` in them writes a line to a file that both lanes share."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = engines\naddopts = --import-mode=importlib\n")
    for name, text in files.items():
        (directory / f"{name}.py").write_text(HEAD.format(said=str(directory / "said.txt")) + textwrap.dedent(text))


def lanes(directory: Path, check: str = "true", temporary: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, check, "-p", "no:asyncio", "-p", "no:hypothesispytest"],
        cwd=directory,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(HERE.parent / "scripts"),
            "TMPDIR": str(temporary or directory),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(directory: Path) -> list[str]:
    file = directory / "said.txt"
    return file.read_text().splitlines() if file.exists() else []


def test_every_test_runs_once_and_all_failures_are_told(tmp_path: Path) -> None:
    numbered = {
        f"test_{n}": f"""
        @pytest.mark.parametrize("part", range(3))
        def test_one(part):
            said("{n}." + str(part))
            time.sleep(0.05)
            assert (part, {n}) not in ((1, 0), (2, 7))
        """
        for n in range(8)
    }
    suite(tmp_path, **numbered, test_skipped="def test_skipped():\n    pytest.skip('for a reason')\n")
    run = lanes(tmp_path, check="false")
    story, _ = run.communicate(timeout=60)
    assert sorted(said(tmp_path)) == [f"{n}.{part}" for n in range(8) for part in range(3)]
    assert story.splitlines()[-3:-1] == ["FAILED test_0::test_one[1]", "FAILED test_7::test_one[2]"], story
    assert story.splitlines()[-1] == "22 passed, 3 failed, 1 skipped", "two tests and the linters"
    assert run.returncode == 1


def test_the_place_that_lanes_share_is_not_taken_for_the_suite(tmp_path: Path) -> None:
    """Before the suite's conftest is read pytest does not know `--lane`: what follows it would be a path to tests."""
    inside, outside = tmp_path / "suite", tmp_path / "temporary"
    inside.mkdir()
    outside.mkdir()
    suite(inside, test_a="def test_fine():\n    said('a')\n", test_b="def test_fine():\n    said('b')\n")
    run = lanes(inside, temporary=outside)
    story, _ = run.communicate(timeout=60)
    assert sorted(said(inside)) == ["a", "b"], story
    assert story.splitlines()[-1] == "2 passed, 0 failed", story
    assert run.returncode == 0


DROPS = """
def pytest_collection_modifyitems(config, items):
    if {condition}:
        items.clear()
"""


@pytest.mark.parametrize(
    ("condition", "end", "status"),
    [
        ("config.option.lane_backwards", ["1 passed, 0 failed"], 0),
        ("True", ["no test was chosen", "0 passed, 0 failed"], 1),
    ],
    ids=["one", "both"],
)
def test_one_lane_may_have_no_tests_but_not_both(tmp_path: Path, condition: str, end: list[str], status: int) -> None:
    suite(tmp_path, test_a="def test_fine():\n    said('fine')\n")
    with (tmp_path / "conftest.py").open("a") as conftest:
        conftest.write(DROPS.format(condition=condition))
    run = lanes(tmp_path)
    story, _ = run.communicate(timeout=60)
    assert story.splitlines()[-len(end) :] == end, story
    assert run.returncode == status, story


FALSE_END = """
@pytest.fixture(scope="session")
def server():
    yield
    raise RuntimeError("it did not stop")

def test_with_it(server):
    pass
"""


@pytest.mark.parametrize("text", ["def test_dies():\n    os._exit(0)\n", FALSE_END], ids=["dies", "false-end"])
def test_a_lane_that_ends_wrongly_is_a_failure(tmp_path: Path, text: str) -> None:
    suite(tmp_path, test_a="def test_fine():\n    said('fine')\n", test_b=text)
    run = lanes(tmp_path)
    story, _ = run.communicate(timeout=60)
    assert story.splitlines()[-1].split(", ")[1] == "1 failed", story
    assert run.returncode == 1


def test_an_interrupt_ends_both_lanes_with_their_fixtures(tmp_path: Path) -> None:
    waiting = """
    @pytest.fixture
    def server():
        yield
        said("ended")

    def test_waits(server):
        said("begun")
        time.sleep(60)
    """
    suite(tmp_path, test_a=waiting, test_b=waiting)
    run = lanes(tmp_path)
    try:
        until(lambda: said(tmp_path).count("begun") == 2, 30, "both lanes have begun")
        run.send_signal(signal.SIGINT)
        story, _ = run.communicate(timeout=30)
    finally:
        run.kill()
        run.communicate()
    assert said(tmp_path).count("ended") == 2, story
    assert run.returncode == 130
    assert not list(tmp_path.glob("troth-test-*"))
