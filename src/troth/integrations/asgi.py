"""ASGI middleware (Starlette, FastAPI, Quart, Django's ASGI handler …): a request joins its caller's transaction.

    app = TrothMiddleware(app)                        # any ASGI application
    app.add_middleware(TrothMiddleware)               # Starlette, FastAPI

The xid comes in the header `TX_XID`, as Java Seata sends it. nginx drops header names with an underscore unless it is
told `underscores_in_headers on;`, and other proxies do the same: the call then silently does *not* join. Let the
caller send `TX-XID` in that case (`header="TX-XID"` in our httpx and requests integrations); both spellings are
accepted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from troth.client.client import Client
from troth.client.context import XID_HEADER, join
from troth.client.errors import TrothError
from troth.integrations.joining import (
    HYPHENATED_XID_HEADER,
    ConflictingXids,
    agreed_xid,
    avote,
    is_failure,
    note_leak,
    note_lost_vote,
)

# The shapes that the ASGI specification gives; its values are of many types.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS: Final = frozenset(name.lower().encode("ascii") for name in (XID_HEADER, HYPHENATED_XID_HEADER))


class TrothMiddleware:
    """Binds the xid of each HTTP request for as long as the request runs; `troth.current_xid()` tells it.

    A request without an xid runs outside of any transaction, whatever its server's task carries. A 5xx answer or an
    exception of a joined request marks the transaction rollback-only *before* the answer goes out; if that vote can
    not be delivered, it is logged as an error and the answer still goes out, so the caller sees the failure.
    `vote_on_5xx=False` opts out of both. Two different xids in one request are answered with 400.

    Args:
        app: the application inside.
        vote_on_5xx: whether a failed joined request marks the transaction rollback-only.
        client: who votes; None means the process's default client (`troth.init`) at the time of the request.
    """

    def __init__(self, app: App, *, vote_on_5xx: bool = True, client: Client | None = None) -> None:
        self.app = app
        self._vote_on_5xx = vote_on_5xx
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            xid = agreed_xid(value.decode("latin-1") for name, value in scope["headers"] if name.lower() in _HEADERS)
        except ConflictingXids as error:
            await _answer_400(send, str(error))
            return
        note_leak(xid)
        with join(xid):
            if xid is None or not self._vote_on_5xx:
                await self.app(scope, receive, send)
            else:
                await _Joined(xid, self._client, f"{scope['method']} {scope['path']}").run(
                    self.app, scope, receive, send
                )


class _Joined:
    """One request that takes part in `xid`; votes at most once."""

    def __init__(self, xid: str, client: Client | None, request: str) -> None:
        self._xid = xid
        self._client = client
        self._request = request
        self._voted = False

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and is_failure(message["status"]):
                await self._vote(f"{self._request} answered {message['status']}")
            await send(message)

        try:
            await app(scope, receive, watched_send)
        except (Exception, asyncio.CancelledError) as error:
            await self._vote(f"{self._request} raised {type(error).__name__}")
            raise

    async def _vote(self, reason: str) -> None:
        if self._voted:
            return
        self._voted = True
        # A cancelled request (the caller hung up) must still deliver its vote: the task goes on if we are cancelled
        # again.
        await asyncio.shield(asyncio.ensure_future(self._deliver(reason)))

    async def _deliver(self, reason: str) -> None:
        try:
            await avote(self._client, self._xid, reason)
        except TrothError as error:
            note_lost_vote(self._xid, reason, error)


async def _answer_400(send: Send, text: str) -> None:
    body = text.encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode("ascii"))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
