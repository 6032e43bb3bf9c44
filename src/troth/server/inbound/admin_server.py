"""Serves the admin API by uvicorn, in the coordinator's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

try:
    import uvicorn
    from starlette.types import ASGIApp
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

_POLL_S = 0.005


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, which stops every door, not only this one."""
        yield


class AdminServer:
    """One HTTP server at one listening socket."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def accepting(self) -> bool:
        """True while requests are taken."""
        return self._task is not None and not self._task.done() and self._server.started

    async def start(self, listening: socket.socket) -> None:
        """Accept at `listening`. Raises RuntimeError if the server ends at once."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listening]), name="admin-door")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the admin door has closed as soon as it was opened")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Finish the requests that run, then close."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
