"""The three HTTP exchanges of a saga without a saga: one request in, two calls out one after the other, the answer.

It uses the coordinator's own HTTP server and client: what a saga costs beyond it is the transaction. Prints the port.
"""

import asyncio
import json
import signal
import sys

from troth.server.inbound.dtm_http_link import HttpDoorLink, Request
from troth.server.outbound.http_link import Answer
from troth.server.outbound.http_pool import HttpPool
from troth.server.outbound.http_request import parse_target, request_bytes

try:
    from uvloop import run
except ImportError:
    from asyncio import run

CALLS = 2
PAYLOAD = b"{}"
TIMEOUT_S = 3.0
GOOD = b'{"dtm_result":"SUCCESS"}'


class Relay:
    """Handles every request alike."""

    largest_body_bytes = 1 << 20

    def __init__(self) -> None:
        self._pool = HttpPool(512)

    def opened(self, link: HttpDoorLink) -> bool:
        """Everybody may come."""
        return True

    def closed(self, link: HttpDoorLink) -> None:
        """And go."""

    def handle(self, request: Request) -> None:
        """Call the branch, twice."""
        asked = json.loads(request.body)
        self._call(request, asked["branch"], asked["gid"], CALLS)

    def _call(self, request: Request, branch: str, gid: str, left: int) -> None:
        if not left:
            request.answer(200, GOOD)
            return
        target = parse_target(f"{branch}?gid={gid}&trans_type=saga&branch_id=0{left}&op=action")
        data = request_bytes(target, target.query, "POST", PAYLOAD, {}, content_type="application/json")

        def done(answer: Answer | None, reason: str) -> None:
            if answer is None or answer.status != 200:
                request.answer(500, json.dumps({"message": reason}).encode())
            else:
                self._call(request, branch, gid, left - 1)

        self._pool.send(target.origin, data, TIMEOUT_S, done)


async def serve() -> None:
    """Until SIGTERM."""
    loop, relay, ended = asyncio.get_running_loop(), Relay(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: HttpDoorLink(relay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    sys.exit(run(serve()))
