"""`@troth.saga`: a function whose steps are kept at the coordinator, so that another process can go on with it.

```python
@troth.saga(name="trip", timeout=timedelta(minutes=10))
def trip(customer, day):
    flight = book_flight(customer, day)          # steps: troth.client.saga_step
    hotel, car = troth.parallel(lambda: book_hotel(customer, day), lambda: rent_car(customer, day))
    return {"flight": flight, "hotel": hotel, "car": car}
```
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, cast

import msgspec

from troth.client.client import Client
from troth.client.context import current_xid
from troth.client.drivers.running import arun, run
from troth.client.errors import ClientClosed, CoordinatorUnavailable, NotInitialised, NotSupported
from troth.client.holder import default_client, serve_always
from troth.client.modes import saga as durable
from troth.client.modes.saga import Run
from troth.client.modes.saga_end import end
from troth.client.modes.saga_records import TOP, Ended, Started, builtins, reason_of, shaped
from troth.client.saga_book import BOOK, SAGAS
from troth.client.saga_calls import AsyncNoDatabase, NoDatabase
from troth.client.saga_diagram import of_definition
from troth.client.saga_errors import StepFailed
from troth.client.saga_runner import RunHandler
from troth.client.saga_scope import Scope, current_scope, in_body
from troth.client.saga_source import read
from troth.client.saga_step import hints_of, refuse_bare, signature_of
from troth.client.tcc_handler import is_async
from troth.client.transaction import timeout_in_ms
from troth.wire.seata.enums import BranchType
from troth.wire.seata.saga import RunAskRequest

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Recovery = Literal["backward", "forward"]

CHECK_EVERY: Final = timedelta(seconds=10)
_LONGEST_TIMEOUT_MS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SagaOptions:
    """What a saga is declared with."""

    timeout: timedelta | None
    recovery: Recovery
    check_every: timedelta
    client: Client | None


class SagaCall(Generic[P, R]):
    """A saga with what one call of it adds: `trip.named("order 7").until(deadline)("ann")`."""

    def __init__(self, saga: Saga[P, R], deadline: datetime | None = None, name: str | None = None) -> None:
        self._saga = saga
        self.deadline = deadline
        self.name = name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it; see `Saga.__call__`."""
        return cast(R, self._saga.called(self, args, kwargs))

    def until(self, deadline: datetime) -> SagaCall[P, R]:
        """With a deadline of its own: what has not ended then is compensated.

        Raises ValueError: the datetime has no zone.
        """
        return SagaCall(self._saga, in_utc(deadline), self.name)

    def named(self, name: str) -> SagaCall[P, R]:
        """With a name that is the caller's: a second saga of this sort under that name is not begun (`SagaKnown`).

        It is remembered as long as outcomes are (`outcomes.keep`, a day). Inside another saga or a global transaction
        it means nothing: those say what is begun.
        """
        if not name:
            raise ValueError("the name of a saga is not empty")
        return SagaCall(self._saga, self.deadline, name)


