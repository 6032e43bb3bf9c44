"""The Seata port: accepts connections, and writes to each once per batch."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from troth.core.events import Answered, Event
from troth.server.config import Limits
from troth.server.inbound.seata_link import SeataLink
from troth.server.inbound.seata_requests import Requests
from troth.server.logs import get_logger
from troth.server.sessions import Sessions

log = get_logger("troth.seata")

_BACKLOG = 1024
_CLOSE_POLL_S = 0.01


class SeataDoor:
    """All connections at one listening socket. Everything runs on the loop."""

    def __init__(
        self,
        limits: Limits,
        requests: Requests,
        sessions: Sessions,
        *,
        submit: Callable[[Event], None],
        settle: Callable[[Answered], None],
        call_keep_s: float,
    ) -> None:
        self.limits = limits
        self.requests = requests
        self.sessions = sessions
        self.submit = submit
        self.settle = settle
        self.call_keep_s = call_keep_s
        self.frames_in = 0
        self.frames_out = 0
        self.connections_refused = 0
        self._links: set[SeataLink] = set()
        self._dirty: list[SeataLink] = []
        self._server: asyncio.Server | None = None

    @property
    def accepting(self) -> bool:
        """True while new connections are taken."""
        return self._server is not None and self._server.is_serving()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    async def start(self, listening: socket.socket) -> None:
        """Accept at `listening`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SeataLink(self, loop), sock=listening, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """No new connection; those that are open live on."""
        if self._server is not None:
            self._server.close()

    async def close(self, patience_s: float) -> None:
        """Close every connection; what was answered goes out within `patience_s`, then they are cut."""
        self.stop_accepting()
        for link in list(self._links):
            link.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while self._links and loop.time() < deadline:
            await asyncio.sleep(_CLOSE_POLL_S)
        for link in list(self._links):
            link.close(abort=True)

    # ---- what links ask ----

    def opened(self, link: SeataLink) -> bool:
        """Take note of a connection; False if there are too many."""
        if len(self._links) >= self.limits.connections:
            self.connections_refused += 1
            if self.connections_refused & (self.connections_refused - 1) == 0:  # 1, 2, 4, 8 …: no flood in the log
                log.warning("too many connections", limit=self.limits.connections, refused=self.connections_refused)
            return False
        self._links.add(link)
        return True

    def closed(self, link: SeataLink) -> None:
        """The connection is gone."""
        self._links.discard(link)

    def wants_flush(self, link: SeataLink) -> None:
        """`link` has something to write."""
        self._dirty.append(link)

    def flush(self) -> None:
        """One write for each connection that has something to say."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for link in dirty:
                link.flush()
