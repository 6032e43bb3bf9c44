"""Runs the linters, and pytest in two lanes side by side; the last line is `N passed, N failed` of all together.

    python scripts/lanes.py [ARGUMENTS OF PYTEST]

One lane waits for processes and databases while the other computes (tests/lanes.py). Each has its own servers. What
they say is shown one after the other. Ctrl-C ends all of it. Status: 0 if tests ran and nothing failed, 130 after
Ctrl-C, else 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import summarise

LOOK_AGAIN_S = 0.2
NO_TESTS = 5
"""pytest's status where no test was chosen."""


class Run:
    """Processes, each the head of a group of its own: only this program hears Ctrl-C, and passes it on once."""

    def __init__(self) -> None:
        self.stopped = False
        self._started: list[subprocess.Popen[bytes]] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self.stopped:  # a second interrupt would break into the ends of fixtures, and leave servers behind
            self.stopped = True
            for process in self._started:
                self._interrupt(process)

    @staticmethod
    def _interrupt(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)

    def start(self, command: Sequence[str], output: Path | None = None) -> subprocess.Popen[bytes]:
        """A process whose output goes to a file, or is shown."""
        sink = None if output is None else output.open("wb")
        try:
            process = subprocess.Popen(command, stdout=sink, stderr=sink and subprocess.STDOUT, start_new_session=True)
        finally:
            if sink is not None:
                sink.close()
        self._started.append(process)
        if self.stopped:
            self._interrupt(process)
        return process


def follow(process: subprocess.Popen[bytes], output: Path) -> None:
    """Show what a process writes until it has ended."""
    with output.open("rb") as text:
        while True:
            ended = process.poll() is not None
            sys.stdout.buffer.write(text.read())
            sys.stdout.flush()
            if ended:
                return
            time.sleep(LOOK_AGAIN_S)


def lane(number: int, directory: Path, arguments: Sequence[str]) -> tuple[list[str], Path, Path]:
    """The command of a lane, the file of what it says, and its report."""
    output, report, shared = directory / f"{number}.txt", directory / f"{number}.xml", directory / "taken"
    shared.mkdir(exist_ok=True)
    command = [sys.executable, "-u", "-m", "pytest", "-q", *arguments, f"--lane={shared}"]
    command += [f"--junit-xml={report}", "-p", "no:cacheprovider", "-o", "console_output_style=count"]
    return command + (["--lane-backwards"] if number > 1 else []), output, report


def failed(statuses: Sequence[int]) -> bool:
    """Whether the lanes, by pytest's statuses, failed: one may have no tests, but not all."""
    if all(status == NO_TESTS for status in statuses):
        print("no test was chosen")
        return True
    return any(status not in (0, NO_TESTS) for status in statuses)


def main(arguments: Sequence[str], check: Sequence[str] = ("scripts/check", "--no-tests")) -> int:
    run = Run()
    with tempfile.TemporaryDirectory(prefix="troth-test-") as place:
        commands, outputs, reports = zip(*(lane(number, Path(place), arguments) for number in (1, 2)), strict=True)
        lanes = [run.start(commands[0], outputs[0])]
        static = run.start(check).wait()
        lanes.append(run.start(commands[1], outputs[1]))
        for number, (process, output) in enumerate(zip(lanes, outputs, strict=True), 1):
            print(f"\n== pytest, lane {number} of 2", flush=True)
            follow(process, output)
        complete = [str(report) for report in reports if summarise.is_complete(report)]
        broken = len(reports) - len(complete) + bool(static)
        wrong = failed([process.returncode for process in lanes])
        summarise.main(complete, broken)
    if run.stopped:
        return 130
    return int(broken > 0 or wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
