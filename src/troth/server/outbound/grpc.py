"""Calls to branches by gRPC, as DTM makes them: the payload's bytes as they are, who is called about what as metadata.

`host:port/package.Service/Method`; code ABORTED is a refusal, FAILED_PRECONDITION is not yet, OK is done, the rest is
asked again. Needs the extra `troth[grpc]`.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from contextlib import AsyncExitStack

import grpc
import grpc.aio

from troth.server.outbound.grpc_url import Method, method_of
from troth.server.outbound.url_calls import Settle, UrlCall
from troth.wire.dtm.messages import WORKFLOW, XA
from troth.wire.dtm.pb.workflow_pb2 import WorkflowData
from troth.wire.dtm.results import ONGOING, Verdict

_LONGEST_TEXT = 2048
_MOST_CHANNELS = 1000
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_OPTIONS = (
    # A service that comes back is found within a second; gRPC itself would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Our calls go where the URL says.
    ("grpc.enable_http_proxy", 0),
)


Invoke = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


def metadata_of(url_call: UrlCall) -> tuple[tuple[str, str], ...]:
    """What goes with the call. Raises ValueError for what gRPC cannot carry: its header values are printable ASCII."""
    own = {
        "dtm-gid": url_call.gid,
        "dtm-trans_type": url_call.kind,
        "dtm-branch_id": url_call.branch_id,
        "dtm-op": url_call.op,
        "dtm-dtm": "",
    }
    if url_call.kind == XA:
        own["dtm-phase2_url"] = url_call.url
    named = {name.lower(): value for name, value in url_call.headers.items()} | own
    for name, value in named.items():
        if not _HEADER_NAME.fullmatch(name) or name.endswith("-bin") or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"gRPC cannot carry the header {name!r} with the value {value[:100]!r}")
    return tuple(named.items())


def payload_of(url_call: UrlCall) -> bytes:
    """The message. A workflow's data are wrapped, the service that resumes workflows is DTM's own."""
    if url_call.kind == WORKFLOW:
        return WorkflowData(Data=url_call.payload).SerializeToString()
    return url_call.payload


def verdict_of(error: grpc.aio.AioRpcError) -> Verdict:
    """What a status other than OK means. (Services of DTM before 1.10 say ONGOING by a text with ABORTED.)"""
    if error.code() is grpc.StatusCode.ABORTED:
        return Verdict.ONGOING if error.details() == ONGOING else Verdict.REFUSED
    return Verdict.ONGOING if error.code() is grpc.StatusCode.FAILED_PRECONDITION else Verdict.RETRY


class _Host:
    """One service: a connection that is kept, and as many calls at a time as it may have."""

    def __init__(self, address: str, most_calls: int) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.places = asyncio.Semaphore(most_calls)
        self.users = 0


class GrpcCaller:
    """Carries calls to gRPC URLs, at most `calls_per_host` at a time to each service.

    The time limit of a call counts from its hand-over: a service that answers nobody holds up only its own calls.
    """

    def __init__(self, settle: Settle, calls_per_host: int = 100) -> None:
        self._settle = settle
        self._calls_per_host = calls_per_host
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, url_call: UrlCall) -> None:
        """Send it; `settle` is called with what came of it."""
        try:
            method = method_of(url_call.url)
            metadata = metadata_of(url_call)
        except ValueError as error:
            self._done(url_call, Verdict.RETRY, f"cannot be called: {error}")
            return
        task = asyncio.get_running_loop().create_task(self._carry(url_call, method, metadata))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is out, and cut every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        hosts = list(self._hosts.values())
        self._hosts.clear()
        async with AsyncExitStack() as closing:
            for host in hosts:
                closing.push_async_callback(host.channel.close, None)

    async def _carry(self, url_call: UrlCall, method: Method, metadata: tuple[tuple[str, str], ...]) -> None:
        host = self._host(method.address)
        host.users += 1
        try:
            async with asyncio.timeout(url_call.timeout_s), host.places:
                # The identity in both directions: bytes in, bytes out.
                invoke: Invoke = host.channel.unary_unary(method.path)
                await invoke(payload_of(url_call), metadata=metadata, timeout=url_call.timeout_s)
        except grpc.aio.AioRpcError as error:
            verdict, details = verdict_of(error), error.details() or ""
            said = f"{error.code().name} from {method.address}: {details}" if verdict is Verdict.RETRY else details
            self._done(url_call, verdict, said)
        except grpc.aio.BaseError as error:
            self._done(url_call, Verdict.RETRY, f"the call of {method.address} failed: {error}")
        except TimeoutError:
            self._done(url_call, Verdict.RETRY, f"no answer from {method.address} within {url_call.timeout_s:g} s")
        else:
            self._done(url_call, Verdict.DONE, "")
        finally:
            host.users -= 1
            await self._forget_old_hosts()

    def _done(self, url_call: UrlCall, verdict: Verdict, text: str) -> None:
        self._settle(url_call, verdict, text.replace("\0", " ")[:_LONGEST_TEXT])

    def _host(self, address: str) -> _Host:
        host = self._hosts.get(address)
        if host is None:
            host = self._hosts[address] = _Host(address, self._calls_per_host)
        self._hosts.move_to_end(address)
        return host

    async def _forget_old_hosts(self) -> None:
        """URLs are outside data: connections to ever new hosts must not pile up."""
        if len(self._hosts) <= _MOST_CHANNELS:
            return
        unused = next((address for address, host in self._hosts.items() if host.users == 0), None)
        if unused is not None:
            await self._hosts.pop(unused).channel.close(None)
