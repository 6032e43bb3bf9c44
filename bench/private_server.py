"""A `troth serve` of one's own: free ports, its own store, ended with the block that started it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_LIMIT_S = 30.0
STOP_LIMIT_S = 15.0  # the server promises 10 s


class ServerFailed(Exception):
    """The server did not start, stop or count as it should; the text carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What has happened so far: the counters of `/metrics`, and the CPU time of all the server's threads."""

    committed: int
    store_commits: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class PrivateServer:
    """A running server: `address` is its Seata door, `admin` the base URL of its admin door."""

    process: subprocess.Popen[bytes]
    address: str
    admin: str
    log: Path
    ready: dict[str, Any]
    """What it said when it was ready."""

    def counts(self) -> Counts:
        """Read the counters now."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return Counts(
            committed=counter(text, "troth_transactions_total", 'outcome="committed"'),
            store_commits=counter(text, "troth_store_commits_total", ""),
            cpu_s=cpu_seconds(self.process.pid),
        )

    def counts_at(self, committed: int, limit_s: float = 10.0) -> Counts:
        """Read the counters once `committed` transactions have ended: the last phase two may still be on its way."""
        deadline = time.monotonic() + limit_s
        while (now := self.counts()).committed < committed and time.monotonic() < deadline:
            time.sleep(0.05)
        if now.committed != committed:
            raise ServerFailed(f"the generator saw {committed} commits, the server counts {now.committed}")
        return now


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 where there is no /proc to ask."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    after_name = stat.read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def counter(text: str, name: str, label: str) -> int:
    """Sum one counter of a Prometheus exposition over all label sets that contain `label`."""
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((f"{name} ", f"{name}{{")) and label.lower() in line.lower()
    ]
    return int(sum(found))


@contextmanager
def private_server(store: str, directory: Path, *more: str) -> Iterator[PrivateServer]:
    """Start `troth serve` on `store`, with its output in `directory`; stop it when the block ends, however it ends.

    DTM's doors stay shut unless `more` opens them.
    """
    log = directory / "server.log"
    command = [str(Path(sys.executable).parent / "troth"), "serve", "--host", "127.0.0.1"]
    command += ["--port", "0", "--admin-port", "0", "--store", store, "--ready-json"]
    command += more or ("--dtm-http-port", "off", "--dtm-grpc-port", "off")
    with (directory / "server.out").open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        ready = await_ready(process, directory / "server.out", log)
        yield PrivateServer(process, ready["address"], ready["admin"].rstrip("/"), log, ready)
    except BaseException:
        end(process)
        raise
    if (status := end(process)) != 0:
        raise ServerFailed(f"the server ended with status {status} on SIGTERM{tail(log)}")


def await_ready(process: subprocess.Popen[bytes], out: Path, log: Path) -> dict[str, Any]:
    """Wait for the line that says where the doors are."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        for line in out.read_text().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                said = json.loads(line)
                if "address" in said and "admin" in said:
                    return dict(said)
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with status {process.returncode} before it was ready{tail(log)}")
        time.sleep(0.02)
    raise ServerFailed(f"the server was not ready after {START_LIMIT_S:.0f} s{tail(log)}")


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask the server to stop, and make it stop if it does not. Gives its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(STOP_LIMIT_S)
    except BaseException as error:  # a second Ctrl-C too: nothing may be left running
        process.kill()
        status = process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return status
        raise


def tail(log: Path) -> str:
    """The end of the server's log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "".join(f"\n    {line}" for line in lines)
