"""A connection's way to the coordinator: what it asks there, and that its database is served in phase two."""

from __future__ import annotations

import logging

from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised
from troth.client.flow import ResourceClient, ResourceHandler
from troth.client.holder import default_client
from troth.client.modes.at import LockRetry, PhaseOne
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import Message

log = logging.getLogger(__name__)


class ServedResource:
    """The database of one connection, at the coordinator. Implements `troth.client.flow.Coordinator`.

    Args:
        resource_id: the database's name there.
        handler: phase two.
        phase_one: learns from the client how long to wait for row locks.
        client: None: the process's default one, at each use.
    """

    def __init__(
        self, resource_id: str, handler: ResourceHandler, phase_one: PhaseOne, client: ResourceClient | None
    ) -> None:
        self.resource_id = resource_id
        self._handler = handler
        self._phase_one = phase_one
        self._client = client
        self._registered: ResourceClient | None = None

    def tell(self, message: Message) -> Message:
        """Send `message` by the client of this connection."""
        return self._current_client().tell(message)

    async def atell(self, message: Message) -> Message:
        """`tell` for coroutines."""
        return await self._current_client().atell(message)

    def announce(self) -> None:
        """Register the resource if that can be done now: after a restart, phase two of earlier branches may be waiting.

        Outside of a global transaction the connection works without a coordinator, so none is needed here; a write
        inside one registers, or raises.
        """
        try:
            self.register()
        except (NotInitialised, ClientClosed, CoordinatorUnavailable) as error:
            log.info("%s will be registered at its first write in a global transaction: %s", self.resource_id, error)

    def register(self) -> None:
        """Let the client serve phase two of this database; another client than last time has to hear of it, too."""
        client = self._current_client()
        if client is self._registered:
            return
        self._phase_one.retry = LockRetry(client.settings.lock_retry_times, client.settings.lock_retry_interval_s)
        client.register_resource(self.resource_id, BranchType.AT, self._handler)
        self._registered = client

    def _current_client(self) -> ResourceClient:
        return default_client() if self._client is None else self._client
