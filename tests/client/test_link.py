"""The link over a real socket: registration, heartbeats, reconnecting, and what a request hears when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised, RequestTimeout
from troth.client.links.registration import Identity
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchType, GlobalStatus
from troth.wire.seata.errors import WireError
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    GlobalStatusRequest,
    GlobalStatusResponse,
    RegisterRMRequest,
    RegisterRMResponse,
    RegisterTMRequest,
    RegisterTMResponse,
)

STATUS = GlobalStatusRequest(xid="x")
REGISTER = BranchRegisterRequest(xid="x", branch_type=BranchType.AT, resource_id="db")


class NoHandler:
    """Never asked in these tests."""


def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class TestRegistration:
    def test_the_tm_registers_at_once(self, coordinator: Any, client: Client) -> None:
        (message,) = coordinator.of(RegisterTMRequest)
        assert (message.application_id, message.transaction_service_group) == ("shop", "default_tx_group")
        lines = dict(line.split("=", 1) for line in message.extra_data.splitlines())
        assert lines["vgroup"] == "default_tx_group"
        assert lines["ip"] == "127.0.0.1"
        assert lines["digest"] == f"default_tx_group,127.0.0.1,{lines['timestamp']}"
        assert lines["authVersion"] == "V4"
        assert not coordinator.of(RegisterRMRequest)

    def test_the_rm_registers_with_its_first_resource(self, coordinator: Any, client: Client) -> None:
        client.register_resource("a", BranchType.AT, NoHandler())
        coordinator.wait_for(RegisterRMRequest)
        until(lambda: len(coordinator.peers) == 2)
        assert client.tell(REGISTER)
        client.register_resource("b", BranchType.AT, NoHandler())
        client.register_resource("a", BranchType.AT, NoHandler())
        client.tell(REGISTER)
        first, second = coordinator.wait_for(RegisterRMRequest, 2)
        assert first.resource_ids == "a"
        assert second.resource_ids == "b"
        coordinator.cut_all()
        assert set(coordinator.wait_for(RegisterRMRequest, 3)[2].resource_ids.split(",")) == {"a", "b"}
        assert len(coordinator.wait_for(RegisterTMRequest, 2)) == 2

    def test_a_resource_that_comes_during_the_registration_is_named_too(self, coordinator: Any, client: Client) -> None:
        coordinator.may_answer.clear()
        client.register_resource("a", BranchType.AT, NoHandler())
        coordinator.wait_for(RegisterRMRequest)
        client.register_resource("b", BranchType.AT, NoHandler())
        coordinator.may_answer.set()
        assert [message.resource_ids for message in coordinator.wait_for(RegisterRMRequest, 2)] == ["a", "b"]

    def test_what_waits_for_the_registration_goes_after_such_a_resource(self, coordinator: Any, client: Client) -> None:
        coordinator.may_answer.clear()
        client.register_resource("a", BranchType.AT, NoHandler())
        coordinator.wait_for(RegisterRMRequest)
        client.register_resource("b", BranchType.AT, NoHandler())
        asker = threading.Thread(target=client.tell, args=(REGISTER,))
        asker.start()
        until(lambda: client._link._rm._unsent)  # type: ignore[union-attr]
        coordinator.may_answer.set()
        asker.join(10)
        told = [type(one) for one in coordinator.received if isinstance(one, RegisterRMRequest | type(REGISTER))]
        assert told == [RegisterRMRequest, RegisterRMRequest, type(REGISTER)]

    def test_a_branch_is_told_after_its_resource(self, coordinator: Any, client: Client) -> None:
        client.register_resource("db", BranchType.AT, NoHandler())
        client.tell(REGISTER)
        order = [type(message) for message in coordinator.received]
        assert order.index(RegisterRMRequest) < order.index(BranchRegisterRequest)
        assert coordinator.rm().registered

    def test_an_rm_without_resources_speaks_on_the_tm_connection(self, coordinator: Any, client: Client) -> None:
        assert isinstance(client.tell(REGISTER), BranchRegisterResponse)
        assert not coordinator.of(RegisterRMRequest)

    def test_a_refused_registration_is_told(self, coordinator: Any, quick: ClientSettings) -> None:
        coordinator.script(RegisterTMRequest, *[RegisterTMResponse(identified=False)] * 1000)
        with pytest.raises(CoordinatorUnavailable, match="refused to register"):
            Client(coordinator.address, settings=replace(quick, connect_timeout_s=0.2)).start()

    def test_a_refused_further_resource_is_logged(
        self, coordinator: Any, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.register_resource("a", BranchType.AT, NoHandler())
        client.tell(REGISTER)
        coordinator.script(RegisterRMRequest, RegisterRMResponse(identified=False))
        client.register_resource("b", BranchType.AT, NoHandler())
        client.tell(REGISTER)
        assert "refused" in caplog.text

    def test_a_resource_needs_a_name_that_travels(self, client: Client) -> None:
        for wrong in ("", "a,b"):
            with pytest.raises(ValueError, match="name"):
                client.register_resource(wrong, BranchType.AT, NoHandler())

    def test_rm_registration_text(self) -> None:
        assert Identity("shop", "group").as_rm(["a", "b"]).resource_ids == "a,b"


class TestStart:
    def test_nobody_there(self, quick: ClientSettings) -> None:
        port = free_port()
        with pytest.raises(CoordinatorUnavailable, match=rf"127\.0\.0\.1:{port}.*refused.*troth serve"):
            Client(f"127.0.0.1:{port}", settings=replace(quick, connect_timeout_s=0.2)).start()

    def test_somebody_who_does_not_answer(self, coordinator: Any, quick: ClientSettings) -> None:
        coordinator.script(RegisterTMRequest, coordinator.NOTHING)
        with pytest.raises(CoordinatorUnavailable, match=coordinator.address):
            Client(coordinator.address, settings=replace(quick, connect_timeout_s=0.2)).start()

    def test_somebody_who_speaks_something_else(self, quick: ClientSettings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def speak() -> None:
                sock, _ = listener.accept()
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.close()

            thread = threading.Thread(target=speak)
            thread.start()
            with pytest.raises(CoordinatorUnavailable, match=f"127.0.0.1:{port}"):
                Client(f"127.0.0.1:{port}", settings=replace(quick, connect_timeout_s=0.3)).start()
            thread.join()

    def test_it_waits_for_one_that_comes_up(self, coordinator: Any, quick: ClientSettings) -> None:
        coordinator.stop()
        timer = threading.Timer(0.1, coordinator.listen)
        timer.start()
        with Client(coordinator.address, settings=quick) as client:
            assert client.status("x") is GlobalStatus.Begin
        timer.join()

    def test_lazily(self, coordinator: Any, quick: ClientSettings) -> None:
        coordinator.stop()
        with Client(coordinator.address, settings=replace(quick, connect_at_init=False)) as client:
            coordinator.listen()
            assert client.status("x") is GlobalStatus.Begin

    def test_the_first_address_that_answers(self, coordinator: Any, quick: ClientSettings) -> None:
        with Client([f"127.0.0.1:{free_port()}", coordinator.address], settings=quick) as client:
            assert client.status("x") is GlobalStatus.Begin

    def test_a_name_is_resolved(self, coordinator: Any, quick: ClientSettings) -> None:
        with Client(f"localhost:{coordinator.port}", settings=quick) as client:
            assert client.status("x") is GlobalStatus.Begin


class TestRequests:
    def test_many_at_once_each_get_their_own_answer(self, coordinator: Any, client: Client) -> None:
        coordinator.script(
            GlobalStatusRequest, *[GlobalStatusResponse(global_status=GlobalStatus(n % 21)) for n in range(400)]
        )
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: client.status(str(n)), range(400)))
        # The script follows the order of arrival, which `received` tells.
        arrived = [int(message.xid) for message in coordinator.of(GlobalStatusRequest)]
        assert sorted(arrived) == list(range(400))
        assert all(answers[n] == place % 21 for place, n in enumerate(arrived))

    async def test_from_a_loop(self, client: Client) -> None:
        answers = await asyncio.gather(*(client.astatus(str(n)) for n in range(200)))
        assert set(answers) == {GlobalStatus.Begin}

    def test_from_several_loops(self, client: Client) -> None:
        def work(_: int) -> GlobalStatus:
            return asyncio.run(client.astatus("x"))

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(8))) == [GlobalStatus.Begin] * 8

    async def test_a_cancelled_request_disturbs_nobody(self, coordinator: Any, client: Client) -> None:
        coordinator.script(GlobalStatusRequest, coordinator.NOTHING)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.atell(STATUS), 0.05)
        assert await client.astatus("x") is GlobalStatus.Begin

    def test_no_answer_in_time(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        client = connect(replace(quick, tm_timeout_s=0.1))
        coordinator.script(GlobalStatusRequest, coordinator.NOTHING)
        with pytest.raises(RequestTimeout, match="GlobalStatusRequest"):
            client.tell(STATUS)
        assert client.status("x") is GlobalStatus.Begin

    def test_what_the_wire_cannot_carry_is_refused_alone(self, client: Client) -> None:
        with pytest.raises(WireError):
            client.tell(GlobalStatusRequest(xid="x" * 40_000))
        assert client.status("x") is GlobalStatus.Begin


class TestBrokenLink:
    def test_requests_in_flight_fail_at_once(self, coordinator: Any, client: Client) -> None:
        coordinator.script(GlobalStatusRequest, coordinator.NOTHING, coordinator.NOTHING, coordinator.NOTHING)
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(client.tell, STATUS) for _ in range(3)]
            coordinator.wait_for(GlobalStatusRequest, 3)
            coordinator.cut_all()
            for call in calls:
                with pytest.raises(CoordinatorUnavailable, match="in flight") as caught:
                    call.result(1.0)
                assert not isinstance(caught.value, RequestTimeout)

    async def test_awaited_ones_too(self, coordinator: Any, client: Client) -> None:
        coordinator.script(GlobalStatusRequest, coordinator.CUT)
        with pytest.raises(CoordinatorUnavailable, match="in flight"):
            await client.atell(STATUS)

    def test_what_was_not_sent_waits_for_the_next_link(self, coordinator: Any, client: Client) -> None:
        coordinator.stop()
        until(lambda: not coordinator.peers)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.status, "x")
            coordinator.listen()
            assert call.result(5.0) is GlobalStatus.Begin

    def test_a_request_that_waits_cuts_a_long_back_off_short(self, coordinator: Any, connect: Any) -> None:
        settings = ClientSettings(reconnect_min_s=60.0, reconnect_max_s=60.0, link_wait_s=2.0)
        client = connect(settings)
        coordinator.stop()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.status, "x")
            coordinator.listen()
            with contextlib.suppress(CoordinatorUnavailable):  # it was in flight when the link broke
                call.result(5.0)
        assert client.status("x") is GlobalStatus.Begin

    def test_but_not_for_ever(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        client = connect(replace(quick, link_wait_s=0.1))
        coordinator.stop()
        with pytest.raises(CoordinatorUnavailable, match=coordinator.address):
            until(lambda: client.status("x") is None)
        with pytest.raises(CoordinatorUnavailable, match=r"was not sent.*refused"):
            client.tell(STATUS)

    def test_a_branch_register_is_not_repeated(self, coordinator: Any, client: Client) -> None:
        client.register_resource("db", BranchType.AT, NoHandler())
        coordinator.script(BranchRegisterRequest, coordinator.CUT)
        with pytest.raises(CoordinatorUnavailable, match="in flight"):
            client.tell(REGISTER)
        assert client.tell(REGISTER)
        assert len(coordinator.of(BranchRegisterRequest)) == 2

    def test_too_many_that_wait_are_refused(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        client = connect(replace(quick, unsent_limit=1, link_wait_s=0.3))
        coordinator.stop()
        with ThreadPoolExecutor(4) as pool:
            until(lambda: not coordinator.peers)
            errors = [str(call.exception()) for call in [pool.submit(client.tell, STATUS) for _ in range(4)]]
        assert any("wait for the link already" in error for error in errors)
        assert any("was not sent" in error for error in errors)


class TestHeartbeat:
    def test_a_quiet_link_is_kept_alive(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        client = connect(replace(quick, heartbeat_s=0.05, idle_timeout_s=0.6))
        until(lambda: coordinator.pings >= 14)
        assert len(coordinator.of(RegisterTMRequest)) == 1
        assert client.status("x") is GlobalStatus.Begin

    def test_a_silent_coordinator_is_dropped(self, coordinator: Any, connect: Any, quick: ClientSettings) -> None:
        coordinator.answers_pings = False
        client = connect(replace(quick, heartbeat_s=0.05, idle_timeout_s=0.2, tm_timeout_s=10))
        coordinator.script(GlobalStatusRequest, coordinator.NOTHING)
        with pytest.raises(CoordinatorUnavailable, match="nothing heard"):
            client.tell(STATUS)
        coordinator.wait_for(RegisterTMRequest, 2)


class TestClose:
    def test_twice_and_after(self, client: Client) -> None:
        client.close()
        client.close()
        with pytest.raises(ClientClosed):
            client.tell(STATUS)
        assert client.closed

    def test_under_a_request(self, coordinator: Any, client: Client) -> None:
        coordinator.script(GlobalStatusRequest, coordinator.NOTHING)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.tell, STATUS)
            coordinator.wait_for(GlobalStatusRequest)
            client.close()
            with pytest.raises(CoordinatorUnavailable, match="closed"):
                call.result(5.0)

    def test_it_leaves_no_thread_and_no_socket(self, coordinator: Any, quick: ClientSettings) -> None:
        before = threading.active_count()
        with Client(coordinator.address, settings=quick) as client:
            client.register_resource("db", BranchType.AT, NoHandler())
            client.tell(REGISTER)
        until(lambda: not coordinator.peers)
        gc.collect()
        until(lambda: threading.active_count() <= before)


class TestDefaultClient:
    def test_init_and_close(self, coordinator: Any) -> None:
        client = troth.init(coordinator.address, application="shop", group="g", link_wait_s=1.0)
        try:
            assert client.settings.link_wait_s == 1.0
            with troth.transaction() as tx:
                assert tx.xid
        finally:
            troth.close()
        troth.close()
        with pytest.raises(NotInitialised), troth.transaction():
            pass

    def test_init_again_closes_the_earlier_one(self, coordinator: Any) -> None:
        first = troth.init(coordinator.address)
        second = troth.init(coordinator.address)
        assert first.closed
        assert not second.closed
        troth.close()

    def test_an_unknown_setting_is_named(self) -> None:
        with pytest.raises(TypeError, match="conect_timeout_s"):
            troth.init("127.0.0.1:1", conect_timeout_s=1.0)


class TestSmallMessages:
    def test_they_do_not_wait_for_a_delayed_acknowledgement(self, coordinator: Any, client: Client) -> None:
        """Nagle's algorithm cost 40 ms at every register that followed a lock wait on the same connection."""
        client.register_resource("a", BranchType.AT, NoHandler())
        coordinator.wait_for(RegisterRMRequest)
        until(lambda: len(client._link._route.sockets) == 2)  # type: ignore[attr-defined]
        for sock in client._link._route.sockets:  # type: ignore[attr-defined]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
