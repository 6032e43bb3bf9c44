"""Builds a coordinator out of its parts: the only place that makes concrete things (`process.py` runs it)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from importlib import metadata

import msgspec

from troth.core.retry import Backoff
from troth.core.rules import Rules
from troth.server.addresses import AddressError, advertised, join_address, listen_at, port_of
from troth.server.clock import SteadyClock
from troth.server.config import Config
from troth.server.engine import Engine, Housekeeping
from troth.server.inbound.admin import AdminApi
from troth.server.inbound.admin_server import AdminServer
from troth.server.inbound.seata import SeataDoor
from troth.server.inbound.seata_requests import Requests
from troth.server.logs import get_logger
from troth.server.metrics import Metrics, Outcomes
from troth.server.outbound.seata import SeataOutbound
from troth.server.outbound.undo_logs import UndoLogSweep
from troth.server.sessions import Sessions
from troth.server.sources import Settings
from troth.stores.store import StoreError
from troth.stores.urls import open_store

log = get_logger("troth.server")

_CLOSE_PATIENCE_S = 2.0


class StartError(Exception):
    """The coordinator cannot start; one sentence for the operator."""


class Ready(msgspec.Struct, frozen=True):
    """Where a coordinator that has started can be reached. What is null is a door that is off."""

    event: str
    address: str | None
    host: str
    port: int | None
    admin: str | None
    admin_port: int | None
    advertise: str
    store: str
    durable: bool
    open_transactions: int
    pid: int


class Coordinator:
    """One coordinator: store, engine and doors. Everything runs on the loop that calls `start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.config: Config = settings.config
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done when the coordinator cannot go on; the result says why."""
        self._stopping = False
        self._outcomes = Outcomes()
        self._sessions = Sessions()
        try:
            store = open_store(self.config.store)
        except StoreError as error:
            raise StartError(f"store: {error}") from error
        self._outbound = SeataOutbound(self._sessions, lambda event: self.engine.submit(event))
        self.engine = Engine(
            store,
            rules=_rules(self.config),
            outbound=self._outbound,
            clock=SteadyClock(),
            released=lambda: self._door.flush(),
            settled=self._outcomes.count,
            failed=self._on_failure,
            housekeeping=Housekeeping(
                keep_outcomes_ms=self.config.outcomes.keep, interval_ms=self.config.outcomes.sweep
            ),
        )
        self._requests = Requests(
            self.config,
            self._sessions,
            submit=self.engine.submit,
            next_id=self.engine.ids.next,
            overloaded=self._overloaded,
        )
        self._door = SeataDoor(
            self.config.limits,
            self._requests,
            self._sessions,
            submit=self.engine.submit,
            settle=self._outbound.settle,
            call_keep_s=10 * self.config.answer.timeout / 1000,
        )
        self._undo_logs = UndoLogSweep(self.config.undo_log, self._sessions, lambda: self._door.flush())
        self._admin: AdminServer | None = None

    # ---- life ----

    async def start(self) -> Ready:
        """Take the ports, open the store, then accept. Raises StartError, with everything closed again."""
        config = self.config
        with contextlib.ExitStack() as bound:
            seata = self._bind(bound, config.host, config.port, "port")
            admin = self._bind(bound, config.admin_address, config.admin_port, "admin-port")
            try:
                self._requests.address = advertised(config.advertise, config.host, port_of(seata) if seata else 0)
                await self.engine.start()
            except AddressError as error:
                raise StartError(str(error)) from error
            except StoreError as error:
                await self.engine.stop()
                raise StartError(f"store {self.engine.store.url}: {error}") from error
            bound.pop_all()
        try:
            if seata is not None:
                await self._door.start(seata)
                self._undo_logs.start()
            if admin is not None:
                await self._open_admin(admin)
        except (OSError, RuntimeError) as error:
            await self.stop()
            raise StartError(f"cannot listen: {error}") from error
        return self._ready(seata, admin)

    async def stop(self) -> None:
        """Take nothing new, let what was decided become durable and be answered, then close everything."""
        self._stopping = True
        self._undo_logs.stop()
        self._door.stop_accepting()
        await self.engine.stop()
        await self._door.close(_CLOSE_PATIENCE_S)
        if self._admin is not None:
            await self._admin.stop()

    def unhealthy(self) -> str | None:
        """Why this coordinator should get no work now, or None."""
        if self._stopping:
            return "stopping"
        if self.failure.done():
            return f"failed: {self.failure.result()}"
        if self.config.port is not None and not self._door.accepting:
            return "the Seata port does not accept"
        if not self.engine.running:
            return "the engine does not run"
        return None

    # ---- parts ----

    @staticmethod
    def _bind(bound: contextlib.ExitStack, host: str, port: int | None, door: str) -> socket.socket | None:
        if port is None:
            return None
        try:
            return bound.enter_context(contextlib.closing(listen_at(host, port, door)))
        except AddressError as error:
            raise StartError(str(error)) from error

    async def _open_admin(self, listening: socket.socket) -> None:
        metrics = Metrics(self.engine, self._outcomes, self._requests.stats, self._outbound.stats, self._door)
        api = AdminApi(
            self.engine,
            metrics,
            unhealthy=self.unhealthy,
            settings=self._settings.rows(),
            version=metadata.version("troth"),
        )
        self._admin = AdminServer(api.app())
        await self._admin.start(listening)

    def _ready(self, seata: socket.socket | None, admin: socket.socket | None) -> Ready:
        config = self.config
        port = port_of(seata) if seata else None
        admin_port = port_of(admin) if admin else None
        store = self.engine.store
        return Ready(
            event="ready",
            address=None if port is None else join_address(config.host, port),
            host=config.host,
            port=port,
            admin=None if admin_port is None else f"http://{join_address(config.admin_address, admin_port)}",
            admin_port=admin_port,
            advertise=self._requests.address,
            store=store.url,
            durable=store.durable,
            open_transactions=len(self.engine.transactions()),
            pid=os.getpid(),
        )

    def _overloaded(self) -> str | None:
        if self._stopping:
            return "the coordinator is stopping"
        limit = self.config.limits.transactions
        if len(self.engine.transactions()) >= limit:
            return f"{limit} transactions have not ended yet, which is the limit limits.transactions"
        if self.engine.overloaded:
            return "the store is too slow for what is asked: too much waits for it"
        return None

    def _on_failure(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_result(error)


def _rules(config: Config) -> Rules:
    return Rules(
        hot_wait_ms=config.lock.hot_wait,
        answer_timeout_ms=config.answer.timeout,
        first_round_ms=config.answer.first_round,
        backoff=Backoff(min_ms=config.retry.min, max_ms=config.retry.max),
        outcome_memory_ms=config.outcomes.memory,
        outcome_memory_max=config.outcomes.memory_max,
    )
