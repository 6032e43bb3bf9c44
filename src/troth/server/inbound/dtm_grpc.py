"""DTM's door over gRPC: service `dtmgimp.Dtm`, health and reflection. Needs the extra `troth[grpc]`.

A request becomes what the HTTP door makes of the same one; `dtm.Operations` does the rest.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import grpc
import grpc.aio
import msgspec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from troth.wire.dtm.messages import Registration, Trans, clean_gid
from troth.wire.dtm.pb import dtmgimp_pb2 as pb
from troth.wire.dtm.results import BadInput, Refused
from troth.wire.dtm.views import ProgressView

SERVICE = "dtmgimp.Dtm"
_PRINTABLE = re.compile(r"[ -~]*")
_HEADER_SAFE = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")
_STEPS = msgspec.json.Decoder(list[dict[str, str | None]] | None)

In = TypeVar("In", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Count = Callable[[str, int, float], None]
"""Hears of each request: method, status as over HTTP, seconds."""
_OK = 200
_LONGEST_DETAILS = 7000
"""Bytes as a header carries them: a client takes 8 KiB of headers, and with more of them does not see the code."""
_OPTIONS = (
    # Two coordinators must not share a port by accident.
    ("grpc.so_reuseport", 0),
    # A client whose machine is gone does not say so.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Operations(Protocol):
    """What this door needs of `troth.server.inbound.dtm.Operations`."""

    def new_gid(self) -> str: ...
    async def prepare(self, trans: Trans) -> None: ...
    async def submit(self, trans: Trans) -> None: ...
    async def abort(self, trans: Trans) -> None: ...
    async def register_branch(self, registration: Registration) -> None: ...
    async def prepare_workflow(self, trans: Trans) -> ProgressView: ...
    async def subscribe(self, topic: str, url: str, remark: str) -> None: ...
    async def unsubscribe(self, topic: str, url: str) -> None: ...
    async def delete_topic(self, topic: str) -> None: ...


def trans_of(request: pb.DtmRequest) -> Trans:
    """The transaction of a request. Raises BadInput."""
    options = request.TransOptions
    return Trans(
        gid=_gid(request.Gid),
        trans_type=request.TransType,
        steps=_steps(request.Steps),
        bin_payloads=list(request.BinPayloads),
        custom_data=request.CustomedData,
        query_prepared=request.QueryPrepared,
        protocol="grpc",
        rollback_reason=request.RollbackReason,
        req_extra=dict(request.ReqExtra),
        wait_result=options.WaitResult,
        timeout_to_fail=options.TimeoutToFail,
        request_timeout=options.RequestTimeout,
        retry_interval=options.RetryInterval,
        retry_limit=options.RetryLimit,
        branch_headers=dict(options.BranchHeaders),
    )


def registration_of(request: pb.DtmBranchRequest) -> Registration:
    """The branch of a request. Raises BadInput."""
    data = dict(request.Data)
    if request.Op:
        data.setdefault("op", request.Op)
    return Registration(_gid(request.Gid), request.TransType, request.BranchID, data, request.BusiPayload)


def progress_reply(view: ProgressView) -> pb.DtmProgressesReply:
    """Where a workflow stands."""
    transaction = pb.DtmTransaction(
        Gid=view.transaction.gid,
        Status=view.transaction.status,
        RollbackReason=view.transaction.rollback_reason,
        Result=view.transaction.result,
    )
    progresses = [
        pb.DtmProgress(Status=row.status, BinData=row.bin_data, BranchID=row.branch_id, Op=row.op)
        for row in view.progresses
    ]
    return pb.DtmProgressesReply(Transaction=transaction, Progresses=progresses)


def _gid(text: str) -> str:
    """gRPC hands a gid on as a header, so it must be one."""
    gid = clean_gid(text)
    if not _PRINTABLE.fullmatch(gid):
        raise BadInput("a gid at the gRPC door must be printable ASCII: it travels as a header")
    return gid


def _steps(text: str) -> list[dict[str, str | None]] | None:
    try:
        return _STEPS.decode(text) if text else None
    except msgspec.DecodeError as error:
        raise BadInput(f"Steps is not what it should be: {error}") from None


class _Handlers:
    """One method a gRPC method; `table` has their types."""

    def __init__(self, operations: Operations, count: Count) -> None:
        self._operations = operations
        self._count = count

    async def new_gid(self, request: Empty) -> Message:
        return pb.DtmGidReply(Gid=self._operations.new_gid())

    async def prepare(self, request: pb.DtmRequest) -> Message:
        await self._operations.prepare(trans_of(request))
        return Empty()

    async def submit(self, request: pb.DtmRequest) -> Message:
        await self._operations.submit(trans_of(request))
        return Empty()

    async def abort(self, request: pb.DtmRequest) -> Message:
        await self._operations.abort(trans_of(request))
        return Empty()

    async def register_branch(self, request: pb.DtmBranchRequest) -> Message:
        await self._operations.register_branch(registration_of(request))
        return Empty()

    async def prepare_workflow(self, request: pb.DtmRequest) -> Message:
        return progress_reply(await self._operations.prepare_workflow(trans_of(request)))

    async def subscribe(self, request: pb.DtmTopicRequest) -> Message:
        await self._operations.subscribe(request.Topic, request.URL, request.Remark)
        return Empty()

    async def unsubscribe(self, request: pb.DtmTopicRequest) -> Message:
        await self._operations.unsubscribe(request.Topic, request.URL)
        return Empty()

    async def delete_topic(self, request: pb.DtmTopicRequest) -> Message:
        await self._operations.delete_topic(request.Topic)
        return Empty()

    def table(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """By the names of the service."""
        handlers = (
            self._unary("NewGid", self.new_gid, Empty),
            self._unary("Prepare", self.prepare, pb.DtmRequest),
            self._unary("Submit", self.submit, pb.DtmRequest),
            self._unary("Abort", self.abort, pb.DtmRequest),
            self._unary("RegisterBranch", self.register_branch, pb.DtmBranchRequest),
            self._unary("PrepareWorkflow", self.prepare_workflow, pb.DtmRequest),
            self._unary("Subscribe", self.subscribe, pb.DtmTopicRequest),
            self._unary("Unsubscribe", self.unsubscribe, pb.DtmTopicRequest),
            self._unary("DeleteTopic", self.delete_topic, pb.DtmTopicRequest),
        )
        return dict(handlers)

    def _unary(
        self, name: str, handle: Callable[[In], Awaitable[Message]], request_type: type[In]
    ) -> tuple[str, grpc.RpcMethodHandler[Any, Any]]:
        async def behaviour(data: bytes, context: Context) -> bytes:
            started = time.monotonic()
            try:
                reply = await handle(_parsed(request_type, data))
            except Refused as refused:
                self._count(name, refused.status, time.monotonic() - started)
                await context.abort(getattr(grpc.StatusCode, refused.grpc_code), _details(str(refused)))
            self._count(name, _OK, time.monotonic() - started)
            return reply.SerializeToString()

        return name, grpc.unary_unary_rpc_method_handler(behaviour)


def _details(text: str) -> str:
    """What of `text` fits into the header of an answer; the beginning says most."""
    while len(quote(text, safe=_HEADER_SAFE)) > _LONGEST_DETAILS:
        text = text[: len(text) * 3 // 4]
    return text


def _parsed(request_type: type[In], data: bytes) -> In:
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise BadInput(f"not a {request_type.DESCRIPTOR.full_name}: {error}") from None


class DtmGrpcDoor:
    """Listens for DTM's clients that speak gRPC."""

    def __init__(self, operations: Operations, most_calls: int, largest_bytes: int, count: Count) -> None:
        """`most_calls` may be under way at a time, each with so many bytes; more is refused (RESOURCE_EXHAUSTED)."""
        self._server = grpc.aio.server(
            options=(*_OPTIONS, ("grpc.max_receive_message_length", largest_bytes)),
            maximum_concurrent_rpcs=most_calls,
        )
        self._health = health.aio.HealthServicer()
        handlers = grpc.method_handlers_generic_handler(SERVICE, _Handlers(operations, count).table())
        self._server.add_generic_rpc_handlers((handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen at `host:port` (0: any free one); the port. Raises OSError if it is taken."""
        address = f"[{host}]" if ":" in host and not host.startswith("[") else host
        try:
            bound = self._server.add_insecure_port(f"{address}:{port}")
        except RuntimeError as error:
            raise OSError(f"DTM's gRPC door cannot listen at {address}:{port}: {error}") from error
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self, patience_s: float | None) -> None:
        """Take no more; what is under way has so long to end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(patience_s)
