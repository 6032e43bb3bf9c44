"""The admin door: health, metrics and the state of transactions as HTTP/JSON (DESIGN §7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from troth.core.effects import Result, Retrying, Unknown
from troth.core.events import Event, Retry, Status
from troth.core.model import Global, Outcome
from troth.server.engine import Engine
from troth.server.inbound import admin_images
from troth.server.inbound import admin_views as views
from troth.server.inbound.admin_origin import check_not_cross_site
from troth.server.inbound.openapi import openapi_document
from troth.server.metrics import CONTENT_TYPE, Metrics
from troth.server.resolution import Resolutions
from troth.server.sources import Row
from troth.server.waiters import FutureReply

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

_ANSWER_WITHIN_S = 5.0
_MOST_STORE_PAGES = 50
"""A filter that the store does not have may skip whole pages; a request reads no more than so many."""


class AdminApi:
    """Answers from the engine's memory and the store. `unhealthy` says what is wrong, or None."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        resolutions: Resolutions,
        unhealthy: Callable[[], str | None],
        leader: Callable[[], tuple[str, int]] | None = None,
        settings: Sequence[Row],
        version: str,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._resolutions = resolutions
        self._unhealthy = unhealthy
        self._leader = leader
        self._settings = settings
        self._openapi = msgspec.json.encode(openapi_document(version))

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._show_metrics),
                Route("/openapi.json", self._show_openapi),
                Route("/api/transactions", self._list),
                Route("/api/transactions/{xid:path}/retry", self._retry, methods=["POST"]),
                Route("/api/transactions/{xid:path}/images", self._images),
                Route("/api/transactions/{xid:path}/branches/{branch_id:int}/resolve", self._resolve, methods=["POST"]),
                Route("/api/transactions/{xid:path}", self._inspect),
                Route("/api/audit", self._audit),
                Route("/api/config", self._show_config),
            ],
            exception_handlers={HTTPException: _on_http_error, Exception: _on_bug},
        )

    async def _health(self, request: Request) -> Response:
        reason = self._unhealthy()
        health = views.HealthView(reason or "ok")
        if self._leader is not None:
            health.leader, health.epoch = self._leader()
        return _json(health, 200 if reason is None else 503)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def _show_openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def _show_config(self, request: Request) -> Response:
        return _json([views.SettingView(row.key, row.value, row.source) for row in self._settings])

    # ---- transactions ----

    def _check_running(self) -> None:
        if not self._engine.running:
            raise HTTPException(503, f"this coordinator does not lead: {self._unhealthy() or 'it is starting'}")

    async def _list(self, request: Request) -> Response:
        self._check_running()
        query = request.query_params
        try:
            wanted = views.parse_status(query.get("status"))
            limit = views.parse_limit(query.get("limit"))
            cursor = views.parse_cursor(query.get("cursor"))
            return _json(await self._page(wanted, limit, cursor))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    async def _page(self, wanted: views.Filter, limit: int, cursor: views.Cursor | None) -> views.PageView:
        page = views.PageView([], None)
        if wanted.opened and not isinstance(cursor, views.EndedCursor):
            found, more = views.newest_open(self._engine.transactions(), wanted, cursor, limit)
            page.transactions = [views.view_open(tx) for tx in found]
            if more:
                page.cursor = views.encode_cursor(views.OpenCursor(found[-1].begin_ms, found[-1].xid))
                return page
        if wanted.ended:
            start = cursor.store if isinstance(cursor, views.EndedCursor) else None
            await self._add_ended(page, wanted, limit, start)
        return page

    async def _add_ended(self, page: views.PageView, wanted: views.Filter, limit: int, start: str | None) -> None:
        store_cursor = start
        for _ in range(_MOST_STORE_PAGES):
            room = limit - len(page.transactions)
            if room == 0:
                break
            found = await self._engine.store.find_ended(wanted.ended_phase, room, store_cursor)
            page.transactions += [views.view_ended(outcome) for outcome in found.outcomes if wanted.takes(outcome)]
            store_cursor = found.cursor
            if store_cursor is None:
                return
        page.cursor = views.encode_cursor(views.EndedCursor(store_cursor))

    async def _inspect(self, request: Request) -> Response:
        self._check_running()
        xid: str = request.path_params["xid"]
        found = await self._find(xid)
        if found is None:
            raise HTTPException(404, f"no transaction {xid!r} is known")
        return _json(views.view_open(found) if isinstance(found, Global) else views.view_ended(found))

    async def _find(self, xid: str) -> Global | Outcome | None:
        """Asked as an event first, so that nothing is shown which is not durable yet."""
        reply = FutureReply()
        if isinstance(await self._ask(Status(xid, reply), reply), Unknown):
            return None
        engine = self._engine
        return engine.transactions().get(xid) or engine.outcome_in_memory(xid) or await engine.store.outcome(xid)

    async def _images(self, request: Request) -> Response:
        self._check_running()
        tx = await self._find(request.path_params["xid"])
        if not isinstance(tx, Global):
            raise HTTPException(404, f"no transaction {request.path_params['xid']!r} is open")
        return _json(await admin_images.images(self._engine, self._resolutions, tx))

    async def _resolve(self, request: Request) -> Response:
        self._check_running()
        check_not_cross_site(request)
        xid: str = request.path_params["xid"]
        tx = await self._find(xid)
        open_tx = tx if isinstance(tx, Global) else None
        branch_id: int = request.path_params["branch_id"]
        return _json(await admin_images.resolve(self._resolutions, open_tx, xid, branch_id, request))

    async def _audit(self, request: Request) -> Response:
        self._check_running()
        query = request.query_params
        try:
            limit = views.parse_limit(query.get("limit"))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return _json(await admin_images.audit(self._resolutions, query.get("xid"), limit))

    async def _retry(self, request: Request) -> Response:
        self._check_running()
        check_not_cross_site(request)
        xid: str = request.path_params["xid"]
        reply = FutureReply()
        match await self._ask(Retry(xid, reply), reply):
            case Retrying(branches=branches):
                return _json(views.RetryView(xid, branches))
            case Unknown():
                raise HTTPException(404, f"no transaction {xid!r} is known")
            case _:
                raise HTTPException(409, f"transaction {xid!r} is not in phase two: there is nothing to ask again")

    async def _ask(self, event: Event, reply: FutureReply) -> Result:
        self._engine.submit(event)
        try:
            return await asyncio.wait_for(reply.result, _ANSWER_WITHIN_S)
        except TimeoutError:
            raise HTTPException(503, "the coordinator does not answer: it is stopping, or its store is stuck") from None


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return Response(
        msgspec.json.encode(views.ErrorView(error.detail)), error.status_code, error.headers, "application/json"
    )


async def _on_bug(request: Request, error: Exception) -> Response:
    return _json(views.ErrorView(f"internal error: {type(error).__name__}"), 500)
