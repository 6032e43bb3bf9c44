"""Calls to branches by HTTP, as DTM makes them: the op in the query, the payload as the body, the verdict in its order.

POST where there is a payload, or for XA, else GET; for a transaction of protocol json-rpc whose URL names a method,
a JSON-RPC call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import parse_qs, urljoin

import msgspec

from troth.server.outbound.http_link import Answer
from troth.server.outbound.http_pool import HttpPool
from troth.server.outbound.http_request import Origin, Target, parse_target, request_bytes, with_parameters
from troth.server.outbound.url_calls import Settle, UrlCall
from troth.wire.dtm import rpc
from troth.wire.dtm.results import Verdict, http_verdict

_LONGEST_TEXT = 2048
_MOST_REDIRECTS = 5
_KEEP_METHOD = frozenset({307, 308})
_CHANGE_TO_GET = frozenset({301, 302, 303})
_JSON = "application/json"
_KEPT_TARGETS = 4096


class HttpCaller:
    """Carries calls to http:// and https:// URLs, at most `connections_per_host` at a time to each service."""

    def __init__(self, pool: Callable[[], HttpPool], settle: Settle) -> None:
        """`pool` makes the connections' pool at the first call: on the loop."""
        self._make_pool = pool
        self._pool: HttpPool | None = None
        self._settle = settle

    def call(self, url_call: UrlCall) -> None:
        """Send it; `settle` is called with what came of it."""
        try:
            _Request(self, url_call).send()
        except (ValueError, msgspec.DecodeError) as error:
            self._settle(url_call, Verdict.RETRY, f"cannot be called: {error}")

    def settle(self, url_call: UrlCall, verdict: Verdict, text: str) -> None:
        """What a call came to."""
        self._settle(url_call, verdict, text[:_LONGEST_TEXT])

    async def close(self) -> None:
        """Cut every connection."""
        if self._pool is not None:
            self._pool.close()

    @property
    def pool(self) -> HttpPool:
        """The connections."""
        if self._pool is None:
            self._pool = self._make_pool()
        return self._pool


class _Request:
    """One call on its way, over redirections if there are any (as Go's client follows them)."""

    __slots__ = ("_body", "_call", "_caller", "_deadline", "_hops", "_method", "_query", "_rpc", "_target", "_url")

    def __init__(self, caller: HttpCaller, url_call: UrlCall) -> None:
        self._caller = caller
        self._call = url_call
        self._url = url_call.url
        self._target = target_of(url_call.url)
        self._hops = 0
        self._deadline = caller.pool.loop.time() + url_call.timeout_s
        meta = {
            "branch_id": url_call.branch_id,
            "gid": url_call.gid,
            "op": url_call.op,
            "trans_type": url_call.kind,
        }
        method = _rpc_method(self._target) if url_call.protocol == "json-rpc" else None
        self._rpc = method is not None
        if method is not None:
            self._method, self._query = "POST", self._target.query
            call_id = f"{url_call.call.branch_id}-{url_call.call.attempt}"
            self._body = rpc.call_body(method, url_call.payload, call_id, meta)
        else:
            self._method = "POST" if url_call.payload or url_call.always_post else "GET"
            self._query = with_parameters(self._target.query, meta)
            self._body = url_call.payload

    def send(self) -> None:
        pool = self._caller.pool
        data = request_bytes(
            self._target, self._query, self._method, self._body, self._call.headers, content_type=_JSON
        )
        left = max(self._deadline - pool.loop.time(), 0.001) if self._hops else self._call.timeout_s
        pool.send(self._target.origin, data, left, self._done)

    def _done(self, answer: Answer | None, reason: str) -> None:
        if answer is None:
            self._caller.settle(self._call, Verdict.RETRY, reason)
        elif answer.location is not None and answer.status in _KEEP_METHOD | _CHANGE_TO_GET:
            self._follow(answer.status, answer.location)
        elif self._rpc:
            verdict, text = rpc.verdict_of(answer.body)
            self._caller.settle(self._call, verdict, text)
        else:
            verdict = http_verdict(answer.status, answer.body)
            text = "" if verdict is Verdict.DONE else _shown(self._target.origin, answer, verdict)
            self._caller.settle(self._call, verdict, text)

    def _follow(self, status: int, location: str) -> None:
        self._hops += 1
        try:
            if self._hops > _MOST_REDIRECTS:
                raise ValueError(f"more than {_MOST_REDIRECTS} redirections")
            self._url = urljoin(self._url, location)
            self._target = target_of(self._url)
        except ValueError as error:
            self._caller.settle(self._call, Verdict.RETRY, f"{status} to {location!r}: {error}")
            return
        self._query = self._target.query
        if status in _CHANGE_TO_GET:
            self._method, self._body = "GET", b""
        self.send()


@lru_cache(maxsize=_KEPT_TARGETS)
def target_of(url: str) -> Target:
    """`parse_target`, remembered: a service is called at the same few URLs all day."""
    return parse_target(url)


def _rpc_method(target: Target) -> str | None:
    found = parse_qs(target.query).get("method")
    return found[0] if found else None


def _shown(origin: Origin, answer: Answer, verdict: Verdict) -> str:
    """A refusal is told to whoever waits for the result: in the service's own words alone."""
    text = answer.body[:_LONGEST_TEXT].decode(errors="replace")
    return text if verdict is Verdict.REFUSED and text else f"{answer.status} from {origin}: {text}"
