"""`troth serve` as a process: start, stop, restart, and what it says when it cannot."""

import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import GlobalStatus, ResultCode

pytestmark = pytest.mark.engines

Connect = Callable[..., WireClient]
New = Callable[..., CoordinatorProcess]


def run_troth(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    return subprocess.run(
        [sys.executable, "-m", "troth", *args],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def sentence(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line of a process that refused to run."""
    assert result.returncode == status, result
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("troth: ")]
    return line


def test_start_line_health_and_stop(new_coordinator: New, connect: Connect) -> None:
    coordinator = new_coordinator().start()
    ready = coordinator.ready
    assert ready["event"] == "ready"
    assert ready["address"] == f"127.0.0.1:{ready['port']}" == ready["advertise"]
    assert ready["admin"] == f"http://127.0.0.1:{ready['admin_port']}"
    assert ready["pid"] == coordinator.process.pid
    assert coordinator.get("/health") == (200, {"status": "ok"})
    client = connect(coordinator).register_tm()
    client.begin()
    assert coordinator.stop() == 0
    assert client.is_closed()


def test_the_human_start_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "troth", "serve", "--port", "0", "--admin-port", "off", "--store", "memory://"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        process.terminate()
        _, log = process.communicate(timeout=15)
    assert line.startswith("troth coordinator ready: Seata port 127.0.0.1:")
    assert "no admin door" in line
    assert process.returncode == 0
    assert "a restart loses every open transaction" in log


def test_interrupt_stops_too(new_coordinator: New) -> None:
    coordinator = new_coordinator().start()
    coordinator.process.send_signal(2)
    assert coordinator.wait() == 0


def test_stop_answers_what_was_asked_before(new_coordinator: New, connect: Connect) -> None:
    """Every begin that was answered before the stop is there after it; nobody is left hanging."""
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm()
    begun: list[str] = []

    def begin_until_closed() -> None:
        try:
            while True:
                begun.append(client.begin())
        except (ConnectionError, AssertionError):
            return

    thread = threading.Thread(target=begin_until_closed)
    thread.start()
    until(lambda: len(begun) > 50)
    assert coordinator.stop() == 0
    thread.join(10)
    assert not thread.is_alive()
    coordinator.start()
    again = connect(coordinator).register_tm()
    assert {again.status(xid) for xid in begun} == {GlobalStatus.Begin}


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_troth("serve", "--port", str(port), "--admin-port", "0", cwd=tmp_path)
        assert sentence(result).startswith(f"troth: port {port} at 127.0.0.1 is taken by another process")
        result = run_troth("serve", "--port", "0", "--admin-port", str(port), cwd=tmp_path)
        assert "--admin-port" in sentence(result)
    assert not (tmp_path / "troth.db").exists(), "who cannot listen must not touch the store"


def test_a_store_that_another_process_holds(new_coordinator: New) -> None:
    coordinator = new_coordinator().start()
    result = run_troth("serve", "--port", "0", "--admin-port", "0", "--store", coordinator.store, cwd=Path("/"))
    assert f"is in use by process {coordinator.process.pid}" in sentence(result)


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    def refusal(store: str) -> str:
        return sentence(run_troth("serve", "--port", "0", "--admin-port", "0", "--store", store, cwd=tmp_path))

    (tmp_path / "corrupt.db").write_bytes(b"not a database at all " * 100)
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE somebody_elses (id INTEGER)")
    foreign.close()
    assert "corrupt.db" in refusal("sqlite:///corrupt.db")
    assert "foreign.db" in refusal("sqlite:///foreign.db")
    assert "does not exist" in refusal("sqlite:///no/such/directory.db")
    assert "no store is known for 'redis'" in refusal("redis://x")


def test_a_newer_store_is_refused(new_coordinator: New) -> None:
    coordinator = new_coordinator().start()
    assert coordinator.stop() == 0
    with sqlite3.connect(coordinator.directory / "troth.db") as store:
        store.execute("PRAGMA user_version = 999")
    store.close()
    result = run_troth("serve", "--port", "0", "--admin-port", "0", "--store", coordinator.store, cwd=Path("/"))
    assert "newer" in sentence(result)


def test_wrong_settings_exit_with_2(tmp_path: Path) -> None:
    assert "retry.mim" in sentence(run_troth("serve", "--set", "retry.mim=1s", cwd=tmp_path), 2)
    assert "TROTH_RETRY__MIN" in sentence(run_troth("serve", cwd=tmp_path, TROTH_RETRY__MIN="soon"), 2)
    assert "--allow-anonymous" in sentence(run_troth("serve", "--host", "0.0.0.0", cwd=tmp_path), 2)
    assert run_troth("serve", "--no-such-flag", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_keeps_transactions_locks_and_outcomes(new_coordinator: New, connect: Connect, end: str) -> None:
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm().register_rm("jdbc:sqlite:restart")
    committed, rolled_back, running, deciding = (client.begin(name=name) for name in ("a", "b", "c", "d"))
    assert client.commit(committed) is GlobalStatus.Committed
    assert client.rollback(rolled_back) is GlobalStatus.Rollbacked
    client.branch(running, "jdbc:sqlite:restart", "t:1")
    branch_id = client.branch(deciding, "jdbc:sqlite:restart", "t:2").branch_id
    assert client.commit(deciding) is GlobalStatus.Committed
    client.next_request()  # is never answered
    getattr(coordinator, end)()
    coordinator.start()
    assert coordinator.ready["open_transactions"] == 2
    again = connect(coordinator).register_tm()
    assert again.commit(committed) is GlobalStatus.Committed, "a repeated commit hears the truth"
    assert again.commit(rolled_back) is GlobalStatus.TimeoutRollbacked
    assert again.status(running) is GlobalStatus.Begin
    again.register_rm("jdbc:sqlite:restart")
    request = again.next_request()
    assert request.body.branch_id == branch_id
    again.answer_branch(request)
    until(lambda: again.status(deciding) is GlobalStatus.Committed)
    other = again.begin()
    assert again.branch(other, "jdbc:sqlite:restart", "t:1").result_code is ResultCode.Failed, "the row is still locked"
    assert again.branch(other, "jdbc:sqlite:restart", "t:2").result_code is ResultCode.Success
    assert again.commit(running) is GlobalStatus.Committed


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_store_that_fails_stops_the_coordinator(new_coordinator: New, connect: Connect) -> None:
    """Nothing is answered that is not durable; the process ends with a sentence, and a restart goes on."""
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm()
    begun = [client.begin()]
    largest = max(file.stat().st_size for file in coordinator.directory.iterdir())
    limit = max(largest, 64 * 1024) + 64 * 1024
    resource.prlimit(coordinator.process.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def begin_until_it_fails() -> None:
        for _ in range(100_000):
            begun.append(client.begin())

    with pytest.raises(ConnectionError):
        begin_until_it_fails()
    assert coordinator.wait() == 1
    assert "troth: stopped, because it could not go on safely" in coordinator.log()
    coordinator.start()
    again = connect(coordinator).register_tm()
    assert {again.status(xid) for xid in begun} == {GlobalStatus.Begin}


def test_commands_at_the_admin_door(new_coordinator: New, connect: Connect, tmp_path: Path) -> None:
    coordinator = new_coordinator().start()
    client = connect(coordinator).register_tm().register_rm("jdbc:cli")
    xid = client.begin(name="buy\nme")
    client.branch(xid, "jdbc:cli", "t:1")
    client.post(m.GlobalRollbackRequest(xid))
    client.next_request()

    def troth(*args: str) -> subprocess.CompletedProcess[str]:
        return run_troth(*args, cwd=tmp_path, TROTH_ADMIN=coordinator.admin, http_proxy="http://127.0.0.1:9")

    listed = troth("ls")
    assert listed.returncode == 0, listed
    assert xid in listed.stdout
    assert "Rollback" in listed.stdout
    assert "buy\\nme" in listed.stdout, "control characters are made visible"
    assert [tx["xid"] for tx in json.loads(troth("ls", "--json", "--status", "open").stdout)] == [xid]
    assert troth("ls", "--status", "Committed").stdout == "no transactions\n"
    assert "jdbc:cli" in troth("inspect", xid).stdout
    assert json.loads(troth("inspect", xid, "--json").stdout)["xid"] == xid
    assert "asked again now" in troth("retry", xid).stdout
    unknown = troth("inspect", "nobody:1:2")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no transaction 'nobody:1:2' is known" in unknown.stderr
    assert troth("ls", "--status", "Nonsense").returncode == 1
    nobody = run_troth("ls", "--admin", "http://127.0.0.1:9", cwd=tmp_path)
    assert nobody.returncode == 1
    assert "is `troth serve` running?" in nobody.stderr
    for wrong in (f"http://127.0.0.1:{coordinator.port}", "http://127.0.0.1:7091/a b", "127.0.0.1:7091", "http://[::1"):
        refused = run_troth("ls", "--admin", wrong, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Traceback" not in refused.stderr, wrong
