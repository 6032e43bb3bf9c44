"""gRPC to branches of DTM's style: raw bytes, with the branch's names in metadata. One channel a target."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from troth.client.modes.dtm import Reply, Request

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise ImportError("branches by gRPC need grpcio: pip install 'troth[grpc]'") from error

_PREFIX: Final = "dtm-"
_STATUSES: Final[Mapping[Any, int]] = MappingProxyType(
    {
        grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
        grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.TOO_EARLY,
        grpc.StatusCode.UNAVAILABLE: 0,
        grpc.StatusCode.DEADLINE_EXCEEDED: 0,
        grpc.StatusCode.CANCELLED: 0,
    }
)
"""The HTTP status that says the same; all others are a failure of the service."""


def _split(url: str) -> tuple[str, str]:
    """`host:port/package.Service/Method` → target, method."""
    target, _, method = url.partition("/")
    return target, f"/{method}"


def _metadata(request: Request) -> list[tuple[str, str]]:
    names = [(f"{_PREFIX}{name}", value) for name, value in request.query.items()]
    return [*names, *((name.lower(), value) for name, value in request.headers.items() if name != "Content-Type")]


def _reply(error: Any) -> Reply:
    status = _STATUSES.get(error.code(), HTTPStatus.INTERNAL_SERVER_ERROR)
    return Reply(int(status), f"{error.code().name}: {error.details()}".encode())


class GrpcBranches:
    """Calls branches, blocking. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, Any] = {}

    def send(self, request: Request, timeout_s: float) -> Reply:
        """One unary call; its status as HTTP has it."""
        target, method = _split(request.url)
        with self._lock:
            channel = self._channels.get(target)
            if channel is None:
                channel = self._channels[target] = grpc.insecure_channel(target)
        try:
            call: Any = channel.unary_unary(method)
            body = call(request.body or b"", timeout=timeout_s, metadata=_metadata(request))
        except grpc.RpcError as error:
            return _reply(error)
        return Reply(HTTPStatus.OK, body)

    def close(self) -> None:
        """Close the channels."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()


class AsyncGrpcBranches:
    """`GrpcBranches` for coroutines."""

    def __init__(self) -> None:
        self._channels: dict[str, Any] = {}

    async def send(self, request: Request, timeout_s: float) -> Reply:
        """See `GrpcBranches.send`."""
        target, method = _split(request.url)
        if target not in self._channels:
            self._channels[target] = grpc.aio.insecure_channel(target)
        call: Any = self._channels[target].unary_unary(method)
        try:
            body = await call(request.body or b"", timeout=timeout_s, metadata=_metadata(request))
        except grpc.RpcError as error:
            return _reply(error)
        return Reply(HTTPStatus.OK, body)

    async def close(self) -> None:
        """Close the channels."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
