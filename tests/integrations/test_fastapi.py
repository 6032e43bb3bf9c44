from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from troth.client.context import current_xid
from troth.integrations.fastapi import CallerXid, add_troth

XID = "127.0.0.1:8091:7"


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    add_troth(app)

    @app.get("/sync")
    def sync_handler(xid: CallerXid) -> list[str | None]:
        return [xid, current_xid()]

    @app.get("/async")
    async def async_handler(xid: CallerXid) -> list[str | None]:
        return [xid, current_xid()]

    @app.get("/fail/{code}")
    def fail(code: int) -> None:
        raise HTTPException(code)

    @app.get("/handled")
    def handled() -> None:
        raise KeyError("handled by a global exception handler")

    @app.exception_handler(KeyError)
    async def answer_500(_request: Any, _error: Exception) -> Any:
        from fastapi.responses import JSONResponse

        return JSONResponse({"error": "internal"}, status_code=500)

    return app


@pytest.mark.parametrize("path", ["/sync", "/async"])
async def test_handlers_see_the_xid_and_nothing_stays_in_the_thread_pool(
    coordinator: Any, app: FastAPI, path: str
) -> None:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        for _ in range(20):
            assert (await http.get(path, headers={"TX_XID": XID})).json() == [XID, XID]
            assert (await http.get(path)).json() == [None, None]


@pytest.mark.parametrize(("path", "votes"), [("/fail/404", 0), ("/fail/500", 1), ("/handled", 1)])
async def test_failures_vote(coordinator: Any, app: FastAPI, path: str, votes: int) -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        await http.get(path, headers={"TX_XID": XID})
    assert coordinator.votes == [XID] * votes
