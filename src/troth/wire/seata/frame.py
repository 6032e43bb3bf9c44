"""Whole frames of either version: bytes to `Frame` and back."""

from typing import Final

from troth.wire.seata import v0, v1
from troth.wire.seata.envelope import MAGIC, MAX_FRAME_LENGTH, NO_HEAD_MAP, Frame
from troth.wire.seata.errors import WireError

__all__ = ["MAX_FRAME_LENGTH", "NO_HEAD_MAP", "Frame", "decode_frame", "encode_frame", "raw_body", "version_of"]

_VERSION_AT: Final = 2


def encode_frame(frame: Frame) -> bytes:
    """The bytes of `frame`. `WireError` for what the protocol cannot carry, such as a text that is too long."""
    if frame.protocol_version == v1.VERSION:
        return v1.write_frame(frame)
    if frame.protocol_version == v0.VERSION:
        return v0.write_frame(frame)
    raise WireError(f"unknown protocol version {frame.protocol_version}", 0)


def decode_frame(data: bytes) -> Frame:
    """The one frame that `data` is, no less and no more. `WireError` otherwise."""
    version = version_of(data)
    if version is None:
        raise WireError("the frame ends inside its head", len(data))
    read = v1.read_frame if version == v1.VERSION else v0.read_frame
    frame, stop = read(data, 0)
    if frame is None:
        raise WireError(f"the frame ends after {len(data)} bytes of at least {stop}", len(data))
    if stop != len(data):
        raise WireError(f"{len(data) - stop} bytes behind the end of the frame", stop)
    return frame


def raw_body(data: bytes) -> bytes:
    """The uncompressed body of a frame that `decode_frame` has accepted; in version 1 with its type code."""
    return v1.raw_body(data) if version_of(data) == v1.VERSION else v0.raw_body(data)


def version_of(data: bytes) -> int | None:
    """Protocol version of the frame that starts `data` (PROTOCOL §2), `None` if too few bytes are there to tell."""
    start = data[: _VERSION_AT + 1]
    if not MAGIC.startswith(start[:_VERSION_AT]):
        raise WireError(f"wrong magic {start[:_VERSION_AT].hex()}", 0)
    if len(start) <= _VERSION_AT:
        return None
    version = start[_VERSION_AT]
    if version not in (v0.VERSION, v1.VERSION):
        raise WireError(f"unknown protocol version {version}", _VERSION_AT)
    return version
