"""One connection at the Seata port: bytes in, one write per batch out, and the times after which it is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from troth.core.effects import Call
from troth.core.events import Answered, CallResult, ChannelClosed, Event
from troth.server.config import Limits
from troth.server.inbound.seata_refusals import refusal_of
from troth.server.inbound.seata_requests import REGISTRATIONS, Refused, Requests
from troth.server.logs import get_logger
from troth.server.outbound.seata import CallsOut, answered, request_for, unanswered
from troth.server.sessions import Channel, OnReport, Sessions
from troth.server.waiters import Reply
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import MessageType
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import (
    BranchCommitResponse,
    BranchEndResponse,
    BranchRollbackResponse,
    HeartbeatMessage,
    MergedWarpMessage,
    Message,
)
from troth.wire.seata.private import BranchInquiryRequest, BranchInquiryResponse

log = get_logger("troth.seata")

_CALL_ANSWERS = frozenset({BranchCommitResponse, BranchRollbackResponse})
_LINGER_S = 5.0
"""How long a closing connection may take to read its last answers."""


class Door(Protocol):
    """What a link needs of the door that accepted it."""

    limits: Limits
    requests: Requests
    sessions: Sessions
    call_keep_s: float
    frames_in: int
    frames_out: int

    def submit(self, event: Event) -> None:
        """An event for the engine."""
        ...

    def settle(self, event: Answered) -> None:
        """How a call to a branch ended."""
        ...

    def opened(self, link: SeataLink) -> bool:
        """Take note of a new connection; False if there are too many."""
        ...

    def closed(self, link: SeataLink) -> None:
        """The connection is gone."""
        ...

    def wants_flush(self, link: SeataLink) -> None:
        """`link` has something to write: `flush` is called before control goes back to the loop, or after the batch."""
        ...

    def flush(self) -> None:
        """Write what waits, one write per connection."""
        ...


class SeataLink(asyncio.Protocol):
    """A client's connection, from accept to close."""

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self._door = door
        self._loop = loop
        self._connection = Connection(max_unregistered_bytes=door.limits.unregistered_bytes)
        self._calls = CallsOut(door.call_keep_s)
        self._inquiries: dict[int, OnReport] = {}
        self._out: list[bytes] = []
        self._open_ids: set[int] = set()
        self._unanswered = 0
        self._highest_id = 0
        self._registered = False
        self._closing = False
        self._blocked = False
        self._paused = False
        self._read_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    # ---- the socket ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("unknown", 0)
        self._channel = Channel(self, str(peer[0]), int(peer[1]))
        self._read_at = self._loop.time()
        if not self._door.opened(self):
            self._closing = True
            transport.abort()  # type: ignore[attr-defined]  # every transport of a TCP server has it
            return
        self._set_timer(self._door.limits.unregistered_timeout / 1000, self._must_have_registered)

    def data_received(self, data: bytes) -> None:
        """Whole and partial frames."""
        if self._closing:
            return
        self._read_at = self._loop.time()
        try:
            frames = self._connection.receive_data(data)
            self._door.frames_in += len(frames)
            for frame in frames:
                self._take(frame)
        except WireError as error:
            self.drop(error.reason, offset=error.offset)
        except Refused as error:
            self.drop(str(error))
        self._door.flush()
        self._throttle()

    def pause_writing(self) -> None:
        """The client does not read: it gets nothing more to do until it does."""
        self._blocked = True
        self._throttle()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._blocked = False
        self._throttle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, for whatever reason: what waits here is settled."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        self._door.closed(self)
        if self._registered:
            self._door.sessions.remove(self._channel)
            self._door.submit(ChannelClosed(self._channel))
        for call in self._calls.take_all():
            self._door.settle(unanswered(call, CallResult.RETRY, "connection closed", self._channel.client_id))
        inquiries, self._inquiries = self._inquiries, {}
        for tell_asker in inquiries.values():
            tell_asker(None)

    # ---- what comes in ----

    def _take(self, frame: Frame) -> None:
        if self._closing:
            return
        body = frame.body
        kind = type(body)
        if kind is HeartbeatMessage:
            if frame.message_type is MessageType.HEARTBEAT_PING:
                self._write(self._connection.pong(frame))
            return
        if not self._registered:
            if kind not in REGISTRATIONS:
                raise Refused(f"{kind.__name__} before a registration")
            self._accept()
        request_id = frame.request_id
        if kind in _CALL_ANSWERS:
            call = self._calls.take(request_id)
            if call is not None:
                self._door.settle(answered(call, cast(BranchEndResponse, body), self._channel.client_id))
            return
        if kind is BranchInquiryResponse:
            asker = self._inquiries.pop(request_id, None)
            if asker is not None:
                asker(cast(BranchInquiryResponse, body))
            return
        self._unanswered += 1
        self._open_ids.add(request_id)
        if request_id > self._highest_id:
            self._highest_id = request_id
        if isinstance(body, MergedWarpMessage):
            self._door.requests.handle_merged(self._channel, frame, body, self)
        else:
            self._door.requests.handle(self._channel, body, Reply(self, frame))

    def _accept(self) -> None:
        self._registered = True
        self._connection.mark_registered()
        self._watch_idleness()

    # ---- what goes out ----

    def refusal(self, request: Message, reason: str) -> Message | None:
        """See `waiters.Responder`."""
        return refusal_of(request, reason)

    def respond(self, frame: Frame, message: Message, *, more: bool = False) -> None:
        """An answer to `frame`; if this connection is gone, another of the same client may take it."""
        if not more:
            self._unanswered -= 1
            self._open_ids.discard(frame.request_id)
        if not self._closing:
            try:
                self._queue(self._connection.answer(frame, message))
            except WireError as error:
                self._cannot_send(error)
            if self._paused:
                self._throttle()
        elif self._channel.is_tm:
            for relative in self._door.sessions.relatives(self._channel):
                if relative.link.answer_request(frame.request_id, message):
                    break

    def answer_request(self, request_id: int, message: Message) -> bool:
        """Send an answer to a request that came in over a lost connection of the same client (PROTOCOL §5).

        "Same client" is only application and ip, so another process may sit here, with ids of its own. Ids count up:
        one that this connection has passed and does not wait for is either the lost request's or means nothing here.
        """
        if self._closing or request_id >= self._highest_id or request_id in self._open_ids:
            return False
        frame = self._connection.request(message)
        self._write(
            Frame(
                frame.protocol_version,
                MessageType.RESPONSE,
                frame.codec,
                frame.compressor,
                request_id,
                frame.head_map,
                message,
            )
        )
        return True

    def call_branch(self, call: Call) -> None:
        """Send a phase-two request with an id of our own."""
        try:
            request_id, data = self._connection.ask(request_for(call))
        except WireError as error:
            self._door.settle(unanswered(call, CallResult.RETRY, f"cannot be sent: {error}", None))
            return
        self._calls.add(request_id, call, self._loop.time())
        self._queue(data)

    def tell(self, message: Message) -> None:
        """Send a message that nobody answers."""
        if not self._closing:
            self._write(self._connection.oneway(message))

    def inquire(self, message: BranchInquiryRequest, answered: OnReport) -> None:
        """Send an inquiry with an id of our own."""
        if self._closing:
            answered(None)
            return
        try:
            request_id, data = self._connection.ask(message)
        except WireError as error:
            log.warning("an inquiry cannot be sent", reason=error.reason)
            answered(None)
            return
        self._inquiries[request_id] = answered
        self._queue(data)

    def _write(self, frame: Frame) -> None:
        try:
            self._queue(self._connection.send(frame))
        except WireError as error:
            self._cannot_send(error)

    def _cannot_send(self, error: WireError) -> None:
        self.drop(f"an answer cannot be sent: {error.reason}", offset=error.offset)

    def _queue(self, data: bytes) -> None:
        if not self._out:
            self._door.wants_flush(self)
        self._out.append(data)

    def flush(self) -> None:
        """Everything that waits, in one write."""
        if not self._out or self._transport.is_closing():
            return
        self._door.frames_out += len(self._out)
        data = b"".join(self._out) if len(self._out) > 1 else self._out[0]
        self._out.clear()
        self._transport.write(data)
        if self._blocked and self._transport.get_write_buffer_size() > self._door.limits.unread_bytes:
            self.drop("the client does not read what it is sent", abort=True)

    # ---- when it ends ----

    def drop(self, reason: str, *, offset: int | None = None, abort: bool = False) -> None:
        """Close, and say once why. What was answered before still goes out, unless `abort`."""
        if self._closing:
            return
        fields = {} if offset is None else {"offset": offset}
        channel = self._channel
        application = {"application": channel.application} if self._registered else {}
        log.warning("connection closed", peer=f"{channel.ip}:{channel.port}", reason=reason, **fields, **application)
        self.close(abort=abort)

    def close(self, *, abort: bool = False) -> None:
        """Close without a word: the coordinator stops."""
        if not abort:
            self.flush()
        self._closing = True
        if abort:
            self._transport.abort()
        else:
            self._transport.close()
            self._set_timer(_LINGER_S, self._transport.abort)

    def _throttle(self) -> None:
        """Read no more from a client that reads nothing, or has too many requests unanswered."""
        if self._closing:
            return
        pause = self._blocked or self._unanswered >= self._door.limits.in_flight
        if pause and not self._paused:
            self._transport.pause_reading()
        elif self._paused and not pause:
            self._read_at = self._loop.time()
            self._transport.resume_reading()
        self._paused = pause

    def _must_have_registered(self) -> None:
        self.drop(f"no registration within {self._door.limits.unregistered_timeout} ms")

    def _watch_idleness(self) -> None:
        """One timer that looks again when the connection could at the earliest have been silent for too long."""
        idle_s = self._door.limits.idle / 1000
        silent_s = 0.0 if self._paused and not self._blocked else self._loop.time() - self._read_at
        if silent_s >= idle_s:
            self.drop(f"nothing received for {self._door.limits.idle} ms", abort=True)
        else:
            self._set_timer(idle_s - silent_s, self._watch_idleness)

    def _set_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        """The connection's one timer: to register, then to be heard of, then to be gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)
