"""Global transactions from the side of who begins them (TM): a scope, a decorator, a vote."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast, overload

from troth.client.client import Client
from troth.client.context import Join, current_xid
from troth.client.drive import arun, run, through_cancellation
from troth.client.errors import CommitFailed, NoTransaction, OutcomeUnknown, TransactionRolledBack, TrothError
from troth.client.holder import default_client
from troth.client.hooks import Call, Hooks, TransactionHook
from troth.client.isolation import Isolation
from troth.client.outcome import Verdict, verdict
from troth.client.propagation import Action, Propagation, checked, decide
from troth.client.rollback_rules import Kinds, RollbackRules
from troth.client.talks import Talk, begin, commit, rollback
from troth.wire.seata.enums import GlobalStatus

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(seconds=60)
_LONGEST = timedelta(milliseconds=2**31 - 1)

P = ParamSpec("P")
R = TypeVar("R")


class Transaction:
    """`with transaction(name=…) as tx: …`, or `async with`. Leaving normally commits, an exception rolls back.

    The exception always goes on to the caller. After a normal end the scope raises unless the coordinator has decided
    to commit: `TransactionRolledBack`, `CommitFailed` or `OutcomeUnknown`. One object serves one `with`.
    """

    def __init__(
        self,
        name: str = "default",
        timeout: timedelta = DEFAULT_TIMEOUT,
        propagation: Propagation = Propagation.REQUIRED,
        no_rollback_for: Kinds = (),
        client: Client | None = None,
        isolation: Isolation | str | None = None,
        rollback_for: Kinds = (),
        hooks: Iterable[TransactionHook] = (),
    ) -> None:
        self.name = name
        self._isolation = None if isolation is None else Isolation(isolation)
        self.owner = False
        """True while this scope has begun its transaction, and so will end it."""
        self._timeout_ms = timeout_in_ms(timeout)
        self._propagation = checked(propagation)
        self._rules = RollbackRules(rollback_for, no_rollback_for)
        self._hooks = Hooks(hooks)
        self._status: GlobalStatus | None = None
        self._announced_rollback = False
        self._client = client
        self._xid: str | None = None
        self._scope: Join | None = None
        self._rollback_only = False
        self._unfinished: list[str] = []

    @property
    def xid(self) -> str:
        """The xid of the transaction this scope works in.

        Raises:
            NoTransaction: the scope is not entered, or works outside of any transaction (NOT_SUPPORTED and its like).
        """
        if self._xid is None:
            raise NoTransaction(f"{self.name!r} works in no global transaction")
        return self._xid

    # --- two thin shells ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._decide() is not Action.BEGIN:
            return self._bind()
        tell = self._hooks.tell
        tell(lambda hook: hook.before_begin(self))
        try:
            self._xid = run(self._begin(), self._teller())
        except BaseException:
            tell(lambda hook: hook.after_completion(self, None))
            raise
        self.owner = True
        self._bind()
        try:
            tell(lambda hook: hook.after_begin(self))
        except BaseException as interrupt:
            self.__exit__(type(interrupt), interrupt, interrupt.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.owner and self._hooks:
            try:
                self._hooks.tell(self._before_end(error))
            except BaseException as interrupt:
                self._leave(interrupt)
                raise
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._unbind()
        if not self.owner:
            return
        if self._must_announce_rollback(error):
            self._hooks.tell(self._before_end(error))
        try:
            run(self._end(error), self._teller())
        except (KeyboardInterrupt, SystemExit) as interrupt:
            interrupt.add_note(f"troth: interrupted while {self._ending(error)}; its outcome was not heard")
            raise
        finally:
            for call in self._after_end():
                self._hooks.tell(call)

    async def __aenter__(self) -> Self:
        if self._decide() is not Action.BEGIN:
            return self._bind()
        tell = self._hooks.atell
        await tell(lambda hook: hook.before_begin(self))
        try:
            self._xid = await arun(self._begin(), self._teller())
        except BaseException:
            await tell(lambda hook: hook.after_completion(self, None))
            raise
        self.owner = True
        self._bind()
        try:
            await tell(lambda hook: hook.after_begin(self))
        except BaseException as interrupt:
            await self.__aexit__(type(interrupt), interrupt, interrupt.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.owner and self._hooks:
            try:
                await self._hooks.atell(self._before_end(error))
            except BaseException as interrupt:
                await self._aleave(interrupt)
                raise
        await self._aleave(error)

    async def _aleave(self, error: BaseException | None) -> None:
        self._unbind()
        if self.owner:
            await through_cancellation(self._aend(error), self._ending(error))

    async def _aend(self, error: BaseException | None) -> None:
        if self._must_announce_rollback(error):
            await self._hooks.atell(self._before_end(error))
        try:
            await arun(self._end(error), self._teller())
        finally:
            for call in self._after_end():
                await self._hooks.atell(call)

    # --- what both do -------------------------------------------------------------------------------------------------

    def _teller(self) -> Client:
        if self._client is None:
            self._client = default_client()
        return self._client

    def _decide(self) -> Action:
        if self._scope is not None:
            raise RuntimeError("this transaction scope is used already: make one transaction(...) per `with`")
        there = current_xid()
        action = decide(self._propagation, there)
        self._xid = there if action is Action.JOIN else None
        return action

    def _bind(self) -> Self:
        self._scope = Join(self._xid, self._isolation, hooks=self._hooks if self.owner else None)
        self._scope.__enter__()
        return self

    def _unbind(self) -> None:
        if self._scope is None:
            raise RuntimeError("this transaction scope was not entered")
        if self.owner:
            # A local transaction that is committed after the decision would be neither undone nor protected.
            self._unfinished = self._scope.unfinished()
            self._scope.abandon()
        self._scope.__exit__(None, None, None)

    def _begin(self) -> Talk[str]:
        return begin(self.name, self._timeout_ms, self._teller().settings, time.monotonic)

    def _commits_after(self, error: BaseException | None) -> bool:
        votes = self._rollback_only or self._unfinished
        return not votes and (error is None or not self._rules.rolls_back(error))

    def _ending(self, error: BaseException | None) -> str:
        return f"{'committing' if self._commits_after(error) else 'rolling back'} {self._xid}"

    def _end(self, error: BaseException | None) -> Talk[None]:
        if self._commits_after(error):
            yield from self._commit()
        elif error is not None:
            yield from self._roll_back_for(error)
        else:
            yield from self._roll_back_quietly_left()

    def _commit(self) -> Talk[None]:
        try:
            self._status = yield from commit(self.xid, self._teller().settings, time.monotonic)
        except (TransactionRolledBack, CommitFailed) as known:
            self._status = known.status
            raise

    def _roll_back_for(self, error: BaseException) -> Talk[None]:
        """The body raised: roll back, and let `error` go on whatever comes of it; trouble is noted on it and logged."""
        try:
            status = yield from rollback(self.xid, self._teller().settings, time.monotonic)
        except TrothError as failure:
            self._tell_trouble(
                error, f"the rollback could not be asked for ({failure}); the coordinator's timeout will do it"
            )
            return
        self._status = status
        if verdict(status) is not Verdict.ROLLED_BACK:
            self._tell_trouble(error, f"the rollback was asked for, but the coordinator answers {status.name}")

    def _tell_trouble(self, error: BaseException, trouble: str) -> None:
        log.error("global transaction %s (%s): %s", self._xid, self.name, trouble)
        error.add_note(f"troth: global transaction {self._xid}: {trouble}")

    def _roll_back_quietly_left(self) -> Talk[None]:
        """The body ended normally, but may not be committed: the caller must hear that nothing was."""
        cause = "; ".join(self._unfinished) or "rollback_only() was called"
        try:
            status = yield from rollback(self.xid, self._teller().settings, time.monotonic)
        except OutcomeUnknown as failure:
            raise OutcomeUnknown(
                self.xid, f"{cause}, but the rollback could not be asked for: {failure.reason}"
            ) from failure
        self._status = status
        raise TransactionRolledBack(self.xid, status, cause)

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _before_end(self, error: BaseException | None) -> Call:
        if self._commits_after(error) and not (self._scope and self._scope.unfinished()):
            return lambda hook: hook.before_commit(self)
        self._announced_rollback = True
        return lambda hook: hook.before_rollback(self)

    def _must_announce_rollback(self, error: BaseException | None) -> bool:
        """What was to be committed is rolled back, for what a hook has done or left undone."""
        return bool(self._hooks) and not self._announced_rollback and not self._commits_after(error)

    def _after_end(self) -> list[Call]:
        """What the hooks hear after the end: the coordinator's word, not what was asked for."""
        if not self._hooks:
            return []
        status = self._status
        outcome = Verdict.UNDECIDED if status is None else verdict(status)
        calls: list[Call] = []
        if outcome is Verdict.COMMITTED:
            calls.append(lambda hook: hook.after_commit(self))
        elif outcome in (Verdict.ROLLED_BACK, Verdict.ROLLBACK_FAILED):
            calls.append(lambda hook: hook.after_rollback(self))
        calls.append(lambda hook: hook.after_completion(self, status))
        return calls

    def add_hook(self, hook: TransactionHook) -> None:
        """Let `hook` hear of what is still to come; see `TransactionHook`.

        Raises:
            NoTransaction: this scope is in a transaction that was begun elsewhere (or in none).
        """
        own = self._hooks if self._scope is None else self._scope.hooks
        if own is None:
            raise NoTransaction(f"{self.name!r} has not begun its transaction: hooks are called where that ends")
        own.add(hook)

    # --- while it runs ------------------------------------------------------------------------------------------------

    def rollback_only(self) -> None:
        """Vote: whatever happens later, this transaction is to be rolled back.

        The owner's scope then raises `TransactionRolledBack` at its normal end.

        Raises:
            VoteNotTaken: the coordinator does not honour votes. (An owner's own scope will roll back all the same.)
            CoordinatorUnavailable: the vote or its answer was lost.
        """
        self._rollback_only = True
        self._teller().vote_rollback(self.xid)

    async def arollback_only(self) -> None:
        """`rollback_only` for coroutines."""
        self._rollback_only = True
        await self._teller().avote_rollback(self.xid)

    def status(self) -> GlobalStatus:
        """How the transaction stands, as the coordinator knows it."""
        return self._teller().status(self.xid)

    async def astatus(self) -> GlobalStatus:
        """`status` for coroutines."""
        return await self._teller().astatus(self.xid)


