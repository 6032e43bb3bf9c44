"""The xid that belongs to the running thread or task.

It lives in a `ContextVar`: an asyncio task inherits it, a new thread does not, and what a scope sets it takes back on
exit, so a pooled thread never carries it to the next request.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Protocol, Self

from troth.client.errors import NoTransaction
from troth.client.hooks import Hooks, TransactionHook
from troth.client.isolation import CHECK_ONLY, Isolation

log = logging.getLogger(__name__)

XID_HEADER: Final = "TX_XID"
"""The HTTP header that carries the xid between services, as Java Seata uses it."""

_SCOPE: Final[ContextVar[Join | None]] = ContextVar("troth_scope", default=None)


def current_xid() -> str | None:
    """The xid of the global transaction that this thread or task works in, or None."""
    scope = _SCOPE.get()
    return None if scope is None else scope.xid


def work_xid() -> str | None:
    """For whom a connection under AT works now: an xid, `CHECK_ONLY` under a global lock without one, None: nobody."""
    scope = _SCOPE.get()
    if scope is None:
        return None
    return CHECK_ONLY if scope.xid is None and scope.global_lock else scope.xid


def reads_committed() -> bool:
    """Whether plain SELECTs on connections under AT must show committed rows only."""
    scope = _SCOPE.get()
    return scope is not None and scope.isolation is Isolation.READ_COMMITTED and work_xid() is not None


def is_innermost(scope: Join) -> bool:
    """Whether `scope` is the one this thread or task was in last, of those it has not left."""
    return _SCOPE.get() is scope


def add_hook(hook: TransactionHook) -> None:
    """Let `hook` hear of the rest of the global transaction that this thread or task works in.

    Raises:
        NoTransaction: it works in none, or in one that was begun elsewhere: only who ends it can tell.
    """
    scope = _SCOPE.get()
    if scope is None or scope.xid is None:
        raise NoTransaction("add_hook() was called outside of a global transaction")
    if scope.hooks is None:
        raise NoTransaction(f"{scope.xid} was begun elsewhere: its hooks are called where it ends")
    scope.hooks.add(hook)


class LocalWork(Protocol):
    """What has local transactions of its own (a connection). One must end before the global one it belongs to does."""

    def unfinished(self, xid: str) -> str | None:
        """What it has changed for `xid` and not committed, in words; None: nothing."""
        ...

    def abandon(self, xid: str) -> None:
        """Roll back what it has open for `xid`, if that can be done from here. Raises nothing."""
        ...


def watch(work: LocalWork) -> None:
    """Let the scope that this thread or task works in look after `work` when it ends."""
    scope = _SCOPE.get()
    if scope is not None:
        scope.watch(work)


class Join:
    """`with join(xid): …` (also `async with`): work inside as a participant of the global transaction `xid`.

    It neither begins nor ends the transaction: that is its owner's business. `None` means: outside of any transaction.
    `isolation` is that of the scope around if it is not given and that one is of the same transaction. With
    `global_lock` and no xid, local transactions check the rows they write, and take no part in anything. `hooks` are
    those of who ends the transaction, if that is in this thread or task.
    """

    __slots__ = ("_token", "_watched", "global_lock", "hooks", "isolation", "xid")

    def __init__(
        self,
        xid: str | None,
        isolation: Isolation | str | None = None,
        *,
        global_lock: bool = False,
        hooks: Hooks | None = None,
    ) -> None:
        if xid == "":
            raise ValueError("an xid is not empty; use None to work outside of any transaction")
        self.xid = xid
        self.isolation = None if isolation is None else Isolation(isolation)
        self.global_lock = global_lock
        self.hooks = hooks
        self._token: Token[Join | None] | None = None
        self._watched: dict[int, LocalWork] = {}

    def watch(self, work: LocalWork) -> None:
        """Look after `work`."""
        self._watched[id(work)] = work

    def unfinished(self) -> list[str]:
        """What was changed inside and is not committed, in words."""
        return [text for work in list(self._watched.values()) if (text := work.unfinished(self.xid or ""))]

    def abandon(self) -> None:
        """Roll back what is open inside, as far as that can be done from here, and look after it no more."""
        while self._watched:
            self._watched.popitem()[1].abandon(self.xid or "")

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this scope is entered already: make one join(...) per `with`")
        around = _SCOPE.get()
        if around is not None and around.xid == self.xid:
            self.isolation = self.isolation or around.isolation
            self.hooks = around.hooks if self.hooks is None else self.hooks
        self._token = _SCOPE.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        left = _SCOPE.get()
        try:
            _SCOPE.reset(token)
            if left is not self and left is not None:
                log.warning("a scope of xid %s was entered inside one of xid %s and never left", left.xid, self.xid)
        except ValueError:
            # Entered in another Context (a generator that two tasks step): what is seen here is a copy, so only our own
            # value may be taken back.
            if current_xid() == self.xid:
                _SCOPE.set(None if token.old_value is Token.MISSING else token.old_value)
        self._hand_over(failed=kind is not None)

    def _hand_over(self, *, failed: bool) -> None:
        """What is open inside is the business of the scope around, if that is of the same transaction."""
        around = _SCOPE.get()
        if around is not None and around.xid == self.xid:
            for work in self._watched.values():
                around.watch(work)
        elif not failed:
            for text in self.unfinished():
                log.error("a scope of %s ended, but %s: that will be lost", self.xid, text)
        self._watched.clear()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def join(xid: str | None, isolation: Isolation | str | None = None) -> Join:
    """A scope in which `current_xid()` is `xid`; see `Join`. `isolation` says what plain SELECTs inside show."""
    return Join(xid, isolation)
