"""One HTTP connection at DTM's door: requests in, answers out in their order, one write for what is ready together.

Handlers answer later, by `Request.answer`; requests that were sent without waiting for answers (pipelined) are read and
handled one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Protocol, cast

try:
    import httptools
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

LARGEST_HEAD_BYTES = 64 * 1024
_JSON = b"application/json"
_REASONS: Mapping[int, bytes] = MappingProxyType({status.value: status.phrase.encode() for status in HTTPStatus})


class Request:
    """One request, whole. `target` is its path and query, `headers` have lower-case names."""

    __slots__ = ("_link", "body", "headers", "keep_alive", "method", "target")

    def __init__(self, link: HttpDoorLink, method: str, target: bytes, headers: dict[str, str], body: bytes) -> None:
        self._link = link
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = True

    def answer(self, status: int, body: bytes, content_type: bytes = _JSON) -> None:
        """Send the answer; harmless if the connection is gone."""
        self._link.respond(self, status, body, content_type)


class LinkHost(Protocol):
    """What a link asks of its door."""

    largest_body_bytes: int

    def opened(self, link: HttpDoorLink) -> bool: ...
    def closed(self, link: HttpDoorLink) -> None: ...
    def handle(self, request: Request) -> None: ...


class HttpDoorLink(asyncio.Protocol):
    """A connection. A request that is not HTTP, or too long, is told so, and the connection ends."""

    def __init__(self, host: LinkHost) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._target: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._offered = b""
        self._head_bytes = 0
        self._body_bytes = 0
        self._refused: tuple[int, str] | None = None
        self._closing = False
        self.last_used = 0.0

    @property
    def busy(self) -> bool:
        """True while a request waits for its answer, or is being read."""
        return bool(self._queue)

    def close(self, *, abort: bool = False) -> None:
        """Finish what is being answered, or `abort` it."""
        self._closing = True
        if self._transport is not None and (abort or not self._queue):
            if abort:
                self._transport.abort()
            else:
                self._transport.close()

    # ---- asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._host.opened(self):
            self._write(503, b'{"message":"too many connections"}', _JSON, keep_alive=False)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._queue.clear()
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refused is not None:
            return
        self.last_used = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP: {error}")

    def _decline(self, rest: bytes) -> None:
        """Java's client offers HTTP/2 with each request. The parser stops there, before the body if there is one: a new
        one goes on, and is told of the body by a head that offers nothing.
        """
        offered, headers, self._offered = self._offered, self._headers, b""
        self._parser = httptools.HttpRequestParser(self)
        if offered:
            self._parser.feed_data(offered)
            self._headers = {name: value for name, value in headers.items() if name != "upgrade"}
            self._say_continue()
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and len(self._queue) < _MOST_PIPELINED:
            self._transport.resume_reading()

    # ---- httptools ----

    def on_message_begin(self) -> None:
        self._target.clear()
        self._headers = {}
        self._body.clear()
        self._head_bytes = self._body_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target.append(part)
        self._count_head(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = _text(value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._say_continue()

    def _say_continue(self) -> None:
        if self._refused is None and self._headers.get("expect", "").lower() == "100-continue" and not self._queue:
            assert self._transport is not None
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._body_bytes += len(part)
        if self._body_bytes > self._host.largest_body_bytes:
            self._refuse(413, f"a request of more than {self._host.largest_body_bytes} bytes")
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        if self._refused is not None:
            return
        if "upgrade" in self._headers and (framing := self._framing()):
            self._offered = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (
                self._parser.get_method(),
                b"".join(self._target),
                framing,
            )
            return  # not complete: its body is still to come
        method = self._parser.get_method().decode()
        request = Request(self, method, b"".join(self._target), self._headers, b"".join(self._body))
        request.keep_alive = self._parser.should_keep_alive()
        self._queue.append(request)
        if len(self._queue) == 1:
            self._host.handle(request)
        elif len(self._queue) >= _MOST_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def _framing(self) -> bytes:
        """The header that says how long the body is; empty where there is none."""
        if "transfer-encoding" in self._headers:
            return b"transfer-encoding: chunked"
        length = self._headers.get("content-length", "0").strip()
        return b"" if not int(length) else f"content-length: {length}".encode()

    # ---- answers ----

    def respond(self, request: Request, status: int, body: bytes, content_type: bytes) -> None:
        """The answer to the request that is being handled; the next one's turn has come."""
        if self._transport is None or not self._queue or self._queue[0] is not request:
            return
        self._queue.popleft()
        keep_alive = request.keep_alive and not self._closing
        self._write(status, body if request.method != "HEAD" else b"", content_type, keep_alive=keep_alive)
        if not keep_alive:
            self._closing = True
            self._queue.clear()
            self._transport.close()
        elif self._queue:
            asyncio.get_running_loop().call_soon(self._next)
        elif self._refused is not None:
            self._end_refused()

    def _next(self) -> None:
        if self._transport is None or not self._queue:
            return
        if len(self._queue) < _MOST_PIPELINED:
            self._transport.resume_reading()
        self._host.handle(self._queue[0])

    def _write(self, status: int, body: bytes, content_type: bytes, *, keep_alive: bool) -> None:
        assert self._transport is not None
        connection = b"" if keep_alive else b"Connection: close\r\n"
        self._transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
            % (status, _REASONS.get(status, b"-"), content_type, len(body), connection, body)
        )

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > LARGEST_HEAD_BYTES:
            self._refuse(431, f"a head of more than {LARGEST_HEAD_BYTES} bytes")

    def _refuse(self, status: int, reason: str) -> None:
        if self._refused is None:
            self._refused = (status, reason)
            if not self._queue:
                self._end_refused()

    def _end_refused(self) -> None:
        assert self._refused is not None
        if self._transport is not None and not self._transport.is_closing():
            status, reason = self._refused
            self._write(status, b'{"message":"%b"}' % _plain(reason), _JSON, keep_alive=False)
            self._closing = True
            self._transport.write_eof()  # what still comes is thrown away: a close now would cut our answer short
            asyncio.get_running_loop().call_later(_LINGER_S, self._transport.close)


_MOST_PIPELINED = 4
_LINGER_S = 2.0


def _text(value: bytes) -> str:
    """A header's value: UTF-8 where it is that, so that it can be passed on as it came."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _plain(text: str) -> bytes:
    return "".join(c if c.isprintable() and c not in '"\\' else " " for c in text).encode()
