"""A real small HTTP service whose URLs are branches: it answers as a test tells it, and remembers who called."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

DONE = (200, '{"dtm_result":"SUCCESS"}')
REFUSED = (409, '{"dtm_result":"FAILURE"}')
ONGOING = (425, '{"dtm_result":"ONGOING"}')
BROKEN = (500, "broken")

Answer = tuple[int, str]


class Called(NamedTuple):
    """One call of a branch."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def op(self) -> str:
        return self.query.get("op", "")

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.op}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        called = Called(self.command, parts.path, query, headers, body)
        status, text, *more = self.server.service.answer_to(called)
        data = text.encode()
        self.send_response(status)
        for header in more:
            name, _, value = header.partition(": ")
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815 - http.server's names

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    service: "BranchService"

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers hang up, and are killed: that is what the tests do."""


class BranchService:
    """`answers[path]` are given one after the other, the last one for ever; DONE where nothing is said."""

    def __init__(self) -> None:
        self.calls: list[Called] = []
        self.answers: dict[str, list[tuple]] = {}
        self.hold: dict[str, threading.Event] = {}
        """A call to such a path waits for the event first."""
        self.on_call: Callable[[Called], None] = lambda called: None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.service = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> "BranchService":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for event in self.hold.values():
            event.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def say(self, path: str, *answers: tuple) -> None:
        """What to answer at `path`, in turn."""
        self.answers[path] = list(answers)

    def answer_to(self, called: Called) -> tuple:
        with self._lock:
            self.calls.append(called)
            script = self.answers.get(called.path)
            answer = DONE if not script else script.pop(0) if len(script) > 1 else script[0]
        self.on_call(called)
        event = self.hold.get(called.path)
        if event is not None:
            event.wait(30)
        return answer

    def paths(self, gid: str | None = None) -> list[str]:
        """The paths that were called, in order; of one transaction, if `gid` is given."""
        with self._lock:
            return [called.path for called in self.calls if gid is None or called.query.get("gid") == gid]

    def of(self, path: str) -> list[Called]:
        with self._lock:
            return [called for called in self.calls if called.path == path]


class DtmClient:
    """Requests at a coordinator's HTTP door, as any DTM client sends them."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}/api"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
        """Status and JSON of a request to /api/`path`."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/{path}", data, headers, method=method)
        if data is not None:
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def post(self, what: str, **fields: object) -> tuple[int, dict]:
        return self.ask("POST", f"dtmsvr/{what}", fields)

    def get(self, what: str, **query: object) -> tuple[int, dict]:
        return self.ask("GET", f"dtmsvr/{what}?{urlencode(query)}")

    def gid(self) -> str:
        status, body = self.get("newGid")
        assert status == 200, body
        return body["gid"]

    def query(self, gid: str) -> dict:
        status, body = self.get("query", gid=gid)
        assert status == 200, body
        return body

    def status(self, gid: str) -> str | None:
        found = self.query(gid)["transaction"]
        return found and found["status"]

    def ends_as(self, gid: str, status: str, within_s: float = 15.0) -> None:
        """Wait until it has that status."""
        deadline = time.monotonic() + within_s
        while (found := self.status(gid)) != status:
            assert time.monotonic() < deadline, f"{gid} is {found}, not {status}: {self.query(gid)}"
            time.sleep(0.02)

    def branches(self, gid: str) -> list[tuple[str, str, str]]:
        return [(row["branch_id"], row["op"], row["status"]) for row in self.query(gid)["branches"]]


@pytest.fixture
def service() -> Iterator[BranchService]:
    """A service of the test's own."""
    with BranchService() as one:
        yield one


def saga(service: BranchService, *names: str) -> dict[str, object]:
    """The steps and payloads of a saga over `/NAME` and `/NAME-undo`."""
    return {
        "trans_type": "saga",
        "steps": [{"action": service.url(f"/{name}"), "compensate": service.url(f"/{name}-undo")} for name in names],
        "payloads": [json.dumps({"of": name}) for name in names],
    }
