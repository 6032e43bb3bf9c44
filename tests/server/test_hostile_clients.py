"""What a hostile or broken client sends costs its own connection only, and is logged once with the reason."""

import contextlib
import gzip
import json
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, GlobalStatus, ResultCode

pytestmark = pytest.mark.engines

Connect = Callable[..., WireClient]
REGISTRATION_MS = 400


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """Impatient, so that silence need not be awaited for 15 s."""
    process = CoordinatorProcess(
        tmp_path_factory.mktemp("coordinator"),
        f"limits.unregistered_timeout={REGISTRATION_MS}ms",
        "limits.idle=1500ms",
        "limits.unregistered_bytes=4KiB",
        "limits.connections=20",
    )
    try:
        yield process.start()
    finally:
        process.close()


def v1_frame(body: bytes, *, kind: int = 0, codec: int = 1, compressor: int = 0, length: int | None = None) -> bytes:
    full = 16 + len(body) if length is None else length
    return struct.pack(">2sBIHBBBi", b"\xda\xda", 1, full, 16, kind, codec, compressor, 7) + body


REGISTER = b"\x00\x65" + b"\x00\x052.3.0" + b"\x00\x04shop" + b"\x00\x01g" + b"\x00\x00"
BEGIN = struct.pack(">hi", 1, 1000) + b"\x00\x01x"

HOSTILE = {
    "wrong magic": b"GET / HTTP/1.1\r\n\r\n",
    "unknown version": b"\xda\xda\x09" + bytes(30),
    "absurd length": v1_frame(b"", length=0x7FFFFFFF),
    "length below the head": v1_frame(b"", length=3),
    "truncated body": v1_frame(BEGIN[:-1] + b""),
    "unknown codec": v1_frame(BEGIN, codec=99),
    "unknown compressor": v1_frame(BEGIN, compressor=99),
    "unknown type": v1_frame(b"\x7f\x7f"),
    "bad utf-8": v1_frame(struct.pack(">hi", 1, 1000) + b"\x00\x02\xff\xfe"),
    "negative length": v1_frame(struct.pack(">hi", 1, 1000) + b"\xff\xf0"),
    "trailing bytes": v1_frame(BEGIN + b"?"),
    "decompression bomb": v1_frame(gzip.compress(bytes(64 << 20)), compressor=1),
    "not compressed": v1_frame(BEGIN, compressor=1),
    "a result": v1_frame(b"\x00\x02" + b"\x01\x00" + b"\x00\x00\x00\x00", kind=1),
}


def complaints(coordinator: CoordinatorProcess, port: int) -> list[dict]:
    """The warnings about one connection, by its local port."""
    lines = (json.loads(line) for line in coordinator.log().splitlines())
    return [line for line in lines if line["level"] == "warning" and line.get("peer", "").endswith(f":{port}")]


def port_of(client: WireClient) -> int:
    return client.socket.getsockname()[1]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("registered", [True, False])
def test_a_hostile_frame_costs_its_own_connection(
    coordinator: CoordinatorProcess, connect: Connect, kind: str, registered: bool
) -> None:
    bystander = connect(coordinator).register_tm()
    xid = bystander.begin()
    attacker = connect(coordinator)
    if registered:
        attacker.register_tm()
    attacker.socket.sendall(HOSTILE[kind])
    assert attacker.is_closed()
    (complaint,) = until(lambda: complaints(coordinator, port_of(attacker)))
    assert complaint["reason"]
    assert bystander.status(xid).name == "Begin"
    assert coordinator.get("/health")[0] == 200


def test_a_request_before_registration_closes(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator)
    client.post(m.GlobalBeginRequest(1000, "x"))
    assert client.is_closed()
    (complaint,) = complaints(coordinator, port_of(client))
    assert complaint["reason"] == "GlobalBeginRequest before a registration"


def test_a_stranger_in_a_merged_request_closes(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator).register_tm()
    stray = m.GlobalBeginResponse(xid="x")
    client.send(client.connection.oneway(m.MergedWarpMessage((stray,), (1,))))
    assert client.is_closed()


