"""Real processes under crash points, and the judge of what they leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash_bank import ACCOUNTS, AT_START, Bank

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType

WORKER = Path(__file__).with_name("crash_worker.py")
DIES_WITHIN_S = 40.0
ENDS_WITHIN_S = 30.0
STANDING = "jdbc:mysql://db/standing"
"""A resource that nobody serves: what is open there stays as it is, whatever happens to the coordinator."""
LONG_MS = 3_600_000
REACHED = re.compile(r"troth\.testing\.crash: (\S+) reached (\d+) times$", re.MULTILINE)


class CrashingCoordinator(CoordinatorProcess):
    """A coordinator that may have a crash point, `--count`, or nothing (then it is the plain `troth serve`)."""

    crash: str = ""

    def command(self) -> list[str]:
        plain = super().command()
        if not self.crash:
            return plain
        assert plain[1:3] == ["-m", "troth"]
        return [plain[0], "-m", "troth.testing.crash", self.crash, "--", *plain[3:]]

    def dies_at_its_point(self, program: subprocess.Popen[str] | None = None) -> None:
        """Waits for it. A `program` that ends before is no use."""
        process = self.process
        assert process is not None
        until(lambda: process.poll() is not None or (program and program.poll() is not None), DIES_WITHIN_S, self.crash)
        assert process.poll() == -signal.SIGKILL, self.log()
        assert f"{self.crash.partition(':')[0]} reached" in self.log()
        assert process.stdout is not None
        process.stdout.close()
        self.crash = ""

    def start_in_vain(self) -> None:
        """A start that does not come to its end."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, cwd=self.directory, env=environment
            )


# ---- what is open before, and must be afterwards ----


def make_standing(directory: Path, coordinator: CoordinatorProcess | None = None) -> None:
    """A store with one transaction of each kind that a coordinator can find at its start; its process is killed."""
    coordinator = coordinator or CoordinatorProcess(directory)
    try:
        with WireClient(coordinator.start().port).register_tm() as client:
            kinds = ("open", "voted", "committing", "rolling back", "ended")
            xids = {kind: client.begin(LONG_MS, kind) for kind in kinds}
            for number, kind in enumerate(kinds[:4]):
                for part in "ab":
                    assert client.branch(xids[kind], STANDING, f"t:{number}{part}").branch_id
            client.ask(m.GlobalReportRequest(xids["voted"], None, m.GlobalStatus.Rollbacking))
            client.commit(xids["committing"])
            client.commit(xids["ended"])
            client.post(m.GlobalRollbackRequest(xids["rolling back"]))
            until(lambda: coordinator.transaction(xids["rolling back"])["status"] != "Begin")
            seen = seen_by(coordinator, xids)
            (directory / "standing.json").write_text(json.dumps({"xids": xids, "seen": seen}))
    finally:
        coordinator.close()


def seen_by(coordinator: CoordinatorProcess, xids: dict[str, str]) -> dict[str, object]:
    """What the admin API and lock queries say of the standing transactions."""
    seen: dict[str, object] = {kind: _lasting(coordinator.transaction(xid)) for kind, xid in xids.items()}
    with WireClient(coordinator.port).register_tm() as client:
        for number in range(4):
            query = m.GlobalLockQueryRequest("nobody:1:1", BranchType.AT, STANDING, f"t:{number}a")
            seen[f"row {number}a is free"] = client.ask(query).lockable
    return seen


@dataclass
class Standing:
    """The standing transactions, and how they were seen before their coordinator was killed."""

    xids: dict[str, str]
    seen: dict[str, object]

    def check(self, coordinator: CoordinatorProcess) -> None:
        """They and their locks are as they were."""
        assert seen_by(coordinator, self.xids) == self.seen


_RETRIED = {
    "AsyncCommitting": "Committing",
    "CommitRetrying": "Committing",
    "RollbackRetrying": "Rollbacking",
    "TimeoutRollbackRetrying": "TimeoutRollbacking",
}
_LASTING = ("branch_id", "branch_type", "resource_id", "lock_keys", "client_id", "application_data")


def _lasting(shown: dict[str, Any]) -> dict[str, Any]:
    """Without what changes with each vain attempt at a branch that nobody serves."""
    branches = [{key: value for key, value in b.items() if key in _LASTING} for b in shown["branches"]]
    status = _RETRIED.get(shown["status"], shown["status"])
    return {
        "begin_time": shown["begin_time"],
        "timeout_ms": shown["timeout_ms"],
        "status": status,
        "branches": branches,
    }


def new_coordinator_on(standing: Path, directory: Path) -> tuple[CrashingCoordinator, Standing]:
    """A coordinator, not started, on a copy of what `make_standing` has made."""
    directory.mkdir()
    for file in standing.glob("troth.db*"):
        if not file.name.endswith(".lock"):
            shutil.copy(file, directory / file.name)
    return CrashingCoordinator(directory), Standing(**json.loads((standing / "standing.json").read_text()))


