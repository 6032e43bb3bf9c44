"""`troth.embedded()`: a coordinator inside this process, with the client initialised to it. For tests, small programs.

It is a whole coordinator on a loopback port of its own, in a thread with its own event loop: nothing about it is
simulated, so what works here works with `troth serve`.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Self

from troth.client import holder
from troth.client.client import Client
from troth.client.settings import ClientSettings
from troth.core.model import Phase
from troth.server.app import Coordinator, Ready, StartError
from troth.server.logs import get_logger
from troth.server.process import new_event_loop
from troth.server.sources import ConfigError, Settings, known_keys, load_settings

log = get_logger("troth.embedded")

_DRAIN_S = 3.0
"""How long leaving waits for phase two of what is decided, so that no undo log stays behind."""
_POLL_S = 0.005

Option = str | int | float | bool | timedelta


def embedded(
    store: str = "memory://",
    *,
    application: str = "embedded",
    group: str = "default_tx_group",
    client_settings: ClientSettings | None = None,
    **options: Option,
) -> Embedded:
    """A coordinator in this process, and the process's default client connected to it: `with` or `async with`.

    Entering gives the client. Leaving closes the client, then the coordinator; `memory://` forgets everything then.

    Args:
        store: `memory://` or `sqlite:///FILE`.
        application, group: how the client introduces itself.
        client_settings: all knobs of the client at once.
        **options: single settings of the coordinator, sections joined by two underscores (`retry__min="50ms"`, also
            as a timedelta), and of the client, as the fields of `ClientSettings` (`tm_timeout_s=5.0`).

    Raises (on entering):
        ValueError: a setting is wrong.
        RuntimeError: the coordinator cannot start, for example because another process holds the store.
    """
    return Embedded(store, application, group, client_settings, options)


class Embedded:
    """See `embedded`. `address` is the coordinator's `host:port` while it runs."""

    def __init__(
        self,
        store: str,
        application: str,
        group: str,
        client_settings: ClientSettings | None,
        options: dict[str, Option],
    ) -> None:
        keys = known_keys()
        ours = {key: value for key, value in options.items() if key.replace("__", ".") in keys or "__" in key}
        self._client_options = {key: value for key, value in options.items() if key not in ours}
        self._flags: dict[str, object] = {"store": store, "port": "0", "admin_port": "off", "log.level": "warning"}
        self._flags["dtm_http_port"] = self._flags["dtm_grpc_port"] = "off"
        self._flags |= {key.replace("__", "."): _as_text(value) for key, value in ours.items()}
        self._application = application
        self._group = group
        self._client_settings = client_settings
        self._thread: CoordinatorThread | None = None
        self._client: Client | None = None

    @property
    def ready(self) -> Ready:
        """Where the coordinator can be reached."""
        if self._thread is None:
            raise RuntimeError("the embedded coordinator runs only inside its `with` block")
        return self._thread.ready

    @property
    def address(self) -> str:
        """`host:port`, for clients in other processes."""
        return self.ready.address or ""

    def __enter__(self) -> Client:
        if self._thread is not None:
            raise RuntimeError("this embedded coordinator runs already: make another by troth.embedded()")
        try:
            settings = load_settings(environment={}, flags=self._flags, read_default_file=False)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        thread = CoordinatorThread(settings)
        thread.start()
        try:
            self._client = holder.init(
                thread.ready.address or "",
                self._application,
                self._group,
                settings=self._client_settings,
                **self._client_options,  # type: ignore[arg-type]  # init checks names and values itself
            )
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        client, self._client = self._client, None
        try:
            if thread is not None:
                thread.drain()
            if client is not None:
                client.close()
        finally:
            if thread is not None:
                thread.stop()

    async def __aenter__(self) -> Client:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)


class CoordinatorThread:
    """Runs a coordinator on a loop of its own until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: Future[Ready] = Future()
        self._thread = threading.Thread(target=self._run, name="troth-coordinator", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._coordinator: Coordinator | None = None

    @property
    def ready(self) -> Ready:
        """Where it can be reached."""
        return self._started.result()

    def start(self) -> Self:
        """Raises RuntimeError with the reason if it cannot start."""
        self._thread.start()
        try:
            self._started.result()
        except StartError as error:
            self._thread.join()
            raise RuntimeError(f"the embedded coordinator cannot start: {error}") from error
        return self

    def drain(self) -> None:
        """Wait, for a while, until phase two of every decided transaction is done."""
        if self._loop is not None and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._drained(), self._loop).result()

    def stop(self) -> None:
        """Returns when every thread and socket of the coordinator is gone."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            self._coordinator = Coordinator(self._settings)
            ready = await self._coordinator.start()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits for the start
            self._started.set_exception(error)
            return
        self._started.set_result(ready)
        asked = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((asked, self._coordinator.failure), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if self._coordinator.failure.done():
            log.error("the embedded coordinator cannot go on", error=str(self._coordinator.failure.result()))
        await self._coordinator.stop()

    async def _drained(self) -> None:
        coordinator, loop = self._coordinator, asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_S
        while coordinator is not None and loop.time() < deadline and coordinator.engine.running:
            transactions = coordinator.engine.transactions().values()
            if all(tx.phase is Phase.OPEN for tx in transactions):
                return
            await asyncio.sleep(_POLL_S)


def _as_text(value: Option) -> str:
    """As it would stand behind --set."""
    if isinstance(value, timedelta):
        return f"{round(value / timedelta(milliseconds=1))}ms"
    return str(value)
