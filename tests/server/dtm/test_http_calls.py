"""Calls to branches by HTTP, against real services: what is sent, what an answer means, who holds up whom."""

import asyncio
import contextlib
import errno
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from dtm_service import BROKEN, DONE, ONGOING, REFUSED, BranchService, service
from troth.core.effects import Call
from troth.core.model import BranchType, Plan, Verb
from troth.server.outbound import http_pool
from troth.server.outbound.http import HttpCaller
from troth.server.outbound.http_pool import HttpPool
from troth.server.outbound.http_request import check_headers, parse_target
from troth.server.outbound.url_calls import UrlCall
from troth.wire.dtm.results import Verdict

__all__ = ["service"]


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) in (0, errno.ECONNREFUSED)


CHUNKED = b"transfer-encoding: chunked\r\n\r\n3\r\nONG\r\n4\r\nOING\r\n0\r\n\r\n"
CALL = Call("h:1:2", 3, BranchType.SAGA, "r", None, "dtm", Verb.ACTION, 1, plan=Plan(by_url=True), gid="g")


class Caller:
    """The caller under test; `ask` waits for what came of one call."""

    def __init__(self, limit: int = 4) -> None:
        self.pool = HttpPool(limit)
        self._waiting: dict[int, asyncio.Future[tuple[Verdict, str]]] = {}
        self.http = HttpCaller(lambda: self.pool, self._settled)

    def _settled(self, url_call: UrlCall, verdict: Verdict, text: str) -> None:
        self._waiting.pop(id(url_call)).set_result((verdict, text))

    def start(self, url: str, **fields: object) -> asyncio.Future[tuple[Verdict, str]]:
        plain = UrlCall(CALL, url, "g", "saga", "01", "action", b'{"a":1}', {}, 5.0, False, "")
        url_call = plain._replace(**fields)
        self._waiting[id(url_call)] = future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: url_call)  # keeps it, and so its id, alive
        self.http.call(url_call)
        return future

    async def ask(self, url: str, **fields: object) -> tuple[Verdict, str]:
        return await asyncio.wait_for(self.start(url, **fields), 10)


@pytest_asyncio.fixture
async def caller() -> AsyncIterator[Caller]:
    one = Caller()
    yield one
    await one.http.close()
    await asyncio.sleep(0.01)  # the loop closes what was cut


@contextlib.asynccontextmanager
async def raw_service(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[str]:
    """A service that writes what it likes; the URL."""
    talks = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, host, 0, ssl=tls)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    await asyncio.gather(*talks)


async def test_a_payload_is_posted_with_the_names_of_the_call_in_the_query(
    caller: Caller, service: BranchService
) -> None:
    assert await caller.ask(service.url("/pay?own=1&x=%20"), headers={"X-Tenant": "blue"}) == (Verdict.DONE, "")
    called = service.calls[0]
    assert (called.method, called.path, called.body) == ("POST", "/pay", b'{"a":1}')
    assert called.query == {
        "own": "1", "x": " ", "branch_id": "01", "gid": "g", "op": "action", "trans_type": "saga"
    }  # fmt: skip
    assert called.headers["content-type"] == "application/json"
    assert called.headers["x-tenant"] == "blue"


async def test_no_payload_is_a_get_but_for_xa(caller: Caller, service: BranchService) -> None:
    await caller.ask(service.url("/a"), payload=b"")
    await caller.ask(service.url("/a"), payload=b"", always_post=True)
    assert [called.method for called in service.calls] == ["GET", "POST"]
    assert service.calls[1].headers["content-length"] == "0"


@pytest.mark.parametrize("gid", ["a\0b", "ü &?#=%", "x" * 4096, "'\"\\"])
async def test_any_gid_arrives_as_it_is(caller: Caller, service: BranchService, gid: str) -> None:
    assert (await caller.ask(service.url("/a"), gid=gid))[0] is Verdict.DONE
    assert service.calls[0].query["gid"] == gid


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (DONE, Verdict.DONE),
        (REFUSED, Verdict.REFUSED),
        (ONGOING, Verdict.ONGOING),
        (BROKEN, Verdict.RETRY),
        ((204, ""), Verdict.RETRY),
        ((200, "a FAILURE"), Verdict.REFUSED),
    ],
)
async def test_verdicts(caller: Caller, service: BranchService, answer: tuple, verdict: Verdict) -> None:
    service.say("/a", answer)
    found, text = await caller.ask(service.url("/a"))
    assert found is verdict
    shown = answer[1] if verdict is Verdict.REFUSED else "" if verdict is Verdict.DONE else str(answer[0])
    assert text == shown or (verdict in (Verdict.RETRY, Verdict.ONGOING) and shown in text)


async def test_json_rpc(caller: Caller, service: BranchService) -> None:
    service.say("/rpc", (200, '{"jsonrpc":"2.0","id":"1","error":{"code":-32901,"message":"no money"}}'), DONE)
    url = service.url("/rpc?method=pay")
    assert await caller.ask(url, protocol="json-rpc") == (Verdict.REFUSED, "no money")
    sent = json.loads(service.calls[0].body)
    assert sent["method"] == "pay"
    assert sent["params"] == {"a": 1, "branch_id": "01", "gid": "g", "op": "action", "trans_type": "saga"}
    # without a method in the URL it is a usual call
    assert (await caller.ask(service.url("/rpc"), protocol="json-rpc"))[0] is Verdict.DONE
    assert service.calls[1].query["op"] == "action"
    # what is no JSON object cannot be called so
    assert (await caller.ask(url, protocol="json-rpc", payload=b"[1]"))[0] is Verdict.RETRY


