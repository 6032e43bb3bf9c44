from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from troth.client.context import current_xid, join
from troth.integrations.asgi import TrothMiddleware

XID = "127.0.0.1:8091:42"


async def which(_request: Request) -> Response:
    return PlainTextResponse(str(current_xid()))


def sync_which(_request: Request) -> Response:  # runs in the thread pool
    return PlainTextResponse(str(current_xid()))


async def status(request: Request) -> Response:
    return Response(status_code=int(request.query_params["code"]))


async def crash(_request: Request) -> Response:
    raise RuntimeError("boom")


async def stream(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        for _ in range(2):
            await asyncio.sleep(0)
            yield f"{current_xid()};"

    return StreamingResponse(chunks())


async def failing_stream(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        yield "half"
        raise RuntimeError("the other half is lost")

    return StreamingResponse(chunks())


async def late(_request: Request) -> Response:
    async def afterwards() -> None:
        raise RuntimeError("the background task failed")

    return JSONResponse({}, background=BackgroundTask(afterwards))


ROUTES = [
    Route("/which", which),
    Route("/sync", sync_which),
    Route("/status", status),
    Route("/crash", crash),
    Route("/stream", stream),
    Route("/failing-stream", failing_stream),
    Route("/late", late),
]


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


def make_app(**options: Any) -> Starlette:
    app = Starlette(routes=ROUTES)
    app.add_middleware(TrothMiddleware, **options)
    return app


@pytest.mark.parametrize("path", ["/which", "/sync"])
@pytest.mark.parametrize("header", ["TX_XID", "tx_xid", "TX-XID"])
async def test_a_request_joins_and_the_next_does_not(coordinator: Any, path: str, header: str) -> None:
    async with client_of(make_app()) as http:
        assert (await http.get(path, headers={header: XID})).text == XID
        assert (await http.get(path)).text == "None"
    assert coordinator.votes == []


async def test_a_streamed_body_is_still_joined(coordinator: Any) -> None:
    async with client_of(make_app()) as http:
        assert (await http.get("/stream", headers={"TX_XID": XID})).text == f"{XID};{XID};"
    assert coordinator.votes == []


@pytest.mark.parametrize(("code", "votes"), [(200, 0), (302, 0), (409, 0), (500, 1), (503, 1)])
async def test_a_5xx_answer_votes_once(coordinator: Any, code: int, votes: int) -> None:
    async with client_of(make_app()) as http:
        assert (await http.get(f"/status?code={code}", headers={"TX_XID": XID})).status_code == code
        assert coordinator.votes == [XID] * votes
        await http.get(f"/status?code={code}")
    assert coordinator.votes == [XID] * votes


@pytest.mark.parametrize("path", ["/crash", "/failing-stream", "/late"])
async def test_an_exception_votes_once(coordinator: Any, path: str) -> None:
    async with client_of(make_app()) as http:
        await http.get(path, headers={"TX_XID": XID})
    assert coordinator.votes == [XID]


async def test_the_vote_is_there_before_the_answer_starts(coordinator: Any) -> None:
    seen: list[list[str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        seen.append(list(coordinator.votes))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"tx_xid", XID.encode())]}
    await TrothMiddleware(app)(scope, None, send)  # type: ignore[arg-type]
    assert seen == [[XID], [XID]]


async def test_opting_out(coordinator: Any) -> None:
    async with client_of(make_app(vote_on_5xx=False)) as http:
        for path in ("/status?code=500", "/crash", "/failing-stream"):
            await http.get(path, headers={"TX_XID": XID})
        assert (await http.get("/which", headers={"TX_XID": XID})).text == XID
    assert coordinator.votes == []


@pytest.mark.parametrize("path", ["/status?code=503", "/crash"])
async def test_a_lost_vote_is_logged_and_the_caller_still_sees_the_failure(
    coordinator: Any, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    coordinator.answer = None
    async with client_of(make_app()) as http:
        assert (await http.get(path, headers={"TX_XID": XID})).status_code >= 500
    assert [record.levelname for record in caplog.records if XID in record.getMessage()] == ["ERROR"]


async def test_without_a_client_the_lost_vote_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(make_app()) as http:
        assert (await http.get("/status?code=500", headers={"TX_XID": XID})).status_code == 500
    assert "troth.init" in caplog.text


async def test_two_different_xids_are_answered_with_400(coordinator: Any) -> None:
    async with client_of(make_app()) as http:
        answer = await http.get("/which", headers=[("TX_XID", "a:1:1"), ("TX-XID", "a:1:2")])
    assert (answer.status_code, "a:1:1, a:1:2" in answer.text) == (400, True)


async def test_a_cancelled_request_votes(coordinator: Any) -> None:
    entered = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"tx_xid", XID.encode())]}
    task = asyncio.create_task(TrothMiddleware(app)(scope, None, None))  # type: ignore[arg-type]
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert coordinator.votes == [XID]


async def test_an_xid_left_on_the_task_is_not_joined_but_told(
    coordinator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_app()) as http:
        with join("leaked:1:1"), caplog.at_level(logging.WARNING):
            assert (await http.get("/which")).text == "None"
            assert (await http.get("/which", headers={"TX_XID": XID})).text == XID
            assert current_xid() == "leaked:1:1"
    assert caplog.text.count("leaked:1:1 was left") == 2


async def test_requests_at_the_same_time_do_not_see_each_other(coordinator: Any) -> None:
    async with client_of(make_app()) as http:

        async def ask(number: int) -> bool:
            xid = f"127.0.0.1:8091:{number}" if number % 3 else None
            answer = await http.get("/sync" if number % 2 else "/stream", headers={"TX_XID": xid} if xid else {})
            return set(answer.text.rstrip(";").split(";")) == {str(xid)}

        assert all(await asyncio.gather(*(ask(number) for number in range(60))))


async def test_under_a_base_http_middleware(coordinator: Any) -> None:
    class Outer(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    app = make_app()
    app.add_middleware(Outer)
    async with client_of(app) as http:
        assert (await http.get("/which", headers={"TX_XID": XID})).text == XID
        assert (await http.get("/crash", headers={"TX_XID": XID})).status_code == 500
        assert (await http.get("/which")).text == "None"
    assert coordinator.votes == [XID]


async def test_other_scopes_pass_through(coordinator: Any) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        await TrothMiddleware(app)({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket"]
