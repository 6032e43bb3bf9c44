"""A connection's way to the coordinator: what it asks there, and that its database is served in phase two."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised
from troth.client.flow import ResourceClient, ResourceHandler
from troth.client.holder import default_client, serve_always, serve_next
from troth.client.modes.at import LockRetry, PhaseOne
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import Message

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Database:
    """What a client hears of a database: its name at the coordinator, in which mode, and who does phase two."""

    resource_id: str
    branch_type: BranchType
    handler: ResourceHandler
    _told: ResourceClient | None = None

    def announce(self) -> None:
        """Let the default client serve it, if that can be done now."""
        try:
            self.register_at(default_client())
        except (NotInitialised, ClientClosed, CoordinatorUnavailable) as error:
            log.info("%s will be registered when it is opened or written to again: %s", self.resource_id, error)

    def register_at(self, client: ResourceClient) -> None:
        """Let `client` serve it, unless it does already. Raises ClientClosed, CoordinatorUnavailable."""
        if client is not self._told:
            client.register_resource(self.resource_id, self.branch_type, self.handler)
            self._told = client


class ServedDatabase:
    """The database of one connection, at the coordinator. Implements `troth.client.flow.Coordinator`.

    `client` is None: the process's default one, at each use.
    """

    def __init__(self, database: Database, client: ResourceClient | None) -> None:
        self.resource_id = database.resource_id
        self._database = database
        self._client = client
        self._registered: ResourceClient | None = None
        self._is_kept = False

    def tell(self, message: Message) -> Message:
        """Send `message` by the client of this connection."""
        return self._current_client().tell(message)

    async def atell(self, message: Message) -> Message:
        """`tell` for coroutines."""
        return await self._current_client().atell(message)

    def announce(self) -> None:
        """Register the database if that can be done now: after a restart, phase two of earlier branches may be waiting.

        Outside of a global transaction the connection works without a coordinator, so none is needed here. The next
        default client hears of the database even if this connection is closed by then, and each later one as long as
        it lives; a write inside a global transaction registers, or raises.
        """
        if self._client is None and not self._is_kept:
            self._is_kept = True
            serve_always(self)
        try:
            self.register()
        except (NotInitialised, ClientClosed, CoordinatorUnavailable) as error:
            log.info("%s will be registered by troth.init, or at its first write: %s", self.resource_id, error)
            if self._client is None:
                serve_next((self._database.branch_type, self.resource_id), self._database)

    def register(self) -> None:
        """Let the client serve phase two of this database; another client than last time has to hear of it, too."""
        client = self._current_client()
        if client is self._registered:
            return
        self._learn_from(client)
        self._database.register_at(client)
        self._registered = client

    def _learn_from(self, client: ResourceClient) -> None:
        """What else changes with the client."""

    def _current_client(self) -> ResourceClient:
        return default_client() if self._client is None else self._client


def lock_retry(client: ResourceClient) -> LockRetry:
    """How long `client` says to wait for row locks."""
    return LockRetry(client.settings.lock_retry_times, client.settings.lock_retry_interval_s)


class ServedResource(ServedDatabase):
    """A database under AT, at the coordinator.

    Args:
        resource_id: the database's name there.
        handler: phase two.
        phase_one: learns from the client how long to wait for row locks.
        client: None: the process's default one, at each use.
    """

    def __init__(
        self, resource_id: str, handler: ResourceHandler, phase_one: PhaseOne, client: ResourceClient | None
    ) -> None:
        super().__init__(Database(resource_id, BranchType.AT, handler), client)
        self._phase_one = phase_one

    def _learn_from(self, client: ResourceClient) -> None:
        self._phase_one.retry = lock_retry(client)
