"""The HTTP of DTM's door itself: connections kept and ended, requests in pieces, in a row, too long, no HTTP at all."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from troth.server.config import Dtm
from troth.server.inbound import dtm_http
from troth.server.inbound.dtm_http import DtmHttpDoor
from troth.server.inbound.dtm_stats import DtmStats
from troth.wire.dtm.messages import Trans
from troth.wire.dtm.results import Ongoing


class Operations:
    """Stands for what is behind the door: `submit` waits where it is told to."""

    def __init__(self) -> None:
        self.submitted: list[Trans] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def new_gid(self) -> str:
        return "g1"

    async def submit(self, trans: Trans) -> None:
        self.submitted.append(trans)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error


class Line:
    """A raw connection to the door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict, dict[str, str]]:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), json.loads(body) if body else {}, headers

    async def ask(self, data: bytes) -> tuple[int, dict, dict[str, str]]:
        self.writer.write(data)
        return await self.answer()

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            return await self.reader.read(1) == b""


class World:
    def __init__(self, **settings: object) -> None:
        self.operations = Operations()
        self.door = DtmHttpDoor(
            self.operations,  # type: ignore[arg-type]
            Dtm.model_validate(settings),
            stats=DtmStats(),
            metrics=lambda: b"m 1\n",
            version="v",
        )
        self._lines: list[Line] = []

    async def start(self) -> "World":
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        await self.door.start(listening)
        return self

    async def line(self) -> Line:
        self._lines.append(Line(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._lines[-1]

    async def close(self) -> None:
        await self.door.close(0.1)
        for line in self._lines:
            line.writer.close()
            with contextlib.suppress(ConnectionError):
                await line.writer.wait_closed()
        await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    one = await World().start()
    yield one
    await one.close()


def post(body: bytes, *more: str) -> bytes:
    lines = ["POST /api/dtmsvr/submit HTTP/1.1", "host: x", f"content-length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NEW_GID = b"GET /api/dtmsvr/newGid HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b'{"gid":"g","trans_type":"saga"}'


async def test_a_connection_is_kept(world: World) -> None:
    line = await world.line()
    for _ in range(3):
        assert (await line.ask(NEW_GID))[:2] == (200, {"dtm_result": "SUCCESS", "gid": "g1"})


async def test_byte_by_byte(world: World) -> None:
    line = await world.line()
    for byte in post(BODY):
        line.writer.write(bytes([byte]))
        await line.writer.drain()
    assert (await line.answer())[0] == 200
    assert world.operations.submitted[0].gid == "g"


async def test_chunked_and_continue(world: World) -> None:
    line = await world.line()
    head = b"POST /api/dtmsvr/submit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    line.writer.write(head)
    assert (await line.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    assert (await line.ask(b"5\r\n" + BODY[:5] + b"\r\n1a\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"))[0] == 200
    assert world.operations.submitted[0].trans_type == "saga"


async def test_requests_in_a_row_are_answered_in_order_one_after_the_other(world: World) -> None:
    world.operations.go_on.clear()
    line = await world.line()
    line.writer.write(post(BODY) + NEW_GID * 40 + b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.sleep(0.05)
    assert len(world.operations.submitted) == 1
    world.operations.go_on.set()
    answers = [await line.answer() for _ in range(42)]
    assert [status for status, _, _ in answers] == [200] * 41 + [404]
    assert "gid" not in answers[0][1]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 12_000 + b"c: " + b"d" * 50_000 + b"\r\n\r\n", 431),
        (post(b"x" * (9 << 20)), 413),
    ],
    ids=["ssh", "tls", "length", "url", "headers", "body"],
)
async def test_what_cannot_be_read_is_told_so_and_the_connection_ends(world: World, data: bytes, status: int) -> None:
    line = await world.line()
    found, body, headers = await line.ask(data)
    assert found == status
    assert body["message"]
    assert headers["connection"] == "close"
    assert await line.is_closed()
    other = await world.line()
    assert (await other.ask(NEW_GID))[0] == 200


async def test_an_offer_of_another_protocol_is_not_taken(world: World) -> None:
    line = await world.line()  # as Java's HttpClient sends it
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    for _ in range(2):
        assert (await line.ask(post(BODY, *offer) + NEW_GID))[:2] == (200, {"dtm_result": "SUCCESS"})
        assert (await line.answer())[1]["gid"] == "g1"
    assert len(world.operations.submitted) == 2


async def test_old_and_closing_clients(world: World) -> None:
    ping = b"GET /api/ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    for request in (b"GET /api/ping HTTP/1.0\r\n\r\n", ping):
        line = await world.line()
        assert (await line.ask(request))[:2] == (200, {"msg": "pong"})
        assert await line.is_closed()


async def test_a_client_that_leaves_while_it_waits_harms_nobody(world: World) -> None:
    world.operations.go_on.clear()
    line = await world.line()
    line.writer.write(post(BODY))
    while not world.operations.submitted:
        await asyncio.sleep(0.01)
    line.writer.transport.abort()
    await asyncio.sleep(0.02)
    world.operations.go_on.set()
    assert (await (await world.line()).ask(NEW_GID))[0] == 200


async def test_refusals_and_bugs(world: World, caplog: pytest.LogCaptureFixture) -> None:
    line = await world.line()
    world.operations.error = Ongoing("a FAILURE of a branch")
    status, body, _ = await line.ask(post(BODY))
    assert (status, body) == (425, {"dtm_result": "ONGOING", "message": "a FAILURE of a branch"})
    world.operations.error = ZeroDivisionError("secret")
    status, body, _ = await line.ask(post(BODY))
    assert (status, body) == (500, {"message": "internal error: ZeroDivisionError"})
    world.operations.error = None
    assert (await line.ask(post(BODY)))[0] == 200


async def test_too_many_connections() -> None:
    world = await World(connections=2).start()
    first, second = await world.line(), await world.line()
    assert (await first.ask(NEW_GID))[0] == (await second.ask(NEW_GID))[0] == 200
    third = await world.line()
    assert (await third.answer())[0] == 503
    assert await third.is_closed()
    assert (await first.ask(NEW_GID))[0] == 200
    await world.close()


async def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtm_http, "_IDLE_S", 0.1)
    world = await World().start()
    world.operations.go_on.clear()
    idle, busy = await world.line(), await world.line()
    assert (await idle.ask(NEW_GID))[0] == 200
    busy.writer.write(post(BODY))
    assert await idle.is_closed()
    world.operations.go_on.set()
    assert (await busy.answer())[0] == 200
    await world.close()


async def test_closing_lets_what_is_under_way_be_answered(world: World) -> None:
    world.operations.go_on.clear()
    line, idle = await world.line(), await world.line()
    assert (await idle.ask(NEW_GID))[0] == 200
    line.writer.write(post(BODY))
    while not world.operations.submitted:
        await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(world.door.close(5))
    await asyncio.sleep(0.02)
    world.operations.go_on.set()
    assert (await line.answer())[0] == 200
    await closing
    assert await line.is_closed()
    assert await idle.is_closed()


async def test_who_still_waits_at_the_end_is_told(world: World) -> None:
    world.operations.go_on.clear()
    line = await world.line()
    line.writer.write(post(BODY))
    while not world.operations.submitted:
        await asyncio.sleep(0.01)
    await world.door.close(0.05)
    status, body, headers = await line.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert "stopping" in body["message"]
    assert await line.is_closed()


async def test_metrics_are_text(world: World) -> None:
    line = await world.line()
    line.writer.write(b"GET /api/metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await line.reader.readuntil(b"\r\n\r\n")
    assert b"text/plain" in head
    assert await line.reader.readexactly(4) == b"m 1\n"
