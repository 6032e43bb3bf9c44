"""`@troth.step` and `@troth.undoable`: a function whose effect another function can take back.

```python
@troth.step(compensate=cancel_flight)
def book_flight(customer, day): ...          # troth.current_step().idempotency_key is the same at each attempt

def cancel_flight(ctx): ...                  # ctx["customer"], ctx.result, ctx.known
```
In a saga's body a call is a durable step; in a plain global transaction it is a branch that is undone on rollback.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from troth.client.client import Client
from troth.client.context import current_xid
from troth.client.drivers.running import arun, run
from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised, NoTransaction
from troth.client.holder import default_client, serve_always
from troth.client.modes import saga as durable
from troth.client.modes import saga_undo as branch
from troth.client.modes.saga import Policy
from troth.client.modes.saga_records import StepContext, UndoContext, builtins, shaped
from troth.client.saga_book import BOOK
from troth.client.saga_calls import AsyncNoDatabase, CallsDone, NoDatabase
from troth.client.saga_errors import ApprovalDenied
from troth.client.saga_handler import UndoHandler
from troth.client.saga_scope import Scope, current_scope, in_step
from troth.client.tcc_handler import is_async
from troth.wire.seata.enums import BranchType

P = ParamSpec("P")
R = TypeVar("R")

_NAME: Final = re.compile(r"[\w.<>-]{1,200}")
Compensation = Callable[[UndoContext], Any]


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What is asked for: may `step` be run with these arguments?"""

    context: StepContext
    arguments: dict[str, Any]


