"""Undo logs in the forms that Java can be set up to write: compressed, split over rows, in a serializer of its own.

Each is written by a JVM that is killed, and undone (or refused) by Python.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from java_app import QUICK_START, JavaApp
from shop import Shop, open_shop, reopen, run

import troth
from fixtures_coordinator import CoordinatorProcess, until
from troth.client.sql.undo_codec import parse_context
from troth.demo.servers.private import PrivateServer
from troth.wire.seata.enums import GlobalStatus

pytestmark = pytest.mark.engines

LONG = "UPDATE account SET owner = CONCAT(owner, ?), balance = balance - 1 WHERE id <= 40"
SMALL_PACKET = 16_384
KRYO_OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.util", "java.lang", "java.math", "java.text", "java.net")
]
KRYO = {"client.undo.logSerialization": "kryo"}
COMPRESSED = {"client.undo.compress.enable": "true", "client.undo.compress.threshold": "1k"}


@dataclass(frozen=True, slots=True)
class Heirs:
    """A database whose application has written in Java, and goes on in Python."""

    server: PrivateServer
    new_database: Callable[[], str]
    coordinator: CoordinatorProcess
    directory: Path

    def java(self, settings: dict[str, str]) -> JavaApp:
        log = self.directory / "java.log"
        return JavaApp(
            self.coordinator.address, log, application="java-heirs", settings=settings, jvm=(*QUICK_START, *KRYO_OPENS)
        )

    @contextmanager
    def written_by_java(self, settings: dict[str, str], statement: list[object]) -> Iterator[tuple[Shop, str]]:
        """A branch that Java committed locally before it was killed, in a transaction that Python rolls back."""
        java = self.java(settings)
        with pytest.raises(ValueError, match="no"), troth.transaction(name="inherited") as tx:  # noqa: PT012
            try:
                shop = open_shop(self.server, self.new_database(), java)
                run(shop, tx.xid, statement)
            finally:
                java.kill()
            yield shop, tx.xid
            with closing(troth.at.connect(shop.url)):
                pass  # from now on Python serves the resource
            raise ValueError("no")


@pytest.fixture
def heirs(
    coordinator: CoordinatorProcess,
    mariadb_server: PrivateServer,
    new_mariadb_database: Callable[[], str],
    tmp_path: Path,
) -> Iterator[Heirs]:
    troth.init(coordinator=coordinator.address, application="java-heirs")
    yield Heirs(mariadb_server, new_mariadb_database, coordinator, tmp_path)
    troth.close()


def contexts(shop: Shop, xid: str) -> list[dict[str, str]]:
    found = shop.read(f"SELECT context FROM undo_log WHERE xid = '{xid}' ORDER BY length(context) DESC")
    return [parse_context(context) for (context,) in found]


def accounts(shop: Shop) -> list[list[str]]:
    return shop.read("SELECT id, owner, balance FROM account ORDER BY id")


UNTOUCHED = [[str(n), "owner", "100"] for n in range(1, 41)]


@pytest.mark.parametrize(
    "compressor",
    ["zip", *(pytest.param(name, marks=pytest.mark.soak) for name in ("gzip", "deflater", "bzip2", "lz4", "zstd"))],
)
def test_a_compressed_undo_log_is_undone(heirs: Heirs, compressor: str) -> None:
    settings = {**COMPRESSED, "client.undo.compress.type": compressor}
    with heirs.written_by_java(settings, [LONG, "-x"]) as (shop, xid):
        (context,) = contexts(shop, xid)
        assert (context["serializer"], context["compressorType"]) == ("jackson", compressor.upper())
        assert accounts(shop)[0] == ["1", "owner-x", "99"]
    until(lambda: shop.undo_logs(xid) == 0)
    assert accounts(shop) == UNTOUCHED


@contextmanager
def small_packets(server: PrivateServer) -> Iterator[None]:
    """Connections made in the block take packets of 16 KiB, and Java splits what is larger than 0.8 of that."""
    before = server.execute("SELECT @@GLOBAL.max_allowed_packet").strip()
    server.execute(f"SET GLOBAL max_allowed_packet = {SMALL_PACKET}")
    try:
        yield
    finally:
        server.execute(f"SET GLOBAL max_allowed_packet = {before}")


@pytest.mark.parametrize("settings", [{}, pytest.param(COMPRESSED, marks=pytest.mark.soak)], ids=["plain", "zip"])
def test_an_undo_log_split_over_rows_is_joined_and_undone(heirs: Heirs, settings: dict[str, str]) -> None:
    # Random text, so that the compressed log is too large as well.
    many = (
        "UPDATE account SET balance = balance - 1, owner = substring(concat(sha2(id, 512), sha2(id + ?, 512)), 1, 40)"
        " WHERE id <= 40"
    )
    with small_packets(heirs.server), heirs.written_by_java(settings, [many, 1]) as (shop, xid):
        found = contexts(shop, xid)
        parts = [context for context in found if set(context) == {"branchId"}]
        if not settings:
            assert len(parts) >= 1, found
        assert sum("subId" in context for context in found) == (1 if parts else 0)
        assert accounts(shop) != UNTOUCHED
    until(lambda: shop.undo_logs(xid) == 0)
    assert accounts(shop) == UNTOUCHED


@pytest.mark.soak
def test_a_split_undo_log_of_which_a_part_is_gone_freezes_the_branch(heirs: Heirs) -> None:
    with small_packets(heirs.server), heirs.written_by_java({}, [LONG, "-x"]) as (shop, xid):
        assert len(contexts(shop, xid)) >= 2
        shop.read(f"DELETE FROM undo_log WHERE xid = '{xid}' AND context LIKE 'branchId=%'")
    said = frozen(heirs, xid)
    assert "split over several rows" in said
    assert "is missing" in said
    assert (shop.balance(1), shop.undo_logs(xid)) == (99, 1)


def frozen(heirs: Heirs, xid: str) -> str:
    """What `troth inspect` says of the transaction, once its branch has refused."""
    until(lambda: heirs.coordinator.transaction(xid)["branches"][0]["status"] == "PhaseTwo_RollbackFailed_Unretryable")
    command = [sys.executable, "-m", "troth", "inspect", xid, "--admin", heirs.coordinator.admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_an_unknown_serializer_is_refused_by_name_and_nothing_is_lost(heirs: Heirs) -> None:
    """Java's kryo: frozen, visible, and undone when somebody who can read it comes and a person says so."""
    with heirs.written_by_java(KRYO, [LONG, "-x"]) as (shop, xid):
        (context,) = contexts(shop, xid)
        assert context["serializer"] == "kryo"
    assert "serializer 'kryo' is not supported" in frozen(heirs, xid)
    assert (accounts(shop)[0], shop.undo_logs(xid)) == (["1", "owner-x", "99"], 1)
    troth.close()
    java = heirs.java(KRYO)
    try:
        reopen(shop, java)
        status, _ = heirs.coordinator.get(f"/api/transactions/{xid}/retry", method="POST")
        assert status < 300
        until(lambda: java.call("status", xid=xid) == "Rollbacked", within_s=20)
    finally:
        java.close()
    assert (accounts(shop), shop.undo_logs(xid)) == (UNTOUCHED, 0)
    assert heirs.coordinator.transaction(xid)["status"] == GlobalStatus.Rollbacked.name