# ---- the program ----


class Program:
    """The bank's program, plain or under a crash point, and what it has written down."""

    def __init__(self, coordinator: CoordinatorProcess, banks: list[Bank], log: Path, timeout_ms: int) -> None:
        self._coordinator = coordinator
        self._banks = banks
        self._log = log
        self._timeout_ms = timeout_ms
        log.touch()

    @contextmanager
    def running(self, rounds: int, crash: str = "") -> Iterator[subprocess.Popen[str]]:
        """The process; it ends when its standard input does."""
        before = ["-m", "troth.testing.crash", crash, "--", "python"] if crash else []
        command = [sys.executable, *before, str(WORKER), "--coordinator", self._coordinator.address]
        command += [part for bank in self._banks for part in ("--bank", bank.url)]
        command += ["--log", str(self._log), "--rounds", str(rounds), "--timeout-ms", str(self._timeout_ms)]
        pipe = subprocess.PIPE
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        with (
            self._errors.open("ab") as errors,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    @property
    def _errors(self) -> Path:
        return self._log.with_suffix(".stderr")

    def errors(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    def told(self, event: str = "") -> list[dict[str, Any]]:
        """The lines of the log of this kind. A line that a kill has cut off is none."""
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        all_told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line for line in all_told if not event or line["event"] == event]

    def under_way(self) -> str | None:
        """The xid of the transaction that it was in when it wrote its last line; None: between two, or not begun."""
        told = [line for line in self.told() if line["event"] in ("step", "begun", "heard")]
        return told[-1]["xid"] if told and told[-1]["event"] == "begun" else None


def finished(process: subprocess.Popen[str]) -> None:
    """It has done all its rounds and serves phase two."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "done\n", f"{line!r}, status {process.poll()}"


def let_end(process: subprocess.Popen[str]) -> int:
    """End it politely."""
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(30)


# ---- the judge ----


def outcomes(coordinator: CoordinatorProcess, program: Program) -> dict[str, str]:
    """How each transaction of the program has ended; waits for the last one to."""
    xids = [str(line["xid"]) for line in program.told("begun")]

    def ended() -> dict[str, str] | None:
        found = {xid: coordinator.transaction(xid) for xid in xids}
        return (
            None
            if any(not shown.get("outcome") for shown in found.values())
            else {xid: str(shown["status"]) for xid, shown in found.items()}
        )

    try:
        return dict(until(lambda: ended() if xids else {"none": "none"}, ENDS_WITHIN_S))  # type: ignore[call-overload]
    except AssertionError as error:
        left = coordinator.get("/api/transactions?status=open&limit=100")[1]["transactions"]
        raise AssertionError(f"not ended: {[t for t in left if t['xid'] in xids]}") from error


def judge(coordinator: CoordinatorProcess, banks: list[Bank], program: Program, standing: Standing) -> dict[str, str]:
    """Everything that must hold once the dust has settled. Returns how the program's transactions have ended."""
    ended = outcomes(coordinator, program)
    until(lambda: _open_names(coordinator) == {"open", "voted", "committing", "rolling back"}, ENDS_WITHIN_S)
    for line in program.told("heard"):
        committed = ended.get(line["xid"]) == "Committed"
        if line["outcome"] in ("committed", "rolled back"):
            assert committed is (line["outcome"] == "committed"), (line, ended[line["xid"]])
    expected = {bank.url: dict.fromkeys(range(ACCOUNTS), AT_START) for bank in banks}
    for line in program.told("begun"):
        for url, account, delta in line["deltas"] if ended[line["xid"]] == "Committed" else ():
            expected[url][account] += delta
    assert {bank.url: bank.balances() for bank in banks} == expected
    for bank in banks:
        left = [xid for xid, status in bank.undo_rows() if status == 0 or ended.get(xid) == "Committed"]
        assert not left, f"undo rows are left: {left}"
        for xid, state in bank.reservations().items():
            wanted = {"confirmed"} if ended[xid] == "Committed" else {"cancelled", "fenced"}
            assert state in wanted, (xid, state, ended[xid])
    assert coordinator.metrics()["troth_locks_held"] == 2 * 3, "rows of the standing ones, and no other"
    return ended


def _open_names(coordinator: CoordinatorProcess) -> set[str]:
    shown = coordinator.get("/api/transactions?status=open&limit=1000")[1]["transactions"]
    return {str(transaction["name"]) for transaction in shown}


def counted(log: str) -> dict[str, int]:
    """How often each point was reached, from what `--count` has printed."""
    return {name: int(times) for name, times in REACHED.findall(log)}
