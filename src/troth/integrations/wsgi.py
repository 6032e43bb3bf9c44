"""WSGI middleware (Flask, Django, Pyramid, Bottle …): a request joins its caller's transaction.

    app.wsgi_app = TrothMiddleware(app.wsgi_app)      # Flask
    application = TrothMiddleware(get_wsgi_application())

The xid comes in the header `TX_XID`, as Java Seata sends it; a WSGI server hands it over as `HTTP_TX_XID`. **Many
servers drop header names with an underscore**, and the call then silently does *not* join: gunicorn 22 and later
(unless started with `--header-map dangerous`), waitress, Werkzeug's and Django's development servers, and nginx in
front (unless `underscores_in_headers on;`). Let the caller send `TX-XID` in that case (`header="TX-XID"` in our httpx
and requests integrations): it arrives under the same WSGI name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

from troth.client.client import Client
from troth.client.context import XID_HEADER, current_xid, join
from troth.client.errors import TrothError
from troth.integrations.joining import ConflictingXids, agreed_xid, is_failure, note_leak, note_lost_vote, vote

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ENVIRON_KEY: Final = f"HTTP_{XID_HEADER}"

Result = TypeVar("Result")
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class TrothMiddleware:
    """Binds the xid of each request while the application runs and while its body is produced.

    A request without an xid runs outside of any transaction, whatever an earlier request left on the pooled thread. A
    5xx answer or an exception of a joined request marks the transaction rollback-only *before* the answer goes out;
    if that vote can not be delivered, it is logged as an error and the answer still goes out, so the caller sees the
    failure. `vote_on_5xx=False` opts out of both. Two different xids in one request are answered with 400.

    Args:
        app: the application inside.
        vote_on_5xx: whether a failed joined request marks the transaction rollback-only.
        client: who votes; None means the process's default client (`troth.init`) at the time of the request.
    """

    def __init__(self, app: WSGIApplication, *, vote_on_5xx: bool = True, client: Client | None = None) -> None:
        self.app = app
        self._vote_on_5xx = vote_on_5xx
        self._client = client

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as WSGI calls it."""
        try:
            xid = agreed_xid([environ.get(_ENVIRON_KEY, "")])
        except ConflictingXids as error:
            return _answer_400(start_response, str(error))
        note_leak(xid)
        left_behind = current_xid()
        request = f"{environ.get('REQUEST_METHOD', '?')} {environ.get('PATH_INFO', '')}"
        joined = _Joined(xid, request, self._client, votes=xid is not None and self._vote_on_5xx)
        body = joined.call(lambda: self.app(environ, joined.watch(start_response)))
        if xid is None and left_behind is None:
            return body
        # A list holds no code that still has to run, and servers take the Content-Length of a list of one from it.
        return body if isinstance(body, list | tuple) else _Body(body, joined)


class _Joined:
    """One request that takes part in `xid` (None: in nothing); votes at most once."""

    def __init__(self, xid: str | None, request: str, client: Client | None, *, votes: bool) -> None:
        self._xid = xid
        self._request = request
        self._client = client
        self._votes = votes

    def call(self, work: Callable[[], Result]) -> Result:
        """Run a part of the request with the xid bound; between two parts the thread is not ours."""
        try:
            with join(self._xid):
                return work()
        except StopIteration:
            raise
        except Exception as error:
            self._vote(f"{self._request} raised {type(error).__name__}")
            raise

    def watch(self, start_response: StartResponse) -> StartResponse:
        """`start_response` that votes before a 5xx goes out."""

        def watched(
            status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
        ) -> Callable[[bytes], object]:
            code = status[:3]
            if code.isdecimal() and is_failure(int(code)):
                self._vote(f"{self._request} answered {code}")
            return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

        return watched

    def _vote(self, reason: str) -> None:
        if not self._votes or self._xid is None:
            return
        self._votes = False
        try:
            vote(self._client, self._xid, reason)
        except TrothError as error:
            note_lost_vote(self._xid, reason, error)


class _Body:
    """The body of a joined request: what produces it (a generator, say) runs with the xid bound."""

    def __init__(self, body: Iterable[bytes], joined: _Joined) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._joined = joined

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._joined.call(self._next_chunk)

    def close(self) -> None:
        """Close the application's body (PEP 3333)."""
        close = getattr(self._body, "close", None)
        if close is not None:
            self._joined.call(close)

    def _next_chunk(self) -> bytes:
        if self._chunks is None:
            self._chunks = iter(self._body)
        return next(self._chunks)


def _answer_400(start_response: StartResponse, text: str) -> Iterable[bytes]:
    body = text.encode("utf-8", "replace")
    start_response("400 Bad Request", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
