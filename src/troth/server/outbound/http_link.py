"""One connection to a service that has branches: requests one after the other, kept alive in between."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, cast

try:
    import httptools
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

LARGEST_BODY_BYTES = 1 << 20
"""Of an answer: more is no answer to a coordinator."""


class Answer(NamedTuple):
    """What a service said. `location` is where it sends us on to, if it does."""

    status: int
    body: bytes
    location: str | None


class LinkOwner(Protocol):
    """Hears what becomes of a link's requests."""

    def answered(self, link: HttpLink, answer: Answer, *, reusable: bool) -> None:
        """The request that was out has its answer."""
        ...

    def lost(self, link: HttpLink, reason: str) -> None:
        """The connection is gone. If a request was out, it has no answer."""
        ...


class HttpLink(asyncio.Protocol):
    """`busy` while a request is out; `served` counts answers; `heard` is true once bytes of the answer have come."""

    def __init__(self, owner: LinkOwner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._location: str | None = None
        self._framed = False
        self._in_body = False
        self.busy = False
        self.heard = False
        self.served = 0
        self.idle_since = 0.0

    def send(self, data: bytes) -> None:
        """A whole request; the link must not be busy."""
        assert self._transport is not None
        self.busy, self.heard = True, False
        self._transport.write(data)

    def close(self) -> None:
        """Cut it; what was out is lost."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """False once the other end has hung up."""
        return self._transport is not None and not self._transport.is_closing()

    # ---- asyncio ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if not self.busy:
            self.close()  # it speaks unasked: nothing that follows could be trusted to answer us
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP: {error}")

    def eof_received(self) -> bool:
        if self.busy and self._in_body and not self._framed:
            self._finish(reusable=False)  # the end of the connection is the end of the answer
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self, f"connection lost: {error}" if error else "closed by the service")

    # ---- httptools ----

    def on_message_begin(self) -> None:
        self._body.clear()
        self._size = 0
        self._location = None
        self._framed = self._in_body = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif key == b"location":
            self._location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LARGEST_BODY_BYTES:
            self._fail(f"the answer is longer than {LARGEST_BODY_BYTES} bytes")
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._finish(reusable=self._parser.should_keep_alive())

    def _finish(self, *, reusable: bool) -> None:
        status = self._parser.get_status_code()
        self._in_body = False
        if status < 200 or not self.busy:  # 100 Continue and its like: the answer is still to come
            return
        self.busy = False
        self.served += 1
        self._owner.answered(self, Answer(status, b"".join(self._body), self._location), reusable=reusable)

    def _fail(self, reason: str) -> None:
        if self.busy:
            self.busy = False
            self._owner.lost(self, reason)
        self.close()