Approve = Callable[[ApprovalRequest], Any]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What a step is declared with."""

    policy: Policy
    compensate: Compensation | None
    approve: Approve | None
    client: Client | None


class Step(Generic[P, R]):
    """A function with its compensation. `step.function` is the plain one, for tests of it alone."""

    def __init__(self, function: Callable[P, R], name: str, options: StepOptions) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a step: letters, digits and . _ - < > only, at most 200")
        self.function = function
        self.name = name
        self.policy = options.policy
        self.compensate = options.compensate
        self.is_async = is_async(function)
        self._approve = options.approve
        self._client = options.client
        self._signature = signature_of(function)
        self._result_type = hints_of(function).get("return")
        self._handler = UndoHandler(self)
        self._calls = CallsDone()
        self._registered: Client | None = None
        functools.update_wrapper(self, function)
        BOOK.add(self)

    # --- calling ------------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it as a step of the saga, or as an undoable branch of the global transaction, in which it is called.

        Raises:
            NoTransaction: there is neither: nobody would take it back.
            StepFailed: it failed; `refused` tells whether for good and without a trace.
            NotSupported: an argument or the result does not serialise.
        """
        return cast(R, self._called(None, args, kwargs))

    def keyed(self, key: str) -> Callable[P, R]:
        """The same step under a key of the caller's, for loops and for calls that somebody may repeat.

        In one saga or global transaction, what has been done under a key is not done again: its result is returned.
        """
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} cannot be a key: letters, digits and . _ - < > only, at most 200")

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast(R, self._called(key, args, kwargs))

        return call

    def _called(self, key: str | None, args: Any, kwargs: Any) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = builtins(f"an argument of {self.name}", dict(bound.arguments))
        call = self._acall(bound, arguments) if self.is_async else self._call(bound, arguments)
        scope, xid = current_scope(), current_xid()
        if scope is not None:
            scope.check()
            number = scope.next_key(self.name) if key is None else scope.at(f"{self.name}.{key}")
            flow = durable.perform(scope.run, self, number, arguments, call)
            return (
                self._awaited(flow, scope)
                if self.is_async
                else self._shaped(run(flow, NoDatabase(), scope.coordinator))
            )
        if xid is None:
            raise NoTransaction(
                f"{self.name} was called outside of a saga and of a global transaction: nobody would undo it. "
                "Call it from a function under @troth.saga(), or inside `with troth.transaction()`; "
                "a new thread has neither: troth.parallel"
            )
        return self._in_global(xid, key, arguments, call)

    def _in_global(
        self, xid: str, key: str | None, arguments: dict[str, Any], call: Callable[[StepContext], Any]
    ) -> Any:
        self.register()
        name = "" if key is None else f"{self.name}.{key}"

        def flow() -> Any:
            return branch.perform(xid, self, name, arguments, call)

        client = self.current_client()
        if self.is_async:

            async def awaited() -> Any:
                result = await self._calls.aonce(xid, name, lambda: arun(flow(), AsyncNoDatabase(), client))
                return self._shaped(result)

            return awaited()
        return self._shaped(self._calls.once(xid, name, lambda: run(flow(), NoDatabase(), client)))

    async def _awaited(self, flow: Any, scope: Scope) -> Any:
        task = asyncio.ensure_future(arun(flow, AsyncNoDatabase(), scope.coordinator))
        scope.add(task)
        try:
            return self._shaped(await task)
        finally:
            if task.done():
                scope.discard(task)

    def _shaped(self, result: Any) -> Any:
        return shaped(f"what {self.name} returned", result, self._result_type)

    def _call(self, bound: inspect.BoundArguments, arguments: dict[str, Any]) -> Callable[[StepContext], Any]:
        def call(context: StepContext) -> Any:
            with in_step(context):
                if self._approve is not None and not self._approve(ApprovalRequest(context, arguments)):
                    raise ApprovalDenied(f"{self.name} was not approved")
                return self.function(*bound.args, **bound.kwargs)

        return call

    def _acall(self, bound: inspect.BoundArguments, arguments: dict[str, Any]) -> Callable[[StepContext], Any]:
        async def call(context: StepContext) -> Any:
            with in_step(context):
                if self._approve is not None:
                    approved = self._approve(ApprovalRequest(context, arguments))
                    if not (await approved if inspect.isawaitable(approved) else approved):
                        raise ApprovalDenied(f"{self.name} was not approved")
                return await cast(Awaitable[Any], self.function(*bound.args, **bound.kwargs))

        return call

    # --- compensating -------------------------------------------------------------------------------------------------

    @property
    def compensates(self) -> bool:
        """Whether it has a compensation."""
        return self.compensate is not None

    @property
    def resource_id(self) -> str:
        """Under which the coordinator asks for its compensation."""
        return f"undo:{self.current_client().application}:{self.name}"

    def undo(self, context: UndoContext) -> Any:
        """Compensate; a coroutine where the compensation is async."""
        if self.compensate is None:
            return None
        step = StepContext(context.xid, context.step, f"{context.key}/compensate", 1)
        if is_async(self.compensate):
            return self._aundo(context, step)
        with in_step(step):
            return self.compensate(context)

    async def _aundo(self, context: UndoContext, step: StepContext) -> Any:
        with in_step(step):
            return await cast(Coroutine[Any, Any, Any], cast(Compensation, self.compensate)(context))

    def register(self) -> None:
        """Serve the compensation from now on, also of what earlier processes have left. Raises NotInitialised."""
        self._handler.loop.remember()
        client = self.current_client()
        if client is not self._registered and self.compensates:
            client.register_resource(self.resource_id, BranchType.SAGA, self._handler)
            self._registered = client

    def announce(self) -> None:
        """`register`, if that can be done now."""
        try:
            self.register()
        except (NotInitialised, ClientClosed, CoordinatorUnavailable):
            self._registered = None  # its first call registers it, or raises

    def current_client(self) -> Client:
        """The client by which it speaks."""
        return default_client(self._client)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Raises TypeError: it is a method, whose object could not be kept with its arguments."""
    signature = inspect.signature(function)
    if next(iter(signature.parameters), "") in ("self", "cls"):
        raise TypeError(f"{function.__qualname__} is a method: steps and sagas are functions")
    return signature


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations, as types; none where they cannot be read (names that are known to the type checker only)."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def refuse_bare(decorator: str, function: object) -> None:
    """Raise TypeError if a decorator was written without its parentheses, and so was handed the function."""
    if function is not None:
        raise TypeError(f"write @troth.{decorator}(…), with parentheses: it takes its settings by name")


def step(
    bare: None = None,
    /,
    *,
    compensate: Compensation | None = None,
    name: str | None = None,
    attempts: int = 3,
    pause: timedelta = timedelta(milliseconds=100),
    longest_pause: timedelta = timedelta(seconds=30),
    final: tuple[type[Exception], ...] = (),
    undo_attempts: int = 3,
    approve: Approve | None = None,
    client: Client | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a step of a function, sync or async.

    Args:
        compensate: takes the step's effect back, given an `UndoContext`; it is called until it returns anything but
            False, at most `undo_attempts` times; then the saga needs a human. None: the step has nothing to take back.
        name: the step's name in records; all processes that run the saga share it. Default: the qualified name.
        attempts: how often it is tried in all; the pauses between double from `pause` to `longest_pause`.
        final: errors by which it says that it failed for good and left nothing behind (beside `StepRefused`): no
            other attempt, and nothing to compensate.
        approve: asked before each attempt with an `ApprovalRequest`; a false answer refuses the step.
        client: None means the process's default one.
    """
    refuse_bare("step", bare)
    if attempts < 1 or undo_attempts < 1:
        raise ValueError("a step, and its compensation, is tried at least once")
    seconds = pause.total_seconds(), longest_pause.total_seconds()
    options = StepOptions(Policy(attempts, *seconds, final, undo_attempts), compensate, approve, client)

    def decorate(function: Callable[P, R]) -> Step[P, R]:
        if compensate is not None and is_async(compensate) and not is_async(function):
            raise TypeError(
                f"{compensate.__name__} is async, and {function.__name__} is not: a compensation is as its step"
            )
        made = Step(function, function.__qualname__ if name is None else name, options)
        made.announce()
        if client is None:
            serve_always(made)
        return made

    return decorate


def undoable(
    bare: None = None,
    /,
    *,
    compensate: Compensation,
    name: str | None = None,
    attempts: int = 1,
    final: tuple[type[Exception], ...] = (),
    undo_attempts: int = 3,
    approve: Approve | None = None,
    client: Client | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """A step for programs that call tools one by one (agents among them): tried once unless told otherwise.

    Who calls it decides what an error means: it comes as `StepFailed`, and what is left of the call itself has been
    taken back. Nothing else is undone by it; what leaves the `with troth.transaction()` around does that.
    """
    refuse_bare("undoable", bare)
    return step(
        compensate=compensate,
        name=name,
        attempts=attempts,
        final=final,
        undo_attempts=undo_attempts,
        approve=approve,
        client=client,
    )
