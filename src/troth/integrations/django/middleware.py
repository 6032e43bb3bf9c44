"""Django middleware: a request joins its caller's transaction.

    MIDDLEWARE = ["troth.integrations.django.middleware.troth_middleware", …]

It does for a Django project what `troth.integrations.wsgi` (or `asgi`) does around the whole application; take one of
them. Put it first, so that it sees the answers of all others. What a streaming response does while it is sent, is
outside of the transaction: a project that writes there takes the WSGI or ASGI middleware.

The xid comes as `TX_XID` or `TX-XID`; Django's own development server takes the second spelling only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

try:
    from asgiref.sync import iscoroutinefunction  # type: ignore[import-untyped,unused-ignore]
    from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest  # type: ignore[import-untyped,unused-ignore]
    from django.utils.decorators import sync_and_async_middleware  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("troth's Django middleware needs Django: pip install 'troth[django]'") from error

from troth.client.context import XID_HEADER, join
from troth.client.errors import TrothError
from troth.integrations.joining import (
    ConflictingXids,
    agreed_xid,
    avote,
    is_failure,
    note_leak,
    note_lost_vote,
    vote,
)

_META_KEY: Final = f"HTTP_{XID_HEADER}"

Handler = Callable[[HttpRequest], Any]


@sync_and_async_middleware  # type: ignore[untyped-decorator,unused-ignore]
def troth_middleware(get_response: Handler) -> Handler:
    """Bind the xid of each request while its view runs. A 5xx answer marks the transaction rollback-only.

    A request without an xid runs outside of any transaction. Two different xids in one request are answered with 400.
    """
    if iscoroutinefunction(get_response):
        return _async(get_response)
    return _sync(get_response)


def _sync(get_response: Handler) -> Handler:
    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            xid = agreed_xid([request.META.get(_META_KEY, "")])
        except ConflictingXids as error:
            return HttpResponseBadRequest(str(error))
        note_leak(xid)
        with join(xid):
            try:
                response: HttpResponse = get_response(request)
            except Exception as error:
                _vote(xid, f"{_name(request)} raised {type(error).__name__}")
                raise
        if is_failure(response.status_code):
            _vote(xid, f"{_name(request)} answered {response.status_code}")
        return response

    return middleware


def _async(get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Handler:
    async def middleware(request: HttpRequest) -> HttpResponse:
        try:
            xid = agreed_xid([request.META.get(_META_KEY, "")])
        except ConflictingXids as error:
            return HttpResponseBadRequest(str(error))
        note_leak(xid)
        async with join(xid):
            try:
                response = await get_response(request)
            except Exception as error:
                await _avote(xid, f"{_name(request)} raised {type(error).__name__}")
                raise
        if is_failure(response.status_code):
            await _avote(xid, f"{_name(request)} answered {response.status_code}")
        return response

    return middleware


def _name(request: HttpRequest) -> str:
    return f"{request.method} {request.path}"


def _vote(xid: str | None, reason: str) -> None:
    if xid is None:
        return
    try:
        vote(None, xid, reason)
    except TrothError as error:
        note_lost_vote(xid, reason, error)


async def _avote(xid: str | None, reason: str) -> None:
    if xid is None:
        return
    try:
        await avote(None, xid, reason)
    except TrothError as error:
        note_lost_vote(xid, reason, error)
