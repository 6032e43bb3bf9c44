"""Private servers serve as they should, and are always ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures_coordinator import until
from troth.demo.servers import install, mariadb, plan
from troth.demo.servers.plan import Kind, ServersMissing
from troth.demo.servers.private import PrivateServer, start

pytestmark = pytest.mark.engines
ROOT = Path(__file__).parents[2]


def test_postgres_is_set_up_for_logical_replication_and_prepared_transactions(postgres_server: PrivateServer) -> None:
    names = ("wal_level", "max_prepared_transactions", "fsync", "synchronous_commit")
    values = [postgres_server.execute(f"SHOW {name}").strip() for name in names]
    assert values == ["logical", "64", "on", "on"]


def test_mariadb_writes_a_row_binlog_and_flushes_every_commit(mariadb_server: PrivateServer) -> None:
    asked = "SELECT @@log_bin, @@binlog_format, @@innodb_flush_log_at_trx_commit, @@character_set_server"
    assert mariadb_server.execute(asked).split() == ["1", "ROW", "1", "utf8mb4"]


def test_each_asked_database_is_a_new_and_empty_one(
    new_postgres_database: Callable[[], str], new_mariadb_database: Callable[[], str]
) -> None:
    urls = [new_postgres_database(), new_postgres_database(), new_mariadb_database(), new_mariadb_database()]
    assert len(set(urls)) == 4


def test_nobody_gets_in_without_the_password(mariadb_server: PrivateServer, postgres_server: PrivateServer) -> None:
    for server in (mariadb_server, postgres_server):
        account = plan.Account(server.account.host, server.account.port, server.account.user, "wrong")
        stranger = PrivateServer(server.product, account, server.directory, server.pid, server.sitter)
        with pytest.raises(RuntimeError, match=r"(?i)denied|password"):
            stranger.execute("SELECT 1")


def test_stop_ends_the_server_and_removes_its_directory() -> None:
    (server,) = start(Kind.MARIADB)
    server.stop()
    server.stop()
    assert not is_running(server.pid)
    assert not server.directory.exists()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def up() -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """`servers.py up` with both servers, and their directories."""
    command = [sys.executable, str(ROOT / "scripts" / "servers.py"), "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield process, [Path(server["directory"]) for server in said.values()]
        process.kill()


def server_pids(directories: list[Path]) -> list[int]:
    postgres, maria = directories
    return [
        int((postgres / "data" / "postmaster.pid").read_text().split()[0]),
        int((maria / "data" / "mariadb.pid").read_text()),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_servers_end_with_the_process_that_asked_for_them(
    up: tuple[subprocess.Popen[str], list[Path]], number: signal.Signals
) -> None:
    process, directories = up
    pids = server_pids(directories)
    assert all(map(is_running, pids))
    os.kill(process.pid, number)
    process.wait(20)
    until(lambda: not any(map(is_running, pids)), 20, f"the servers end after {number.name}")
    until(lambda: not any(directory.exists() for directory in directories), 20, "their directories are removed")


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent-death signal")
def test_the_server_ends_with_a_killed_sitter() -> None:
    (server,) = start(Kind.POSTGRES)
    server.sitter.kill()
    until(lambda: not is_running(server.pid), 10, "the server ends")
    server.stop()
    assert not server.directory.exists()


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mariadb, "_SETTINGS", ("--no-such-option",))
    with pytest.raises(ServersMissing, match="no-such-option"):
        start(Kind.MARIADB)


def test_without_root_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "missing", lambda kinds: [mariadb.MARIADB])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ServersMissing, match="apt-get install --no-install-recommends mariadb-server"):
        install.install([Kind.MARIADB])


def test_two_mariadbs_do_not_share_their_temporary_files(mariadb_server: PrivateServer) -> None:
    assert mariadb_server.execute("SELECT @@tmpdir").strip() == str(mariadb_server.directory)