class Saga(Generic[P, R]):
    """A saga. Calling it runs it in this process; what was begun and not ended by others, this process goes on with."""

    def __init__(self, function: Callable[P, R], name: str, options: SagaOptions) -> None:
        self.function = function
        self.name = name
        self.is_async = is_async(function)
        self._options = options
        self._signature = signature_of(function)
        self._hints = hints_of(function)
        self._handler = RunHandler(self)
        self._registered: Client | None = None
        functools.update_wrapper(self, function)
        SAGAS.add(self, options.client)

    # --- calling ------------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it to its end. With an async body it is to be awaited.

        Inside another saga it is a part of that one; inside a plain global transaction its steps are branches of that.

        Raises:
            Exception: what the body raised. All that ran is compensated then, and noted so on the error.
            NeedsHuman: a compensation could not be done; `troth inspect XID` shows which.
            SagaSuperseded, OutcomeUnknown: another process, or a later run, brings it to its end.
            NotSupported: the coordinator keeps no sagas, or an argument does not serialise.
        """
        return SagaCall(self)(*args, **kwargs)

    def until(self, deadline: datetime) -> SagaCall[P, R]:
        """See `SagaCall.until`."""
        return SagaCall(self).until(deadline)

    def named(self, name: str) -> SagaCall[P, R]:
        """See `SagaCall.named`."""
        return SagaCall(self).named(name)

    def called(self, how: SagaCall[P, R], args: Any, kwargs: Any) -> Any:
        """A call, as `how` says."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        scope = current_scope()
        if scope is not None:
            scope.check()
            child = scope.inner(scope.next_key(self.name))
            return self._ainside(child, bound) if self.is_async else self._inside(child, bound)
        xid = current_xid()
        if xid is not None:
            return self._ajoined(xid, bound) if self.is_async else self._joined(xid, bound)
        arguments = builtins(f"an argument of the saga {self.name}", dict(bound.arguments))
        started = Started(arguments, self._deadline_ms(how.deadline))
        return self._abegun(started, how.name) if self.is_async else self._begun(started, how.name)

    def _deadline_ms(self, deadline: datetime | None) -> int | None:
        if deadline is None and self._options.timeout is not None:
            deadline = datetime.now(UTC) + self._options.timeout
        return None if deadline is None else int(deadline.timestamp() * 1000)

    # --- a saga of its own --------------------------------------------------------------------------------------------

    def _begin(self, started: Started, name: str | None) -> Any:
        self.register()
        left_ms = 0
        if started.deadline_ms is not None:
            left_ms = min(max(started.deadline_ms - int(time.time() * 1000), 1), _LONGEST_TIMEOUT_MS)
        check_ms = timeout_in_ms(self._options.check_every)
        gid = None if name is None else f"{self.resource_id}:{name}"
        return durable.begin(self.name, self.resource_id, started, left_ms, check_ms, gid)

    def _begun(self, started: Started, name: str | None) -> Any:
        client = self.current_client()
        xid = run(self._begin(started, name), NoDatabase(), client)
        saga_run = self._new_run(xid, 0, started)
        return self._ended(saga_run, *self._run(saga_run, client, started))

    async def _abegun(self, started: Started, name: str | None) -> Any:
        client = self.current_client()
        xid = await arun(self._begin(started, name), AsyncNoDatabase(), client)
        saga_run = self._new_run(xid, 0, started)
        return self._ended(saga_run, *await self._arun(saga_run, client, started))

    def _new_run(self, xid: str, attempt: int, started: Started) -> Run:
        forward = self._options.recovery == "forward"
        return Run(xid, attempt, started.deadline_ms, clock=time.time, find=BOOK.find, forward=forward)

    def _run(self, saga_run: Run, client: Client, started: Started) -> tuple[Exception | None, Any]:
        """Bring it to its end: what it was compensated for, or its result."""
        with self._handler.running(saga_run.xid):
            error: Exception | None = None
            result = None
            scope = Scope(saga_run, client)
            try:
                self._check_not_aborted(saga_run, TOP)
                with in_body(scope):
                    result = self.function(**self._arguments(started))  # type: ignore[call-arg]  # by name
                saga_run.check()
            except Exception as raised:  # noqa: BLE001 - what it was is raised again below, when all is compensated
                error = raised
            except BaseException as interrupt:
                self._note_interrupt(saga_run, interrupt)
                raise
            finally:
                scope.close()
            run(end(saga_run, error, client.settings, time.monotonic), NoDatabase(), client)
            return error, result

    async def _arun(self, saga_run: Run, client: Client, started: Started) -> tuple[Exception | None, Any]:
        """`_run` for coroutines."""
        with self._handler.running(saga_run.xid):
            error: Exception | None = None
            result = None
            scope = Scope(saga_run, client)
            try:
                self._check_not_aborted(saga_run, TOP)
                with in_body(scope):
                    result = await cast(Any, self.function(**self._arguments(started)))  # type: ignore[call-arg]
                saga_run.check()
            except Exception as raised:  # noqa: BLE001 - what it was is raised again below, when all is compensated
                error = raised
            except BaseException as interrupt:
                self._note_interrupt(saga_run, interrupt)
                raise
            finally:
                await scope.aclose()
            await arun(end(saga_run, error, client.settings, time.monotonic), AsyncNoDatabase(), client)
            return error, result

    def _note_interrupt(self, saga_run: Run, interrupt: BaseException) -> None:
        """No failure of the saga's: it is as if the process had died."""
        interrupt.add_note(
            f"troth: saga {saga_run.xid} was interrupted; whoever serves {self.resource_id} goes on with it"
        )

    def _ended(self, saga_run: Run, error: Exception | None, result: Any) -> Any:
        if error is None:
            return result
        error.add_note(f"troth: saga {self.name} {saga_run.xid} is compensated")
        raise error

    def _arguments(self, started: Started) -> dict[str, Any]:
        """As JSON gives them back, in the first run, too: so the process that goes on sees the same."""
        given = {}
        for name, value in started.arguments.items():
            given[name] = shaped(f"the argument {name} of saga {self.name}", value, self._hints.get(name))
        return given

    def _check_not_aborted(self, saga_run: Run, scope: str) -> None:
        """Raise what an earlier run was compensated for."""
        aborted: Ended | None = saga_run.aborted.get(scope)
        if aborted is not None:
            raise StepFailed(self.name, aborted.reason or "", aborted.error_type, refused=False)

    # --- inside another saga ------------------------------------------------------------------------------------------

    def _inside(self, child: Scope, bound: inspect.BoundArguments) -> Any:
        try:
            self._check_not_aborted(child.run, child.key)
            with in_body(child):
                return self.function(*bound.args, **bound.kwargs)
        except Exception as error:
            child.close()
            child.check_around()
            run(durable.roll_back(child.run, child.key, error), NoDatabase(), child.coordinator)
            raise self._as_failed_step(error) from error
        finally:
            child.close()

    async def _ainside(self, child: Scope, bound: inspect.BoundArguments) -> Any:
        try:
            self._check_not_aborted(child.run, child.key)
            with in_body(child):
                return await cast(Any, self.function(*bound.args, **bound.kwargs))
        except Exception as error:
            await child.aclose()
            child.check_around()
            await arun(durable.roll_back(child.run, child.key, error), AsyncNoDatabase(), child.coordinator)
            raise self._as_failed_step(error) from error
        finally:
            await child.aclose()

    def _as_failed_step(self, error: Exception) -> StepFailed:
        """To the saga around, this one is a step; it hears the same in each run."""
        if isinstance(error, StepFailed) and error.step == self.name:
            return error
        return StepFailed(self.name, reason_of(error), type(error).__name__, refused=False)

    # --- inside a plain global transaction ----------------------------------------------------------------------------

    def _joined(self, xid: str, bound: inspect.BoundArguments) -> Any:
        """Its steps are branches of that; whoever swallows its failure must not commit the half of it."""
        try:
            return self.function(*bound.args, **bound.kwargs)
        except Exception:
            self.current_client().vote_rollback(xid)
            raise

    async def _ajoined(self, xid: str, bound: inspect.BoundArguments) -> Any:
        try:
            return await cast(Any, self.function(*bound.args, **bound.kwargs))
        except Exception:
            await self.current_client().avote_rollback(xid)
            raise

    def diagram(self) -> str:
        """This saga as its file defines it, as a Mermaid flowchart. (A run: `troth saga show XID`.)

        Raises OSError, TypeError: its source is not there.
        """
        path = inspect.getsourcefile(self.function)
        if path is None:
            raise OSError(f"the source of {self.name} is not there")
        return of_definition(read(Path(path)), self.function.__name__)

    # --- going on with what others began ------------------------------------------------------------------------------

    @property
    def resource_id(self) -> str:
        """Under which the coordinator finds who can go on with it."""
        return f"saga:{self.current_client().application}:{self.name}"

    def go_on(self, request: RunAskRequest) -> None:
        """Take a run over and bring it to its end; blocks. Raises as a call does."""
        saga_run, started, client = self._taken(request)
        run(durable.claim(saga_run), NoDatabase(), client)
        self._log_end(saga_run, self._run(saga_run, client, started)[0])

    async def ago_on(self, request: RunAskRequest) -> None:
        """`go_on` for coroutines."""
        saga_run, started, client = self._taken(request)
        await arun(durable.claim(saga_run), AsyncNoDatabase(), client)
        self._log_end(saga_run, (await self._arun(saga_run, client, started))[0])

    def _log_end(self, saga_run: Run, error: Exception | None) -> None:
        """Nobody here waits for the result."""
        how = "committed" if error is None else f"compensated: {error}"
        log.info("saga %s %s, which this process has gone on with, is %s", self.name, saga_run.xid, how)

    def _taken(self, request: RunAskRequest) -> tuple[Run, Started, Client]:
        try:
            started = msgspec.json.decode(request.application_data or "{}", type=Started)
        except msgspec.MsgspecError as error:
            raise NotSupported(f"the saga {request.xid} has arguments that nobody can read: {error}.") from error
        return self._new_run(request.xid or "", request.attempt, started), started, self.current_client()

    def register(self) -> None:
        """Serve this saga from now on: also what other processes have begun. Raises NotInitialised."""
        self._handler.loop.remember()
        client = self.current_client()
        if client is not self._registered:
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
        return default_client(self._options.client)


