"""Makes, starts, watches and ends one database server; a program of its own, on the standard library alone.

`python sitter.py JOB`, where JOB is JSON: `directory, user (or null), prepare, serve, ready_file, port, stop_signal,
start_within_s`. Prints one line of JSON when the server serves (`{"pid": N}`) or can not (`{"error": TEXT}`). When its
standard input ends, its parent changes or it is told to (SIGTERM), it ends the server and removes the directory. The
server in turn ends when the sitter is killed (Linux).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_POLL_S = 0.02
_PARENT_POLL_S = 0.5
_END_WITHIN_S = 5.0
_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 2000


class Sitter:
    """One server and the commands that make it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._log = Path(job["directory"]) / "server.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._ending = threading.Lock()

    def start(self) -> dict[str, object]:
        """Make and start the server; what to tell the parent."""
        deadline = time.monotonic() + self._job["start_within_s"]
        for command in self._job["prepare"]:
            if self._spawn(command).wait() != 0:
                return {"error": f"{command[0]} failed: {self._tail()}"}
        server = self._spawn(self._job["serve"])
        while not self._serves():
            if server.poll() is not None:
                return {"error": f"the server ended with status {server.returncode}: {self._tail()}"}
            if time.monotonic() > deadline:
                return {"error": f"the server did not serve within {self._job['start_within_s']} s: {self._tail()}"}
            time.sleep(_POLL_S)
        return {"pid": server.pid}

    def watch(self, parent: int) -> None:
        """Wait for the end of the parent in threads of their own, from now on."""
        threading.Thread(target=self._until_input_ends, daemon=True).start()
        threading.Thread(target=self._until_parent_changes, args=(parent,), daemon=True).start()

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        if self._child is not None:
            self._child.wait()

    def end(self) -> None:
        """End the server and remove the directory; then this process."""
        self._ending.acquire()  # never released: whoever comes second has nothing left to do
        if self._child is not None and self._child.poll() is None:
            os.kill(self._child.pid, self._job["stop_signal"])
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_END_WITHIN_S)
        if self._child is not None:
            self._kill_group(self._child.pid)
        self._remove()
        os._exit(0)

    def _until_input_ends(self) -> None:
        while os.read(0, 4096):
            pass
        self.end()

    def _until_parent_changes(self, parent: int) -> None:
        # A fork of the parent may hold the other end of our standard input open for longer than the parent lives.
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        self.end()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        user = self._job["user"]
        as_user: dict[str, Any] = (
            {} if user is None else {"user": user["uid"], "group": user["gid"], "extra_groups": ()}
        )
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._job["directory"],
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": self._job["directory"]},
                start_new_session=True,
                preexec_fn=_die_with_parent,
                **as_user,
            )
        return self._child

    def _serves(self) -> bool:
        if self._job["ready_file"]:
            return _holds_ready(self._job["ready_file"])
        try:
            with socket.create_connection(("127.0.0.1", self._job["port"]), 1.0) as connection:
                connection.settimeout(1.0)
                return len(connection.recv(5)) == 5
        except OSError:
            return False

    def _kill_group(self, leader: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)

    def _remove(self) -> None:
        deadline = time.monotonic() + _END_WITHIN_S
        directory = Path(self._job["directory"])
        while directory.exists() and time.monotonic() < deadline:
            # The last processes of a server may still write while they go.
            shutil.rmtree(directory, ignore_errors=True)
            time.sleep(_POLL_S)

    def _tail(self) -> str:
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")


def _holds_ready(path: str) -> bool:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "ready" for line in lines)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Sit with the server of the job in our argument until the parent is gone."""
    job = json.loads(sys.argv[1])
    sitter = Sitter(job)
    signal.signal(signal.SIGTERM, lambda _number, _frame: threading.Thread(target=sitter.end).start())
    sitter.watch(os.getppid())
    said = sitter.start()
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    if "pid" in said:
        sitter.wait()
        threading.Event().wait()  # a server that ended by itself leaves its log until the parent is gone
    sitter.end()


if __name__ == "__main__":
    main()
