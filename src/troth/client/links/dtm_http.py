"""HTTP to a coordinator of DTM's style and to its branches, by httpx: one pool of connections a client."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from troth.client.modes.dtm import Reply, Request

try:
    import httpx
except ImportError as error:
    raise ImportError("troth.dtm needs httpx: pip install 'troth[httpx]'") from error

BASE_PATH: Final = "/api/dtmsvr"
_GRPC: Final = "troth.client.links.dtm_grpc"
DEFAULT_TIMEOUT: Final = timedelta(seconds=10)


def base_of(coordinator: str) -> str:
    """The base URL of a coordinator: `http://host:port` gets DTM's path. Raises ValueError: no HTTP URL."""
    parts = urlsplit(coordinator)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{coordinator!r} is no coordinator of DTM's style: write http://host:36789")
    return coordinator.rstrip("/") + ("" if parts.path.strip("/") else BASE_PATH)


class _Addressed:
    def __init__(self, coordinator: str, timeout: timedelta) -> None:
        self.base = base_of(coordinator)
        self._timeout_s = timeout.total_seconds()

    def _timeout_of(self, request: Request) -> float:
        return self._timeout_s if request.timeout_s is None else request.timeout_s

    def _arguments(self, request: Request) -> dict[str, object]:
        return {
            "method": request.method,
            "url": self._url(request),
            "content": request.body,
            "headers": dict(request.headers) if request.headers else {"Content-Type": "application/json"},
            "timeout": self._timeout_of(request),
        }

    def _url(self, request: Request) -> httpx.URL:
        whole = request.url if request.is_branch else f"{self.base}/{request.url}"
        return httpx.URL(whole).copy_merge_params(dict(request.query))


class HttpLink(_Addressed):
    """`troth.client.modes.dtm.Link`, blocking. Thread-safe."""

    def __init__(self, coordinator: str, timeout: timedelta, http: httpx.Client | None = None) -> None:
        super().__init__(coordinator, timeout)
        self._http = http or httpx.Client()
        self._grpc: Any = None

    def send(self, request: Request) -> Reply:
        """See `Link.send`. Raises ImportError: a branch by gRPC, and grpcio is not installed."""
        if _is_grpc(request):
            self._grpc = self._grpc or import_module(_GRPC).GrpcBranches()
            over_grpc: Reply = self._grpc.send(request, self._timeout_of(request))
            return over_grpc
        try:
            answer = self._http.request(**self._arguments(request))  # type: ignore[arg-type]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _lost(error)
        return Reply(answer.status_code, answer.content)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()
        if self._grpc is not None:
            self._grpc.close()


class AsyncHttpLink(_Addressed):
    """`HttpLink` for coroutines."""

    def __init__(self, coordinator: str, timeout: timedelta, http: httpx.AsyncClient | None = None) -> None:
        super().__init__(coordinator, timeout)
        self._http = http or httpx.AsyncClient()
        self._grpc: Any = None

    async def send(self, request: Request) -> Reply:
        """See `Link.send`. Raises ImportError: a branch by gRPC, and grpcio is not installed."""
        if _is_grpc(request):
            self._grpc = self._grpc or import_module(_GRPC).AsyncGrpcBranches()
            over_grpc: Reply = await self._grpc.send(request, self._timeout_of(request))
            return over_grpc
        try:
            answer = await self._http.request(**self._arguments(request))  # type: ignore[arg-type]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _lost(error)
        return Reply(answer.status_code, answer.content)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()
        if self._grpc is not None:
            await self._grpc.close()


def _is_grpc(request: Request) -> bool:
    return request.is_branch and "://" not in request.url


def _lost(error: Exception) -> Reply:
    return Reply(0, f"{type(error).__name__}: {error}".encode())
