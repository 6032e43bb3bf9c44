"""The gRPC door with a whole coordinator behind it. What clients send are bytes, and need not be text."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from fixtures_coordinator import WireClient
from troth.server.app import Coordinator, Ready
from troth.server.sources import load_settings
from troth.wire.dtm.pb import dtmgimp_pb2 as pb
from troth.wire.seata.enums import GlobalStatus

BYTES = bytes(range(256))
SETTINGS = {"port": "0", "admin_port": "off", "dtm_http_port": "off", "dtm_grpc_port": "0", "store": "memory://"}


class Branches(grpc.GenericRpcHandler):
    """Services that take everything; `seen` has (op, payload)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def behaviour(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            self.seen.append((str(metadata["dtm-op"]), request))
            return b""

        return grpc.unary_unary_rpc_method_handler(behaviour)


@pytest_asyncio.fixture
async def branches() -> AsyncIterator[tuple[Branches, str]]:
    made, server = Branches(), grpc.aio.server()
    server.add_generic_rpc_handlers((made,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield made, f"127.0.0.1:{port}/busi.Busi/Act"
    await server.stop(None)


@pytest_asyncio.fixture
async def coordinator() -> AsyncIterator[Ready]:
    made = Coordinator(load_settings(flags=dict(SETTINGS), environment={}, read_default_file=False))
    yield await made.start()
    await made.stop()


@pytest_asyncio.fixture
async def door(coordinator: Ready) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{coordinator.dtm_grpc_port}") as channel:
        yield channel


async def ask(door: grpc.aio.Channel, method: str, request: Any) -> bytes:
    answer: bytes = await door.unary_unary(f"/dtmgimp.Dtm/{method}")(request.SerializeToString())
    return answer


async def test_bytes_of_a_saga(door: grpc.aio.Channel, branches: tuple[Branches, str]) -> None:
    services, url = branches
    steps = json.dumps([{"action": url, "compensate": url}])
    options = pb.DtmTransOptions(WaitResult=True)
    request = pb.DtmRequest(Gid="g", TransType="saga", Steps=steps, BinPayloads=[BYTES], TransOptions=options)
    await ask(door, "Submit", request)
    assert services.seen == [("action", BYTES)]


async def test_bytes_of_a_tcc(door: grpc.aio.Channel, branches: tuple[Branches, str]) -> None:
    services, url = branches
    request = pb.DtmRequest(Gid="g", TransType="tcc", TransOptions=pb.DtmTransOptions(WaitResult=True))
    await ask(door, "Prepare", request)
    data = {"confirm": url, "cancel": url}
    branch = pb.DtmBranchRequest(Gid="g", TransType="tcc", BranchID="01", Data=data, BusiPayload=BYTES)
    await ask(door, "RegisterBranch", branch)
    await ask(door, "Abort", request)
    assert services.seen == [("cancel", BYTES)]


async def test_bytes_of_a_workflows_steps(door: grpc.aio.Channel, branches: tuple[Branches, str]) -> None:
    services, url = branches
    custom = json.dumps({"name": "w", "data": ""})
    request = pb.DtmRequest(Gid="g", TransType="workflow", CustomedData=custom, QueryPrepared=url)
    await ask(door, "PrepareWorkflow", request)
    data = {"op": "action", "status": "succeed"}
    step = pb.DtmBranchRequest(Gid="g", TransType="workflow", BranchID="01", Data=data, BusiPayload=BYTES)
    await ask(door, "RegisterBranch", step)
    reply = pb.DtmProgressesReply.FromString(await ask(door, "PrepareWorkflow", request))
    assert reply.Transaction.Status == "prepared"
    assert [(row.BranchID, row.Op, row.Status, row.BinData) for row in reply.Progresses] == [
        ("01", "action", "succeed", BYTES)
    ]
    assert services.seen == []


async def test_many_at_a_time_each_in_its_order(door: grpc.aio.Channel, branches: tuple[Branches, str]) -> None:
    services, url = branches
    steps = json.dumps([{"action": url, "compensate": url}] * 3)

    def saga(number: int) -> pb.DtmRequest:
        payloads = [f"{number}/{step}".encode() for step in range(3)]
        options = pb.DtmTransOptions(WaitResult=True)
        return pb.DtmRequest(
            Gid=f"g{number}", TransType="saga", Steps=steps, BinPayloads=payloads, TransOptions=options
        )

    await asyncio.gather(*(ask(door, "Submit", saga(number)) for number in range(64)))
    for number in range(64):
        mine = [payload for _, payload in services.seen if payload.startswith(f"{number}/".encode())]
        assert mine == [f"{number}/{step}".encode() for step in range(3)]


async def test_topics(door: grpc.aio.Channel, branches: tuple[Branches, str]) -> None:
    services, url = branches
    for remark in ("first", "second"):
        await ask(door, "Subscribe", pb.DtmTopicRequest(Topic="t", URL=f"{url}{remark}", Remark=remark))
    assert await refused(door, "Subscribe", pb.DtmTopicRequest(Topic="t", URL=f"{url}first"))
    await ask(door, "Unsubscribe", pb.DtmTopicRequest(Topic="t", URL=f"{url}second"))
    steps, options = json.dumps([{"action": "topic://t"}]), pb.DtmTransOptions(WaitResult=True)
    message = pb.DtmRequest(Gid="g", TransType="msg", Steps=steps, BinPayloads=[BYTES], TransOptions=options)
    await ask(door, "Submit", message)
    assert services.seen == [("action", BYTES)]
    await ask(door, "DeleteTopic", pb.DtmTopicRequest(Topic="t"))
    code, details = await refused(door, "Submit", pb.DtmRequest(Gid="h", TransType="msg", Steps=steps))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "topic" in details


async def test_a_branch_by_grpc_of_a_seata_transaction(
    coordinator: Ready, door: grpc.aio.Channel, branches: tuple[Branches, str]
) -> None:
    """The gid is the xid; what the Seata client decides reaches the gRPC service."""
    services, url = branches
    assert coordinator.port is not None
    with contextlib.closing(await asyncio.to_thread(WireClient, coordinator.port)) as client:
        await asyncio.to_thread(client.register_tm)
        xid = await asyncio.to_thread(client.begin)
        data = {"confirm": url, "cancel": url}
        branch = pb.DtmBranchRequest(Gid=xid, TransType="tcc", BranchID="01", Data=data, BusiPayload=BYTES)
        await ask(door, "RegisterBranch", branch)
        assert await asyncio.to_thread(client.commit, xid) is GlobalStatus.Committed
    assert services.seen == [("confirm", BYTES)]


async def refused(door: grpc.aio.Channel, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(door, method, request)
    return raised.value.code(), raised.value.details() or ""


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Submit", pb.DtmRequest(Gid="g", TransType="sagas"), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "Submit",
            pb.DtmRequest(Gid="g", TransType="saga", Steps='[{"action":"etcd://busi/a.B/C"}]'),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ("Abort", pb.DtmRequest(Gid="nobody", TransType="tcc"), grpc.StatusCode.NOT_FOUND),
        (
            "RegisterBranch",
            pb.DtmBranchRequest(Gid="nobody", TransType="tcc", BranchID="01"),
            grpc.StatusCode.ABORTED,
        ),
    ],
)
async def test_what_is_refused(door: grpc.aio.Channel, method: str, request_: Any, code: grpc.StatusCode) -> None:
    said, details = await refused(door, method, request_)
    assert said is code
    assert details
