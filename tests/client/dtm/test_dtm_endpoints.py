"""What a service of DTM's style answers: the ASGI and WSGI middlewares, inside and around a framework."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import fastapi
import httpx
import pytest

import troth.dtm
from troth.client.drivers import barrier as barrier_table
from troth.integrations import dtm_asgi, dtm_wsgi

CALL = {"gid": "g", "branch_id": "01", "op": "action", "trans_type": "saga"}
ERRORS = {
    "refused": (troth.dtm.BranchRefused("no"), 409, "FAILURE"),
    "late": (troth.dtm.LateTry("too late"), 409, "FAILURE"),
    "ongoing": (troth.dtm.Ongoing("soon"), 425, "ONGOING"),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/service.db"
    barrier_table.init(found)
    return found


def shop() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/raise/{name}")
    def raises(name: str) -> None:
        raise ERRORS[name][0]

    @app.post("/mark")
    async def mark() -> dict[str, str]:
        return {"op": troth.dtm.current_barrier().mark.op}

    return app


async def ask(app: Any, path: str, query: dict[str, str], method: str = "POST") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        return await http.request(method, path, params=query)


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize("name", ERRORS)
async def test_asgi_answers_what_a_coordinator_understands(around: bool, name: str) -> None:
    app: Any = shop()
    if around:
        app = dtm_asgi.DtmMiddleware(app)
    else:
        app.add_middleware(dtm_asgi.DtmMiddleware)
    _, status, word = ERRORS[name]
    answer = await ask(app, f"/raise/{name}", CALL)
    assert (answer.status_code, answer.json()["dtm_result"]) == (status, word)
    assert (await ask(app, "/mark", CALL)).json() == {"op": "action"}
    assert (await ask(app, f"/raise/{name}", {})).status_code == 500  # no coordinator's call: none of our business
    assert (await ask(app, "/mark", CALL | {"gid": "x" * 200})).status_code == 400


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_asgi_answers_check_backs(url: str, asynchronous: bool) -> None:
    path = url.removeprefix("sqlite:///")
    source: Any = partial(aiosqlite.connect, path) if asynchronous else url
    app = dtm_asgi.DtmMiddleware(shop(), check_backs={"/check-back": source, "/broken": "sqlite:////no/such/file"})
    with closing(sqlite3.connect(path)) as connection:
        troth.dtm.message_barrier("sent").call(connection, lambda _: None)
    assert (await ask(app, "/check-back", {"gid": "sent"}, "GET")).status_code == 200
    answer = await ask(app, "/check-back", {"gid": "never"}, "GET")
    assert (answer.status_code, answer.json()["dtm_result"]) == (409, "FAILURE")
    assert (await ask(app, "/broken", {"gid": "sent"}, "GET")).status_code == 500


def wsgi(app: Any, path: str, query: str, body: bytes = b"") -> tuple[str, bytes]:
    told: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        told.append(status)

    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body)}
    answer = b"".join(app(environ, start_response))
    return told[0], answer


def test_wsgi_answers_what_a_coordinator_understands(url: str) -> None:
    def service(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ERRORS[environ["PATH_INFO"][1:]][0]

    app = dtm_wsgi.DtmMiddleware(service, check_backs={"/check-back": url})
    query = "&".join(f"{name}={value}" for name, value in CALL.items())
    for name, (_, status, word) in ERRORS.items():
        line, body = wsgi(app, f"/{name}", query)
        assert line.startswith(str(status))
        assert word.encode() in body
        with pytest.raises(type(ERRORS[name][0])):
            wsgi(app, f"/{name}", "")
    assert wsgi(app, "/check-back", "gid=never")[0].startswith("409")
    assert wsgi(app, "/refused", query.replace("gid=g", "gid=" + "x" * 200))[0].startswith("400")


def test_call_backs_for_workflows_that_are_not_here_are_bad_requests() -> None:
    with closing(troth.dtm.connect("http://127.0.0.1:9")) as client:
        app = dtm_wsgi.DtmMiddleware(lambda *_: [], workflows={"/workflow": client})
        assert wsgi(app, "/workflow", "gid=g&op=unknown")[0].startswith("400")
        inside = dtm_asgi.DtmMiddleware(shop(), workflows={"/workflow": client})
        assert asyncio.run(ask(inside, "/workflow", {"gid": "g", "op": "unknown"})).status_code == 400


def test_a_failure_of_the_service_never_says_failure() -> None:
    """DTM takes a body with that word for a refusal, whatever the status."""
    status, body = troth.dtm.answer_to(KeyError("FAILURE and ONGOING"))
    assert status == 500
    assert "FAILURE" not in str(body)
    assert "ONGOING" not in str(body)