async def test_redirections_are_followed_as_gos_client_follows_them(caller: Caller, service: BranchService) -> None:
    service.say("/old", (307, "", "location: /new?branch_id=01"), (302, "", f"location: {service.url('/seen')}"))
    assert (await caller.ask(service.url("/old")))[0] is Verdict.DONE
    assert (service.calls[1].method, service.calls[1].path, service.calls[1].body) == ("POST", "/new", b'{"a":1}')
    assert (await caller.ask(service.url("/old")))[0] is Verdict.DONE
    assert (service.calls[3].method, service.calls[3].path) == ("GET", "/seen")
    service.say("/ring", (307, "", "location: /ring"))
    verdict, text = await caller.ask(service.url("/ring"))
    assert verdict is Verdict.RETRY
    assert "redirections" in text


async def test_connections_are_kept_and_never_more_than_the_limit(caller: Caller, service: BranchService) -> None:
    accepted = []
    service.on_call = lambda called: accepted.append(called.headers["host"])
    await asyncio.gather(*(caller.ask(service.url("/a")) for _ in range(40)))
    assert len(accepted) == 40
    host = next(iter(caller.pool._hosts.values()))
    assert 1 <= len(host._links) <= 4


async def test_a_service_that_hangs_holds_up_nobody_else(caller: Caller, service: BranchService) -> None:
    with BranchService() as other:
        service.hold["/slow"] = threading.Event()
        hanging = [caller.start(service.url("/slow"), timeout_s=1.0) for _ in range(12)]  # three times the limit
        assert (await caller.ask(other.url("/a"), timeout_s=0.9))[0] is Verdict.DONE
        results = await asyncio.gather(*hanging)
    assert all(verdict is Verdict.RETRY for verdict, _ in results)
    silent = sum("no answer from" in text for _, text in results)
    assert silent >= 4  # more, where a connection was free again a moment before the next one's time was up
    assert sum("no free connection" in text for _, text in results) == 12 - silent


async def test_nobody_there(caller: Caller) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    verdict, text = await caller.ask(f"http://127.0.0.1:{port}/a")
    assert verdict is Verdict.RETRY
    assert "cannot connect" in text
    verdict, text = await caller.ask("http://no-such-host.invalid/a")
    assert verdict is Verdict.RETRY
    assert "cannot connect" in text


async def test_a_connection_that_was_closed_while_idle_costs_no_call(caller: Caller) -> None:
    served = []

    async def one_answer_then_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(7)
        served.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read(1)  # the next request has begun: hang up without a word, as a restart would

    async with raw_service(one_answer_then_gone) as url:
        for _ in range(3):
            assert await caller.ask(url) == (Verdict.DONE, "")
        assert len(served) == 3
        await caller.http.close()


@pytest.mark.parametrize(
    ("written", "verdict", "words"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nSUCCESS", Verdict.DONE, ""),
        (b"HTTP/1.0 500 no\r\n\r\nit said FAILURE", Verdict.REFUSED, "FAILURE"),
        (b"HTTP/1.1 200 OK\r\n" + CHUNKED, Verdict.ONGOING, "ONGOING"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Verdict.DONE, ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", Verdict.RETRY, "closed by the service"),
        (b"SSH-2.0-x\r\n", Verdict.RETRY, "not HTTP"),
        (b"", Verdict.RETRY, "closed by the service"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 << 20), Verdict.RETRY, "longer than"),
        (b"HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", Verdict.RETRY, "not HTTP"),
    ],
    ids=["to-the-end", "failure", "chunked", "continue", "short", "ssh", "nothing", "huge", "upgrade"],
)  # fmt: skip
async def test_odd_answers(caller: Caller, written: bytes, verdict: Verdict, words: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(7)
        writer.write(written)
        await writer.drain()

    async with raw_service(talk) as url:
        found, text = await caller.ask(url)
    assert found is verdict
    assert words in text


async def test_idle_connections_are_closed(
    caller: Caller, service: BranchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pool, "_IDLE_S", 0.05)
    await caller.ask(service.url("/a"))
    async with asyncio.timeout(5):
        while caller.pool._hosts:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http://", "http:///x", "x", "http://a b/", "http://[::1", "http://h:99999/"]
)
def test_urls_that_cannot_be_called(url: str) -> None:
    with pytest.raises(ValueError):
        parse_target(url)


def test_what_a_url_becomes() -> None:
    target = parse_target("https://me:p%40ss@Example.com:8443/a b/ü?q=ü x#part")
    assert str(target.origin) == "https://example.com:8443"
    assert (target.authority, target.path, target.query) == (b"example.com:8443", "/a%20b/%C3%BC", "q=%C3%BC%20x")
    assert target.authorization == b"Basic bWU6cEBzcw=="
    assert parse_target("http://[::1]/").authority == b"[::1]"


@pytest.mark.parametrize("headers", [{"a b": ""}, {"": ""}, {"a": "x\r\ny: z"}, {"a\n": ""}, {"a": "\0"}])
def test_headers_that_would_split_a_request(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        check_headers(headers)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of its own for localhost, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = f"{directory}/certificate.pem", f"{directory}/key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("there is no `openssl` on the PATH to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize("trusted", [True, False])
async def test_https_is_verified(
    caller: Caller, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(7)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()

    async with raw_service(talk, tls) as url:
        verdict, text = await caller.ask(url.replace("http://127.0.0.1", "https://localhost"))
    assert verdict is (Verdict.DONE if trusted else Verdict.RETRY)
    assert trusted or "certificate" in text.lower()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6(caller: Caller) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" if b"Host: [::1]" in head else b"")
        await writer.drain()

    async with raw_service(talk, host="::1") as url:
        assert (await caller.ask(url.replace("127.0.0.1", "[::1]"), payload=b""))[0] is Verdict.DONE
        await caller.http.close()
