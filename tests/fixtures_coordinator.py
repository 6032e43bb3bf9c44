"""A real `troth serve` process, and a client that speaks to it byte by byte."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchStatus, BranchType, CompressorType, GlobalStatus, MessageType
from troth.wire.seata.frame import Frame

START_WITHIN_S = 20.0
ANSWER_WITHIN_S = 10.0
FAST = ("retry.min=50ms", "retry.max=200ms", "answer.timeout=1s", "outcomes.sweep=1s")


def until(condition: Callable[[], object], within_s: float = 10.0, what: str = "") -> object:
    """The first truthy value of `condition`; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or condition}")
        time.sleep(0.01)


class CoordinatorProcess:
    """One `troth serve` with its files in `directory`. Ports are free ones, chosen at the first start and kept."""

    def __init__(self, directory: Path, *settings: str, store: str | None = None, args: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.store = store or f"sqlite:///{directory}/troth.db"
        self.settings = settings
        self.args = args
        self.log_file = directory / "coordinator.log"
        self.ready: dict = {}
        self.process: subprocess.Popen | None = None

    def command(self) -> list[str]:
        port, admin_port = self.ready.get("port", 0), self.ready.get("admin_port", 0)
        command = [sys.executable, "-m", "troth", "serve", "--ready-json", "--store", self.store]
        command += ["--port", str(port), "--admin-port", str(admin_port)]
        command += ["--dtm-http-port", str(self.ready.get("dtm_http_port", 0))]
        command += ["--dtm-grpc-port", "off", *self.args]  # loading gRPC takes time; a later option wins
        for setting in (*FAST, *self.settings):
            command += ["--set", setting]
        return command

    def start(self) -> "CoordinatorProcess":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, cwd=self.directory, env=environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the coordinator did not start: {self.log()}"
        self.ready = json.loads(line)
        return self

    @property
    def port(self) -> int:
        return self.ready["port"]

    @property
    def address(self) -> str:
        return self.ready["address"]

    @property
    def admin(self) -> str:
        return self.ready["admin"]

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        """SIGKILL, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        return self.wait()

    def wait(self) -> int:
        """The exit status, once it has ended by itself."""
        assert self.process is not None
        status = self.process.wait(15)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        elif self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def get(self, path: str, method: str = "GET") -> tuple[int, dict]:
        """Status and JSON of an admin request."""
        request = urllib.request.Request(self.admin + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def transaction(self, xid: str) -> dict:
        status, body = self.get(f"/api/transactions/{xid}")
        assert status == 200, body
        return body

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(self.admin + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


class WireClient:
    """One connection to a coordinator. Requests of the coordinator that arrive in between are kept in `requests`."""

    def __init__(
        self, port: int, *, version: int = 1, compressor: CompressorType = CompressorType.NONE, role: str = ""
    ) -> None:
        self.connection = Connection(max_unregistered_bytes=None, protocol_version=version, compressor=compressor)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN_S)
        self.requests: list[Frame] = []
        self._arrived: list[Frame] = []
        self.role = role

    # ---- bytes ----

    def __enter__(self) -> "WireClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, frame: Frame) -> Frame:
        self.socket.sendall(self.connection.send(frame))
        return frame

    def receive(self, within_s: float = ANSWER_WITHIN_S) -> Frame:
        """The next frame; ConnectionError if the coordinator has closed."""
        deadline = time.monotonic() + within_s
        while not self._arrived:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed by the coordinator")
            self._arrived += self.connection.receive_data(data)
        return self._arrived.pop(0)

    def is_closed(self, within_s: float = ANSWER_WITHIN_S) -> bool:
        """True once the coordinator has closed; whatever arrives before is thrown away."""
        try:
            while True:
                self.receive(within_s)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    # ---- questions ----

    def post(self, message: m.Message) -> Frame:
        return self.send(self.connection.request(message))

    def answer_to(self, frame: Frame) -> Frame:
        while True:
            arrived = self.receive()
            if arrived.request_id == frame.request_id and not isinstance(arrived.body, m.BranchEndRequest):
                return arrived
            if isinstance(arrived.body, m.BranchEndRequest):
                self.requests.append(arrived)

    def ask(self, message: m.Message) -> m.Message:
        return self.answer_to(self.post(message)).body

    def register_tm(self, application: str = "shop", group: str = "default_tx_group") -> "WireClient":
        answer = self.ask(m.RegisterTMRequest("2.3.0", application, group, ""))
        assert isinstance(answer, m.RegisterTMResponse)
        assert answer.identified
        return self

    def register_rm(self, resources: str, application: str = "shop") -> "WireClient":
        answer = self.ask(m.RegisterRMRequest("2.3.0", application, "default_tx_group", "", resources))
        assert isinstance(answer, m.RegisterRMResponse)
        assert answer.identified
        return self

    def begin(self, timeout_ms: int = 60_000, name: str = "purchase") -> str:
        answer = self.ask(m.GlobalBeginRequest(timeout_ms, name))
        assert isinstance(answer, m.GlobalBeginResponse)
        assert answer.xid, answer
        return answer.xid

    def branch(self, xid: str, resource: str, lock_key: str, data: str | None = None) -> m.BranchRegisterResponse:
        answer = self.ask(m.BranchRegisterRequest(xid, BranchType.AT, resource, lock_key, data))
        assert isinstance(answer, m.BranchRegisterResponse)
        return answer

    def commit(self, xid: str) -> GlobalStatus:
        answer = self.ask(m.GlobalCommitRequest(xid))
        assert isinstance(answer, m.GlobalCommitResponse)
        return answer.global_status

    def rollback(self, xid: str) -> GlobalStatus:
        answer = self.ask(m.GlobalRollbackRequest(xid))
        assert isinstance(answer, m.GlobalRollbackResponse)
        return answer.global_status

    def status(self, xid: str) -> GlobalStatus:
        answer = self.ask(m.GlobalStatusRequest(xid))
        assert isinstance(answer, m.GlobalStatusResponse)
        return answer.global_status

    def report(self, xid: str, status: GlobalStatus) -> GlobalStatus:
        answer = self.ask(m.GlobalReportRequest(xid, None, status))
        assert isinstance(answer, m.GlobalReportResponse)
        return answer.global_status

    # ---- phase two ----

    def next_request(self, within_s: float = ANSWER_WITHIN_S) -> Frame:
        """The coordinator's next phase-two request."""
        while not self.requests:
            frame = self.receive(within_s)
            if isinstance(frame.body, m.BranchEndRequest):
                self.requests.append(frame)
        return self.requests.pop(0)

    def answer_branch(self, frame: Frame, status: BranchStatus | None = None) -> None:
        """Answer a phase-two request; as done unless told otherwise."""
        body = frame.body
        assert isinstance(body, m.BranchEndRequest)
        commits = isinstance(body, m.BranchCommitRequest)
        done = BranchStatus.PhaseTwo_Committed if commits else BranchStatus.PhaseTwo_Rollbacked
        kind = m.BranchCommitResponse if commits else m.BranchRollbackResponse
        self.send(
            self.connection.reply(frame, kind(xid=body.xid, branch_id=body.branch_id, branch_status=status or done))
        )

    def ping(self) -> None:
        frame = self.send(self.connection.ping())
        answer = self.receive()
        assert answer.message_type is MessageType.HEARTBEAT_PONG
        assert answer.request_id == frame.request_id


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """One private coordinator on a SQLite store for all tests of a module."""
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
def new_coordinator(tmp_path: Path) -> Iterator[Callable[..., CoordinatorProcess]]:
    """Makes coordinators (not started) that end with the test; settings are `key=value` texts."""
    made: list[CoordinatorProcess] = []

    def make(*settings: str, store: str | None = None, args: tuple[str, ...] = ()) -> CoordinatorProcess:
        directory = tmp_path / f"coordinator-{len(made)}"
        directory.mkdir()
        made.append(CoordinatorProcess(directory, *settings, store=store, args=args))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., WireClient]]:
    """Opens wire clients that are closed with the test."""
    opened: list[WireClient] = []

    def open_client(coordinator: CoordinatorProcess, **options: object) -> WireClient:
        opened.append(WireClient(coordinator.port, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
