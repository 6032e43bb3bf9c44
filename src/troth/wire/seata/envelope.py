"""What a frame is, whatever its version: the message and what stands around it (PROTOCOL §1, §2)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from troth.wire.seata.enums import CompressorType, MessageType, SerializerType
from troth.wire.seata.errors import WireError
from troth.wire.seata.messages import HeartbeatMessage, Message

MAGIC: Final = b"\xda\xda"

MAX_FRAME_LENGTH: Final = 8 * 1024 * 1024
"""Longest frame in bytes, head included; also the most that a compressed body may unfold to."""

NO_HEAD_MAP: Final[Mapping[str, str | None]] = MappingProxyType({})


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame. `request_id` is signed, 32 bits wide in version 1, 64 in version 0; an answer repeats its request's.

    Version 0 has neither compressor nor head map, and does not tell REQUEST from ONEWAY: both come back as ONEWAY.
    """

    protocol_version: int
    message_type: MessageType
    codec: SerializerType
    compressor: CompressorType
    request_id: int
    head_map: Mapping[str, str | None]
    body: Message

    def check_heartbeat(self) -> None:
        """`WireError` unless the body is the one a ping or pong has: none."""
        if not isinstance(self.body, HeartbeatMessage):
            raise WireError(f"{type(self.body).__name__} in a {self.message_type.name} frame, which has no body", 0)
