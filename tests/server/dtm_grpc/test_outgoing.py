"""Calls to branches by gRPC, against a real gRPC server in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from troth.core.effects import Call
from troth.core.model import BranchType, Verb
from troth.server.outbound.grpc import GrpcCaller
from troth.server.outbound.grpc_url import method_of
from troth.server.outbound.url_calls import UrlCall
from troth.wire.dtm.pb.workflow_pb2 import WorkflowData
from troth.wire.dtm.results import Verdict

Context = grpc.aio.ServicerContext[Any, Any]
CALL = Call("127.0.0.1:8091:7", 9, BranchType.SAGA, "r", None, "dtm", Verb.ACTION, 1)


class Service:
    """`busi.Busi`: answers as its test says, and keeps what came."""

    def __init__(self) -> None:
        self.server = grpc.aio.server()
        self.seen: list[tuple[str, bytes, dict[str, str]]] = []
        self.answer: Callable[[Context], Awaitable[bytes]] = self.done
        self.server.add_generic_rpc_handlers((self,))  # type: ignore[arg-type]
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    @staticmethod
    async def done(context: Context) -> bytes:
        return b"any bytes \xff"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def behaviour(request: bytes, context: Context) -> bytes:
            metadata = {str(name): str(value) for name, value in context.invocation_metadata() or ()}
            self.seen.append((details.method, request, metadata))
            return await self.answer(context)

        return grpc.unary_unary_rpc_method_handler(behaviour)


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    await made.server.start()
    yield made
    await made.server.stop(None)


class Caller:
    """A GrpcCaller, and the verdicts that it gave."""

    def __init__(self, calls_per_host: int = 100) -> None:
        self.settled: asyncio.Queue[tuple[UrlCall, Verdict, str]] = asyncio.Queue()
        self.caller = GrpcCaller(lambda *settled: self.settled.put_nowait(settled), calls_per_host)

    async def ask(self, address: str, **changes: Any) -> tuple[Verdict, str]:
        self.caller.call(url_call(address)._replace(**changes))
        return (await self.settled.get())[1:]


@pytest_asyncio.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller()
    yield made
    await made.caller.close()


def url_call(address: str) -> UrlCall:
    url = f"{address}/busi.Busi/TransIn"
    return UrlCall(CALL, url, "g1", "saga", "01", "action", b"\x08\x01", {"X-Tenant": "blue"}, 5.0, False, "grpc")


async def test_bytes_go_as_they_are_and_metadata_says_what_is_meant(service: Service, caller: Caller) -> None:
    assert await caller.ask(f"127.0.0.1:{service.port}") == (Verdict.DONE, "")
    ((method, request, metadata),) = service.seen
    assert (method, request) == ("/busi.Busi/TransIn", b"\x08\x01")
    named = {name: metadata[name] for name in metadata if name.startswith(("dtm-", "x-"))}
    assert named == {
        "dtm-gid": "g1",
        "dtm-trans_type": "saga",
        "dtm-branch_id": "01",
        "dtm-op": "action",
        "dtm-dtm": "",
        "x-tenant": "blue",
    }


async def test_xa_names_where_its_second_phase_is(service: Service, caller: Caller) -> None:
    address = f"127.0.0.1:{service.port}"
    await caller.ask(address, kind="xa", payload=b"")
    assert service.seen[0][2]["dtm-phase2_url"] == f"{address}/busi.Busi/TransIn"


async def test_a_workflow_is_resumed_by_dtms_own_message(service: Service, caller: Caller) -> None:
    await caller.ask(f"127.0.0.1:{service.port}", kind="workflow", payload=b'{"n":1}')
    assert WorkflowData.FromString(service.seen[0][1]).Data == b'{"n":1}'


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (grpc.StatusCode.ABORTED, "not enough FAILURE", Verdict.REFUSED),
        (grpc.StatusCode.ABORTED, "ONGOING", Verdict.ONGOING),
        (grpc.StatusCode.FAILED_PRECONDITION, "later", Verdict.ONGOING),
        (grpc.StatusCode.UNKNOWN, "FAILURE", Verdict.RETRY),
        (grpc.StatusCode.UNIMPLEMENTED, "", Verdict.RETRY),
    ],
)
async def test_what_a_status_means(
    service: Service, caller: Caller, code: grpc.StatusCode, details: str, verdict: Verdict
) -> None:
    async def refuse(context: Context) -> bytes:
        await context.abort(code, details)
        raise AssertionError("abort does not return")

    service.answer = refuse
    said, text = await caller.ask(f"127.0.0.1:{service.port}")
    assert said is verdict
    assert text == (f"{code.name} from 127.0.0.1:{service.port}: {details}" if verdict is Verdict.RETRY else details)


async def test_no_answer_in_time_is_asked_again(service: Service, caller: Caller) -> None:
    async def never(context: Context) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    service.answer = never
    verdict, text = await caller.ask(f"127.0.0.1:{service.port}", timeout_s=0.2)
    assert verdict is Verdict.RETRY
    assert "DEADLINE_EXCEEDED" in text or "no answer" in text


async def test_a_dead_service_holds_up_nobody_else(service: Service) -> None:
    """It has one place; the calls that wait for it give up in their time, and another service is not touched."""
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never says a word
    dead = silent.getsockname()[1]
    caller = Caller(calls_per_host=1)
    for _ in range(3):
        caller.caller.call(url_call(f"127.0.0.1:{dead}")._replace(timeout_s=0.5))
    caller.caller.call(url_call(f"127.0.0.1:{service.port}"))
    first = await caller.settled.get()
    assert first[1:] == (Verdict.DONE, "")
    assert [(await caller.settled.get())[1] for _ in range(3)] == [Verdict.RETRY] * 3
    await caller.caller.close()
    silent.close()


async def test_a_service_that_comes_back_is_found(caller: Caller) -> None:
    first = Service()
    await first.server.start()
    address = f"127.0.0.1:{first.port}"
    assert (await caller.ask(address))[0] is Verdict.DONE
    await first.server.stop(None)
    assert (await caller.ask(address))[0] is Verdict.RETRY
    second = Service()
    assert second.server.add_insecure_port(address) == first.port
    await second.server.start()
    async with asyncio.timeout(10):
        while (await caller.ask(address))[0] is not Verdict.DONE:
            await asyncio.sleep(0.05)
    await second.server.stop(None)


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "busi.Busi/TransIn"},
        {"url": "etcd://busi/busi.Busi/TransIn"},
        {"url": "127.0.0.1:80/busi.Busi"},
        {"url": "127.0.0.1:80/\u00fc/x"},
        {"gid": "naïve"},
        {"gid": "nul\0"},
        {"headers": {"x\n": "1"}},
        {"headers": {"x-bin": "1"}},
        {"headers": {"x": "1\r\ny: 2"}},
    ],
)
async def test_what_grpc_cannot_carry_is_said(caller: Caller, changes: dict[str, Any]) -> None:
    verdict, text = await caller.ask("127.0.0.1:1", **changes)
    assert verdict is Verdict.RETRY
    assert text.startswith("cannot be called")
    assert "\0" not in text


def test_ipv6_and_names() -> None:
    assert method_of("[::1]:5/a.B/C") == ("[::1]:5", "/a.B/C")
    assert method_of("stock.shop.svc:5/a.B/C").address == "stock.shop.svc:5"
