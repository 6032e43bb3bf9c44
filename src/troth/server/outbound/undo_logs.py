"""Now and then every resource is told to delete undo logs that are too old to mean anything.

What is left in `undo_log` when all has gone well are guard rows: a rollback that found nothing was there first
(design/at.md §4). One client per resource is told, as Seata does (PROTOCOL §8): nobody answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from troth.server.config import UndoLogs
from troth.server.sessions import Sessions
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import UndoLogDeleteRequest


class UndoLogSweep:
    """Sends UndoLogDelete to one channel per resource, every `interval`."""

    def __init__(self, settings: UndoLogs, sessions: Sessions, flush: Callable[[], None]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._flush = flush
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on; the first time soon, so that a coordinator that is restarted daily sweeps too."""
        self._arm(self._settings.first_sweep)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, delay_ms: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_ms / 1000, self._sweep)

    def _sweep(self) -> None:
        for resource_id, channel in self._sessions.one_per_resource():
            channel.link.tell(UndoLogDeleteRequest(BranchType.AT, resource_id, self._settings.save_days))
        self._flush()
        self._arm(self._settings.sweep)
