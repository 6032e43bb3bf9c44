"""Odd HTTP at the admin door of a real coordinator: an answer below 500 each time, or a closed connection."""

from __future__ import annotations

import errno
import random
import secrets
import socket
from collections import Counter

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient

pytestmark = pytest.mark.engines

REQUESTS = 400
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW", "get", "")
PATHS = (
    "/health",
    "/metrics",
    "/openapi.json",
    "/api/config",
    "/api/transactions",
    "/api/transactions/",
    "/api/transactions/x/retry",
    "/api/transactions//retry",
    "/api/transactions/%00",
    "/api/transactions/%ff%fe",
    "/api/transactions/" + "9" * 5000,
    "/api/transactions/127.0.0.1%3A8091%3A1",
    "/api/../../etc/passwd",
    "/%2e%2e/x",
    "//",
    "*",
    "",
)
VALUES = (
    "",
    "0",
    "-1",
    "1",
    "100",
    "1e9",
    "99999999999999999999",
    "open",
    "ended",
    "Committed",
    "x",
    "%00",
    "%ff",
    "é",
    "a" * 3000,
    "..",
)
NAMES = ("status", "limit", "cursor", "sort", "limit", "status", "%00", "")
BODIES = (b"", b"{}", b"[" * 5000, b"\xff\xfe\x00", b'{"xid": 1}', b"x" * 100_000)


def draw(chance: random.Random) -> bytes:
    """A request; one in five is broken as HTTP."""
    query = "&".join(f"{chance.choice(NAMES)}={chance.choice(VALUES)}" for _ in range(chance.choice((0, 0, 1, 2, 5))))
    target = chance.choice(PATHS) + (f"?{query}" if query else "")
    body = chance.choice(BODIES)
    head = f"{chance.choice(METHODS)} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    if chance.random() < 0.2:
        spoiled = bytearray(request[:2000])
        for _ in range(4):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        request = bytes(spoiled)
    return request


CLOSED = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


def exchange(port: int, request: bytes) -> bytes:
    """The first line of the answer; empty if it just closed. A broken request may wait for more: its writer ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            return b""
    return answer.partition(b"\r\n")[0]


def test_odd_requests_are_answered_and_nothing_breaks(coordinator: CoordinatorProcess) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    with WireClient(coordinator.port) as client:
        xid = client.register_tm().begin()
        for _ in range(REQUESTS):
            request = draw(chance)
            line = exchange(coordinator.ready["admin_port"], request)
            status = line.split(b" ")[1].decode() if line.startswith(b"HTTP/1.1 ") else "closed"
            seen[status] += 1
            assert status == "closed" or int(status) < 500, f"{line!r} for {request[:300]!r}"
        assert client.status(xid).name == "Begin"
    print(seen)
    assert {"200", "400", "404", "405"} <= seen.keys(), seen
    assert coordinator.get("/health")[0] == 200
    errors = [line for line in coordinator.log().splitlines() if '"level": "error"' in line]
    assert errors == []
