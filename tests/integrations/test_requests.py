from __future__ import annotations

import io
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from troth.client.context import join
from troth.client.errors import CoordinatorUnavailable
from troth.integrations.requests import TrothAdapter, install

XID = "127.0.0.1:8091:42"


class Service(BaseAdapter):
    """Answers like a service: the xid it saw is the body."""

    def send(self, request: requests.PreparedRequest, *_args: Any, **_options: Any) -> requests.Response:
        path = request.path_url
        answer = requests.Response()
        answer.request, answer.url, answer.status_code = request, request.url or "", 200
        if path == "/moved":
            answer.status_code, answer.headers["Location"] = 302, "/show"
        elif path.startswith("/status/"):
            answer.status_code = int(path.removeprefix("/status/"))
        answer.raw = io.BytesIO(str(request.headers.get("TX_XID")).encode())
        return answer

    def close(self) -> None: ...


def make_session(**options: Any) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Service())
    return install(session, **options)


@pytest.mark.parametrize("path", ["/show", "/moved"])
def test_calls_inside_carry_the_xid_and_others_do_not(coordinator: Any, path: str) -> None:
    with make_session() as http:
        assert http.get(f"http://service{path}").text == "None"
        with join(XID):
            assert http.get(f"http://service{path}").text == XID
        assert http.get(f"http://service{path}").text == "None"


def test_a_request_object_that_is_sent_again_follows_the_transaction_of_the_moment(coordinator: Any) -> None:
    with make_session() as http:
        request = http.prepare_request(requests.Request("GET", "http://service/show"))
        with join(XID):
            assert http.send(request).text == XID
        assert http.send(request).text == "None"
        with join("other:1:1"):
            assert http.send(request).text == "other:1:1"


def test_a_header_set_by_hand_stays(coordinator: Any) -> None:
    with make_session() as http, join(XID):
        assert http.get("http://service/show", headers={"TX_XID": "by:1:hand"}).text == "by:1:hand"


@pytest.mark.parametrize(("code", "votes"), [(200, 0), (404, 0), (500, 1), (503, 1)])
def test_a_5xx_answer_votes(coordinator: Any, code: int, votes: int) -> None:
    with make_session() as http:
        http.get(f"http://service/status/{code}")
        assert coordinator.votes == []
        with join(XID):
            assert http.get(f"http://service/status/{code}").status_code == code
    assert coordinator.votes == [XID] * votes


def test_opting_out(coordinator: Any) -> None:
    with make_session(vote_on_5xx=False) as http, join(XID):
        assert http.get("http://service/status/500").status_code == 500
    assert coordinator.votes == []


def test_a_vote_that_does_not_arrive_is_the_callers_error(coordinator: Any) -> None:
    coordinator.answer = None
    with make_session() as http, join(XID), pytest.raises(CoordinatorUnavailable) as caught:
        http.get("http://service/status/500")
    assert "GET http://service/status/500 answered 500" in caught.value.__notes__[0]


def test_every_adapter_is_wrapped_and_installing_twice_is_refused() -> None:
    with make_session() as http:
        assert all(isinstance(adapter, TrothAdapter) for adapter in http.adapters.values())
        with pytest.raises(ValueError, match="once"):
            install(http)
