"""Doors for XA of DTM's style: a connection of its own in autocommit, closed after each phase.

Closing matters: MariaDB keeps a prepared branch with its connection until that is closed.
"""

from __future__ import annotations

from troth.client.drivers.barrier import AsyncDoor, BlockingDoor
from troth.client.errors import NotSupported


def _own(door: BlockingDoor | AsyncDoor) -> str:
    if door.kind.name not in ("postgresql", "mysql"):
        raise NotSupported(
            f"XA cannot work on {door.kind.name}.", "Give psycopg 3, asyncpg, PyMySQL or asyncmy connections."
        )
    return door.kind.name


class BlockingXaDoor(BlockingDoor):
    """`troth.client.modes.dtm_xa.Door`, and the executor of its queries."""

    @property
    def database(self) -> str:
        """`postgresql` or `mysql`. Raises NotSupported."""
        return _own(self)

    def open(self) -> None:
        """Get the connection, in autocommit."""
        super().open()
        if self.database == "mysql":
            self.connection.autocommit(True)
        else:
            self.connection.autocommit = True

    def close(self) -> None:
        """Close it, whoever has given it: what is prepared is let go of."""
        if self._raw is not None and self._around is not None:
            self._raw.close()
        super().close()


class AsyncXaDoor(AsyncDoor):
    """`BlockingXaDoor` for coroutines."""

    @property
    def database(self) -> str:
        """`postgresql` or `mysql`. Raises NotSupported."""
        return _own(self)

    async def open(self) -> None:
        """Get the connection, in autocommit (asyncpg's always is)."""
        await super().open()
        if self.database == "mysql":
            await self.connection.autocommit(True)
        elif hasattr(self.connection, "set_autocommit"):
            await self.connection.set_autocommit(True)
