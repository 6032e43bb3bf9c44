"""A private server as its user sees it: `start`, a URL, `stop`."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from troth.demo.servers import sitter
from troth.demo.servers.mariadb import MARIADB
from troth.demo.servers.plan import Account, Kind, Plan, Product, ServersMissing
from troth.demo.servers.postgres import POSTGRES

PRODUCTS: Final = MappingProxyType({Kind.POSTGRES: POSTGRES, Kind.MARIADB: MARIADB})

_START_WITHIN_S: Final = 60.0
_STOP_WITHIN_S: Final = 15.0
_TRIES: Final = 3
"""A port that was free a moment ago may be taken; then another one is tried."""


@dataclass(frozen=True, slots=True)
class PrivateServer:
    """A running server of ours; the account may do everything on it."""

    product: Product
    account: Account
    directory: Path
    pid: int
    """The process of the server itself."""
    sitter: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The server's first database, as SQLAlchemy spells it without a driver: `postgresql://user:password@…/name`."""
        return self.url_of(self.product.first_database)

    def url_of(self, database: str) -> str:
        """The URL of one database of it."""
        account = self.account
        login = f"{account.user}:{account.password}@{account.host}:{account.port}"
        return f"{self.product.scheme}://{login}/{database}"

    def execute(self, sql: str, database: str | None = None) -> str:
        """Run `sql` with the server's own shell; gives what it printed. Raises RuntimeError with what went wrong."""
        command, environment = self.product.shell(self.account, database or self.product.first_database, sql)
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode != 0:
            raise RuntimeError(f"{sql}: {done.stderr.strip()}")
        return done.stdout

    def create_database(self, name: str) -> str:
        """Make an empty database; gives its URL. `name` is written as it is, so it is a plain word."""
        self.execute(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def stop(self) -> None:
        """End the server and remove its directory. Twice does no harm."""
        if self.sitter.stdin is not None:
            self.sitter.stdin.close()
        try:
            self.sitter.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.sitter.kill()  # which ends the server too
            self.sitter.wait()
        if self.sitter.returncode != 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self.sitter.stdout is not None:
            self.sitter.stdout.close()


def start(*kinds: Kind) -> list[PrivateServer]:
    """Start one server of each of `kinds`, all at the same time; gives them when all of them serve.

    Raises:
        ServersMissing: its programs are not installed, or it did not start. None of them runs then.
    """
    with ExitStack() as started:
        starting = []
        for kind in kinds:
            server = _Starting(PRODUCTS[kind])
            started.callback(server.abandon)
            starting.append(server)
        servers = [server.wait() for server in starting]
        started.pop_all()
    return servers


class _Starting:
    """A server on its way."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._tries_left = _TRIES
        self._begin()

    def _begin(self) -> None:
        self._tries_left -= 1
        self.directory = Path(tempfile.mkdtemp(prefix=f"troth-{self._product.kind}-"))
        try:
            self._account = Account("127.0.0.1", _free_port(), "troth", secrets.token_hex(8))
            plan = self._product.plan(self.directory, self._account)
            user = _user(self._product) if os.geteuid() == 0 else None
            if user is not None:
                os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._sitter = _sit(_job(self.directory, self._account, plan, user))
        except BaseException:
            shutil.rmtree(self.directory)
            raise

    def wait(self) -> PrivateServer:
        """The server, when it serves."""
        while True:
            stdout = self._sitter.stdout
            line = stdout.readline() if stdout is not None else b""
            said: dict[str, Any] = json.loads(line) if line else {"error": "its sitter ended"}
            if "pid" in said:
                return PrivateServer(self._product, self._account, self.directory, said["pid"], self._sitter)
            self.abandon()
            if self._tries_left == 0:
                raise ServersMissing(f"a private {self._product.kind} does not start: {said['error']}")
            self._begin()

    def abandon(self) -> None:
        """End what has been started of it."""
        PrivateServer(self._product, self._account, self.directory, 0, self._sitter).stop()


def _sit(job: dict[str, object]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # By its path and isolated: it starts in no time, whatever stands in the current directory.
        (sys.executable, "-I", sitter.__file__, json.dumps(job)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        start_new_session=True,  # Ctrl-C is the parent's business
    )


def _user(product: Product) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(product.system_user)
    except KeyError:
        raise ServersMissing(
            f"there is no user {product.system_user} to run {product.kind} as, and it refuses to run as root"
        ) from None


def _job(directory: Path, account: Account, plan: Plan, user: pwd.struct_passwd | None) -> dict[str, object]:
    return {
        "directory": str(directory),
        "user": None if user is None else {"uid": user.pw_uid, "gid": user.pw_gid},
        "prepare": plan.prepare,
        "serve": plan.serve,
        "ready_file": plan.ready_file,
        "port": account.port,
        "stop_signal": plan.stop_signal,
        "start_within_s": _START_WITHIN_S,
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def available(kinds: Sequence[Kind]) -> None:
    """Raise ServersMissing if programs of one of `kinds` are not installed."""
    for kind in kinds:
        PRODUCTS[kind].programs()
