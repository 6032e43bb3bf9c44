"""docs/getting-started.md, followed to the letter (but for the port numbers)."""

from __future__ import annotations

import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fixtures_coordinator import CoordinatorProcess

PAGE = Path(__file__).parents[2] / "docs" / "getting-started.md"
FILE = re.compile(r"```python\n# (?P<name>\w+\.py).*?\n(?P<text>.*?)```", re.DOTALL)

pytestmark = pytest.mark.engines


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_files(folder: Path, coordinator: str, service_port: int) -> None:
    page = PAGE.read_text(encoding="utf-8").replace("127.0.0.1:8091", coordinator)
    for block in FILE.finditer(page.replace("127.0.0.1:8001", f"127.0.0.1:{service_port}")):
        (folder / block["name"]).write_text(block["text"], encoding="utf-8")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


@contextmanager
def service(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "uvicorn", "stock:app", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with closing(urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1)):
                    break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_the_page_does_what_it_says(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    port = free_port()
    write_files(tmp_path, coordinator.address, port)
    for step in (["make.py"], ["-m", "troth", "at", "init", "sqlite:///stock.db"]):
        assert python(tmp_path, *step).returncode == 0
    assert python(tmp_path, "-m", "troth", "at", "check", "sqlite:///stock.db").returncode == 0
    with service(tmp_path, port):
        bought = python(tmp_path, "buy.py")
    assert "RuntimeError: no money" in bought.stderr
    with closing(sqlite3.connect(tmp_path / "stock.db")) as db:
        assert db.execute("SELECT * FROM stock").fetchall() == [("C00321", 100)]
        assert db.execute("SELECT count(*) FROM undo_log").fetchone() == (0,)
