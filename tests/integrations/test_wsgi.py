from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from troth.client.context import current_xid, join
from troth.integrations.wsgi import TrothMiddleware

XID = "127.0.0.1:8091:42"
PLAIN = [("Content-Type", "text/plain")]


def which(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [str(current_xid()).encode()]


def lazily(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    for _ in range(2):
        yield f"{current_xid()};".encode()


def failing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("503 Service Unavailable", PLAIN)
    return [b"no"]


def lazily_failing(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("500 Internal Server Error", PLAIN)
    yield b"no"


def crash(environ: Any, start_response: Any) -> list[bytes]:
    raise RuntimeError("boom")


def crash_half_way(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    yield b"half"
    raise RuntimeError("the other half is lost")


def call(app: Any, xid: str | None = None, **options: Any) -> tuple[str, bytes]:
    """Call as a careful server would, with PEP 3333's own validator around the middleware."""
    environ: dict[str, Any] = {"QUERY_STRING": ""}
    setup_testing_defaults(environ)
    if xid is not None:
        environ["HTTP_TX_XID"] = xid
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses.append(status)
        return lambda data: None

    body = validator(TrothMiddleware(app, **options))(environ, start_response)
    try:
        text = b"".join(body)
    finally:
        body.close()  # type: ignore[attr-defined]
        assert current_xid() in (None, "leaked:1:1")
    return statuses[-1], text


@pytest.mark.parametrize(("app", "shown"), [(which, "{}"), (lazily, "{0};{0};")])
def test_a_request_joins_and_the_next_does_not(coordinator: Any, app: Any, shown: str) -> None:
    assert call(app, XID) == ("200 OK", shown.format(XID).encode())
    assert call(app) == ("200 OK", shown.format(None).encode())
    assert coordinator.votes == []


@pytest.mark.parametrize("app", [failing, lazily_failing])
def test_a_5xx_answer_votes_once(coordinator: Any, app: Any) -> None:
    assert call(app, XID)[0][0] == "5"
    assert coordinator.votes == [XID]
    call(app)
    assert coordinator.votes == [XID]


@pytest.mark.parametrize("app", [crash, crash_half_way])
def test_an_exception_votes_once(coordinator: Any, app: Any) -> None:
    with pytest.raises(RuntimeError):
        call(app, XID)
    assert coordinator.votes == [XID]


def test_the_vote_is_there_before_the_answer_starts(coordinator: Any) -> None:
    seen: list[list[str]] = []
    environ: dict[str, Any] = {"HTTP_TX_XID": XID}
    setup_testing_defaults(environ)
    TrothMiddleware(failing)(environ, lambda *_: seen.append(list(coordinator.votes)))  # type: ignore[arg-type]
    assert seen == [[XID]]


def test_opting_out(coordinator: Any) -> None:
    assert call(failing, XID, vote_on_5xx=False)[0].startswith("503")
    with pytest.raises(RuntimeError):
        call(crash, XID, vote_on_5xx=False)
    assert coordinator.votes == []


def test_a_lost_vote_is_logged_and_the_caller_still_sees_the_failure(
    coordinator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.answer = None
    assert call(failing, XID)[0].startswith("503")
    with pytest.raises(RuntimeError, match="boom"):
        call(crash, XID)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_two_different_xids_are_answered_with_400(coordinator: Any) -> None:
    status, text = call(which, "a:1:1,a:1:2")
    assert (status, b"a:1:1, a:1:2" in text) == ("400 Bad Request", True)


@pytest.mark.parametrize(("app", "shown"), [(which, "{}"), (lazily, "{0};{0};")])
def test_an_xid_left_on_a_pooled_thread_is_not_joined_but_told(
    coordinator: Any, caplog: pytest.LogCaptureFixture, app: Any, shown: str
) -> None:
    def leave_behind() -> None:
        join("leaked:1:1").__enter__()

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        pool.submit(leave_behind).result()
        assert pool.submit(call, app).result() == ("200 OK", shown.format(None).encode())
        assert pool.submit(call, app, XID).result() == ("200 OK", shown.format(XID).encode())
    assert caplog.text.count("leaked:1:1 was left") == 2


def test_what_an_application_leaves_behind_is_not_joined_by_the_next_request(coordinator: Any) -> None:
    def leaking(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", PLAIN)
        join("leaked:1:1").__enter__()
        return [b""]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call, leaking, XID).result()
        assert pool.submit(current_xid).result() is None
        assert pool.submit(call, which).result() == ("200 OK", b"None")


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.parametrize("header", ["TX_XID", "TX-XID"])
def test_over_a_real_server_both_spellings_arrive(coordinator: Any, header: str) -> None:
    with make_server("127.0.0.1", 0, TrothMiddleware(which), WSGIServer, QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        try:
            connection.request("GET", "/", headers={header: XID})
            assert connection.getresponse().read() == XID.encode()
        finally:
            connection.close()
            server.shutdown()
            thread.join()
