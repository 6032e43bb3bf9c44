"""`troth demo --db …` on private servers that it starts and ends itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures_coordinator import until
from troth.demo.servers.install import command, missing
from troth.demo.servers.plan import Kind

PATIENCE_S = 120.0
COMMAND = [sys.executable, "-m", "troth", "demo"]
SERVERS = {"postgres": Kind.POSTGRES, "mysql": Kind.MARIADB}

pytestmark = pytest.mark.engines


@pytest.fixture(params=SERVERS)
def db(request: pytest.FixtureRequest) -> str:
    absent = missing([SERVERS[request.param]])
    if absent:
        pytest.skip(f"not installed. As root: {command(absent)}")
    return request.param


def servers_of(parent: int) -> list[Path]:
    """Directories of the private servers that a process has started."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        if f"\nPPid:\t{parent}\n" in status and any(part.endswith(b"/sitter.py") for part in arguments):
            found += [Path(json.loads(part)["directory"]) for part in arguments if part.startswith(b"{")]
    return found


def test_both_ends(db: str) -> None:
    done = subprocess.run([*COMMAND, "--db", db], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    story = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), story + done.stderr
    bought, undone = story.split("--fail-at after-all")
    assert "status     Committed" in bought
    assert "status     Rollbacked" in undone
    for chapter in (bought, undone):
        assert re.search(r"before +stock_tbl +id=1 .*count=100\b", chapter)
        assert re.search(r"after +stock_tbl +id=1 .*count=98\b", chapter)
        assert "AT on stock, locks stock_tbl:1" in chapter
        assert chapter.count("phase two ") == 3
        assert "WRONG" not in chapter


def test_the_server_ends_even_if_the_demo_is_killed(db: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as story:
        process = subprocess.Popen([*COMMAND, "--db", db, "--fail-at", "none", "--keep"], stdout=story, stderr=story)
    try:
        until(lambda: "Ctrl-C" in out.read_text() or process.poll() is not None, PATIENCE_S, "it is kept")
        (server,) = servers_of(process.pid)
        assert server.exists()
    finally:
        process.kill()
        process.wait()
    until(lambda: not server.exists(), 20, "the server is gone")
    left = re.search(r"everything lies in (\S+);", out.read_text())
    assert left
    until(lambda: not processes_in(left[1]), 30, "the services are gone")
    shutil.rmtree(left[1])  # a killed program can not clean up


def processes_in(directory: str) -> list[str]:
    return [str(place) for place in Path("/proc").glob("[0-9]*/cwd") if linked(place).startswith(directory)]


def linked(place: Path) -> str:
    try:
        return os.readlink(place)
    except OSError:
        return ""  # it has ended, or is not ours to look at
