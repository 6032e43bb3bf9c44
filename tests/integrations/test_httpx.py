from __future__ import annotations

from typing import Any

import httpx
import pytest

from troth.client.context import join
from troth.client.errors import CoordinatorUnavailable
from troth.integrations.httpx import install

XID = "127.0.0.1:8091:42"


def answer(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/moved":
        return httpx.Response(302, headers={"Location": "/show"})
    if request.url.path.startswith("/status/"):
        return httpx.Response(int(request.url.path.removeprefix("/status/")))
    return httpx.Response(200, json=str(request.headers.get("TX_XID")))


def make_client(**options: Any) -> httpx.Client:
    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service", follow_redirects=True)
    return install(http, **options)


def make_async_client(**options: Any) -> httpx.AsyncClient:
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service", follow_redirects=True)
    return install(http, **options)


@pytest.mark.parametrize("path", ["/show", "/moved"])
def test_calls_inside_carry_the_xid_and_others_do_not(coordinator: Any, path: str) -> None:
    with make_client() as http:
        assert http.get(path).json() == "None"
        with join(XID):
            assert http.get(path).json() == XID
        assert http.get(path).json() == "None"


async def test_async_calls_carry_the_xid(coordinator: Any) -> None:
    async with make_async_client() as http:
        with join(XID):
            assert (await http.get("/moved")).json() == XID
        assert (await http.get("/show")).json() == "None"


def test_a_request_object_that_is_sent_again_follows_the_transaction_of_the_moment(coordinator: Any) -> None:
    with make_client() as http:
        request = http.build_request("GET", "/show")
        with join(XID):
            assert http.send(request).json() == XID
        assert http.send(request).json() == "None"
        with join("other:1:1"):
            assert http.send(request).json() == "other:1:1"


def test_a_header_set_by_hand_stays(coordinator: Any) -> None:
    with make_client() as http, join(XID):
        assert http.get("/show", headers={"TX_XID": "by:1:hand"}).json() == "by:1:hand"


@pytest.mark.parametrize(("code", "votes"), [(200, 0), (404, 0), (500, 1), (503, 1)])
async def test_a_5xx_answer_votes(coordinator: Any, code: int, votes: int) -> None:
    with make_client() as http:
        http.get(f"/status/{code}")
        assert coordinator.votes == []
        with join(XID):
            assert http.get(f"/status/{code}").status_code == code
    async with make_async_client() as ahttp:
        with join(XID):
            assert (await ahttp.get(f"/status/{code}")).status_code == code
    assert coordinator.votes == [XID] * votes * 2


async def test_opting_out(coordinator: Any) -> None:
    with make_client(vote_on_5xx=False) as http, join(XID):
        assert http.get("/status/500").status_code == 500
    async with make_async_client(vote_on_5xx=False) as ahttp:
        with join(XID):
            assert (await ahttp.get("/status/500")).status_code == 500
    assert coordinator.votes == []


async def test_a_vote_that_does_not_arrive_is_the_callers_error(coordinator: Any) -> None:
    coordinator.answer = None
    with make_client() as http, join(XID), pytest.raises(CoordinatorUnavailable) as caught:
        http.get("/status/500")
    assert "GET http://service/status/500 answered 500" in caught.value.__notes__[0]
    async with make_async_client() as ahttp:
        with join(XID), pytest.raises(CoordinatorUnavailable):
            await ahttp.get("/status/500")


def test_the_header_can_be_spelled_with_a_hyphen(coordinator: Any) -> None:
    with make_client(header="TX-XID") as http, join(XID):
        assert http.get("/show").json() == "None"
        assert http.get("/show").request.headers["tx-xid"] == XID


def test_the_programs_own_hooks_stay(coordinator: Any) -> None:
    seen: list[str] = []
    http = httpx.Client(
        transport=httpx.MockTransport(answer),
        base_url="http://service",
        event_hooks={
            "request": [lambda request: seen.append("request")],
            "response": [lambda _: seen.append("answer")],
        },
    )
    with install(http), join(XID):
        assert http.get("/show").json() == XID
    assert seen == ["request", "answer"]


def test_installing_twice_is_refused() -> None:
    with make_client() as http, pytest.raises(ValueError, match="once"):
        install(http)
