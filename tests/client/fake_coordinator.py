"""A scripted coordinator on a real loopback socket: it keeps no transactions, it answers what it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum, auto

from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import GlobalStatus, MessageType
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalReportRequest,
    GlobalReportResponse,
    GlobalRollbackRequest,
    GlobalRollbackResponse,
    GlobalStatusRequest,
    GlobalStatusResponse,
    Message,
    RegisterRMRequest,
    RegisterRMResponse,
    RegisterTMRequest,
    RegisterTMResponse,
)


class Do(Enum):
    """What to do with a request instead of answering it."""

    HAPPY = auto()
    """Nothing special: answer as if nothing were scripted."""
    NOTHING = auto()
    CUT = auto()
    """Close the connection: the request was taken, its answer is lost."""


class Peer:
    """One client connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection()
        self.lock = threading.Lock()
        self.answers: dict[int, Future[Message]] = {}
        self.registered: list[Message] = []

    def write(self, frame: Frame) -> None:
        with self.lock:
            self.sock.sendall(self.connection.send(frame))

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class FakeCoordinator:
    """`script(Type, answer, …)` says what the next requests of that type get; the others get a happy answer."""

    HAPPY = Do.HAPPY
    NOTHING = Do.NOTHING
    CUT = Do.CUT

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.pings = 0
        self.answers_pings = True
        self.may_answer = threading.Event()
        """While it is not set, requests are taken but not answered."""
        self.may_answer.set()
        self.peers: list[Peer] = []
        self._scripts: defaultdict[type[Message], deque[Message | Do]] = defaultdict(deque)
        self._arrived = threading.Condition()
        self._begun = 0
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def listen(self) -> None:
        """(Again) on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn("listener", self._accept, listener)

    def stop(self) -> None:
        """Stop listening and cut all connections, like a killed process."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut_all()

    def close(self) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(5)

    def cut_all(self) -> None:
        for peer in list(self.peers):
            peer.cut()

    def script(self, kind: type[Message], *answers: Message | Do) -> None:
        self._scripts[kind].extend(answers)

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in list(self.received) if type(message) is kind]

    def wait_for(self, kind: type[Message], count: int = 1) -> list[Message]:
        """Until `count` requests of that type have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.of(kind)) >= count, timeout=10), self.received
        return self.of(kind)

    def rm(self) -> Peer:
        """The connection of the RM that registered last."""
        self.wait_for(RegisterRMRequest)
        rms = [
            peer for peer in self.peers if any(isinstance(message, RegisterRMRequest) for message in peer.registered)
        ]
        return rms[-1]

    def ask(self, message: Message, peer: Peer | None = None) -> Future[Message]:
        """Send a phase-two request to the RM."""
        peer = peer or self.rm()
        frame = peer.connection.request(message)
        answer: Future[Message] = Future()
        peer.answers[frame.request_id] = answer
        peer.write(frame)
        return answer

    def threads_of_peers(self) -> list[threading.Thread]:
        """One for each connection so far; it ends with the connection."""
        return [thread for thread in self._threads if thread.name == "peer"]

    def _spawn(self, name: str, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self.peers.append(peer)
            self._spawn("peer", self._serve, peer)

    def _serve(self, peer: Peer) -> None:
        while True:
            try:
                data = peer.sock.recv(65536)
                if not data:
                    break
                for frame in peer.connection.receive_data(data):
                    self._take(peer, frame)
            except OSError:
                break
        peer.sock.close()
        self.peers.remove(peer)

    def _take(self, peer: Peer, frame: Frame) -> None:
        if frame.message_type is MessageType.HEARTBEAT_PING:
            self.pings += 1
            if self.answers_pings:
                peer.write(peer.connection.pong(frame))
            return
        if frame.message_type is MessageType.RESPONSE:
            peer.answers.pop(frame.request_id).set_result(frame.body)
            return
        scripted = self._scripts[type(frame.body)]
        action = scripted.popleft() if scripted else Do.HAPPY
        if action is Do.HAPPY:
            action = self._happy(peer, frame.body)
        with self._arrived:
            self.received.append(frame.body)
            self._arrived.notify_all()
        self.may_answer.wait(10)
        if action is Do.CUT:
            peer.cut()
        elif isinstance(action, Message):
            peer.write(peer.connection.reply(frame, action))

    def _happy(self, peer: Peer, message: Message) -> Message:
        match message:
            case RegisterTMRequest():
                peer.connection.mark_registered()
                peer.registered.append(message)
                return RegisterTMResponse(identified=True, version="0")
            case RegisterRMRequest():
                peer.connection.mark_registered()
                peer.registered.append(message)
                return RegisterRMResponse(identified=True, version="0")
            case GlobalBeginRequest():
                self._begun += 1
                return GlobalBeginResponse(xid=f"127.0.0.1:8091:{self._begun}")
            case GlobalCommitRequest():
                return GlobalCommitResponse(global_status=GlobalStatus.Committed)
            case GlobalRollbackRequest():
                return GlobalRollbackResponse(global_status=GlobalStatus.Rollbacked)
            case GlobalStatusRequest():
                return GlobalStatusResponse(global_status=GlobalStatus.Begin)
            case GlobalReportRequest():
                return GlobalReportResponse(global_status=GlobalStatus.Rollbacking)
            case BranchRegisterRequest():
                return BranchRegisterResponse(branch_id=len(self.received))
            case BranchReportRequest():
                return BranchReportResponse()
        raise AssertionError(f"no answer for {message}")
