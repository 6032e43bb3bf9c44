"""`@troth.tcc`: an action of three functions, its try in a branch of the global transaction that it is called in.

```python
@troth.tcc(name="withdraw", connection=lambda: sqlite3.connect("bank.db"))
class Withdraw:
    def try_(self, ctx, account, amount): ctx.connection.execute("UPDATE …")     # freeze
    def confirm(self, ctx): ctx.connection.execute("UPDATE …", (ctx["amount"],))  # take
    def cancel(self, ctx): ...                                                    # unfreeze
```
"""

from __future__ import annotations

import functools
import inspect
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from troth.client.context import current_xid
from troth.client.drivers.fence import AsyncDoor, BlockingDoor, Connect
from troth.client.drivers.fence_table import connection_to
from troth.client.drivers.running import arun, run
from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised, NoTransaction
from troth.client.flow import ResourceClient
from troth.client.holder import default_client, serve_always
from troth.client.modes.fence import LONGEST_ACTION, FenceMode
from troth.client.modes.tcc import Fencing, attempt
from troth.client.modes.tcc_context import ActionContext, Verbs, Written, check_parameters, written
from troth.client.tcc_handler import ActionHandler, Functions
from troth.wire.seata.enums import BranchType

DEADLINE: Final = timedelta(seconds=60)
_SLOT: Final = "_troth_tcc_action"


@dataclass(frozen=True, slots=True)
class _Options:
    connection: Connect | str | None
    fencing: Fencing
    client: ResourceClient | None


class Action:
    """A TCC action. Calling it, inside a global transaction, is its try; with an async try it is to be awaited.

    Raises (when called):
        NoTransaction: outside of any global transaction nobody would confirm it.
        NotSupported: an argument does not serialise. Nothing has been done.
        BranchFailed: the coordinator refused the branch, or it was rolled back before its try.
    """

    def __init__(self, name: str, functions: Functions, connect: Connect | None, options: _Options) -> None:
        self.name = name
        self._functions = functions
        self._connect = connect
        self._fencing = options.fencing
        self._client = options.client
        self._registered: ResourceClient | None = None
        self._signature = _signature(name, functions.try_)
        self._verbs = Verbs(*(function.__name__ for function in (functions.try_, functions.confirm, functions.cancel)))
        self._handler = ActionHandler(functions, connect, options.fencing)
        functools.update_wrapper(self, functions.try_)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The try, as a branch of the current global transaction; what the try returns."""
        xid = current_xid()
        if xid is None:
            raise NoTransaction(f"the action {self.name} works in a global transaction only: nobody would confirm it")
        bound = self._signature.bind(*arguments, **named)
        bound.apply_defaults()
        data = written(
            self.name,
            bound.arguments,
            self._verbs,
            fenced=self._fencing.mode is not FenceMode.OFF,
            now_ms=time.time_ns() // 1_000_000,
            host=socket.gethostname(),
        )
        data.text()
        context = ActionContext(xid, 0, self.name, dict(bound.arguments))
        call = _Call(bound.args, bound.kwargs, self._functions.try_)
        if self._functions.is_async:
            return self._aattempt(xid, data, context, call)
        self.register()
        door = BlockingDoor(self._connect)
        return run(attempt(xid, data, context, self._fencing, door, call), door, self._current_client())

    async def _aattempt(self, xid: str, data: Written, context: ActionContext, call: _Call) -> Any:
        self.register()
        door = AsyncDoor(self._connect)
        return await arun(attempt(xid, data, context, self._fencing, door, call), door, self._current_client())

    def register(self) -> None:
        """Serve confirms and cancels of this action from now on; also those that were left by an earlier process.

        It is done when the action is made, by each later `troth.init`, and by a try. An async action is confirmed in
        the event loop in which this was called last.

        Raises NotInitialised: there is no client yet.
        """
        self._handler.remember_loop()
        client = self._current_client()
        if client is not self._registered:
            client.register_resource(self.name, BranchType.TCC, self._handler)
            self._registered = client

    def serve(self) -> None:
        """`register` now, if there is a client, and at each default client that comes."""
        self.announce()
        if self._client is None:
            serve_always(self)

    def announce(self) -> None:
        """`register`, if that can be done now."""
        try:
            self.register()
        except (NotInitialised, ClientClosed, CoordinatorUnavailable):
            self._registered = None  # its first try registers it, or raises

    def clean_up(self, older_than: timedelta = timedelta(days=7)) -> int:
        """Delete the fence's rows of branches that ended longer ago; how many. (An async action: see `aclean_up`.)"""
        return self._handler.clean_up(older_than)

    async def aclean_up(self, older_than: timedelta = timedelta(days=7)) -> int:
        """`clean_up` of an async action."""
        return await self._handler.aclean_up(older_than)

    def _current_client(self) -> ResourceClient:
        return default_client() if self._client is None else self._client


class _Call:
    """The user's try with its arguments, as the flow calls it."""

    def __init__(self, arguments: tuple[Any, ...], named: dict[str, Any], try_: Callable[..., Any]) -> None:
        self._arguments = arguments
        self._named = named
        self._try = try_

    def __call__(self, context: ActionContext) -> Any:
        return self._try(context, *self._arguments, **self._named)