def in_utc(deadline: datetime) -> datetime:
    """`deadline` in UTC. Raises ValueError: without a zone nobody knows when it is."""
    if deadline.tzinfo is None or deadline.utcoffset() is None:
        raise ValueError(f"the deadline {deadline.isoformat()} has no time zone; give it one, such as datetime.UTC")
    return deadline.astimezone(UTC)


def saga(
    bare: None = None,
    /,
    *,
    name: str | None = None,
    timeout: timedelta | None = None,
    recovery: Recovery = "backward",
    check_every: timedelta = CHECK_EVERY,
    client: Client | None = None,
) -> Callable[[Callable[P, R]], Saga[P, R]]:
    """Make a saga of a function, sync or async.

    Its body is run again from its beginning when another process goes on with it: steps that have ended return what
    they returned. So it must call the same steps in the same order, given the same results; all else (clocks, chance,
    network) belongs into steps. Steps may come and go between two versions: records are found by name, not by place.

    Args:
        name: the saga's name at the coordinator; all processes that run it share it. Default: the qualified name.
            One function has it in a process (for each client=); a reloaded module's takes the place of its own.
        timeout: what has not ended after it is compensated. (`saga.until(datetime)` for one call.)
        recovery: what comes after the last attempt of a step. backward: all that ran is compensated. forward: it
            is put off and tried again later, in growing intervals, until it succeeds or the deadline passes.
        check_every: how often the coordinator makes sure that somebody runs it.
        client: None means the process's default one.

    Raises:
        ValueError: an option is wrong, or another function in this process has the name.
    """
    refuse_bare("saga", bare)
    if recovery not in ("backward", "forward"):
        raise ValueError(f"recovery is 'backward' or 'forward', not {recovery!r}")
    for length in (timeout, check_every):
        if length is not None:
            timeout_in_ms(length)

    def decorate(function: Callable[P, R]) -> Saga[P, R]:
        title = function.__qualname__ if name is None else name
        if "," in title or "/" in title or not title:
            raise ValueError(f"{title!r} cannot name a saga: it is empty, or has a comma or a slash")
        made = Saga(function, title, SagaOptions(timeout, recovery, check_every, client))
        made.announce()
        if client is None:
            serve_always(made)
        return made

    return decorate
