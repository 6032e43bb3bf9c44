"""DTM's HTTP door: its paths, JSON in and out, JSON-RPC beside them (`wire/dtm`; docs/protocols/dtm.md)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qs, unquote

from troth.server.config import Dtm
from troth.server.inbound import dtm_listing as listing
from troth.server.inbound.dtm import Operations
from troth.server.inbound.dtm_http_link import HttpDoorLink, Request
from troth.server.inbound.dtm_stats import DtmStats
from troth.server.logs import get_logger
from troth.server.metrics import CONTENT_TYPE
from troth.wire.dtm import rpc
from troth.wire.dtm.messages import Trans, clean_gid, decode_gid, decode_registration, decode_trans
from troth.wire.dtm.results import SUCCESS, BadInput, NotFound, Refused
from troth.wire.dtm.views import encode_good

log = get_logger("troth.dtm")

BASE = "/api/dtmsvr"
_BACKLOG = 1024
_IDLE_S = 120.0
"""Longer than Go's clients keep an idle connection (90 s): they should close first."""
_CLOSE_POLL_S = 0.01
_USUAL_PAGE = 100
_LONGEST_PAGE = 1000
_STOPPING = b'{"message":"the coordinator is stopping: it goes on at the next start; ask again then"}'
_DONE = b'{"dtm_result":"SUCCESS"}'
_TOPIC_PATH = f"{BASE}/topic/"


