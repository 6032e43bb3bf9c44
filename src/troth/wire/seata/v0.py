"""Frames of version 0, for clients up to 0.7.1: 14 bytes of head, no length anywhere (PROTOCOL §2).

Seata needs one whole message per read, since nothing tells where it ends. Its fields do tell, so this reads them until
they are complete, however the bytes were cut.
"""

from struct import Struct, error
from typing import Final

from troth.wire.seata.bodies import read_fields, write_fields
from troth.wire.seata.enums import CompressorType, MessageType, SerializerType
from troth.wire.seata.envelope import MAGIC, MAX_FRAME_LENGTH, NO_HEAD_MAP, Frame
from troth.wire.seata.errors import Truncated, WireError
from troth.wire.seata.messages import HeartbeatMessage

VERSION: Final = 0
HEAD_BYTES: Final = 14

_HEAD = Struct(">2sHHq")
_REQUEST = 0x80
_HEARTBEAT = 0x20
_SEATA_CODEC = 0x10
_VERSION_AT, _FLAGS_AT = 2, 3


def read_frame(buf: bytes, pos: int, max_length: int = MAX_FRAME_LENGTH) -> tuple[Frame | None, int]:
    """The frame at `pos` and where it ends; or `None` and where the bytes must reach to before trying again."""
    _check_start(buf, pos)
    if len(buf) - pos < HEAD_BYTES:
        return None, pos + HEAD_BYTES
    _, flags, code, request_id = _HEAD.unpack_from(buf, pos)
    codec = SerializerType.SEATA if flags & _SEATA_CODEC else SerializerType.HESSIAN
    if flags & _HEARTBEAT:
        kind = MessageType.HEARTBEAT_PING if flags & _REQUEST else MessageType.HEARTBEAT_PONG
        body = HeartbeatMessage()
        return Frame(VERSION, kind, codec, CompressorType.NONE, request_id, NO_HEAD_MAP, body), pos + HEAD_BYTES
    if codec is not SerializerType.SEATA:
        raise WireError(f"codec {codec.name} is not supported, only SEATA", pos + _FLAGS_AT)
    try:
        message, stop = read_fields(code, buf, pos + HEAD_BYTES, len(buf))
    except Truncated as short:
        _check_length(short.needed - pos, max_length, short.offset)
        return None, short.needed
    _check_length(stop - pos, max_length, pos)
    # As Seata reads it: the frame does not say whether the request is one-way, and the type alone decides the answer.
    kind = MessageType.ONEWAY if flags & _REQUEST else MessageType.RESPONSE
    return Frame(VERSION, kind, codec, CompressorType.NONE, request_id, NO_HEAD_MAP, message), stop


def raw_body(buf: bytes) -> bytes:
    """The body, which has no type code, of a frame that `read_frame` has accepted."""
    return buf[HEAD_BYTES:]


def write_frame(frame: Frame) -> bytes:
    """The bytes of `frame`. `WireError` for what version 0 cannot carry."""
    if frame.head_map:
        raise WireError("version 0 has no head map", 0)
    if frame.compressor != CompressorType.NONE:
        raise WireError(f"version 0 has no compressor, not {frame.compressor.name} either", 0)
    flags = 0 if frame.message_type in (MessageType.RESPONSE, MessageType.HEARTBEAT_PONG) else _REQUEST
    if frame.codec == SerializerType.SEATA:
        flags |= _SEATA_CODEC
    if frame.message_type >= MessageType.HEARTBEAT_PING:
        frame.check_heartbeat()
        # Seata 2.6.0 forgets the request flag on a ping and then reads it as a pong; the clients of version 0 set it.
        return _head(flags | _HEARTBEAT, 0, frame.request_id)
    if frame.codec != SerializerType.SEATA:
        raise WireError(f"codec {frame.codec.name} is not supported, only SEATA", 0)
    written = _head(flags, frame.body.TYPE_CODE, frame.request_id) + write_fields(frame.body)
    _check_length(len(written), MAX_FRAME_LENGTH, 0)
    return written


def _head(flags: int, code: int, request_id: int) -> bytes:
    try:
        return _HEAD.pack(MAGIC, flags, code, request_id)
    except error:
        raise WireError(f"request id {request_id} does not fit into 64 bits", 0) from None


def _check_start(buf: bytes, pos: int) -> None:
    start = buf[pos : pos + 3]
    if not MAGIC.startswith(start[:2]):
        raise WireError(f"wrong magic {start[:2].hex()}", pos)
    if len(start) > _VERSION_AT and start[_VERSION_AT] != VERSION:
        raise WireError(
            f"protocol version {start[_VERSION_AT]} on a connection of version {VERSION}", pos + _VERSION_AT
        )


def _check_length(length: int, max_length: int, offset: int) -> None:
    if length > max_length:
        raise WireError(f"frame of {length} bytes where {max_length} are allowed", offset)
