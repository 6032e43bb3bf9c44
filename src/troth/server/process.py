"""The coordinator as a process: loop, signals, the start line, exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable

import msgspec

from troth.server.addresses import join_address
from troth.server.app import Coordinator, Ports, Ready, Standby, StartError
from troth.server.logs import get_logger, log_to_stderr
from troth.server.sources import Settings

try:
    import uvloop

    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:
    new_event_loop = asyncio.new_event_loop

log = get_logger("troth.server")

STOP_WITHIN_S = 9.0
"""A stop that takes longer is cut short: whoever sent SIGTERM sends SIGKILL after ten seconds."""
_YOUNG_OBJECTS = 50_000
"""Collect garbage seldom: nothing here makes cycles, and each collection stops the world."""


def run(settings: Settings, *, ready_json: bool = False) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after a stop that was asked for, 1 after a failure."""
    log_to_stderr(settings.config.log.level, settings.config.log.format)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(settings, ready_json))


async def _serve(settings: Settings, ready_json: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ports: Ports | None = None
    while True:
        ready = None
        try:
            coordinator = Coordinator(settings, ports=ports, patient=ports is not None)
        except StartError as error:
            _complain(str(error))
            return 1
        try:
            ready = await _start(coordinator, stop, ready_json)
        except StartError as error:
            if not coordinator.has_stepped_down:
                _complain(str(error))
                return 1
        if ready is not None:
            _announce(ready, ready_json)
            gc.collect()
            gc.freeze()
            gc.set_threshold(_YOUNG_OBJECTS, 20, 100)
            await _stopped_or_failed(stop, coordinator)
        await _stop(coordinator)
        if not coordinator.has_stepped_down or stop.is_set():
            return _end(coordinator)
        log.warning("stepped down: all memory is dropped", reason=str(coordinator.failure.result()))
        ports = coordinator.ports
        del coordinator
        gc.unfreeze()


async def _start(coordinator: Coordinator, stop: asyncio.Event, ready_json: bool) -> Ready | None:
    """What the coordinator says when it is ready; None if it was asked to stop while it stood by."""
    starting = asyncio.ensure_future(coordinator.start(lambda standby: _announce_standby(standby, ready_json)))
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait((asked, starting), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if coordinator.standing_by and not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return None
    return await starting


def _end(coordinator: Coordinator) -> int:
    if coordinator.failure.done() and not coordinator.has_stepped_down:
        failure = coordinator.failure.result()
        log.error("the coordinator could not go on", error=str(failure), exc_info=failure)
        _complain(f"stopped, because it could not go on safely: {failure}")
        return 1
    log.info("stopped")
    return 0


async def _stopped_or_failed(stop: asyncio.Event, coordinator: Coordinator) -> None:
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait((asked, coordinator.failure), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not coordinator.failure.done():
        log.info("stopping")


async def _stop(coordinator: Coordinator) -> None:
    try:
        await asyncio.wait_for(coordinator.stop(), STOP_WITHIN_S)
    except TimeoutError:
        log.error("not everything was closed in time", seconds=STOP_WITHIN_S)  # noqa: TRY400 - the trace says nothing


def _announce_standby(standby: Standby, as_json: bool) -> None:
    if as_json:
        _say(msgspec.json.encode(standby).decode())
    else:
        doors = f"admin {standby.admin}" if standby.admin else "no admin door"
        _say(f"troth coordinator standing by: {standby.reason}; {doors}, store {standby.store}")


def _announce(ready: Ready, as_json: bool) -> None:
    if as_json:
        line = msgspec.json.encode(ready).decode()
    else:
        doors = [f"Seata port {ready.address}" if ready.address else "no Seata port"]
        doors.append(f"admin {ready.admin}" if ready.admin else "no admin door")
        if ready.dtm_http_port is not None:
            doors.append(f"DTM http {join_address(ready.host, ready.dtm_http_port)}")
        if ready.dtm_grpc_port is not None:
            doors.append(f"DTM gRPC {join_address(ready.host, ready.dtm_grpc_port)}")
        known = f" as {ready.advertise}" if ready.advertise != ready.address else ""
        line = f"troth coordinator ready: {', '.join(doors)}{known}, store {ready.store}"
        if ready.open_transactions:
            line += f", {ready.open_transactions} transactions taken up"
    _say(line)
    if not ready.durable:
        log.warning(
            "this store is memory only: a restart loses every open transaction, its locks and all outcomes; "
            "branches that are prepared then stay as they are",
            store=ready.store,
        )


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever started us does not listen: that is no reason to stop
        print(line, flush=True)  # noqa: T201 - the line that this process owes to its standard output


def _complain(sentence: str) -> None:
    print(f"troth: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - for a person, whatever the log format
