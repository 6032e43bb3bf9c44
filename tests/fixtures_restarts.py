"""Private database servers that are killed, paused and started again on the files that they left."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from fixtures_coordinator import until
from troth.demo.servers.private import PrivateServer

_START_WITHIN_S = 30.0


class DatabaseServer:
    """A private server that may be killed: its own sitter only knows its first life."""

    def __init__(self, server: PrivateServer) -> None:
        self.server = server
        self.pid = server.pid
        self._again: subprocess.Popen[bytes] | None = None

    def crash(self, number: signal.Signals) -> None:
        """End it without a goodbye. SIGQUIT is PostgreSQL's immediate shutdown."""
        os.kill(self.pid, number)
        if self._again is not None:
            self._again.wait(20)
        else:
            until(lambda: not _runs(self.pid), 20, "the database server is gone")

    def start(self) -> None:
        """Start it on the files that it left, until it serves."""
        product, account = self.server.product, self.server.account
        plan = product.plan(self.server.directory, account)
        user = pwd.getpwnam(product.system_user) if os.geteuid() == 0 else None

        def serves() -> bool:
            if self._again is None or self._again.poll() is not None:
                self._again = self._spawn(plan.serve, user)
                self.pid = self._again.pid
            with suppress(RuntimeError, OSError):
                self.server.execute("SELECT 1")
                return True
            return False

        self._again = None
        until(serves, _START_WITHIN_S, f"{product.kind} serves again")

    def pause(self) -> None:
        """SIGSTOP to the whole server: PostgreSQL is one process per connection."""
        for pid in (self.pid, *_children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in (*_children(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        if self._again is not None and self._again.poll() is None:
            self._again.send_signal(signal.SIGQUIT if self.server.product.scheme == "postgresql" else signal.SIGKILL)
            self._again.wait(20)
        self.server.stop()
        shutil.rmtree(self.server.directory, ignore_errors=True)

    def _spawn(self, command: tuple[str, ...], user: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
        as_user: dict[str, Any] = (
            {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
        )
        with (self.server.directory / "again.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.server.directory,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.server.directory)},
                preexec_fn=_die_with_parent,
                start_new_session=True,
                **as_user,
            )


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found
