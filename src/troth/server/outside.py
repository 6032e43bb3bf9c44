"""What the engine speaks to: who asks, who carries its calls, who knows whether it still leads."""

from __future__ import annotations

from typing import Protocol

from troth.core import effects as fx


class Waiter(Protocol):
    """What a door puts into an event's `reply_to`."""

    def answer(self, result: fx.Result) -> None:
        """Called once, on the loop, when the result is durable. Must not raise for a connection that is gone."""
        ...

    def refuse(self, reason: str) -> None:
        """Called instead, if what was asked for cannot be stored and so has not happened."""
        ...


class Outbound(Protocol):
    """Carries calls to branches."""

    def call(self, call: fx.Call) -> None:
        """Send it; an `Answered` event follows, or the core's answer deadline takes it for failed."""
        ...


class Fence(Protocol):
    """Says whether this coordinator may still speak for its cell, where others could take it over."""

    @property
    def fresh(self) -> bool:
        """True while nobody can have taken over."""
        ...

    async def confirm(self) -> None:
        """Return when the store has confirmed that nobody has. Raises StoreError if somebody did, or may have."""
        ...
