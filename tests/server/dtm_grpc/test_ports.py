"""When DTM's gRPC door is open, and where; a whole coordinator on a store in memory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

from troth.server import app
from troth.server.app import Coordinator, Ready, StartError
from troth.server.sources import load_settings
from troth.wire.dtm.pb import dtmgimp_pb2 as pb

OFF = {"port": "0", "admin_port": "off", "dtm_http_port": "off", "store": "memory://"}


@contextlib.asynccontextmanager
async def running(**flags: Any) -> AsyncIterator[tuple[Coordinator, Ready]]:
    coordinator = Coordinator(load_settings(flags=OFF | flags, environment={}, read_default_file=False))
    ready = await coordinator.start()
    try:
        yield coordinator, ready
    finally:
        await coordinator.stop()


async def new_gid(port: int) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = await channel.unary_unary("/dtmgimp.Dtm/NewGid")(Empty().SerializeToString())
        return pb.DtmGidReply.FromString(reply).Gid


async def test_it_listens_where_it_says_and_health_knows() -> None:
    async with running(dtm_grpc_port="0") as (coordinator, ready):
        assert ready.dtm_grpc_port is not None
        assert await new_gid(ready.dtm_grpc_port) != await new_gid(ready.dtm_grpc_port)
        assert coordinator.unhealthy() is None
    assert coordinator.unhealthy() is not None
    with pytest.raises(grpc.aio.AioRpcError):
        await new_gid(ready.dtm_grpc_port)


async def test_off_is_off() -> None:
    async with running(dtm_grpc_port="off") as (coordinator, ready):
        assert ready.dtm_grpc_port is None
        assert coordinator.unhealthy() is None


async def test_a_port_that_was_asked_for_and_is_taken_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port}.*--dtm-grpc-port"):
            async with running(dtm_grpc_port=str(port)):
                pass


async def test_the_usual_port_where_nobody_asked_keeps_nobody_from_starting() -> None:
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(OSError):  # it is taken by somebody else: as good
            taken.enter_context(socket.create_server(("127.0.0.1", 36790)))
        async with running() as (coordinator, ready):
            assert ready.dtm_grpc_port is None
            assert coordinator.unhealthy() is None


async def test_without_the_extra_only_who_asks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "grpc_is_installed", lambda: False)
    async with running() as (_, ready):
        assert ready.dtm_grpc_port is None
    with pytest.raises(StartError, match=r"pip install 'troth\[grpc\]'"):
        async with running(dtm_grpc_port="0"):
            pass


async def test_it_keeps_its_port_in_its_next_life() -> None:
    """Who has stepped down starts again with the ports that it had."""
    async with running(dtm_grpc_port="0") as (coordinator, ready):
        ports = coordinator.ports
    settings = load_settings(flags=OFF | {"dtm_grpc_port": "0"}, environment={}, read_default_file=False)
    again = Coordinator(settings, ports=ports)
    assert (await again.start()).dtm_grpc_port == ready.dtm_grpc_port
    await again.stop()
