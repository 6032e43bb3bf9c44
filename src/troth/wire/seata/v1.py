"""Frames of version 1: 16 fixed bytes, head map, body (PROTOCOL §1)."""

from collections.abc import Mapping
from struct import Struct, error
from typing import Final

from troth.wire.seata.bodies import read_body, write_body
from troth.wire.seata.compressors import compress, decompress
from troth.wire.seata.enums import CompressorType, MessageType, SerializerType
from troth.wire.seata.envelope import MAGIC, MAX_FRAME_LENGTH, NO_HEAD_MAP, Frame
from troth.wire.seata.errors import WireError
from troth.wire.seata.fields import MAX_TEXT2_BYTES, encoded, pack_short
from troth.wire.seata.messages import HeartbeatMessage, Message

VERSION: Final = 1
HEAD_BYTES: Final = 16
MAX_HEAD_BYTES: Final = 32767

_START = MAGIC + bytes((VERSION,))
_HEAD = Struct(">3siHBBBi")
_unpack_head = _HEAD.unpack_from
_pack_head = _HEAD.pack
_MESSAGE_TYPES = tuple(MessageType)
_COMPRESSORS = tuple(CompressorType)
_CODECS = frozenset(SerializerType)
_SEATA = SerializerType.SEATA
_NONE = CompressorType.NONE
_PING = MessageType.HEARTBEAT_PING
# Plain integers: comparing them costs half as much as comparing enum members, and every frame is compared.
_USUAL_CODEC = int(_SEATA)
_FIRST_HEARTBEAT = int(_PING)
_NULL_TEXT = b"\xff\xff"
_HEARTBEAT = HeartbeatMessage()
_FULL_LENGTH_AT, _HEAD_LENGTH_AT, _TYPE_AT, _CODEC_AT, _COMPRESSOR_AT = 3, 7, 9, 10, 11


def read_frame(buf: bytes, pos: int, max_length: int = MAX_FRAME_LENGTH) -> tuple[Frame | None, int]:
    """The frame at `pos` and where it ends; or `None` and where the bytes must reach to before trying again."""
    if len(buf) - pos < HEAD_BYTES:
        _check_start(buf, pos)
        return None, pos + HEAD_BYTES
    start, length, head_length, kind, codec, compressor, request_id = _unpack_head(buf, pos)
    if start != _START:
        _check_start(buf, pos)
    if not HEAD_BYTES <= head_length <= length <= max_length or head_length > MAX_HEAD_BYTES:
        raise _bad_lengths(head_length, length, max_length, pos)
    stop = pos + length
    if stop > len(buf):
        return None, stop
    body_at = pos + head_length
    head_map = NO_HEAD_MAP if head_length == HEAD_BYTES else _read_head_map(buf, pos + HEAD_BYTES, body_at)
    if codec == _USUAL_CODEC and not compressor and kind < _FIRST_HEARTBEAT:
        body = read_body(buf, body_at, stop)
        return Frame(VERSION, _MESSAGE_TYPES[kind], _SEATA, _NONE, request_id, head_map, body), stop
    message_type, codec_type, compressor_type = _kind(kind, pos), _codec(codec, pos), _compressor(compressor, pos)
    body = _read_unusual_body(message_type, codec_type, compressor_type, buf, pos, body_at, stop)
    return Frame(VERSION, message_type, codec_type, compressor_type, request_id, head_map, body), stop


def raw_body(buf: bytes) -> bytes:
    """The uncompressed body, type code first, of a frame that `read_frame` has accepted."""
    head = _unpack_head(buf)
    head_length, compressor = head[2], head[5]
    packed = buf[head_length:]
    return decompress(_COMPRESSORS[compressor], packed) if packed else packed


def write_usual(kind: MessageType, request_id: int, message: Message) -> bytes:
    """The bytes of a frame in codec SEATA, neither compressed nor with a head map: nearly all are so.

    The same bytes as `write_frame` gives, without a `Frame`: half of what an answer costs.
    """
    body = write_body(message)
    length = HEAD_BYTES + len(body)
    if length > MAX_FRAME_LENGTH:
        raise _too_long(length)
    try:
        return _pack_head(_START, length, HEAD_BYTES, kind, _USUAL_CODEC, 0, request_id) + body
    except error:
        raise _id_too_wide(request_id) from None


def write_frame(frame: Frame) -> bytes:
    """The bytes of `frame`. `WireError` for what version 1 cannot carry."""
    head_map = b"" if not frame.head_map else _write_head_map(frame.head_map)
    body = _write_body(frame)
    head_length = HEAD_BYTES + len(head_map)
    length = head_length + len(body)
    if length > MAX_FRAME_LENGTH:
        raise _too_long(length)
    try:
        head = _pack_head(
            _START,
            length,
            head_length,
            frame.message_type,
            frame.codec,
            frame.compressor,
            frame.request_id,
        )
    except error:
        raise _id_too_wide(frame.request_id) from None
    return head + head_map + body


