"""How a client of DTM's style runs its flows: blocking, or as awaitables."""

from __future__ import annotations

import secrets
import string
from typing import Any, Final, Protocol

from troth.client.drivers.barrier import AsyncDoor, BlockingDoor, Keeping, connect_by
from troth.client.drivers.dtm_xa import AsyncXaDoor, BlockingXaDoor
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import arun, run
from troth.client.flow import Flow, Query, Rows
from troth.client.links.dtm_http import AsyncHttpLink, HttpLink
from troth.client.modes.dtm import Link

_LETTERS: Final = string.ascii_letters + string.digits
_GID_LENGTH: Final = 22


class Speaker(Protocol):
    """A link and the colour of what goes over it."""

    @property
    def link(self) -> Link:
        """Sends requests."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether `do` gives awaitables."""
        ...

    def do(self, flow: Flow[Any], door: Any = None) -> Any:
        """Run `flow` (its queries on `door`): its result, or an awaitable of it."""
        ...

    def door(self, connection: Any, keeping: Keeping) -> Any:
        """The door to a connection of this colour; what `do` takes."""
        ...

    def xa_door(self, connection: Any, keeping: Keeping) -> Any:
        """`door`, for XA."""
        ...


class BlockingSpeaker:
    """`Speaker` that blocks the thread."""

    is_async = False

    def __init__(self, link: HttpLink) -> None:
        self.link = link

    def do(self, flow: Flow[Any], door: Any = None) -> Any:
        """See `Speaker.do`."""
        return run(flow, door or _NoDatabase(), NoCoordinator())

    def door(self, connection: Any, keeping: Keeping) -> BlockingDoor:
        """See `Speaker.door`."""
        return BlockingDoor(connect_by(connection), keeping)

    def xa_door(self, connection: Any, keeping: Keeping) -> BlockingXaDoor:
        """See `Speaker.xa_door`."""
        return BlockingXaDoor(connect_by(connection), keeping)


class AsyncSpeaker:
    """`Speaker` for coroutines."""

    is_async = True

    def __init__(self, link: AsyncHttpLink) -> None:
        self.link = link

    async def do(self, flow: Flow[Any], door: Any = None) -> Any:
        """See `Speaker.do`."""
        return await arun(flow, door or _NoAsyncDatabase(), NoCoordinator())

    def door(self, connection: Any, keeping: Keeping) -> AsyncDoor:
        """See `Speaker.door`."""
        return AsyncDoor(connect_by(connection), keeping)

    def xa_door(self, connection: Any, keeping: Keeping) -> AsyncXaDoor:
        """See `Speaker.xa_door`."""
        return AsyncXaDoor(connect_by(connection), keeping)


class _NoDatabase:
    def query(self, step: Query) -> Rows:
        raise RuntimeError(f"this flow has no database to ask: {step.sql}")


class _NoAsyncDatabase:
    async def query(self, step: Query) -> Rows:
        raise RuntimeError(f"this flow has no database to ask: {step.sql}")


def new_gid() -> str:
    """A name that no other transaction has: 22 letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_GID_LENGTH))
