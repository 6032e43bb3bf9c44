"""Requests to branches as bytes: where they go, and what stands in them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE = _PATH_SAFE + "?"
_DEFAULT_PORTS: Mapping[str, int] = MappingProxyType({"http": 80, "https": 443})
_OURS_ALONE = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that a client's branch headers do not replace: the request would not be read as we mean it."""
_PLAIN = re.compile(r"[0-9A-Za-z_.\-~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class Origin(NamedTuple):
    """What one connection leads to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Target(NamedTuple):
    """A URL, taken apart: `path` is ready for the request line, `query` is the URL's own."""

    origin: Origin
    authority: bytes
    path: str
    query: str
    authorization: bytes | None


class HttpRequest(NamedTuple):
    """One request; `resource` is path and query."""

    origin: Origin
    data: bytes


def parse_target(url: str) -> Target:
    """Take an http or https URL apart. Raises ValueError with what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("a URL that begins with http:// or https://")
    host = parts.hostname
    if not host:
        raise ValueError("a URL with a host")
    default_port = _DEFAULT_PORTS[parts.scheme]
    port = parts.port or default_port
    try:
        plain = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError("a URL with a host that is a name") from None
    if not re.fullmatch(r"[0-9A-Za-z._~%:\-]+", plain):
        raise ValueError("a URL with a host that is a name")
    shown = f"[{plain}]" if ":" in plain else plain
    authority = shown if port == default_port else f"{shown}:{port}"
    return Target(
        Origin(parts.scheme, plain, port),
        authority.encode(),
        quote(parts.path or "/", safe=_PATH_SAFE),
        quote(parts.query, safe=_QUERY_SAFE),
        _authorization(parts.username, parts.password),
    )


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ValueError for what cannot stand in a request."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} has control characters in it")


def with_parameters(query: str, parameters: Mapping[str, str]) -> str:
    """`query` and then these, encoded.

    >>> with_parameters("a=1", {"gid": "x y", "op": "action"})
    'a=1&gid=x+y&op=action'
    """
    plain = _PLAIN.fullmatch  # most are, and quoting costs as much as the rest of the request
    added = "&".join([f"{name}={value if plain(value) else quote_plus(value)}" for name, value in parameters.items()])
    return f"{query}&{added}" if query else added


def request_bytes(
    target: Target, query: str, method: str, body: bytes, headers: Mapping[str, str], *, content_type: str
) -> bytes:
    """The whole request. `headers` win over those that we would set, where they may."""
    resource = f"{target.path}?{query}" if query else target.path
    lines = [f"{method} {resource} HTTP/1.1\r\nHost: ".encode(), target.authority, b"\r\n"]
    given = {name.lower() for name in headers}
    if "content-type" not in given:
        lines.append(f"Content-Type: {content_type}\r\n".encode())
    if target.authorization is not None and "authorization" not in given:
        lines.append(b"Authorization: " + target.authorization + b"\r\n")
    lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items() if name.lower() not in _OURS_ALONE]
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}\r\n".encode())
    lines += [b"\r\n", body]
    return b"".join(lines)


def _authorization(user: str | None, password: str | None) -> bytes | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return b"Basic " + base64.b64encode(pair)