def _write_body(frame: Frame) -> bytes:
    if frame.message_type >= _FIRST_HEARTBEAT:
        frame.check_heartbeat()
        return b""
    if frame.codec != _SEATA:
        raise _unspoken(frame.codec, 0)
    body = write_body(frame.body)
    return body if frame.compressor == _NONE else compress(frame.compressor, body)


def _read_unusual_body(
    kind: MessageType,
    codec: SerializerType,
    compressor: CompressorType,
    buf: bytes,
    pos: int,
    body_at: int,
    stop: int,
) -> Message:
    if kind >= _PING:
        if stop != body_at:
            raise WireError(f"{stop - body_at} bytes of body in a heartbeat, which has none", body_at)
        return _HEARTBEAT
    if codec != _SEATA:
        raise _unspoken(codec, pos + _CODEC_AT)
    try:
        body = decompress(compressor, buf[body_at:stop])
        return read_body(body, 0, len(body))
    except WireError as fault:
        raise WireError(fault.reason, body_at + fault.offset) from None


def _read_head_map(buf: bytes, pos: int, end: int) -> Mapping[str, str | None]:
    """Pairs up to `end`: no count. Here null (-1) and the empty text (0) differ, unlike in bodies."""
    head_map: dict[str, str | None] = {}
    while pos < end:
        key, value_at = _read_head_text(buf, pos, end)
        if key is None:
            raise WireError("null key in the head map", pos)
        head_map[key], pos = _read_head_text(buf, value_at, end)
    return head_map


def _read_head_text(buf: bytes, pos: int, end: int) -> tuple[str | None, int]:
    start = pos + 2
    if start > end:
        raise WireError("the head map ends in the middle of a pair", pos)
    if buf[pos:start] == _NULL_TEXT:
        return None, start
    size = buf[pos] << 8 | buf[pos + 1]
    stop = start + size
    if size > MAX_TEXT2_BYTES:
        raise WireError(f"negative text length {size - 0x10000} in the head map", pos)
    if stop > end:
        raise WireError(f"text of {size} bytes goes past the end of the head map", pos)
    try:
        return buf[start:stop].decode(), stop
    except UnicodeDecodeError as fault:
        raise WireError(f"head map is not valid UTF-8: {fault.reason}", start + fault.start) from None


def _write_head_map(head_map: Mapping[str, str | None]) -> bytes:
    parts: list[bytes] = []
    for pair in head_map.items():
        parts.extend(_NULL_TEXT if text is None else _head_text(text) for text in pair)
    written = b"".join(parts)
    if len(written) > MAX_HEAD_BYTES - HEAD_BYTES:
        raise WireError(f"head map of {len(written)} bytes where {MAX_HEAD_BYTES - HEAD_BYTES} fit", 0)
    return written


def _head_text(text: str) -> bytes:
    raw = encoded(text)
    if len(raw) > MAX_TEXT2_BYTES:
        raise WireError(f"text of {len(raw)} bytes in the head map", 0)
    return pack_short(len(raw)) + raw


def _too_long(length: int) -> WireError:
    return WireError(f"frame of {length} bytes where {MAX_FRAME_LENGTH} are allowed", 0)


def _id_too_wide(request_id: int) -> WireError:
    return WireError(f"request id {request_id} does not fit into 32 bits", 0)


def _check_start(buf: bytes, pos: int) -> None:
    """Refuse a stream that is not ours by its first bytes, before it has sent a whole head."""
    start = buf[pos : pos + 3]
    if not MAGIC.startswith(start[:2]):
        raise WireError(f"wrong magic {start[:2].hex()}", pos)
    if len(start) > len(MAGIC) and start[2] != VERSION:
        raise WireError(f"protocol version {start[2]} on a connection of version {VERSION}", pos + 2)


def _bad_lengths(head_length: int, length: int, max_length: int, pos: int) -> WireError:
    if length > max_length:
        return WireError(f"frame of {length} bytes where {max_length} are allowed", pos + _FULL_LENGTH_AT)
    if length < HEAD_BYTES:
        return WireError(f"frame length {length} is shorter than the head", pos + _FULL_LENGTH_AT)
    return WireError(f"head length {head_length} in a frame of {length} bytes", pos + _HEAD_LENGTH_AT)


def _kind(code: int, pos: int) -> MessageType:
    if code >= len(_MESSAGE_TYPES):
        raise WireError(f"unknown message type {code}", pos + _TYPE_AT)
    return _MESSAGE_TYPES[code]


def _codec(code: int, pos: int) -> SerializerType:
    if code not in _CODECS:
        raise WireError(f"unknown codec {code}", pos + _CODEC_AT)
    return SerializerType(code)


def _compressor(code: int, pos: int) -> CompressorType:
    if code >= len(_COMPRESSORS):
        raise WireError(f"unknown compressor {code}", pos + _COMPRESSOR_AT)
    return _COMPRESSORS[code]


def _unspoken(codec: SerializerType, offset: int) -> WireError:
    return WireError(f"codec {codec.name} is not supported, only {_SEATA.name}", offset)
