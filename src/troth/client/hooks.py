"""What an application wants to be told of the life of a global transaction that it begins."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from troth.client.transaction import Transaction
    from troth.wire.seata.enums import GlobalStatus

log = logging.getLogger(__name__)

Told = Awaitable[None] | None


class TransactionHook:
    """Subclass it, and override what you want to hear (the names are those of Seata's `TransactionHook`).

    Only the scope that begins a transaction, and so ends it, calls its hooks. In an `async with` (or an `async def`
    under the decorator) they may be `async def`. An error in a hook is logged and changes nothing: to have the
    transaction rolled back, call `tx.rollback_only()` in it (before the end).
    """

    def before_begin(self, tx: Transaction) -> Told:
        """It is about to be begun; it has no xid yet."""

    def after_begin(self, tx: Transaction) -> Told:
        """It was begun: `tx.xid` is there, and `current_xid()` is it."""

    def before_commit(self, tx: Transaction) -> Told:
        """Its commit is about to be asked for; what is done here still belongs to it."""

    def after_commit(self, tx: Transaction) -> Told:
        """It is decided to be committed."""

    def before_rollback(self, tx: Transaction) -> Told:
        """Its rollback is about to be asked for."""

    def after_rollback(self, tx: Transaction) -> Told:
        """It is decided to be rolled back: as asked, or although the commit was asked for."""

    def after_completion(self, tx: Transaction, status: GlobalStatus | None) -> Told:
        """The last word. `status` is the coordinator's; None: nobody knows it (or the begin has failed)."""


Call = Callable[[TransactionHook], Told]


class Hooks:
    """The hooks of one transaction, called in the order they came."""

    def __init__(self, hooks: Iterable[TransactionHook]) -> None:
        self._hooks = list(hooks)
        for hook in self._hooks:
            _check(hook)

    def add(self, hook: TransactionHook) -> None:
        """One more."""
        _check(hook)
        self._hooks.append(hook)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def tell(self, call: Call) -> None:
        """Call each. What they raise is logged."""
        for hook in list(self._hooks):
            try:
                told = call(hook)
                if inspect.iscoroutine(told):
                    told.close()
                    raise TypeError("an async hook needs a transaction in `async with`")
            except Exception:
                log.exception("the hook %r failed; the transaction goes on", hook)

    async def atell(self, call: Call) -> None:
        """`tell` for coroutines: what can be awaited is."""
        for hook in list(self._hooks):
            try:
                told = call(hook)
                if inspect.isawaitable(told):
                    await told
            except Exception:
                log.exception("the hook %r failed; the transaction goes on", hook)


def _check(hook: object) -> None:
    if not isinstance(hook, TransactionHook):
        raise TypeError(f"a hook is a troth.TransactionHook, not {hook!r}")
