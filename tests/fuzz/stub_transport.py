"""A socket without a socket: what is written is decoded, and closing is heard on the next turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from troth.wire.seata.connection import Connection
from troth.wire.seata.frame import Frame


class StubTransport(asyncio.Transport):
    """Hands each frame that the door writes to `heard`."""

    def __init__(self, protocol: asyncio.Protocol, port: int, heard: Callable[[Frame], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", port)})
        self._protocol = protocol
        self._heard = heard
        self._reader = Connection(max_unregistered_bytes=None)
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self.reading = True
        self.frames = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        for frame in self._reader.receive_data(data):
            self.frames += 1
            self._heard(frame)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return super().get_extra_info(name, default)
