"""httpx: calls made inside a global transaction carry its xid.

    http = install(httpx.Client(base_url="http://stock"))          # AsyncClient works the same

The header is `TX_XID`, as Java Seata uses it. nginx, gunicorn and others drop header names with an underscore by
default: the called service would then silently not join. If such a thing is on the way, `install(http,
header="TX-XID")`; troth's own middlewares accept both, Java's accept `TX_XID` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from troth.client.client import Client
from troth.client.context import XID_HEADER, current_xid
from troth.integrations.joining import avote, is_failure, vote

try:
    import httpx
except ImportError as error:
    raise ImportError("httpx is not installed: pip install 'troth[httpx]'") from error

AnyClient = TypeVar("AnyClient", httpx.Client, httpx.AsyncClient)

_OURS: Final = "troth_xid"
"""Key of `request.extensions` under which a request remembers the xid that we put into its header."""


def install(
    http: AnyClient, *, vote_on_5xx: bool = True, header: str = XID_HEADER, client: Client | None = None
) -> AnyClient:
    """Make an httpx client carry the xid, and return it. Outside of a transaction its requests are left alone.

    A 5xx answer to a call that carried the xid marks the transaction rollback-only, so that a swallowed failure can
    not be committed; opt out with `vote_on_5xx=False` (needed if you retry 5xx answers). If that vote can not be
    delivered, the call raises the vote's error. A header that the request has already is left as it is. Installing
    twice is refused.

    Args:
        http: an `httpx.Client` or `httpx.AsyncClient`.
        vote_on_5xx: whether a 5xx answer marks the transaction rollback-only.
        header: the header's name.
        client: who votes; None means the process's default client (`troth.init`) at the time of the call.

    Raises:
        ValueError: `http` has it already.
    """
    hooks: Mapping[str, list[Callable[..., object]]] = http.event_hooks
    if any(isinstance(getattr(hook, "__self__", None), _Hooks) for hook in hooks["request"]):
        raise ValueError("this httpx client carries the xid already: install it once")
    ours = _Hooks(vote_on_5xx=vote_on_5xx, header=header, client=client)
    requested: Callable[..., object]
    answered: Callable[..., object]
    if isinstance(http, httpx.AsyncClient):
        requested, answered = ours.arequested, ours.aanswered
    else:
        requested, answered = ours.requested, ours.answered
    http.event_hooks = {"request": [*hooks["request"], requested], "response": [answered, *hooks["response"]]}
    return http


class _Hooks:
    """httpx event hooks. They run for each redirect too."""

    def __init__(self, *, vote_on_5xx: bool, header: str, client: Client | None) -> None:
        self._vote_on_5xx = vote_on_5xx
        self._header = header
        self._client = client

    def requested(self, request: httpx.Request) -> None:
        present, ours, xid = request.headers.get(self._header), request.extensions.get(_OURS), current_xid()
        if present is not None and present != ours:
            return  # the program set it by hand
        # A request object may be sent again, by then outside of the transaction or in another one.
        if xid is not None:
            request.headers[self._header] = request.extensions[_OURS] = xid
        elif present is not None:
            del request.headers[self._header], request.extensions[_OURS]

    async def arequested(self, request: httpx.Request) -> None:
        self.requested(request)

    def answered(self, response: httpx.Response) -> None:
        xid = self._to_vote(response)
        if xid is not None:
            vote(self._client, xid, _reason(response))

    async def aanswered(self, response: httpx.Response) -> None:
        xid = self._to_vote(response)
        if xid is not None:
            await avote(self._client, xid, _reason(response))

    def _to_vote(self, response: httpx.Response) -> str | None:
        failed = self._vote_on_5xx and is_failure(response.status_code)
        return response.request.headers.get(self._header) if failed else None


def _reason(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url} answered {response.status_code}"
