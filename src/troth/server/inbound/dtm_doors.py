"""DTM's side of a coordinator, put together: what its doors can do, the HTTP door, and the calls to URLs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from troth.core.effects import Settled
from troth.core.events import CallResult
from troth.core.model import Global
from troth.server.addresses import port_of
from troth.server.config import Config
from troth.server.engine import Engine
from troth.server.grpc_extra import GrpcCalls, GrpcDoor, open_door
from troth.server.inbound.dtm import Operations
from troth.server.inbound.dtm_http import DtmHttpDoor
from troth.server.inbound.dtm_stats import DtmStats
from troth.server.outbound.alerts import Alerts
from troth.server.outbound.http import HttpCaller
from troth.server.outbound.http_pool import HttpPool
from troth.server.outbound.url_calls import UrlCall
from troth.server.outbound.urls import Channels, UrlOutbound


class DtmDoors:
    """`outbound` carries every call of the engine: to URLs itself, the others over `channels`."""

    def __init__(self, config: Config, channels: Channels, transactions: Callable[[], Mapping[str, Global]]) -> None:
        self._config = config
        self.stats = DtmStats()
        self.outbound = UrlOutbound(channels, request_timeout_ms=config.dtm.request_timeout, observe=self._observe)
        limit = config.dtm.connections_per_host
        self._http_caller = HttpCaller(lambda: HttpPool(limit), self.outbound.settled)
        self.outbound.use(http=self._http_caller, grpc=GrpcCalls(self.outbound.settled, limit))
        self._alerts = Alerts(config.dtm, self._http_caller, transactions)
        self.operations: Operations | None = None
        self._http: DtmHttpDoor | None = None
        self._grpc: GrpcDoor | None = None

    def serve(
        self,
        engine: Engine,
        *,
        address: Callable[[], str],
        overloaded: Callable[[], str | None],
        metrics: Callable[[], bytes],
        version: str,
    ) -> Operations:
        """Make the doors; they open by `open_http`."""
        self.operations = Operations(engine, self._config, address=address, overloaded=overloaded)
        self._http = DtmHttpDoor(self.operations, self._config.dtm, stats=self.stats, metrics=metrics, version=version)
        return self.operations

    async def open_http(self, listening: socket.socket) -> None:
        """Accept at `listening`. Raises OSError."""
        assert self._http is not None
        await self._http.start(listening)

    async def open_grpc(self, host: str, kept: socket.socket) -> None:
        """Accept at the port that `kept` has kept. Raises OSError."""
        most_calls, largest_bytes = self._config.limits.in_flight, self._config.dtm.request_bytes
        door = open_door(self.operations, most_calls, largest_bytes, self._count_grpc)
        port = port_of(kept)
        kept.close()
        await door.start(host, port)
        self._grpc = door

    def _count_grpc(self, method: str, status: int, seconds: float) -> None:
        self.stats.count_request("grpc", f"/api/{method}", status, seconds)

    @property
    def grpc_accepts(self) -> bool:
        """True while the gRPC door takes connections."""
        return self._grpc is not None

    @property
    def http_accepts(self) -> bool:
        """True while the HTTP door takes connections."""
        return self._http is not None and self._http.accepting

    def count_end(self, settled: Settled) -> None:
        """A transaction has ended."""
        self.stats.count_end(settled)

    def stop_accepting(self) -> None:
        """No new connection."""
        if self._http is not None:
            self._http.stop_accepting()

    async def close(self, patience_s: float) -> None:
        """End every connection; what was decided is answered within `patience_s`."""
        if self._grpc is not None:
            door, self._grpc = self._grpc, None
            await door.stop(patience_s)
        if self._http is not None:
            await self._http.close(patience_s)

    async def hang_up(self) -> None:
        """Let go of the services that have branches."""
        await self.outbound.close()

    def _observe(self, url_call: UrlCall, result: CallResult, text: str) -> None:
        self.stats.count_call(url_call, result)
        self._alerts.observe(url_call, result, text)