def timeout_in_ms(timeout: timedelta) -> int:
    """The wire's form of a timeout: whole milliseconds, at least 1, in 31 bits (some 24 days)."""
    if not isinstance(timeout, timedelta):
        raise TypeError(f"timeout must be a datetime.timedelta, not {timeout!r}")
    if not timedelta() < timeout <= _LONGEST:
        raise ValueError(f"timeout must be greater than 0 and at most {_LONGEST}, not {timeout}")
    return max(1, timeout // timedelta(milliseconds=1))


def transaction(
    name: str = "default",
    timeout: timedelta = DEFAULT_TIMEOUT,
    propagation: Propagation = Propagation.REQUIRED,
    *,
    no_rollback_for: Kinds = (),
    client: Client | None = None,
    isolation: Isolation | str | None = None,
    rollback_for: Kinds = (),
    hooks: Iterable[TransactionHook] = (),
) -> Transaction:
    """A scope for `with` or `async with`; see `Transaction`.

    Args:
        name: shown by `troth ls` and the console.
        timeout: the coordinator rolls the transaction back when it is still open after this time.
        propagation: what to do when a transaction is there already.
        no_rollback_for: exceptions that do not roll back: the transaction is committed and the exception goes on.
        rollback_for: exceptions that do, although `no_rollback_for` names a class above theirs. (Those that neither
            names do, too.) Of all rules that an exception fits, that of the most specific class counts. The rules of
            the scope that begins the transaction count, not those of the ones that join it.
        hooks: who is told of the begin and the end (see `TransactionHook`), if this scope begins the transaction.
        client: instead of the process's default client.
        isolation: what plain SELECTs on connections under AT show, in this process, while the scope runs
            (docs/modes/isolation.md). None: as the scope around, if that is of the same transaction; else uncommitted.
    """
    return Transaction(name, timeout, propagation, no_rollback_for, client, isolation, rollback_for, hooks)


@overload
def global_transaction(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def global_transaction(
    *,
    name: str | None = None,
    timeout: timedelta = DEFAULT_TIMEOUT,
    propagation: Propagation = Propagation.REQUIRED,
    no_rollback_for: Kinds = (),
    client: Client | None = None,
    isolation: Isolation | str | None = None,
    rollback_for: Kinds = (),
    hooks: Iterable[TransactionHook] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def global_transaction(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: timedelta = DEFAULT_TIMEOUT,
    propagation: Propagation = Propagation.REQUIRED,
    no_rollback_for: Kinds = (),
    client: Client | None = None,
    isolation: Isolation | str | None = None,
    rollback_for: Kinds = (),
    hooks: Iterable[TransactionHook] = (),
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function, sync or async, to run in a global transaction; arguments as for `transaction`.

    `name` defaults to the function's qualified name. Also usable without parentheses.
    """
    level = None if isolation is None else Isolation(isolation)
    timeout_in_ms(timeout)  # what is wrong is told where it is written, not at the first call
    RollbackRules(rollback_for, no_rollback_for)
    told = tuple(hooks)
    Hooks(told)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator has no single end to commit at: use `with troth.transaction(...)` inside it")
        title = name or str(getattr(function, "__qualname__", function))

        def scope() -> Transaction:
            return Transaction(title, timeout, propagation, no_rollback_for, client, level, rollback_for, told)

        return _wrap(function, scope)

    return decorate if function is None else decorate(function)


def _wrap(function: Callable[P, R], scope: Callable[[], Transaction]) -> Callable[P, R]:
    @functools.wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
        async with scope():
            return await cast(Awaitable[object], function(*args, **kwargs))

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with scope():
            return function(*args, **kwargs)

    # R is the coroutine itself for an async function, which the type system cannot tell from the test.
    return cast(Callable[P, R], awaited) if inspect.iscoroutinefunction(function) else called


def rollback_only(client: Client | None = None) -> None:
    """Vote to roll back the global transaction this thread or task works in; see `Client.vote_rollback`.

    Raises:
        NoTransaction: it works in none.
    """
    (client or default_client()).vote_rollback(_required_xid())


async def arollback_only(client: Client | None = None) -> None:
    """`rollback_only` for coroutines."""
    await (client or default_client()).avote_rollback(_required_xid())


def _required_xid() -> str:
    xid = current_xid()
    if xid is None:
        raise NoTransaction("rollback_only() was called outside of a global transaction")
    return xid
