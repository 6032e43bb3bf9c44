"""A page in an operator's browser must not make the admin door do things: what a POST must look like.

A browser tells where a request comes from (`Origin`, `Sec-Fetch-Site`), and may send a POST to a stranger without
asking first only with the content types of a form. Tools such as curl send none of these headers.
"""

from __future__ import annotations

from urllib.parse import urlsplit

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

_OWN_SITE = frozenset({"same-origin", "none"})


def check_not_cross_site(request: Request) -> None:
    """Raises HTTPException 403 for a request from another site's page, 415 for a body that is not JSON."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_SITE:
        raise HTTPException(403, f"this request comes from a page of another site (Sec-Fetch-Site: {site})")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, f"this request comes from a page of another site (Origin: {origin[:200]})")
    kind = request.headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"the body must be application/json, not {kind[:200]}")