class Parameters:
    """The query of one request."""

    def __init__(self, query: str) -> None:
        self._values = parse_qs(query, keep_blank_values=True, errors="replace") if query else {}

    def text(self, name: str) -> str:
        """Empty where it is missing."""
        return self._values.get(name, ("",))[0]

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number from 0. Raises BadInput."""
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > most:
            raise BadInput(f"{name} is a number from 0 to {most}, not {text!r}")
        return int(text)

    def page_size(self) -> int:
        """`limit`; a page is never longer than the longest, and says where the next one begins. Raises BadInput."""
        return min(self.number("limit", 0, 10**17) or _USUAL_PAGE, _LONGEST_PAGE)


class DtmHttpDoor:
    """All connections at one listening socket. Everything runs on the loop."""

    def __init__(
        self, operations: Operations, settings: Dtm, *, stats: DtmStats, metrics: Callable[[], bytes], version: str
    ) -> None:
        self.operations = operations
        self.largest_body_bytes = settings.request_bytes
        self.metrics = metrics
        self.version = version
        self._limit = settings.connections
        self._stats = stats
        self._links: set[HttpDoorLink] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    # ---- life ----

    @property
    def accepting(self) -> bool:
        """True while new connections are taken."""
        return self._server is not None and self._server.is_serving()

    async def start(self, listening: socket.socket) -> None:
        """Accept at `listening`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: HttpDoorLink(self), sock=listening, backlog=_BACKLOG)
        self._sweeper = loop.call_later(_IDLE_S / 4, self._sweep)

    def stop_accepting(self) -> None:
        """No new connection; those that are open live on."""
        if self._server is not None:
            self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def close(self, patience_s: float) -> None:
        """Let what is decided go out within `patience_s`; who still waits is told so; then cut every connection."""
        self.stop_accepting()
        for link in list(self._links):
            link.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while self._links and loop.time() < deadline:
            await asyncio.sleep(_CLOSE_POLL_S)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(_CLOSE_POLL_S)
        for link in list(self._links):
            link.close(abort=True)

    # ---- what links ask ----

    def opened(self, link: HttpDoorLink) -> bool:
        """Take note of a connection; False if there are too many."""
        if len(self._links) >= self._limit:
            return False
        self._links.add(link)
        return True

    def closed(self, link: HttpDoorLink) -> None:
        """The connection is gone."""
        self._links.discard(link)

    def handle(self, request: Request) -> None:
        """Answer it, now or later."""
        task = asyncio.get_running_loop().create_task(self._handle(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for link in [link for link in self._links if not link.busy and loop.time() - link.last_used > _IDLE_S]:
            link.close()
        self._sweeper = loop.call_later(_IDLE_S / 4, self._sweep)

    # ---- requests ----

    async def _handle(self, request: Request) -> None:
        started = asyncio.get_running_loop().time()
        target, _, query = request.target.decode(errors="replace").partition("?")
        path = unquote(target, errors="replace")
        try:
            status, body, content_type = await self._run(request, path, query)
        except Refused as refused:
            status, content_type = refused.status, b"application/json"
            answer = {"message": str(refused)}
            if refused.result is not None:
                answer = {"dtm_result": refused.result, **answer}
            body = encode_good(answer, plain=refused.result or "")
        except asyncio.CancelledError:
            request.answer(503, _STOPPING)
            raise
        except Exception as error:  # a bug must not end the connection without a word, nor the coordinator
            log.exception("a request at DTM's door failed", path=path)
            status, content_type = 500, b"application/json"
            body = encode_good({"message": f"internal error: {type(error).__name__}"})
        request.answer(status, body, content_type)
        self._stats.count_request("http", path, status, asyncio.get_running_loop().time() - started)

    async def _run(self, request: Request, path: str, query: str) -> tuple[int, bytes, bytes]:
        if path == "/api/json-rpc" and request.method == "POST":
            return 200, await self._rpc(request), b"application/json"
        if path == "/api/metrics" and request.method == "GET":
            return 200, self.metrics(), CONTENT_TYPE.encode()
        if path == "/api/ping":
            return 200, b'{"msg":"pong"}', b"application/json"
        handler = ROUTES.get((request.method, path))
        if handler is not None:
            result = await handler(self, request, Parameters(query))
        elif request.method == "DELETE" and path.startswith(_TOPIC_PATH):
            await self.operations.delete_topic(path.removeprefix(_TOPIC_PATH))
            result = None
        else:
            raise NotFound(f"no {request.method} {path} here")
        return 200, _DONE if result is None else encode_good(result), b"application/json"

    async def _rpc(self, request: Request) -> bytes:
        asked = rpc.decode_request(request.body)
        if isinstance(asked, rpc.RpcResponse):
            return encode_good(asked)
        method = RPC_METHODS.get(asked.method)
        if method is None:
            return encode_good(rpc.rpc_error(asked.id, rpc.UNKNOWN_METHOD, f"no method {asked.method!r} here"))
        try:
            result = await method(self, request, bytes(asked.params) or b"{}")
        except Refused as refused:
            return encode_good(rpc.rpc_refusal(asked.id, refused), plain=refused.result or "")
        return encode_good(rpc.rpc_result(asked.id, result))


# ---- the handlers, by path ----


def _trans(request: Request, body: bytes) -> Trans:
    """The transaction, with the headers of this request that are to be passed on."""
    trans = decode_trans(body)
    passed = {name: request.headers.get(name.lower()) for name in trans.passthrough_headers or ()}
    if passed:
        given = {name: value for name, value in passed.items() if value is not None}
        trans.branch_headers = {**given, **(trans.branch_headers or {})}
    return trans


async def _version(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return {"version": door.version}


async def _new_gid(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return {"dtm_result": SUCCESS, "gid": door.operations.new_gid()}


async def _prepare(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.prepare(_trans(request, request.body))


async def _submit(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.submit(_trans(request, request.body))


async def _abort(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.abort(_trans(request, request.body))


async def _register(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.register_branch(decode_registration(request.body))


async def _prepare_workflow(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return await door.operations.prepare_workflow(_trans(request, request.body))


async def _query(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return await door.operations.query(query.text("gid"))


async def _all(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    wanted = listing.Wanted(
        gid=clean_gid(query.text("gid")) if query.text("gid") else "",
        status=query.text("status"),
        kind=query.text("transType"),
        from_ms=query.number("createTimeStart", 0, 10**15),
        to_ms=query.number("createTimeEnd", 10**15, 10**15) or 10**15,
    )
    return await door.operations.all(wanted, query.page_size(), query.text("position"))


async def _force_stop(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.force_stop(decode_gid(request.body))


async def _reset_one(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.reset_next_cron_time(decode_gid(request.body))


async def _reset_many(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    timeout_s = query.number("timeout", -1, 10**9) if query.text("timeout") else None
    return await door.operations.reset_cron_time(timeout_s, query.number("limit", 100, 100_000) or 100)


async def _subscribe(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.subscribe(query.text("topic"), query.text("url"), query.text("remark"))


async def _unsubscribe(door: DtmHttpDoor, request: Request, query: Parameters) -> None:
    await door.operations.unsubscribe(query.text("topic"), query.text("url"))


async def _scan_kv(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return await door.operations.scan_kv(query.text("cat"), query.text("position"), query.page_size())


async def _query_kv(door: DtmHttpDoor, request: Request, query: Parameters) -> object:
    return await door.operations.query_kv(query.text("cat"), query.text("key"))


Handler = Callable[[DtmHttpDoor, Request, Parameters], Awaitable[object]]
ROUTES: Mapping[tuple[str, str], Handler] = MappingProxyType(
    {
        ("GET", f"{BASE}/version"): _version,
        ("GET", f"{BASE}/newGid"): _new_gid,
        ("POST", f"{BASE}/prepare"): _prepare,
        ("POST", f"{BASE}/submit"): _submit,
        ("POST", f"{BASE}/abort"): _abort,
        ("POST", f"{BASE}/registerBranch"): _register,
        ("POST", f"{BASE}/registerXaBranch"): _register,
        ("POST", f"{BASE}/registerTccBranch"): _register,
        ("POST", f"{BASE}/prepareWorkflow"): _prepare_workflow,
        ("GET", f"{BASE}/query"): _query,
        ("GET", f"{BASE}/all"): _all,
        ("POST", f"{BASE}/forceStop"): _force_stop,
        ("POST", f"{BASE}/resetNextCronTime"): _reset_one,
        ("GET", f"{BASE}/resetCronTime"): _reset_many,
        ("GET", f"{BASE}/subscribe"): _subscribe,
        ("GET", f"{BASE}/unsubscribe"): _unsubscribe,
        ("GET", f"{BASE}/scanKV"): _scan_kv,
        ("GET", f"{BASE}/queryKV"): _query_kv,
    }
)


async def _rpc_new_gid(door: DtmHttpDoor, request: Request, params: bytes) -> object:
    return {"dtm_result": SUCCESS, "gid": door.operations.new_gid()}


async def _rpc_prepare(door: DtmHttpDoor, request: Request, params: bytes) -> None:
    await door.operations.prepare(_trans(request, params))


async def _rpc_submit(door: DtmHttpDoor, request: Request, params: bytes) -> None:
    await door.operations.submit(_trans(request, params))


async def _rpc_abort(door: DtmHttpDoor, request: Request, params: bytes) -> None:
    await door.operations.abort(_trans(request, params))


async def _rpc_register(door: DtmHttpDoor, request: Request, params: bytes) -> None:
    await door.operations.register_branch(decode_registration(params))


RPC_METHODS: Mapping[str, Callable[[DtmHttpDoor, Request, bytes], Awaitable[object]]] = MappingProxyType(
    {
        "newGid": _rpc_new_gid,
        "prepare": _rpc_prepare,
        "submit": _rpc_submit,
        "abort": _rpc_abort,
        "registerBranch": _rpc_register,
    }
)
