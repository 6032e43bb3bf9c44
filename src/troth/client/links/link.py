"""The seam between the client and whatever carries its messages to a coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from troth.wire.seata.messages import Message

Reply = Callable[[Message], None]
"""Sends one answer to the coordinator's request; any thread may call it, and it never blocks."""

OnRequest = Callable[[Message, Reply], None]
"""Called for each request of the coordinator, on the link's own thread: it must not block and must not raise."""


class Link(Protocol):
    """A way to a coordinator. Single use: after `close` or `abandon` a new one is made."""

    def start(self) -> None:
        """Connect and register as TM.

        Raises:
            CoordinatorUnavailable: no coordinator answered within the configured time.
        """

    def close(self) -> None:
        """Fail what is in flight, close the sockets, end the thread. Harmless when repeated."""

    def abandon(self) -> None:
        """In a forked child: close the inherited descriptors without a byte on the wire. The thread is not here."""

    def tell(self, message: Message) -> Message:
        """Send a request and block until its answer is here.

        Raises:
            CoordinatorUnavailable: not sent, or the answer was lost; whether it was acted on is unknown.
            ClientClosed: the link is closed.
        """

    async def atell(self, message: Message) -> Message:
        """`tell` for any event loop."""

    def ensure_resources(self, resource_ids: Iterable[str]) -> None:
        """Register as RM for these resources, now and after each reconnect. Does not wait for the answer."""


LinkFactory = Callable[[OnRequest], Link]
