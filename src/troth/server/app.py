"""Builds a coordinator out of its parts: the only place that makes concrete things (`process.py` runs it)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import msgspec

from troth.core.effects import Settled
from troth.core.retry import Backoff
from troth.core.rules import Rules
from troth.server.addresses import AddressError, advertised, join_address, listen_at, port_of
from troth.server.clock import SteadyClock
from troth.server.config import Config
from troth.server.engine import Engine, Housekeeping
from troth.server.grpc_extra import INSTALL, grpc_is_installed
from troth.server.inbound.admin import AdminApi
from troth.server.inbound.admin_server import AdminServer
from troth.server.inbound.dtm_doors import DtmDoors
from troth.server.inbound.seata import SeataDoor
from troth.server.inbound.seata_requests import Requests
from troth.server.leadership import Leadership, StoreClock
from troth.server.logs import get_logger
from troth.server.metrics import Metrics, Outcomes
from troth.server.outbound.seata import SeataOutbound
from troth.server.outbound.undo_logs import UndoLogSweep
from troth.server.resolution import Resolutions
from troth.server.sessions import Sessions
from troth.server.sources import Settings
from troth.stores.audit import open_audit
from troth.stores.lease import LeaseTerms
from troth.stores.store import LeaseLost, SharedStore, Store, StoreError, StoreInUse, StoreUnreachable
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
    epoch: int | None = None
    """Which turn of leading this is, where the store is shared."""
    dtm_http_port: int | None = None
    dtm_grpc_port: int | None = None


class Standby(msgspec.Struct, frozen=True):
    """A coordinator that waits: another one leads (`leader`), or the store does not answer. `port` takes nobody yet."""

    event: str
    reason: str
    host: str
    port: int | None
    admin: str | None
    admin_port: int | None
    advertise: str
    store: str
    pid: int


class Ports(NamedTuple):
    """Which ports to take: those that are set, or, after stepping down, those that were had before."""

    seata: int | None
    admin: int | None
    dtm_http: int | None
    dtm_grpc: int | None


class _Doors(NamedTuple):
    seata: socket.socket | None
    admin: socket.socket | None
    dtm_http: socket.socket | None
    dtm_grpc: socket.socket | None
    """Keeps the port: gRPC binds it itself."""


class Coordinator:
    """One coordinator: store, engine and doors. Everything runs on the loop that calls `start`.

    It lives once: one that has stepped down is stopped, and another one is made.
    """

    def __init__(self, settings: Settings, *, ports: Ports | None = None, patient: bool = False) -> None:
        """`patient`: at the start, wait for a shared store that does not answer."""
        self._settings = settings
        self._patient = patient
        self.config: Config = settings.config
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done when the coordinator cannot go on; the result says why."""
        config = self.config
        self._ports = ports or Ports(config.port, config.admin_port, config.dtm_http_port, config.dtm_grpc_port)
        self.standing_by = False
        """True while another process leads, or the store does not answer."""
        self._stopping = False
        self._outcomes = Outcomes()
        self._sessions = Sessions()
        store = _store(self.config)
        clock = StoreClock() if isinstance(store, SharedStore) else SteadyClock()
        self._leadership = self._candidate(store, clock)
        self._outbound = SeataOutbound(self._sessions, lambda event: self.engine.submit(event))
        self._dtm = DtmDoors(self.config, self._outbound, lambda: self.engine.transactions())
        self.engine = Engine(
            store,
            rules=_rules(self.config),
            outbound=self._dtm.outbound,
            clock=clock,
            released=lambda: self._door.flush(),
            settled=self._on_settled,
            failed=self._on_failure,
            housekeeping=Housekeeping(
                keep_outcomes_ms=self.config.outcomes.keep, interval_ms=self.config.outcomes.sweep
            ),
            fence=self._leadership,
        )
        submit, next_id = self.engine.submit, self.engine.ids.next
        self._requests = Requests(config, self._sessions, submit=submit, next_id=next_id, overloaded=self._overloaded)
        self._door = SeataDoor(
            self.config.limits,
            self._requests,
            self._sessions,
            submit=submit,
            settle=self._outbound.settle,
            call_keep_s=10 * config.answer.timeout / 1000,
        )
        self._undo_logs = UndoLogSweep(self.config.undo_log, self._sessions, lambda: self._door.flush())
        self._audit = open_audit(self.config.store)
        self._resolutions = Resolutions(self.engine, self._sessions, lambda: self._door.flush(), self._audit)
        self._admin: AdminServer | None = None
        self._metrics = Metrics(
            self.engine, self._outcomes, self._requests.stats, self._outbound.stats, self._door, self._dtm.stats
        )
        self._dtm.serve(
            self.engine,
            address=lambda: self._requests.address,
            overloaded=self._overloaded,
            metrics=self._metrics.render,
            version=metadata.version("troth"),
        )

    # ---- life ----

    async def start(self, on_standby: Callable[[Standby], None] | None = None) -> Ready:
        """Take the ports, open the store, then accept. Raises StartError, with everything closed again.

        Where another process leads a shared store, `on_standby` is called, and this returns when its turn has come;
        without `on_standby` that is a StartError.
        """
        config = self.config
        with contextlib.ExitStack() as bound:
            seata = self._bind(bound, config.host, self._ports.seata, "port")
            admin = self._bind(bound, config.admin_address, self._ports.admin, "admin-port")
            doors = _Doors(seata, admin, *self._bind_asked(bound))
            try:
                self._requests.address = advertised(config.advertise, config.host, port_of(seata) if seata else 0)
                if self._leadership is not None:
                    await self._take_turn(self._leadership, doors, bound, on_standby)
                await self.engine.start()
                doors = self._bind_unasked(bound, doors)
            except AddressError as error:
                raise StartError(str(error)) from error
            except StoreError as error:
                if self._has_led_until(error):
                    self._on_failure(LeaseLost(str(error)))
                await self.stop()
                raise StartError(f"store {self.engine.store.url}: {error}") from error
            bound.pop_all()
        self._ports = _ports_of(doors)
        try:
            if seata is not None:
                await self._door.start(seata)
                self._undo_logs.start()
            if admin is not None and self._admin is None:
                await self._open_admin(admin)
            if doors.dtm_http is not None:
                await self._dtm.open_http(doors.dtm_http)
            if doors.dtm_grpc is not None:
                await self._dtm.open_grpc(config.host, doors.dtm_grpc)
        except (OSError, RuntimeError) as error:
            await self.stop()
            raise StartError(f"cannot listen: {error}") from error
        return self._ready()

    async def _take_turn(
        self,
        leadership: Leadership,
        doors: _Doors,
        bound: contextlib.ExitStack,
        on_standby: Callable[[Standby], None] | None,
    ) -> None:
        """Return when this process leads; until then only the admin door is open."""
        if not await leadership.stand_by(patient=self._patient):
            if on_standby is None:
                raise StoreInUse(f"another coordinator leads there: {leadership.standing.removeprefix('standby: ')}")
            if doors.admin is not None:
                await self._open_admin(doors.admin)
                bound.pop_all()  # the server of the admin door closes its socket itself
                for kept in (doors.seata, doors.dtm_http, doors.dtm_grpc):
                    if kept is not None:
                        bound.enter_context(contextlib.closing(kept))
            on_standby(self._standby(doors, leadership.standing))
            self.standing_by = True
            await leadership.win()
            self.standing_by = False
        self.engine.ids.use_node(leadership.tenure.node)
        self.engine.ids.start_at(self.engine.clock.now_ms())

    async def stop(self) -> None:
        """Take nothing new, let what was decided become durable and be answered, then close everything."""
        self._stopping = True
        self._undo_logs.stop()
        self._door.stop_accepting()
        self._dtm.stop_accepting()
        if self.failure.done():  # whoever leads instead must not wait for our clients to notice
            await self._door.close(0)
            await self._dtm.close(0)
        if self._leadership is not None:
            await self._leadership.stop()
        await self.engine.stop()
        await self._dtm.hang_up()
        await asyncio.gather(self._door.close(_CLOSE_PATIENCE_S), self._dtm.close(_CLOSE_PATIENCE_S))
        if self._admin is not None:
            await self._admin.stop()
        await self._audit.close()

    def unhealthy(self) -> str | None:
        """Why this coordinator should get no work now, or None."""
        if self._stopping:
            return "stopping"
        if self.failure.done():
            return f"failed: {self.failure.result()}"
        if self.standing_by and self._leadership is not None:
            return self._leadership.standing
        if self.config.port is not None and not self._door.accepting:
            return "the Seata port does not accept"
        if self._ports.dtm_http is not None and not self._dtm.http_accepts:
            return "DTM's HTTP port does not accept"
        if self._ports.dtm_grpc is not None and not self._dtm.grpc_accepts:
            return "DTM's gRPC port does not accept"
        if not self.engine.running:
            return "the engine does not run"
        return None

    @property
    def has_stepped_down(self) -> bool:
        """True where another process may lead by now, and this one can do nothing better than wait for its turn."""
        return self.failure.done() and isinstance(self.failure.result(), LeaseLost)

    @property
    def ports(self) -> Ports:
        """Those that were taken, for the next life."""
        return self._ports

    # ---- parts ----

    def _has_led_until(self, error: StoreError) -> bool:
        """True where `error` has ended a turn that had only begun: the store is no worse than when we stood by."""
        leads = self._leadership is not None and self._leadership.leads
        return isinstance(error, LeaseLost) or (leads and isinstance(error, StoreUnreachable))

    def _candidate(self, store: Store, clock: StoreClock | SteadyClock) -> Leadership | None:
        if not isinstance(store, SharedStore) or not isinstance(clock, StoreClock):
            return None
        poll_s = self.config.lease.poll / 1000
        return Leadership(store, clock, poll_s=poll_s, lost=lambda error: self.engine.step_down(error))

    @staticmethod
    def _bind(bound: contextlib.ExitStack, host: str, port: int | None, door: str) -> socket.socket | None:
        if port is None:
            return None
        try:
            return bound.enter_context(contextlib.closing(listen_at(host, port, door)))
        except AddressError as error:
            raise StartError(str(error)) from error

    def _bind_asked(self, bound: contextlib.ExitStack) -> tuple[socket.socket | None, socket.socket | None]:
        """The ports of DTM's doors that somebody has said something of: HTTP, gRPC."""
        http = self._ports.dtm_http if self._is_set("dtm_http_port") else None
        grpc = self._ports.dtm_grpc if self._is_set("dtm_grpc_port") else None
        if grpc is not None and not grpc_is_installed():
            raise StartError(f"dtm-grpc-port = {grpc}: DTM's gRPC door needs more libraries: {INSTALL}")
        host = self.config.host
        return self._bind(bound, host, http, "dtm-http-port"), self._bind(bound, host, grpc, "dtm-grpc-port")

    def _bind_unasked(self, bound: contextlib.ExitStack, doors: _Doors) -> _Doors:
        """A port that nobody has asked for is bound late, and only where it is free: who does not know of these doors
        must not be kept from starting by them.
        """
        if not self._is_set("dtm_http_port"):
            doors = doors._replace(dtm_http=self._bind_if_free(bound, self.config.dtm_http_port, "dtm-http-port"))
        if not self._is_set("dtm_grpc_port") and grpc_is_installed():
            doors = doors._replace(dtm_grpc=self._bind_if_free(bound, self.config.dtm_grpc_port, "dtm-grpc-port"))
        return doors

    def _bind_if_free(self, bound: contextlib.ExitStack, port: int | None, door: str) -> socket.socket | None:
        try:
            listening = self._bind(bound, self.config.host, port, door)
            if listening is not None:
                listening.listen()  # two that start at once can both bind it
        except (StartError, OSError) as error:
            log.warning(f"one of DTM's doors stays shut; --{door} off says so without this", reason=str(error))
            return None
        return listening

    def _is_set(self, key: str) -> bool:
        """True where somebody has said something of it."""
        return key in self._settings.sources

    def _on_settled(self, settled: Settled) -> None:
        self._outcomes.count(settled)
        self._dtm.count_end(settled)

    async def _open_admin(self, listening: socket.socket) -> None:
        api = AdminApi(
            self.engine,
            self._metrics,
            resolutions=self._resolutions,
            unhealthy=self.unhealthy,
            leader=None if self._leadership is None else self._leadership.leader,
            settings=self._settings.rows(),
            version=metadata.version("troth"),
        )
        self._admin = AdminServer(api.app())
        await self._admin.start(listening)

    def _admin_url(self, admin_port: int | None) -> str | None:
        return None if admin_port is None else f"http://{join_address(self.config.admin_address, admin_port)}"

    def _standby(self, doors: _Doors, reason: str) -> Standby:
        self._ports = _ports_of(doors)
        return Standby(
            event="standby",
            reason=reason.removeprefix("standby: "),
            host=self.config.host,
            port=self._ports.seata,
            admin=self._admin_url(self._ports.admin),
            admin_port=self._ports.admin,
            advertise=self._requests.address,
            store=self.engine.store.url,
            pid=os.getpid(),
        )

    def _ready(self) -> Ready:
        config = self.config
        port, admin_port, dtm_http_port, dtm_grpc_port = self._ports
        store = self.engine.store
        return Ready(
            event="ready",
            address=None if port is None else join_address(config.host, port),
            host=config.host,
            port=port,
            admin=self._admin_url(admin_port),
            admin_port=admin_port,
            advertise=self._requests.address,
            store=store.url,
            durable=store.durable,
            open_transactions=len(self.engine.transactions()),
            pid=os.getpid(),
            epoch=None if self._leadership is None else self._leadership.tenure.epoch,
            dtm_http_port=dtm_http_port,
            dtm_grpc_port=dtm_grpc_port,
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


def _store(config: Config) -> Store:
    # cut short, and printable: it goes into a column and into other coordinators' logs
    known_as = ascii(config.advertise or f"{config.host}:{config.port}")[1:-1][:100]
    holder = f"{known_as} (process {os.getpid()} on {socket.gethostname()})"
    try:
        return open_store(config.store, LeaseTerms(holder, config.lease.ttl / 1000))
    except StoreError as error:
        raise StartError(f"store: {error}") from error


def _ports_of(doors: _Doors) -> Ports:
    return Ports(*(None if door is None else port_of(door) for door in doors))


def _rules(config: Config) -> Rules:
    return Rules(
        hot_wait_ms=config.lock.hot_wait,
        cold_wait_ms=config.lock.cold_wait,
        answer_timeout_ms=config.answer.timeout,
        first_round_ms=config.answer.first_round,
        backoff=Backoff(min_ms=config.retry.min, max_ms=config.retry.max),
        outcome_memory_ms=config.outcomes.memory,
        outcome_memory_max=config.outcomes.memory_max,
    )
