"""A TCP relay with a lever: it stands for a balancer, or for a network that holds or loses what is sent."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Address = tuple[str, int]


class _Line:
    """One connection through the relay."""

    def __init__(self, relay: "Relay", client: socket.socket, server: socket.socket) -> None:
        self.relay = relay
        self.client = client
        self.server = server
        self.requests_pass = threading.Event()
        self.answers_pass = threading.Event()
        self.held_bytes = 0
        self.lost = False
        self._client_spoke_last = False
        for gate in (self.requests_pass, self.answers_pass):
            gate.set()
        self._threads = [
            threading.Thread(target=self._pump, args=(client, server, self.requests_pass, True), daemon=True),
            threading.Thread(target=self._pump, args=(server, client, self.answers_pass, False), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request and not self._client_spoke_last:
                    self.relay.turns += 1
                self._client_spoke_last = is_request
                self.held_bytes += 0 if gate.is_set() else len(data)
                gate.wait()
                if self.lost:
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):  # the other direction may still have something to say
            sink.shutdown(socket.SHUT_WR)

    @staticmethod
    def hang_up(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """What is held is lost, and both ends notice."""
        self.lost = True
        for end in (self.client, self.server):
            self.hang_up(end)
        self.open_gates()

    @property
    def ended(self) -> bool:
        """True once nothing will be carried any more, in either direction."""
        return not any(thread.is_alive() for thread in self._threads)

    def open_gates(self) -> None:
        self.requests_pass.set()
        self.answers_pass.set()

    def close(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self.client.close()
        self.server.close()


class Relay:
    """Passes connections on to the first of `targets()` that accepts. `turns` counts the times that a client spoke."""

    def __init__(self, targets: Callable[[], list[Address]]) -> None:
        self.turns = 0
        self.partitioned = False
        """True: new connections are closed at once."""
        self._targets = targets
        self._lines: list[_Line] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = None if self.partitioned else self._reach()
                if server is None:
                    client.close()
                else:
                    self._lines.append(_Line(self, client, server))

    def _reach(self) -> socket.socket | None:
        for target in self._targets():
            with contextlib.suppress(OSError):
                server = socket.create_connection(target, timeout=2)
                server.settimeout(None)
                return server
        return None

    def lines(self) -> list[_Line]:
        """Every connection that was ever made, oldest first."""
        return list(self._lines)

    def hold(self, *, requests: bool = False, answers: bool = False) -> None:
        """From now on keep what arrives over the connections that there are."""
        for line in self.lines():
            if requests:
                line.requests_pass.clear()
            if answers:
                line.answers_pass.clear()

    @property
    def held_bytes(self) -> int:
        return sum(line.held_bytes for line in self.lines())

    def release(self) -> None:
        """Pass on what was held, and all that follows."""
        for line in self.lines():
            line.open_gates()

    def cut(self) -> None:
        """Lose what is held, and every connection."""
        for line in self.lines():
            line.cut()

    def hang_up_on_clients(self) -> None:
        """Clients lose their connections; what they have sent may still arrive."""
        for line in self.lines():
            line.hang_up(line.client)

    def partition(self) -> None:
        """Neither new nor old connections carry anything, and nobody is told."""
        self.partitioned = True
        self.hold(requests=True, answers=True)

    def heal(self) -> None:
        """New connections pass again; the old ones are gone."""
        self.partitioned = False
        self.cut()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        for line in self.lines():
            line.close()


@contextlib.contextmanager
def relay_to(*targets: Address) -> Iterator[Relay]:
    """A relay with fixed targets, closed at the end."""
    relay = Relay(lambda: list(targets))
    try:
        yield relay
    finally:
        relay.close()
