"""gRPC in the coordinator: loaded at its first use, and only where the extra `troth[grpc]` is installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from troth.server.outbound.url_calls import Settle, UrlCall, UrlCaller
from troth.wire.dtm.results import Verdict

INSTALL = "pip install 'troth[grpc]'"
_WANTED = ("google.protobuf", "grpc", "grpc_health", "grpc_reflection")


class GrpcDoor(Protocol):
    """DTM's gRPC door (`inbound/dtm_grpc.py`)."""

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError if it is taken."""
        ...

    async def stop(self, patience_s: float) -> None:
        """Take no more; what is under way has so long to end."""
        ...


def grpc_is_installed() -> bool:
    """True where every library of the extra is there."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in _WANTED)
    except ModuleNotFoundError:  # of google.protobuf, where there is no package `google` at all
        return False


def open_door(
    operations: object, most_calls: int, largest_bytes: int, count: Callable[[str, int, float], None]
) -> GrpcDoor:
    """The door, not listening yet; `count` hears of each request (method, status as over HTTP, seconds)."""
    module = _load("troth.server.inbound.dtm_grpc")
    door: GrpcDoor = module.DtmGrpcDoor(operations, most_calls, largest_bytes, count)
    return door


def _load(name: str) -> ModuleType:
    """gRPC's own log is for its authors: lines of another form, on each connection that ends."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return importlib.import_module(name)


class GrpcCalls:
    """A `UrlCaller` for gRPC URLs: the real one, once the first call has come."""

    def __init__(self, settle: Settle, calls_per_host: int) -> None:
        self._settle = settle
        self._calls_per_host = calls_per_host
        self._caller: UrlCaller | None = None

    def call(self, url_call: UrlCall) -> None:
        """Send it; `settle` is called with what came of it."""
        if self._caller is None and not grpc_is_installed():
            self._settle(url_call, Verdict.RETRY, f"the coordinator cannot call gRPC services: {INSTALL}")
            return
        if self._caller is None:
            module = _load("troth.server.outbound.grpc")
            self._caller = module.GrpcCaller(self._settle, self._calls_per_host)
        self._caller.call(url_call)

    async def close(self) -> None:
        """Cut every connection."""
        if self._caller is not None:
            await self._caller.close()
