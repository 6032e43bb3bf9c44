"""The xid that belongs to the running thread or task.

It lives in a `ContextVar`: an asyncio task inherits it, a new thread does not, and what a scope sets it takes back on
exit, so a pooled thread never carries it to the next request.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

XID_HEADER: Final = "TX_XID"
"""The HTTP header that carries the xid between services, as Java Seata uses it."""

_XID: Final[ContextVar[str | None]] = ContextVar("troth_xid", default=None)


def current_xid() -> str | None:
    """The xid of the global transaction that this thread or task works in, or None."""
    return _XID.get()


class Join:
    """`with join(xid): …` (also `async with`): work inside as a participant of the global transaction `xid`.

    It neither begins nor ends the transaction: that is its owner's business. `None` means: outside of any transaction.
    """

    __slots__ = ("_token", "xid")

    def __init__(self, xid: str | None) -> None:
        if xid == "":
            raise ValueError("an xid is not empty; use None to work outside of any transaction")
        self.xid = xid
        self._token: Token[str | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this scope is entered already: make one join(...) per `with`")
        self._token = _XID.set(self.xid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            _XID.reset(token)
        except ValueError:
            # Entered in another Context (a generator that two tasks step): what is seen here is a copy, so only our own
            # value may be taken back.
            if _XID.get() == self.xid:
                _XID.set(None if token.old_value is Token.MISSING else token.old_value)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def join(xid: str | None) -> Join:
    """A scope in which `current_xid()` is `xid`; see `Join`."""
    return Join(xid)
