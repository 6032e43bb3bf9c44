"""The three databases of the bank: made, read, killed, paused, started again."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
from bank_settings import ACCOUNTS, AT_START

import troth
from fixtures_coordinator import until
from troth.demo.servers.private import PrivateServer

_TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE entry (id VARCHAR(80) PRIMARY KEY, account INTEGER NOT NULL, delta INTEGER NOT NULL)",
    "INSERT INTO account (id, balance) VALUES " + ", ".join(f"({n}, {AT_START})" for n in range(1, ACCOUNTS + 1)),
)
_OPEN_TRANSACTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx",
}
_START_WITHIN_S = 30.0


class Database:
    """One bank's database, read with the plain driver: troth is not trusted here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = url.partition(":")[0]

    def create(self) -> None:
        with self._connection() as connection:
            cursor = connection.cursor()
            if self.kind == "sqlite":
                cursor.execute("PRAGMA journal_mode = WAL")
            for statement in _TABLES:
                cursor.execute(statement)
            connection.commit()
        troth.at.init(self.url)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def open_transactions(self) -> int:
        """How many are under way; SQLite has at most one writer, and a free file is none."""
        if self.kind == "sqlite":
            with self._connection() as connection:
                try:
                    connection.execute("PRAGMA busy_timeout = 0")
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return 1
            return 0
        ((count,),) = self.rows(_OPEN_TRANSACTIONS[self.kind])
        return int(count)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self.kind == "sqlite":
            opened: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=5)
        elif self.kind == "postgresql":
            opened = psycopg.connect(self.url, connect_timeout=5)
        else:
            parts = urlsplit(self.url)
            opened = pymysql.connect(
                host=parts.hostname,
                port=parts.port or 0,
                user=parts.username,
                password=parts.password or "",
                database=parts.path[1:],
                connect_timeout=5,
            )
        with closing(opened):
            yield opened


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
