"""One end of a Seata connection without the connection: bytes in, frames out, and the other way round.

    frames = connection.receive_data(what_the_socket_gave)
    socket.send(connection.send(connection.reply(frames[0], GlobalBeginResponse(xid="…"))))

No clock and no policy: when to ping, what to time out and who may ask for what belongs to client and server.
"""

from collections.abc import Callable
from typing import Final

from troth.wire.seata import v0, v1
from troth.wire.seata.enums import CompressorType, MessageType, SerializerType
from troth.wire.seata.envelope import MAX_FRAME_LENGTH, NO_HEAD_MAP, Frame
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import encode_frame, version_of
from troth.wire.seata.messages import HeartbeatMessage, Message, RegisterRMRequest, RegisterTMRequest

DEFAULT_MAX_UNREGISTERED_BYTES: Final = 256 * 1024

_HEARTBEAT = HeartbeatMessage()
_MAX_REQUEST_ID = 0x7FFFFFFF
_BYTES_TO_TELL_THE_VERSION = 3
_REGISTRATIONS = (RegisterTMRequest, RegisterRMRequest)

_REQUEST, _RESPONSE = MessageType.REQUEST, MessageType.RESPONSE
_SEATA, _NONE = SerializerType.SEATA, CompressorType.NONE

_ReadFrame = Callable[[bytes, int, int], tuple[Frame | None, int]]


class Connection:
    """The protocol state of one connection. Not thread-safe; one owner feeds it.

    `max_unregistered_bytes` is what a peer may send before `mark_registered()`; `None` for a client, whose peer never
    registers. `protocol_version` and `compressor` are those of the frames this end opens; the version of the first
    frame that comes in overrides the former, once and for all (PROTOCOL §2).
    """

    __slots__ = (
        "_compressor",
        "_failure",
        "_last_id",
        "_needed",
        "_pending",
        "_read",
        "_unregistered_bytes",
        "_unregistered_limit",
        "_version",
    )

    def __init__(
        self,
        *,
        max_unregistered_bytes: int | None = DEFAULT_MAX_UNREGISTERED_BYTES,
        protocol_version: int = v1.VERSION,
        compressor: CompressorType = CompressorType.NONE,
    ) -> None:
        self._unregistered_limit = max_unregistered_bytes
        self._unregistered_bytes = 0
        self._version = protocol_version
        self._compressor = compressor
        self._read: _ReadFrame | None = None
        self._pending = bytearray()
        self._needed = 0
        self._last_id = 0
        self._failure: WireError | None = None

    @property
    def protocol_version(self) -> int:
        """0 or 1: the version frames are written in."""
        return self._version

    def mark_registered(self) -> None:
        """The owner has accepted a registration: the limit for strangers no longer holds."""
        self._unregistered_limit = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes, in order.

        `WireError` when the stream is not the protocol. It is lost then: every later call raises the same error, and
        frames that came before the fault in the same `data` are not given out.
        """
        if self._failure is not None:
            raise self._failure
        try:
            frames = self._frames(data)
            if self._unregistered_limit is not None:
                self._count_unregistered(len(data), frames)
        except WireError as fault:
            self._failure = fault
            self._pending = bytearray()
            raise
        return frames

    def send(self, frame: Frame) -> bytes:
        """What to write to the socket for `frame`. `WireError` for what the protocol cannot carry."""
        return encode_frame(frame)

    def request(self, message: Message) -> Frame:
        """A frame that wants an answer, with the next id of this end's own counter."""
        return self._open(MessageType.REQUEST, message)

    def oneway(self, message: Message) -> Frame:
        """A one-way frame with the next id. Merged messages and re-registrations travel so, and are answered."""
        return self._open(MessageType.ONEWAY, message)

    def reply(self, to: Frame, message: Message) -> Frame:
        """The answer to `to`: repeats its version, codec, compressor and id, not its head map (PROTOCOL §1)."""
        return Frame(
            to.protocol_version, MessageType.RESPONSE, to.codec, to.compressor, to.request_id, NO_HEAD_MAP, message
        )

    def answer(self, to: Frame, message: Message) -> bytes:
        """What to write for `reply(to, message)`."""
        if to.protocol_version == v1.VERSION and to.codec is _SEATA and to.compressor is _NONE:
            return v1.write_usual(_RESPONSE, to.request_id, message)
        return encode_frame(self.reply(to, message))

    def ask(self, message: Message) -> tuple[int, bytes]:
        """What to write for `request(message)`, behind its id."""
        if self._version == v1.VERSION and self._compressor is _NONE:
            self._last_id = self._last_id % _MAX_REQUEST_ID + 1
            return self._last_id, v1.write_usual(_REQUEST, self._last_id, message)
        frame = self.request(message)
        return frame.request_id, encode_frame(frame)

    def ping(self) -> Frame:
        """A ping with the next id."""
        return self._open(MessageType.HEARTBEAT_PING, _HEARTBEAT)

    def pong(self, to: Frame) -> Frame:
        """The answer to the ping `to`."""
        return Frame(
            to.protocol_version,
            MessageType.HEARTBEAT_PONG,
            to.codec,
            to.compressor,
            to.request_id,
            NO_HEAD_MAP,
            _HEARTBEAT,
        )

    def _open(self, kind: MessageType, message: Message) -> Frame:
        self._last_id = self._last_id % _MAX_REQUEST_ID + 1
        compressor = CompressorType.NONE if kind is MessageType.HEARTBEAT_PING else self._compressor
        return Frame(self._version, kind, SerializerType.SEATA, compressor, self._last_id, NO_HEAD_MAP, message)

    def _frames(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Read straight from `data` where nothing is pending; gather a long frame without copying it at each read."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            buf = bytes(self._pending)
            self._pending = bytearray()
        else:
            buf = data if type(data) is bytes else bytes(data)
        read = self._read or self._decide_version(buf)
        if read is None:
            self._keep(buf, 0, _BYTES_TO_TELL_THE_VERSION)
            return []
        return self._read_all(read, buf)

    def _read_all(self, read: _ReadFrame, buf: bytes) -> list[Frame]:
        frames: list[Frame] = []
        pos = 0
        limit = self._frame_limit()
        while pos < len(buf):
            try:
                frame, stop = read(buf, pos, limit)
            except WireError as fault:
                raise WireError(fault.reason, fault.offset - pos) from None
            if frame is None:
                self._keep(buf, pos, stop)
                break
            frames.append(frame)
            pos = stop
            if limit != MAX_FRAME_LENGTH and isinstance(frame.body, _REGISTRATIONS):
                limit = MAX_FRAME_LENGTH
        return frames

    def _decide_version(self, buf: bytes) -> _ReadFrame | None:
        version = version_of(buf)
        if version is not None:
            self._version = version
            self._read = v1.read_frame if version == v1.VERSION else v0.read_frame
        return self._read

    def _keep(self, buf: bytes, pos: int, needed: int) -> None:
        self._pending = bytearray(buf[pos:] if pos else buf)
        self._needed = needed - pos

    def _frame_limit(self) -> int:
        limit = self._unregistered_limit
        return MAX_FRAME_LENGTH if limit is None else min(limit, MAX_FRAME_LENGTH)

    def _count_unregistered(self, size: int, frames: list[Frame]) -> None:
        """Bytes that came with a registration do not count: the owner is about to accept or to close."""
        if any(isinstance(frame.body, _REGISTRATIONS) for frame in frames):
            return
        self._unregistered_bytes += size
        limit = self._unregistered_limit
        if limit is not None and self._unregistered_bytes > limit:
            raise WireError(f"{self._unregistered_bytes} bytes without a registration, {limit} are allowed", 0)
