"""What Java clients do besides asking: idle channels, several resources, a process that dies and its successor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from java_app import JavaApp
from shop import DEDUCT, Shop, open_shop, reopen, run
from wiretap import Wiretap

from fixtures_coordinator import CoordinatorProcess, until
from troth.demo.servers.private import PrivateServer
from troth.wire.seata import messages as m
from troth.wire.seata.enums import MessageType

pytestmark = pytest.mark.engines


def test_a_second_resource_is_registered_one_way_on_the_same_connection(
    mariadb_shop: Shop, postgres_shop: Shop, wiretap: Wiretap
) -> None:
    registrations = [seen for seen in wiretap.seen if isinstance(seen.body, m.RegisterRMRequest)]
    for line in {seen.line for seen in registrations}:
        first, *further = [seen.frame.message_type for seen in registrations if seen.line == line]
        assert first is MessageType.REQUEST
        assert set(further) <= {MessageType.ONEWAY}
    # The JVM may have reconnected since: then all its resources came in one registration.
    further = [seen for seen in registrations if seen.frame.message_type is MessageType.ONEWAY]
    assert further
    answered = [seen for seen in wiretap.seen if isinstance(seen.body, m.RegisterRMResponse)]
    assert {seen.line for seen in further} <= {seen.line for seen in answered}, "and is answered all the same"
    for shop, kind in ((mariadb_shop, "mysql"), (postgres_shop, "postgresql")):
        assert shop.resource_id.startswith(f"jdbc:{kind}://127.0.0.1:")
        xid = shop.java.call("begin")
        run(shop, xid, [DEDUCT, 10, 1])
        assert shop.java.call("rollback", xid=xid) == "Rollbacked"
        assert shop.balance(1) == 100


def test_a_registration_tells_who_and_which_version(mariadb_shop: Shop, wiretap: Wiretap) -> None:
    (tm,) = wiretap.bodies(m.RegisterTMRequest)[-1:]
    assert isinstance(tm, m.RegisterTMRequest)
    assert tm.transaction_service_group == "default_tx_group"
    assert tm.application_id == f"java-{tm.version}"
    assert "vgroup=default_tx_group" in (tm.extra_data or "").splitlines()


def test_the_successor_of_a_dead_process_takes_its_branches_over(
    coordinator: CoordinatorProcess,
    mariadb_server: PrivateServer,
    new_mariadb_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    """Decided while nobody was there; undone by a process that has never seen the branch."""
    dead = JavaApp(coordinator.address, tmp_path / "dead.log", application="heirs")
    try:
        shop = open_shop(mariadb_server, new_mariadb_database(), dead)
        xid = dead.call("begin", timeout_ms=3_000)
        run(shop, xid, [DEDUCT, 10, 1])
    finally:
        dead.kill()
    until(lambda: coordinator.transaction(xid)["status"].startswith("TimeoutRollback"))
    assert shop.balance(1) == 90
    heir = JavaApp(coordinator.address, tmp_path / "heir.log", application="heirs")
    try:
        reopen(shop, heir)
        until(lambda: heir.call("status", xid=xid) == "TimeoutRollbacked", within_s=30)
    finally:
        heir.close()
    assert (shop.balance(1), shop.undo_logs()) == (100, 0)


@pytest.mark.soak
def test_an_idle_client_keeps_its_channels_by_pings(mariadb_shop: Shop, wiretap: Wiretap) -> None:
    """Both sides drop a channel after 15 s of silence; Java pings after 5 s."""
    since = len(wiretap.seen)
    time.sleep(20)
    pings = [seen for seen in wiretap.seen[since:] if seen.frame.message_type is MessageType.HEARTBEAT_PING]
    assert len(pings) >= 2
    assert not wiretap.bodies(m.RegisterTMRequest, since)
    xid = mariadb_shop.java.call("begin")
    run(mariadb_shop, xid, [DEDUCT, 10, 2])
    assert mariadb_shop.java.call("rollback", xid=xid) == "Rollbacked"
    assert not wiretap.bodies(m.RegisterRMRequest, since)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("transport.enableTmClientBatchSendRequest", "true"),
        ("transport.enableRmClientBatchSendRequest", "false"),
        *(("transport.compressor", name) for name in ("gzip", "zip", "deflater", "bzip2", "lz4", "zstd")),
    ],
)
def test_a_transport_setting_of_java_changes_nothing(
    coordinator: CoordinatorProcess,
    mariadb_server: PrivateServer,
    new_mariadb_database: Callable[[], str],
    tmp_path: Path,
    setting: str,
    value: str,
) -> None:
    tap = Wiretap(coordinator.port)
    java = JavaApp(tap.address, tmp_path / "java.log", application="set-up-java", settings={setting: value})
    try:
        shop = open_shop(mariadb_server, new_mariadb_database(), java)
        kept, dropped = java.call("begin"), java.call("begin")
        run(shop, kept, [DEDUCT, 10, 1])
        run(shop, dropped, [DEDUCT, 10, 2])
        assert java.call("commit", xid=kept) == "Committed"
        assert java.call("rollback", xid=dropped) == "Rollbacked"
        assert (shop.balance(1), shop.balance(2)) == (90, 100)
        _check_what_was_sent(tap, setting, value)
    finally:
        java.close()
        tap.close()


def _check_what_was_sent(tap: Wiretap, setting: str, value: str) -> None:
    merged = [child for frame in tap.bodies(m.MergedWarpMessage) for child in frame.msgs]
    if setting == "transport.compressor":
        compressors = {seen.frame.compressor.name.lower() for seen in tap.seen if seen.frame.message_type.value < 3}
        assert value in compressors
    elif "Tm" in setting:
        assert any(isinstance(child, m.GlobalBeginRequest) for child in merged)
    else:
        assert not merged
