"""A relay between Java and a coordinator that reads along, and can lose what it is told to lose."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.frame import Frame


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame that came by. `line` numbers the connections; `at_s` is the monotonic clock."""

    at_s: float
    line: int
    from_client: bool
    frame: Frame

    @property
    def body(self) -> m.Message:
        return self.frame.body


Lose = Callable[[Seen], bool]


class Wiretap:
    """Listens on a port of its own and passes everything on to `upstream`, a port of this machine."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.lose: Lose = _nothing
        """Frames for which this is true are seen, and not passed on."""
        self._lines = 0
        self._sockets: set[socket.socket] = set()
        self._closing = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def bodies(self, kind: type[m.Message], since: int = 0) -> list[m.Message]:
        """The messages of one type, merged ones apart, from the frame number `since` on."""
        return [seen.body for seen in self.seen[since:] if isinstance(seen.body, kind)]

    def lose_next(self, kind: type[m.Message]) -> None:
        """Lose one message of a type, and pass on all that follow."""
        lock, left = threading.Lock(), [1]

        def lose(seen: Seen) -> bool:
            with lock:
                if not isinstance(seen.body, kind) or not left[0]:
                    return False
                left[0] -= 1
                return True

        self.lose = lose

    def close(self) -> None:
        self._closing = True
        for one in (self._listening, *self._sockets):
            _shut(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream), timeout=10)
            except OSError:
                client.close()  # nobody is there: the client learns it as it would without us
                continue
            server.settimeout(None)
            self._lines += 1
            self._sockets |= {client, server}
            for source, target, from_client in ((client, server, True), (server, client, False)):
                pump = threading.Thread(target=self._pump, args=(source, target, from_client, self._lines), daemon=True)
                pump.start()

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool, line: int) -> None:
        connection = Connection(max_unregistered_bytes=None)
        try:
            for data in _chunks(source):
                found = [Seen(time.monotonic(), line, from_client, frame) for frame in connection.receive_data(data)]
                self.seen += found
                kept = [seen for seen in found if not self.lose(seen)]
                if len(kept) == len(found):
                    target.sendall(data)
                else:  # what is lost came in one piece: nothing of it waits in `connection`
                    target.sendall(b"".join(connection.send(seen.frame) for seen in kept))
        except OSError:
            pass  # either end has gone: so does the other
        finally:
            _shut(source)
            _shut(target)
            self._sockets -= {source, target}


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 16):
        yield data


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was not connected any more
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _nothing(seen: Seen) -> bool:
    return False