def tcc(
    name: str | None = None,
    *,
    connection: Connect | str | None = None,
    fence: FenceMode | str | None = None,
    deadline: timedelta = DEADLINE,
    confirm: Callable[[ActionContext], Any] | None = None,
    cancel: Callable[[ActionContext], Any] | None = None,
    client: ResourceClient | None = None,
) -> Callable[[Any], Any]:
    """Make a TCC action of a class with `try_`, `confirm` and `cancel`, or of a function and two more.

    Each takes an `ActionContext` first. `confirm` and `cancel` are called until they return anything but False; the
    fence lets each through once. All three are `async def`, or none.

    Args:
        name: the action's name at the coordinator; all processes that serve it share it. Default: the class's or
            function's own. One instance of a class serves a name; where there are several, give each an attribute
            `action_name`.
        connection: gives the fence's connection, in the database where the action works; each call gives one of its
            own, which is closed afterwards (or a context manager of one). Or the name of a method of the class; or a
            database's URL, for blocking functions.
        fence: `local-tx` (the default with a connection), `intent-first` or `off`; see docs/modes/tcc.md.
        deadline: intent-first only: a try begins within this time or not at all; so long a cancel waits for its end.
        confirm, cancel: with a function: the other two.
        client: None means the process's default one.

    Raises:
        TypeError, ValueError: the options do not fit together.
        NotSupported: a parameter has a name that the context needs.
    """
    options = _Options(connection, _fencing(connection, fence, deadline), client)

    def decorate(target: Any) -> Any:
        if inspect.isclass(target):
            if confirm is not None or cancel is not None:
                raise TypeError("a class brings its own confirm and cancel as methods")
            return _class_action(target, name or target.__name__, options)
        if confirm is None or cancel is None:
            raise TypeError(f"{target.__name__} is a function, so confirm= and cancel= are needed, too")
        functions = Functions(target, confirm, cancel)
        action = Action(_named(name or target.__name__), functions, _resolved(connection), options)
        action.serve()
        return action

    return decorate


def _fencing(connection: Connect | str | None, fence: FenceMode | str | None, deadline: timedelta) -> Fencing:
    if fence is None and connection is None:
        raise TypeError(
            "give connection= for the fence, or fence='off' if the action guards itself (docs/modes/tcc.md)"
        )
    mode = FenceMode.LOCAL_TX if fence is None else FenceMode(fence)
    if (mode is FenceMode.OFF) is not (connection is None):
        raise TypeError(f"fence={mode.value!r} and connection={connection!r} do not fit together")
    deadline_ms = deadline // timedelta(milliseconds=1)
    if deadline_ms <= 0:
        raise ValueError("the deadline of a try is longer than 0")
    return Fencing(mode, deadline_ms, time.monotonic)


class _Try:
    """`try_` of a class: on each instance it is that instance's action."""

    def __init__(self, function: Callable[..., Any], make: Callable[[Any], Action]) -> None:
        self.function = function
        self._make = make
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.function
        if _SLOT not in instance.__dict__:
            instance.__dict__[_SLOT] = self._make(instance)
        return instance.__dict__[_SLOT]


def _class_action(target: Any, name: str, options: _Options) -> Any:
    for verb in ("try_", "confirm", "cancel"):
        if not callable(getattr(target, verb, None)):
            raise TypeError(f"{target.__name__} has no method {verb}")
    function = target.try_
    Functions(function, target.confirm, target.cancel)  # of one sort
    _check_signature(name, inspect.signature(function), 2)

    def make(instance: Any) -> Action:
        try_ = functools.update_wrapper(functools.partial(function, instance), function)
        functions = Functions(try_, instance.confirm, instance.cancel)
        return Action(_named(getattr(instance, "action_name", name)), functions, _connect(instance, options), options)

    original = target.__init__

    @functools.wraps(original)
    def initialise(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        if type(self) is target:
            self.try_.serve()

    target.try_ = _Try(function, make)
    target.__init__ = initialise
    return target


def _connect(instance: Any, options: _Options) -> Connect | None:
    if isinstance(options.connection, str) and "://" not in options.connection:
        method: Connect = getattr(instance, options.connection)
        return method
    return _resolved(options.connection)


def _resolved(connection: Connect | str | None) -> Connect | None:
    if not isinstance(connection, str):
        return connection
    if "://" not in connection:
        raise TypeError("connection= names a method, and a function has none: give a callable or a URL")
    return connection_to(connection)


def _named(name: str) -> str:
    if not name or "," in name or len(name) > LONGEST_ACTION:
        raise ValueError(
            f"{name!r} cannot name an action: it is empty, has a comma, or more than {LONGEST_ACTION} letters"
        )
    return name


def _signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a try without its context."""
    signature = inspect.signature(function, follow_wrapped=False)
    return signature.replace(parameters=_check_signature(name, signature, 1))


def _check_signature(name: str, signature: inspect.Signature, own: int) -> list[inspect.Parameter]:
    """The parameters behind the first `own`."""
    parameters = list(signature.parameters.values())
    if len(parameters) < own or any(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters[:own]):
        raise TypeError(f"{name}: the try takes an ActionContext first")
    check_parameters(name, [parameter.name for parameter in parameters[own:]])
    return parameters[own:]
