"""requests: calls made inside a global transaction carry its xid.

    http = install(requests.Session())

The header is `TX_XID`, as Java Seata uses it. nginx, gunicorn and others drop header names with an underscore by
default: the called service would then silently not join. If such a thing is on the way, `install(session,
header="TX-XID")`; troth's own middlewares accept both, Java's accept `TX_XID` only.
"""

from __future__ import annotations

from collections.abc import Mapping

from troth.client.client import Client
from troth.client.context import XID_HEADER, current_xid
from troth.integrations.joining import is_failure, vote

try:
    import requests
    from requests.adapters import BaseAdapter
except ImportError as error:
    raise ImportError("requests is not installed: pip install 'troth[requests]'") from error


def install(
    session: requests.Session, *, vote_on_5xx: bool = True, header: str = XID_HEADER, client: Client | None = None
) -> requests.Session:
    """Make a session carry the xid, and return it: every adapter that is mounted now gets wrapped in a
    `TrothAdapter`.

    Outside of a transaction its requests are left alone. A 5xx answer to a call that carried the xid marks the
    transaction rollback-only, so that a swallowed failure can not be committed; opt out with `vote_on_5xx=False`
    (needed if you retry 5xx answers yourself; retries inside an adapter are not seen here). If that vote can not be
    delivered, the call raises the vote's error. A header that the request has already is left as it is. Installing
    twice is refused.

    Args:
        session: a `requests.Session`.
        vote_on_5xx: whether a 5xx answer marks the transaction rollback-only.
        header: the header's name.
        client: who votes; None means the process's default client (`troth.init`) at the time of the call.

    Raises:
        ValueError: `session` has it already.
    """
    adapters = list(session.adapters.items())
    if any(isinstance(adapter, TrothAdapter) for _, adapter in adapters):
        raise ValueError("this session carries the xid already: install it once")
    for prefix, adapter in adapters:
        session.mount(prefix, TrothAdapter(adapter, vote_on_5xx=vote_on_5xx, header=header, client=client))
    return session


class TrothAdapter(BaseAdapter):
    """An adapter that adds the xid to what it hands to the adapter inside; `install` says the rest."""

    def __init__(
        self, inner: BaseAdapter, *, vote_on_5xx: bool = True, header: str = XID_HEADER, client: Client | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        self._vote_on_5xx = vote_on_5xx
        self._header = header
        self._client = client

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; see `requests.adapters.BaseAdapter.send`."""
        xid = current_xid()
        if xid is not None and self._header not in request.headers:
            # A copy: the program may send its request object again outside of the transaction.
            request = request.copy()
            request.headers[self._header] = xid
        response = self.inner.send(request, stream, timeout, verify, cert, proxies)
        carried = request.headers.get(self._header)
        if carried is not None and self._vote_on_5xx and is_failure(response.status_code):
            self._vote(carried, request, response)
        return response

    def close(self) -> None:
        """Close the adapter inside."""
        self.inner.close()

    def _vote(self, xid: str, request: requests.PreparedRequest, response: requests.Response) -> None:
        try:
            vote(self._client, xid, f"{request.method} {request.url} answered {response.status_code}")
        except Exception:
            response.close()
            raise
