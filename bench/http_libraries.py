"""Which HTTP libraries DTM's door and the calls to branches use: requests per second and CPU, one core a side.

    .venv/bin/python bench/http_libraries.py

Each server answers a POST of 120 bytes with a fixed JSON; each client keeps its connections, 64 requests in flight. One
side is varied, the other is ours. CPU is that of the varied side, user and system, per request. aiohttp and httpx
are not needed by troth: install them for this.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import uvicorn
import uvloop
from aiohttp import web
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from troth.server.inbound.dtm_http_link import HttpDoorLink, Request
from troth.server.outbound.http_link import Answer
from troth.server.outbound.http_pool import HttpPool
from troth.server.outbound.http_request import Origin, parse_target, request_bytes

BODY = (
    b'{"gid":"0123456789abcdef012345","trans_type":"saga","steps":[{"action":"http://a/b","compensate":"http://a/c"}]}'
)
DONE = b'{"dtm_result":"SUCCESS"}'
IN_FLIGHT = 64
JSON = "application/json"


# ---- servers ----


class OurDoor:
    largest_body_bytes = 1 << 20

    def opened(self, link: HttpDoorLink) -> bool:
        return True

    def closed(self, link: HttpDoorLink) -> None:
        pass

    def handle(self, request: Request) -> None:
        asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        request.answer(200, DONE)


async def serve_ours(listening: socket.socket) -> None:
    door = OurDoor()
    server = await asyncio.get_running_loop().create_server(lambda: HttpDoorLink(door), sock=listening)
    await server.serve_forever()


async def serve_uvicorn(listening: socket.socket) -> None:
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(DONE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": DONE})

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", http="httptools", ws="none")
    await uvicorn.Server(config).serve([listening])


async def serve_starlette(listening: socket.socket) -> None:
    async def submit(request):
        await request.body()
        return Response(DONE, media_type=JSON)

    app = Starlette(routes=[Route("/submit", submit, methods=["POST"])])
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", http="httptools", ws="none")
    await uvicorn.Server(config).serve([listening])


async def serve_aiohttp(listening: socket.socket) -> None:
    async def submit(request):
        await request.read()
        return web.Response(body=DONE, content_type=JSON)

    app = web.Application()
    app.router.add_post("/submit", submit)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    await asyncio.Event().wait()


SERVERS: dict[str, Callable[[socket.socket], Awaitable[None]]] = {
    "ours (httptools)": serve_ours,
    "uvicorn, raw ASGI": serve_uvicorn,
    "uvicorn, starlette": serve_starlette,
    "aiohttp.web": serve_aiohttp,
}


# ---- clients ----


async def drive(ask: Callable[[], Awaitable[None]], count: int) -> None:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await ask()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def ask_ours(port: int, count: int) -> None:
    loop, pool = asyncio.get_running_loop(), HttpPool(IN_FLIGHT)
    target = parse_target(f"http://127.0.0.1:{port}/submit")
    origin = Origin("http", "127.0.0.1", port)

    async def ask() -> None:
        done: asyncio.Future[Answer | None] = loop.create_future()
        data = request_bytes(target, "gid=1&op=action", "POST", BODY, {}, content_type=JSON)
        pool.send(origin, data, 10, lambda answer, reason: done.set_result(answer))
        answer = await done
        assert answer is not None
        assert answer.status == 200

    await drive(ask, count)
    pool.close()


async def ask_aiohttp(port: int, count: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as client:

        async def ask() -> None:
            url = f"http://127.0.0.1:{port}/submit?gid=1&op=action"
            async with client.post(url, data=BODY, headers={"content-type": JSON}) as answer:
                assert answer.status == 200
                await answer.read()

        await drive(ask, count)


async def ask_httpx(port: int, count: int) -> None:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(limits=limits) as client:

        async def ask() -> None:
            url = f"http://127.0.0.1:{port}/submit?gid=1&op=action"
            answer = await client.post(url, content=BODY, headers={"content-type": JSON})
            assert answer.status_code == 200

        await drive(ask, count)


CLIENTS = {"ours (httptools)": ask_ours, "aiohttp": ask_aiohttp, "httpx": ask_httpx}


# ---- measuring ----


def cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(server: str, client: str, count: int) -> tuple[float, float, float]:
    """Requests per second, CPU microseconds per request of the server and of the client."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", server, "--fd", str(listening.fileno())], pass_fds=[listening.fileno()]
    )
    listening.close()
    try:
        uvloop.run(CLIENTS[client](port, 500))
        server_cpu, client_cpu, started = cpu_of(process.pid), own_cpu(), time.monotonic()
        uvloop.run(CLIENTS[client](port, count))
        took = time.monotonic() - started
        return (
            count / took,
            (cpu_of(process.pid) - server_cpu) / count * 1e6,
            (own_cpu() - client_cpu) / count * 1e6,
        )
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(SERVERS[options.serve](socket.socket(fileno=options.fd)))
        return
    ours = "ours (httptools)"
    print(f"{'server':22} {'client':18} {'requests/s':>10} {'server µs':>10} {'client µs':>10}")
    for server, client in [*((server, ours) for server in SERVERS), *((ours, client) for client in list(CLIENTS)[1:])]:
        rate, server_us, client_us = measure(server, client, options.count)
        print(f"{server:22} {client:18} {rate:10.0f} {server_us:10.0f} {client_us:10.0f}", flush=True)


if __name__ == "__main__":
    main()
