"""Kept connections, a limit of them per service: a service that hangs or is gone holds up nobody else's calls."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections import deque
from collections.abc import Callable

from troth.server.logs import get_logger
from troth.server.outbound.http_link import Answer, HttpLink
from troth.server.outbound.http_request import Origin

log = get_logger("troth.http")

Done = Callable[[Answer | None, str], None]
"""Called once: the answer, or None and why there is none."""

_IDLE_S = 4.0
"""Shorter than what common servers keep an idle connection for (5 s), so that we seldom write into a closing one."""
_CONNECT_S = 5.0
_NAME_KEPT_S = 30.0


class _Exchange:
    __slots__ = ("again", "data", "done", "link", "timer")

    def __init__(self, data: bytes, done: Done) -> None:
        self.data = data
        self.done: Done | None = done
        self.link: HttpLink | None = None
        self.again = False
        self.timer: asyncio.TimerHandle | None = None

    def finish(self, answer: Answer | None, reason: str) -> None:
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(answer, reason)


class Names:
    """Addresses of hosts. One look-up a name at a time, so that a name server that hangs ties up one thread a name."""

    def __init__(self) -> None:
        self._known: dict[Origin, tuple[float, list[str]]] = {}
        self._asked: dict[Origin, asyncio.Task[list[str]]] = {}

    async def addresses(self, origin: Origin) -> list[str]:
        """IP addresses, best first. Raises OSError."""
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(origin.host))]
        loop = asyncio.get_running_loop()
        known = self._known.get(origin)
        if known is not None and loop.time() - known[0] < _NAME_KEPT_S:
            return known[1]
        task = self._asked.get(origin)
        if task is None:
            task = self._asked[origin] = loop.create_task(self._look_up(origin))
            task.add_done_callback(lambda _: self._asked.pop(origin, None))
        return await asyncio.shield(task)

    def forget(self, origin: Origin) -> None:
        """Nobody answers there any more."""
        self._known.pop(origin, None)

    def sweep(self) -> None:
        """Forget what is too old to be used."""
        oldest = asyncio.get_running_loop().time() - _NAME_KEPT_S
        for origin in [origin for origin, (asked, _) in self._known.items() if asked < oldest]:
            del self._known[origin]

    def close(self) -> None:
        """Ask no more."""
        for task in list(self._asked.values()):
            task.cancel()

    async def _look_up(self, origin: Origin) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(origin.host, origin.port, type=1)  # SOCK_STREAM
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        self._known[origin] = (loop.time(), addresses)
        return addresses


class _Host:
    """The connections to one origin, and who waits for one."""

    def __init__(self, pool: HttpPool, origin: Origin) -> None:
        self._pool = pool
        self._origin = origin
        self._out: dict[HttpLink, _Exchange] = {}
        self._links: set[HttpLink] = set()
        self._idle: list[HttpLink] = []
        self._waiting: deque[_Exchange] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        return not (self._links or self._waiting or self._connecting)

    def send(self, exchange: _Exchange, timeout_s: float) -> None:
        loop = self._pool.loop
        exchange.timer = loop.call_later(timeout_s, self._time_out, exchange, timeout_s)
        self._waiting.append(exchange)
        self._pump()

    # ---- what links tell ----

    def answered(self, link: HttpLink, answer: Answer, *, reusable: bool) -> None:
        exchange = self._out.pop(link, None)
        if reusable and link.usable:
            link.idle_since = self._pool.loop.time()
            self._idle.append(link)
        else:
            self._drop(link)
            link.close()
        if exchange is not None:
            exchange.finish(answer, "")
        self._pump()

    def lost(self, link: HttpLink, reason: str) -> None:
        exchange = self._out.pop(link, None)
        self._drop(link)
        if exchange is not None:
            if link.served and not link.heard and not exchange.again:
                exchange.again = True  # the service hung up while it was idle, as it may: the call never arrived
                exchange.link = None
                self._waiting.appendleft(exchange)
            else:
                exchange.finish(None, reason)
        self._pump()

    # ---- its own ----

    def _pump(self) -> None:
        """Give what waits to the connections that are free, and open as many as are wanted and allowed."""
        while self._waiting:
            if self._waiting[0].done is None:
                self._waiting.popleft()
                continue
            link = self._take_idle()
            if link is None:
                break
            exchange = self._waiting.popleft()
            exchange.link = link
            self._out[link] = exchange
            link.send(exchange.data)
        room = self._pool.limit - len(self._links) - len(self._connecting)
        wanted = len(self._waiting) - len(self._connecting)
        for _ in range(min(room, wanted)):
            task = self._pool.loop.create_task(self._connect(), name=f"connect {self._origin}")
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _take_idle(self) -> HttpLink | None:
        oldest = self._pool.loop.time() - _IDLE_S
        while self._idle:
            link = self._idle.pop()
            if link.usable and link.idle_since >= oldest:
                return link
            self._drop(link)
            link.close()
        return None

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                link = await self._open()
        except (OSError, TimeoutError, ValueError) as error:
            self._pool.names.forget(self._origin)
            reason = str(error) or type(error).__name__
            self._fail_one(f"cannot connect to {self._origin}: {reason}")
            return
        self._links.add(link)
        link.idle_since = self._pool.loop.time()
        self._idle.append(link)

    async def _open(self) -> HttpLink:
        origin, pool = self._origin, self._pool
        tls = pool.tls() if origin.scheme == "https" else None
        failure: OSError | None = None
        for address in await pool.names.addresses(origin):
            try:
                _, link = await pool.loop.create_connection(
                    lambda: HttpLink(self),
                    address,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls is not None else None,
                )
            except OSError as error:
                failure = error
            else:
                return link
        raise failure or OSError("the name has no address")

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:  # not a failure to connect: a bug must not leave calls waiting
            log.error("a connection could not be made", origin=str(self._origin), exc_info=error)
            self._fail_one(f"cannot connect to {self._origin}: {type(error).__name__}")
        self._pump()

    def _fail_one(self, reason: str) -> None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.done is not None:
                exchange.finish(None, reason)
                return

    def _time_out(self, exchange: _Exchange, timeout_s: float) -> None:
        link = exchange.link
        where = "no free connection to" if link is None else "no answer from"
        if link is not None:
            self._out.pop(link, None)
            self._drop(link)
            link.close()
        exchange.finish(None, f"{where} {self._origin} within {timeout_s:g} s")
        self._pump()

    def _drop(self, link: HttpLink) -> None:
        self._links.discard(link)
        with contextlib.suppress(ValueError):
            self._idle.remove(link)

    def close_idle(self, oldest: float) -> None:
        for link in [link for link in self._idle if link.idle_since < oldest]:
            self._drop(link)
            link.close()

    def close(self) -> None:
        for task in list(self._connecting):
            task.cancel()
        for exchange in [*self._waiting, *self._out.values()]:
            if exchange.timer is not None:
                exchange.timer.cancel()
            exchange.done = None
        self._waiting.clear()
        self._out.clear()
        for link in list(self._links):
            link.close()


class HttpPool:
    """Connections to any number of services, at most `limit` to each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names = Names()
        self.loop = asyncio.get_running_loop()
        self._tls: ssl.SSLContext | None = None
        self._hosts: dict[Origin, _Host] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def send(self, origin: Origin, data: bytes, timeout_s: float, done: Done) -> None:
        """Send a whole request; `done` is called within `timeout_s`, unless the pool is closed before."""
        if self._closed:
            return
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(self, origin)
            if self._sweeper is None:
                self._sweeper = self.loop.call_later(_IDLE_S, self._sweep)
        host.send(_Exchange(data, done), timeout_s)

    def tls(self) -> ssl.SSLContext:
        """The system's certificates; made once, when first needed."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def close(self) -> None:
        """Cut every connection; what is out is never answered."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.names.close()
        for host in self._hosts.values():
            host.close()

    def _sweep(self) -> None:
        self.names.sweep()
        oldest = self.loop.time() - _IDLE_S
        for origin, host in list(self._hosts.items()):
            host.close_idle(oldest)
            if host.empty:
                del self._hosts[origin]
        self._sweeper = self.loop.call_later(_IDLE_S, self._sweep) if self._hosts else None
