"""The program of `dtm_go/` from Python: real DTM clients (the published Go module), as services and as starters."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pymysql
import pytest

HERE = Path(__file__).parent
MODULE = HERE / "dtm_go"
BUILD_WITHIN_S = 300.0
ANSWER_WITHIN_S = 30.0


def built() -> Path:
    """The compiled program; kept until a source changes. Skips where there is no Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("real DTM clients need Go (https://go.dev), and there is no `go` on the PATH")
    target = MODULE / "target"
    target.mkdir(exist_ok=True)
    binary = target / "dtm_go"
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may share a checkout
        sources = [MODULE / "go.mod", MODULE / "go.sum", *MODULE.glob("*.go")]
        if not binary.exists() or any(source.stat().st_mtime > binary.stat().st_mtime for source in sources):
            fetched = _go(go, "mod", "download")
            if fetched.returncode != 0:
                pytest.skip(f"Go cannot fetch the modules of real DTM clients: {fetched.stderr[-300:]}")
            made = _go(go, "build", "-mod=readonly", "-o", str(binary), ".")
            assert made.returncode == 0, made.stderr
    return binary


def _go(go: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([go, *arguments], cwd=MODULE, capture_output=True, text=True, timeout=BUILD_WITHIN_S)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a coordinator's DTM door is."""

    http: str
    """`http://HOST:PORT/api/dtmsvr`"""
    grpc: str
    """`HOST:PORT`"""
    real: bool = False
    """A DTM server, not ours."""

    @property
    def json_rpc(self) -> str:
        return self.http.removesuffix("dtmsvr") + "json-rpc"

    def server(self, protocol: str) -> str:
        return {"http": self.http, "grpc": self.grpc, "json-rpc": self.json_rpc}[protocol]

    def get(self, path: str, **query: str) -> dict:
        status, body = fetch(f"{self.http}/{path}?{urllib.parse.urlencode(query)}")
        assert status == 200, body
        return body

    def query(self, gid: str) -> dict:
        """`{"transaction": …, "branches": […]}`"""
        return self.get("query", gid=gid)

    def status(self, gid: str) -> str:
        return (self.query(gid)["transaction"] or {}).get("status", "")

    def statuses(self, gid: str) -> list[tuple[str, str, str]]:
        """(branch_id, op, status) of each branch row."""
        return [(row["branch_id"], row["op"], row["status"]) for row in self.query(gid)["branches"]]


def real_dtm() -> Door:
    """The DTM server that `TROTH_TEST_DTM` names; skips without one."""
    address = os.environ.get("TROTH_TEST_DTM")
    if not address:
        pytest.skip("no real DTM server: TROTH_TEST_DTM=http://HOST:PORT names one (gRPC at PORT + 1)")
    parsed = urllib.parse.urlsplit(address)
    return Door(f"{address}/api/dtmsvr", f"{parsed.hostname}:{(parsed.port or 36789) + 1}", real=True)


def fetch(url: str, body: object = None, method: str | None = None) -> tuple[int, dict]:
    """Status and JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def until(what: Callable[[], object], wanted: object, within_s: float = 20.0) -> None:
    """Wait for a value."""
    deadline = time.monotonic() + within_s
    while (seen := what()) != wanted:
        assert time.monotonic() < deadline, f"not within {within_s} s: {wanted!r}, but {seen!r}"
        time.sleep(0.02)


class DtmGo:
    """One process of the program. Its ports and its journal stay when it is killed and started again."""

    def __init__(self, directory: Path, door: Door, database: str = "") -> None:
        self.directory = directory
        self.door = door
        self.database = database
        self.ready: dict[str, str] = {}
        self.process: subprocess.Popen | None = None

    def start(self) -> DtmGo:
        command = [str(built()), "--journal", str(self.directory / "journal"), "--db", self.database]
        command += ["--dtm-http", self.door.http, "--dtm-grpc", self.door.grpc]
        for name, address in self.ready.items():
            command += [f"--{name}-port", address.rpartition(":")[2]]
        with (self.directory / "dtm_go.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.directory / "dtm_go.log").read_text()
        self.ready = json.loads(line)
        return self

    def wait_for_death(self) -> None:
        """It has been told to crash."""
        assert self.process is not None
        assert self.process.wait(ANSWER_WITHIN_S) == 137
        self.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.close()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            if self.process.stdout is not None:
                self.process.stdout.close()

    # ---- what it is told ----

    def url(self, protocol: str, service: str = "act") -> str:
        return self.ready["grpc"] + "/busi.Busi/" + service if protocol == "grpc" else f"{self.ready['http']}/{service}"

    def script(self, answers: dict[str, list[str]], gid: str | None = None) -> str:
        """How `BRANCH/OP` is answered, in turn; the gid it is for."""
        gid = gid or new_gid()
        status, body = fetch(self.ready["http"] + "/script", {"gid": gid, "answers": answers})
        assert status == 200, body
        return gid

    def run(self, kind: str, protocol: str, gid: str, branches: list[dict] | tuple = (), **more: object) -> dict:
        """Begin a transaction by the real client: `{"error", "kind", "result", "took_ms"}`."""
        order = {"kind": kind, "protocol": protocol, "server": self.door.server(protocol), "gid": gid}
        status, body = fetch(self.ready["http"] + "/run", order | {"branches": list(branches)} | more)
        assert status == 200, body
        return body

    # ---- what it saw ----

    def calls(self, gid: str) -> list[dict]:
        status, body = fetch(f"{self.ready['http']}/calls?gid={urllib.parse.quote(gid)}")
        assert status == 200
        return body  # type: ignore[return-value]

    def seen(self, gid: str) -> list[str]:
        """`BRANCH/OP`, in the order in which they came."""
        return [f"{call['branch_id']}/{call['op']}" for call in self.calls(gid)]

    def steps(self, protocol: str, count: int, service: str = "act", payloads: list[dict] | None = None) -> list[dict]:
        """`count` branches of the service, for any kind of transaction."""
        url = self.url(protocol, service)
        made = payloads or [{"step": step + 1} for step in range(count)]
        return [{"url": url, "compensate": url, "confirm": url, "payload": payload} for payload in made]

    # ---- its database ----

    def accounts(self, *balances: int) -> list[str]:
        """New accounts with so much; their names."""
        names = [f"account-{new_gid()[:12]}" for _ in balances]
        for name, balance in zip(names, balances, strict=True):
            self._rows(f"insert into account values ('{name}', {balance}, 0)")
        return names

    def balances(self, *names: str) -> list[tuple[int, int]]:
        """(balance, frozen) of each."""
        found = [self._rows(f"select balance, frozen from account where name = '{name}'") for name in names]
        return [(int(row[0]), int(row[1])) for (row,) in found]

    def _rows(self, sql: str) -> list[tuple]:
        with self._connection() as connection, contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            rows = list(cursor.fetchall()) if cursor.description else []
            connection.commit()
            return rows

    def _connection(self) -> contextlib.closing:
        url = urllib.parse.urlsplit(self.database)
        where = {"host": url.hostname, "port": url.port, "user": url.username, "password": url.password}
        if url.scheme == "mysql":
            return contextlib.closing(pymysql.connect(**where, database=url.path[1:]))
        return contextlib.closing(psycopg.connect(self.database))


def new_gid() -> str:
    return uuid.uuid4().hex