def test_silence_without_registration_is_cut(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator)
    client.ping()
    assert client.is_closed(within_s=5)
    (complaint,) = complaints(coordinator, port_of(client))
    assert complaint["reason"] == f"no registration within {REGISTRATION_MS} ms"


def test_too_many_bytes_without_registration_are_cut(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator)
    ping = client.connection.send(client.connection.ping())
    client.socket.sendall(ping * 300)
    assert client.is_closed()
    (complaint,) = complaints(coordinator, port_of(client))
    assert "without a registration" in complaint["reason"]


def test_half_a_frame_without_end_is_cut(coordinator: CoordinatorProcess, connect: Connect) -> None:
    client = connect(coordinator)
    client.socket.sendall(v1_frame(REGISTER)[:20])
    assert client.is_closed(within_s=5)


def test_a_silent_registered_client_is_dropped_and_a_pinging_one_lives(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    silent = connect(coordinator).register_tm()
    lively = connect(coordinator).register_tm()

    def ping_until_the_other_is_closed() -> bool:
        lively.ping()
        return silent.is_closed(within_s=0.2)

    until(ping_until_the_other_is_closed)
    lively.ping()
    assert complaints(coordinator, port_of(silent))[0]["reason"] == "nothing received for 1500 ms"


def test_too_many_connections_are_refused(coordinator: CoordinatorProcess, connect: Connect) -> None:
    first = connect(coordinator).register_tm()
    crowd = [connect(coordinator) for _ in range(40)]
    until(lambda: coordinator.metrics()["troth_connections_refused_total"] > 0)
    first.ping()
    for client in crowd:
        client.close()
    until(lambda: coordinator.metrics()["troth_connections"] <= 5)


def test_rows_of_a_closed_waiter_are_not_granted(coordinator: CoordinatorProcess, connect: Connect) -> None:
    """A registration that waits goes with its connection: nobody would hear that it has the rows."""
    client = connect(coordinator).register_tm().register_rm("jdbc:gone")
    holder, other = client.begin(), client.begin()
    client.branch(holder, "jdbc:gone", "t:1")
    leaver = connect(coordinator).register_rm("jdbc:gone")
    leaver.post(m.BranchRegisterRequest(other, BranchType.AT, "jdbc:gone", "t:1"))
    until(lambda: coordinator.transaction(other)["waiting"])
    leaver.close()
    until(lambda: not coordinator.transaction(other)["waiting"])
    client.commit(holder)
    assert coordinator.transaction(other)["branches"] == []


def test_application_data_of_any_depth_is_only_data(coordinator: CoordinatorProcess, connect: Connect) -> None:
    """Of XA branches it is read at the commit, in the core: what is nested too deeply must not end the coordinator."""
    client = connect(coordinator).register_tm().register_rm("jdbc:deep")
    xid = client.begin()
    nested = '{"a":' + "[" * 50_000
    added = client.ask(m.BranchRegisterRequest(xid, BranchType.XA, "jdbc:deep", application_data=nested))
    assert isinstance(added, m.BranchRegisterResponse)
    assert added.result_code is ResultCode.Success
    committing = client.post(m.GlobalCommitRequest(xid))
    client.answer_branch(client.next_request())
    answer = client.answer_to(committing).body
    assert isinstance(answer, m.GlobalCommitResponse)
    assert answer.global_status is GlobalStatus.Committed


def resident_bytes(coordinator: CoordinatorProcess) -> int:
    fields = Path(f"/proc/{coordinator.process.pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_client_that_asks_and_never_reads_is_bounded_and_dropped(
    coordinator: CoordinatorProcess, connect: Connect
) -> None:
    flooder, bystander = connect(coordinator).register_tm(), connect(coordinator).register_tm()
    xid = bystander.begin()
    before = resident_bytes(coordinator)
    question = b"".join(
        flooder.connection.send(flooder.connection.request(m.GlobalReportRequest("x" * 32_000))) for _ in range(100)
    )
    flooder.socket.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < 256 << 20:
            sent += flooder.socket.send(question)
    assert bystander.status(xid).name == "Begin"
    assert resident_bytes(coordinator) - before < 128 << 20
    until(lambda: bystander.ping() or complaints(coordinator, port_of(flooder)))
