"""A shop of two services, each with a database of its own.

    python examples/run.py fastapi_shop        (or flask_shop, or django_shop)

It starts a coordinator in this process and the two services beside it, buys twice (the second time the payment is
refused after both services have committed locally), and shows what is in the databases. `--keep` leaves it running.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import troth

HERE = Path(__file__).parent
READY_WITHIN_S = 120.0


def main() -> int:
    """Play the shop; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shop", choices=("fastapi_shop", "flask_shop", "django_shop"))
    parser.add_argument("--keep", action="store_true", help="leave it running until Enter is pressed")
    chosen = parser.parse_args()
    coordinator = troth.embedded()
    with tempfile.TemporaryDirectory() as folder, coordinator:
        address = coordinator.address
        with (
            service(chosen.shop, "stock", folder, COORDINATOR=address) as stock,
            service(chosen.shop, "orders", folder, COORDINATOR=address, STOCK=stock) as orders,
        ):
            as_it_should = play(orders, stock)
            if chosen.keep:
                print(f"curl -H \"content-type: application/json\" -d '{json.dumps(order(1))}' {orders}/orders")
                input(f"{stock}/stock/C00321 and {orders}/orders show the rows. Enter ends it. ")
    return 0 if as_it_should else 1


def play(orders: str, stock: str) -> bool:
    """Buy, and buy again without money."""
    paid = call(f"{orders}/orders", order(2))
    refused = call(f"{orders}/orders", order(3) | {"paid": False})
    too_many = call(f"{orders}/orders", order(1000))
    left = call(f"{stock}/stock/C00321")
    written = call(f"{orders}/orders")
    print(f"an order that is paid:     {paid}")
    print(f"payment refused:           {refused}")
    print(f"more than there is:        {too_many}")
    print(f"stock (it was 100):        {left}")
    print(f"orders:                    {written}")
    return (
        (paid[0], refused[0], too_many[0]) == (200, 402, 409)
        and left == (200, {"commodity": "C00321", "count": 98})
        and written == (200, {"orders": [{"commodity": "C00321", "count": 2}]})
    )


def order(count: int) -> dict[str, Any]:
    """What is sent to the orders service."""
    return {"commodity": "C00321", "count": count, "paid": True}


def call(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text


@contextmanager
def service(shop: str, name: str, folder: str, **environment: str) -> Iterator[str]:
    """Start `python -m SHOP.NAME`, and give its base URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    own = {"PORT": str(port), "DATABASE": f"{folder}/{name}.db", "PYTHONPATH": str(HERE), "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "-m", f"{shop}.{name}"], env={**os.environ, **environment, **own})
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens. Raises RuntimeError if the process ends, or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the service on port {port} did not start")


if __name__ == "__main__":
    sys.exit(main())
