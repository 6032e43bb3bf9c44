"""Branches by gRPC of a saga that was submitted over HTTP: a real gRPC service in Python behind the barrier."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from dtm_bank import Bank

import troth
import troth.dtm
from fixtures_coordinator import until
from troth.client.modes.dtm import Options

grpc = pytest.importorskip("grpc", reason="gRPC is not installed: pip install 'troth[grpc]'")
pytestmark = pytest.mark.engines


class GrpcBank(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`shop.Bank/Out`, `OutUndo`, `In`, `InUndo`: raw bytes in and out, as a coordinator calls them."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.faults: dict[str, list[Exception]] = {}

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        metadata = dict(details.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(lambda body, context: self.call(name, metadata, body, context))

    def call(self, name: str, metadata: dict[str, str], body: bytes, context: Any) -> bytes:
        paths = {"Out": "/out", "OutUndo": "/out-undo", "In": "/in", "InUndo": "/in-undo"}
        paths |= {"Try": "/try", "Confirm": "/confirm", "Cancel": "/cancel"}
        barrier = troth.dtm.Barrier.from_metadata(metadata)
        self.bank.calls.append((barrier.mark.gid, name, barrier.mark.branch_id))
        try:
            if self.faults.get(name):
                raise self.faults[name].pop(0)
            barrier.call(self.bank.connect, lambda connection: self.bank.work(paths[name], "A", int(body), connection))
        except troth.dtm.BranchRefused as refused:
            context.abort(grpc.StatusCode.ABORTED, str(refused))
        except troth.dtm.Ongoing as ongoing:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(ongoing))
        return b""


@pytest.fixture
def service(bank: Bank) -> Iterator[tuple[GrpcBank, str]]:
    handler = GrpcBank(bank)
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}/shop.Bank/"
    server.stop(None).wait()


def saga_of(client: troth.dtm.DtmClient, at: str) -> troth.dtm.Saga:
    saga = client.saga(options=Options(protocol="grpc", retry_interval=timedelta(seconds=1)))
    saga.add(at + "Out", at + "OutUndo", 30)
    saga.add(at + "In", at + "InUndo", 10)
    return saga


@pytest.mark.soak
def test_a_saga_over_grpc(client: troth.dtm.DtmClient, bank: Bank, service: tuple[GrpcBank, str]) -> None:
    handler, at = service
    handler.faults["In"] = [troth.dtm.Ongoing("soon"), ConnectionError("fails")]
    saga = saga_of(client, at)
    saga.submit()
    until(lambda: client.query(saga.gid)["transaction"]["status"] == "succeed", within_s=30)
    assert bank.balances() == (80, 100, 0)
    assert bank.paths(saga.gid) == ["Out", "In", "In", "In"]


def test_a_saga_over_grpc_that_is_refused(
    client: troth.dtm.DtmClient, bank: Bank, service: tuple[GrpcBank, str]
) -> None:
    handler, at = service
    handler.faults["In"] = [troth.dtm.BranchRefused("closed")]
    saga = saga_of(client, at)
    with pytest.raises(troth.TransactionRolledBack, match="closed"):
        saga.submit(wait=True)
    until(lambda: client.query(saga.gid)["transaction"]["status"] == "failed", within_s=20)
    assert bank.balances() == (100, 100, 0)
    assert bank.paths(saga.gid) == ["Out", "In", "InUndo", "OutUndo"]


def doors(at: str) -> dict[str, str]:
    return {"confirm": at + "Confirm", "cancel": at + "Cancel"}


def test_a_tcc_over_grpc(client: troth.dtm.DtmClient, bank: Bank, service: tuple[GrpcBank, str]) -> None:
    handler, at = service
    with client.tcc(options=Options(protocol="grpc"), wait=True) as tcc:
        tcc.call(at + "Try", **doors(at), payload=30)
        assert bank.balances() == (70, 100, 30)
    until(lambda: bank.balances() == (70, 100, 0))
    handler.faults["Try"] = [troth.dtm.Ongoing("busy")]
    with pytest.raises(troth.dtm.Ongoing, match="busy"), client.tcc(options=Options(protocol="grpc")) as tcc:
        tcc.call(at + "Try", **doors(at), payload=30)
    with (
        pytest.raises(troth.dtm.BranchRefused, match="not enough"),
        client.tcc(options=Options(protocol="grpc")) as tcc,
    ):
        tcc.call(at + "Try", **doors(at), payload=1000)
    until(lambda: client.query(tcc.gid)["transaction"]["status"] == "failed", within_s=20)
    assert bank.balances() == (70, 100, 0)


async def test_an_async_client_calls_branches_over_grpc(
    dtm_server: str, bank: Bank, service: tuple[GrpcBank, str]
) -> None:
    _, at = service
    async with troth.dtm.connect_async(dtm_server) as client:
        async with client.tcc(options=Options(protocol="grpc"), wait=True) as tcc:
            await tcc.call(at + "Try", **doors(at), payload=30)
        until(lambda: bank.balances() == (70, 100, 0))
        with pytest.raises(troth.dtm.BranchUnanswered):
            async with client.tcc(options=Options(protocol="grpc")) as tcc:
                await tcc.call("127.0.0.1:9/shop.Bank/Try", **doors(at), payload=30)
