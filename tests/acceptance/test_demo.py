"""`troth demo`, run as a user runs it: what it prints, how it ends, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 120.0
COMMAND = [sys.executable, "-m", "troth", "demo"]
AT_START = {"balance": 999, "stock": 100, "orders": 0, "undo_logs": 0}
BOUGHT = {"balance": 599, "stock": 98, "orders": 1, "undo_logs": 0}

pytestmark = pytest.mark.engines


def directory_in(story: str) -> Path:
    found = re.search(r"everything lies in (\S+);", story)
    assert found, story
    return Path(found[1])


def processes_of(directory: Path) -> list[str]:
    """Command lines of processes that work in the demo's directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                at_work = os.readlink(process / "cwd").startswith(str(directory))
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue  # it has ended, or is not ours to look at
            if at_work or str(directory) in command:
                found.append(command)
    return found


def assert_nothing_is_left(directory: Path) -> None:
    assert processes_of(directory) == []
    assert not directory.exists()


def wait_until(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s in vain until {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fail_at", "outcome", "rows"),
    [
        ("none", "Committed", BOUGHT),
        pytest.param("stock", "Rollbacked", AT_START, marks=pytest.mark.soak),
        ("order", "Rollbacked", AT_START),
        pytest.param("account", "Rollbacked", AT_START, marks=pytest.mark.soak),
        pytest.param("after-all", "Rollbacked", AT_START, marks=pytest.mark.soak),
        ("timeout", "TimeoutRollbacked", AT_START),
    ],
)
def test_each_end(fail_at: str, outcome: str, rows: dict[str, int]) -> None:
    done = subprocess.run(
        [*COMMAND, "--fail-at", fail_at, "--json"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", told.pop("xid"))
    assert told == {"outcome": outcome, "ok": True, **rows}
    assert_nothing_is_left(directory_in(done.stderr))


def test_by_default_both_ends_are_shown_with_images_and_branches() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    story = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), story + done.stderr
    assert "\x1b" not in story
    bought, undone = story.split("--fail-at after-all")
    for chapter, status in ((bought, "Committed"), (undone, "Rollbacked")):
        steps = [
            "began ",
            "branch ",
            "knows      3 branches",
            "phase two ",
            f"status     {status}",
            "read from the databases",
        ]
        places = [chapter.index(step) for step in steps]
        assert places == sorted(places), chapter
        assert len(re.findall(r"branch +\d+ registered", chapter)) == 3
        assert re.search(r"before +stock_tbl +id=1 .*count=100\b", chapter)
        assert re.search(r"after +stock_tbl +id=1 .*count=98\b", chapter)
        assert re.search(r"before +account_tbl +id=1 .*money=999\b", chapter)
        assert re.search(r"after +account_tbl +id=1 .*money=599\b", chapter)
        assert re.search(r"before +order_tbl +\(no row\)", chapter)
        assert chapter.count("phase two ") == 3
        assert "WRONG" not in chapter
    assert_nothing_is_left(directory_in(story))


def test_keep_leaves_everything_running_until_ctrl_c(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as story:
        process = subprocess.Popen([*COMMAND, "--fail-at", "none", "--keep"], stdout=story, stderr=story)
    try:
        wait_until("it is kept", lambda: "Ctrl-C" in out.read_text() or process.poll() is not None)
        directory = directory_in(out.read_text())
        assert len(processes_of(directory)) == 4, out.read_text()  # the coordinator and three services
        again = re.search(r"^  (\S+ -m troth\.demo\.business .*--fail-at none)$", out.read_text(), re.MULTILINE)
        assert again, out.read_text()
        bought = subprocess.run(again[1].split(), capture_output=True, text=True, timeout=60, check=False)
        assert "bought" in bought.stdout, bought
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in out.read_text()
    assert_nothing_is_left(directory)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_ends_all_processes(tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "out"
    with out.open("w") as story:
        process = subprocess.Popen([*COMMAND, "--fail-at", "timeout"], stdout=story, stderr=story)
    try:
        wait_until("it has begun", lambda: "began" in out.read_text() or process.poll() is not None)
        directory = directory_in(out.read_text())
        process.send_signal(number)
        assert process.wait(timeout=60) == status, out.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in out.read_text()
    assert_nothing_is_left(directory)


def test_children_end_even_if_the_demo_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as story:
        process = subprocess.Popen([*COMMAND, "--fail-at", "none", "--keep"], stdout=story, stderr=story)
    try:
        wait_until("it is kept", lambda: "Ctrl-C" in out.read_text() or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    directory = directory_in(out.read_text())
    wait_until("the children have ended", lambda: processes_of(directory) == [], 30)
    shutil.rmtree(directory)  # a killed program can not clean up


@pytest.mark.parametrize("arguments", [["--db", "oracle"], ["--fail-at", "nowhere"]])
def test_usage_errors(arguments: list[str]) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert arguments[1] in done.stderr


def test_without_its_libraries_it_says_what_to_install() -> None:
    without = "import sys; sys.modules['fastapi'] = None; sys.argv[0] = 'troth'; from troth.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", without, "demo"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'troth[demo]'" in done.stderr
