"""A TCP relay that holds every byte back for half a round trip, each way: a database that is not on this machine."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CHUNK: Final = 1 << 16


class SlowLink:
    """Listens on a port of its own and passes everything on to `upstream`, a port of this machine."""

    def __init__(self, upstream: int, round_trip_ms: float) -> None:
        self._upstream = upstream
        self._one_way_s = round_trip_ms / 2000
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End the relay and every connection through it."""
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):  # it was not connected any more
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return  # closed
            far = socket.create_connection(("127.0.0.1", self._upstream), timeout=10)
            far.settimeout(None)
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(one)
            self._pass_on(near, far)
            self._pass_on(far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(source, held), daemon=True).start()
        threading.Thread(target=self._write, args=(held, target), daemon=True).start()

    def _read(self, source: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            held.put((time.monotonic() + self._one_way_s, data))

    def _write(self, held: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
        while True:
            due, data = held.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return  # the other end has gone


@contextmanager
def slow_link(upstream: int, round_trip_ms: float) -> Iterator[int]:
    """The port of a relay to `upstream`, for the length of the block."""
    link = SlowLink(upstream, round_trip_ms)
    try:
        yield link.port
    finally:
        link.close()
