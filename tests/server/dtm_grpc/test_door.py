"""DTM's gRPC door by itself: a real gRPC client in front, and behind it operations that keep what they are asked."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from troth.server.inbound.dtm_grpc import DtmGrpcDoor
from troth.wire.dtm.messages import Registration, Trans
from troth.wire.dtm.pb import dtmgimp_pb2 as pb
from troth.wire.dtm.results import BadInput, Busy, Failure, NotFound, Ongoing, Refused
from troth.wire.dtm.views import BranchView, GlobalView, ProgressView


class Asked:
    """Keeps each request; refuses as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, ...]] = []
        self.refusal: Refused | None = None
        self.counted: list[tuple[str, int]] = []

    def count(self, method: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((method, status))

    def _keep(self, *request: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)

    def new_gid(self) -> str:
        return "a-new-one"

    async def prepare(self, trans: Trans) -> None:
        self._keep("prepare", trans)

    async def submit(self, trans: Trans) -> None:
        self._keep("submit", trans)

    async def abort(self, trans: Trans) -> None:
        self._keep("abort", trans)

    async def register_branch(self, registration: Registration) -> None:
        self._keep("register_branch", registration)

    async def prepare_workflow(self, trans: Trans) -> ProgressView:
        self._keep("prepare_workflow", trans)
        transaction = GlobalView(1, "", "", "g1", "workflow", "failed", rollback_reason="no", result="cw==")
        return ProgressView(transaction, [BranchView(2, "", "", "g1", "", b"\xff", "01", "action", "succeed")])

    async def subscribe(self, topic: str, url: str, remark: str) -> None:
        self._keep("subscribe", topic, url, remark)

    async def unsubscribe(self, topic: str, url: str) -> None:
        self._keep("unsubscribe", topic, url)

    async def delete_topic(self, topic: str) -> None:
        self._keep("delete_topic", topic)


class Client:
    """Calls methods by name, with messages or with plain bytes."""

    def __init__(self, channel: grpc.aio.Channel, asked: Asked) -> None:
        self.channel = channel
        self.asked = asked

    async def call(self, method: str, request: Any, reply: Any = Empty) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return reply.FromString(await self.channel.unary_unary(f"/dtmgimp.Dtm/{method}")(data))

    async def refused(self, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.call(method, request)
        return raised.value.code(), raised.value.details() or ""


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    asked = Asked()
    door = DtmGrpcDoor(asked, most_calls=100, largest_bytes=100_000, count=asked.count)
    port = await door.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel, asked)
    await door.stop(None)


REQUEST = pb.DtmRequest(
    Gid="g;1",
    TransType="saga",
    TransOptions=pb.DtmTransOptions(
        WaitResult=True,
        TimeoutToFail=1,
        RetryInterval=2,
        BranchHeaders={"a": "b"},
        RequestTimeout=3,
        RetryLimit=4,
    ),
    CustomedData='{"concurrent":true}',
    BinPayloads=[b"\xff\0", b""],
    QueryPrepared="h:1/a.B/C",
    Steps='[{"action":"h:1/a.B/D","compensate":""}]',
    ReqExtra={"status": "succeed"},
    RollbackReason="why not",
)


@pytest.mark.parametrize("method", ["Prepare", "Submit", "Abort"])
async def test_every_field_arrives(client: Client, method: str) -> None:
    await client.call(method, REQUEST)
    ((name, trans),) = client.asked.requests
    assert name == method.lower()
    assert client.asked.counted == [(method, 200)]
    assert trans == Trans(
        gid="g1",
        trans_type="saga",
        steps=[{"action": "h:1/a.B/D", "compensate": ""}],
        bin_payloads=[b"\xff\0", b""],
        custom_data='{"concurrent":true}',
        query_prepared="h:1/a.B/C",
        protocol="grpc",
        rollback_reason="why not",
        req_extra={"status": "succeed"},
        wait_result=True,
        timeout_to_fail=1,
        retry_interval=2,
        request_timeout=3,
        retry_limit=4,
        branch_headers={"a": "b"},
    )


async def test_branches_topics_and_gids(client: Client) -> None:
    assert (await client.call("NewGid", Empty(), pb.DtmGidReply)).Gid == "a-new-one"
    branch = pb.DtmBranchRequest(Gid="g", TransType="tcc", BranchID="01", Data={"confirm": "u"}, BusiPayload=b"\xfe")
    await client.call("RegisterBranch", branch)
    topic = pb.DtmTopicRequest(Topic="t", URL="u", Remark="r")
    for method in ("Subscribe", "Unsubscribe", "DeleteTopic"):
        await client.call(method, topic)
    assert client.asked.requests == [
        ("register_branch", Registration("g", "tcc", "01", {"confirm": "u"}, b"\xfe")),
        ("subscribe", "t", "u", "r"),
        ("unsubscribe", "t", "u"),
        ("delete_topic", "t"),
    ]


async def test_how_far_a_workflow_came(client: Client) -> None:
    reply = await client.call("PrepareWorkflow", REQUEST, pb.DtmProgressesReply)
    assert reply == pb.DtmProgressesReply(
        Transaction=pb.DtmTransaction(Gid="g1", Status="failed", RollbackReason="no", Result="cw=="),
        Progresses=[pb.DtmProgress(Status="succeed", BinData=b"\xff", BranchID="01", Op="action")],
    )


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Failure("no FAILURE"), grpc.StatusCode.ABORTED),
        (Ongoing("later"), grpc.StatusCode.FAILED_PRECONDITION),
        (BadInput("nonsense"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("who?"), grpc.StatusCode.NOT_FOUND),
        (Busy("stopping"), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_refusal_has_its_code_and_reason(client: Client, refusal: Refused, code: grpc.StatusCode) -> None:
    client.asked.refusal = refusal
    assert await client.refused("Submit", REQUEST) == (code, str(refusal))
    assert client.asked.counted == [("Submit", refusal.status)]


@pytest.mark.parametrize("text", ["x" * 20_000, "\N{SNOWMAN}" * 8192, "% \n" * 9000])
async def test_a_long_reason_does_not_hide_the_code(client: Client, text: str) -> None:
    """A client drops an answer whose headers are too long."""
    client.asked.refusal = Failure(text)
    code, details = await client.refused("Submit", REQUEST)
    assert code is grpc.StatusCode.ABORTED
    assert len(details) > 500
    assert text.startswith(details)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (b"\xff\xff", "dtmgimp.DtmRequest"),
        (pb.DtmRequest(Gid=""), "gid"),
        (pb.DtmRequest(Gid="nul\0"), "printable"),
        (pb.DtmRequest(Gid="naïve"), "printable"),
        (pb.DtmRequest(Gid="g" * 5000), "bytes"),
        (pb.DtmRequest(Gid="g", Steps="{"), "Steps"),
        (pb.DtmRequest(Gid="g", Steps='{"action":"x"}'), "Steps"),
    ],
)
async def test_bad_input_is_said_to_be_that(client: Client, request_: Any, word: str) -> None:
    code, details = await client.refused("Submit", request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert word in details
    assert client.asked.requests == []


async def test_a_request_that_is_too_large_is_refused(client: Client) -> None:
    code, _ = await client.refused("Submit", pb.DtmRequest(Gid="g", BinPayloads=[bytes(200_000)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.asked.requests == []


async def test_health_and_reflection(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)  # type: ignore[no-untyped-call,unused-ignore]
    for service in ("", "dtmgimp.Dtm"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[no-untyped-call,unused-ignore]

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="dtmgimp.Dtm")

    listed, described = [answer async for answer in reflection.ServerReflectionInfo(questions())]
    assert "dtmgimp.Dtm" in [service.name for service in listed.list_services_response.service]
    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert len(file.service[0].method) == 9


async def test_a_port_that_is_taken_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        door = DtmGrpcDoor(Asked(), most_calls=1, largest_bytes=1, count=Asked().count)
        with pytest.raises(OSError, match="gRPC door cannot listen"):
            await door.start("127.0.0.1", taken.getsockname()[1])
        await door.stop(None)
