"""DTM's barrier for services in Python: a coordinator's call is done once, in one local transaction with yours.

```python
@troth.dtm.barrier(lambda: sqlite3.connect("bank.db"))
def withdraw(connection, account, amount):       # called once, however often the coordinator calls
    connection.execute("UPDATE account SET …", …)

with troth.dtm.join(request.query_params):        # or the middleware in troth.integrations.dtm_asgi, dtm_wsgi
    withdraw("A", 30)
```
The connection may be sqlite3, aiosqlite, psycopg 3 (sync, async), asyncpg, PyMySQL, a SQLAlchemy Session or Connection
(sync, async), or a redis-py client (sync, async). Django: `troth.integrations.django.barrier`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qsl

from troth.client.drivers.barrier import AsyncDoor, BlockingDoor, Keeping, connect_by
from troth.client.drivers.barrier_redis import ADJUST, adjust_keys
from troth.client.drivers.fence_kinds import required_kind
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import arun, run
from troth.client.errors import BranchFailed, NoTransaction
from troth.client.modes.barrier import (
    MESSAGE_BRANCH,
    MESSAGE_OP,
    ORIGIN,
    AlreadyDone,
    Mark,
    answered_check_back,
    entered,
    guarded,
    left,
)
from troth.client.modes.fence import LateTry

_DEFAULT: Final = Keeping()
_CURRENT: ContextVar[Barrier | None] = ContextVar("troth_dtm_barrier", default=None)


class Barrier:
    """The barrier of one call of one branch.

    Calls without a `barrier_id` are counted: "01", "02" … as DTM's clients do, so each call's place in the code is its
    name. Where the order may differ from one request to the next (threads, `gather`, code that changes between a try
    and its cancel), give names, the same in the call and in what reverses it.

    Args:
        gid, branch_id, op, trans_type: what the coordinator sent with the call.
        keeping: another table than DTM's own.

    Raises:
        ValueError: DTM's table could not hold these, or not tell them from others.
    """

    def __init__(
        self, gid: str, branch_id: str, op: str, trans_type: str = "tcc", *, keeping: Keeping = _DEFAULT
    ) -> None:
        self.mark = Mark(trans_type, gid, branch_id, op)
        self._keeping = keeping
        self._calls = 0

    @classmethod
    def from_query(cls, query: Mapping[str, str] | str, *, keeping: Keeping = _DEFAULT) -> Barrier:
        """Of an HTTP request: its query parameters (a mapping, or the query string).

        Raises NoTransaction: the request does not come from a DTM coordinator.
        """
        values = dict(parse_qsl(query)) if isinstance(query, str) else query
        return cls._of(values, "", keeping)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, keeping: Keeping = _DEFAULT) -> Barrier:
        """Of a gRPC call: its metadata (`dtm-gid`, `dtm-branch_id`, `dtm-op`, `dtm-trans_type`). Raises as above."""
        return cls._of(metadata, "dtm-", keeping)

    @classmethod
    def _of(cls, values: Mapping[str, str], prefix: str, keeping: Keeping) -> Barrier:
        found = [values.get(f"{prefix}{name}", "") for name in ("gid", "branch_id", "op", "trans_type")]
        if not all(found):
            raise NoTransaction("the request names no branch of DTM's: gid, branch_id, op and trans_type are needed")
        return cls(*found, keeping=keeping)

    def call(self, connection: Any, work: Callable[[Any], Any], *, barrier_id: str | None = None) -> Any:
        """`work(connection)` in one local transaction with the barrier, if it may run; what it returns, or None.

        Args:
            connection: a connection with no open transaction (it stays open), a URL, or a callable that gives one
                (closed afterwards). On Redis `work` gets a pipeline.
            work: does the business, and leaves commit and rollback to the barrier.
            barrier_id: a name for this call; None means the next number.

        Raises:
            LateTry: the branch was reversed before this came. Nothing was done; answer 409.
            AlreadyDone: the local transaction of a message, the second time.
            BranchFailed: a transaction was open, or `work` has ended it.
            Exception: of `work` or the database; what was done is rolled back.
        """
        door = BlockingDoor(connect_by(connection), self._keeping)
        return run(guarded(self.mark, self.next_id(barrier_id), door, work), door, NoCoordinator())

    async def acall(self, connection: Any, work: Callable[[Any], Any], *, barrier_id: str | None = None) -> Any:
        """`call` on an async connection; `work` may be a coroutine function."""
        door = AsyncDoor(connect_by(connection), self._keeping)
        return await arun(guarded(self.mark, self.next_id(barrier_id), door, work), door, NoCoordinator())

    def transaction(self, connection: Any, *, barrier_id: str | None = None) -> Guard:
        """`with barrier.transaction(connection) as first:` and in it `if first: …`; also `async with`. See `call`.

        What is not asked whether it may run is refused: `RuntimeError` at the end of the block, rolled back.
        """
        return Guard(self.mark, connection, self._keeping, self.next_id(barrier_id))

    def adjust(self, redis: Any, key: str, amount: int, *, barrier_id: str | None = None) -> bool:
        """Add `amount` to the number at `key`, by one script, as DTM's clients do; whether it was added now.

        Raises:
            LateTry, AlreadyDone: as `call`.
            BranchFailed: there is no such number, or it would fall below 0.
        """
        required_kind(redis, is_async=False)
        return self._adjusted(redis.eval(*self._script(key, amount, self.next_id(barrier_id))), key)

    async def aadjust(self, redis: Any, key: str, amount: int, *, barrier_id: str | None = None) -> bool:
        """`adjust` on an async client."""
        required_kind(redis, is_async=True)
        return self._adjusted(await redis.eval(*self._script(key, amount, self.next_id(barrier_id))), key)

    def _script(self, key: str, amount: int, barrier_id: str) -> tuple[Any, ...]:
        keys = adjust_keys(self.mark, barrier_id, key)
        flags = (int(self.mark.op in ORIGIN), int(self._keeping.kept.total_seconds()), int(self.mark.op == MESSAGE_OP))
        return (ADJUST, len(keys), *keys, int(amount), *flags)

    def _adjusted(self, said: bytes | str, key: str) -> bool:
        text = said.decode() if isinstance(said, bytes) else said
        if text == "LATE":
            raise LateTry(f"the {self.mark} was reversed before it came")
        if text == "DUPLICATE":
            raise AlreadyDone(f"the local transaction of message {self.mark.gid} has been done before")
        if text == "FAILURE":
            raise BranchFailed(f"the number at {key} is not there, or would fall below 0")
        return text == "RUN"

    def next_id(self, given: str | None = None) -> str:
        """The name of the next call: `given`, or a number."""
        if given is not None:
            return given
        self._calls += 1
        return f"{self._calls:02d}"


class Passage:
    """What a block of `Barrier.transaction` is given. True: do the work. `connection`: where to do it."""

    def __init__(self, connection: Any, *, runs: bool) -> None:
        self.connection = connection
        self.asked = False
        self._runs = runs

    def __bool__(self) -> bool:
        self.asked = True
        return self._runs

    def check_asked(self) -> None:
        """Raises RuntimeError: the block that ends did not ask whether it may run."""
        if not self.asked:
            raise RuntimeError("the block did not ask whether it may run: `with … as first: if first: …`")


class Guard:
    """The block of `Barrier.transaction`, sync or async."""

    def __init__(self, mark: Mark, connection: Any, keeping: Keeping, barrier_id: str) -> None:
        self._mark = mark
        self._connection = connection
        self._keeping = keeping
        self._id = barrier_id
        self._door: BlockingDoor | AsyncDoor | None = None
        self._passage: Passage | None = None

    def __enter__(self) -> Passage:
        door = self._door = BlockingDoor(connect_by(self._connection), self._keeping)
        runs = run(entered(self._mark, self._id, door), door, NoCoordinator())
        self._passage = Passage(door.connection, runs=runs)
        return self._passage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        door = self._door
        if not isinstance(door, BlockingDoor):
            raise TypeError("the block was not entered by `with`")
        unasked = self._unasked(error)
        run(left(door, error or unasked), door, NoCoordinator())
        if unasked is not None:
            raise unasked

    async def __aenter__(self) -> Passage:
        door = self._door = AsyncDoor(connect_by(self._connection), self._keeping)
        runs = await arun(entered(self._mark, self._id, door), door, NoCoordinator())
        self._passage = Passage(door.connection, runs=runs)
        return self._passage

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        door = self._door
        if not isinstance(door, AsyncDoor):
            raise TypeError("the block was not entered by `async with`")
        unasked = self._unasked(error)
        await arun(left(door, error or unasked), door, NoCoordinator())
        if unasked is not None:
            raise unasked

    def _unasked(self, error: BaseException | None) -> RuntimeError | None:
        try:
            if error is None and self._passage is not None:
                self._passage.check_asked()
        except RuntimeError as unasked:
            return unasked
        return None


# --- what runs inside a request ---


def current_barrier() -> Barrier:
    """The barrier of the request that this thread or task serves. Raises NoTransaction: there is none."""
    barrier = _CURRENT.get()
    if barrier is None:
        raise NoTransaction("this is no call from a DTM coordinator: use the middleware, or troth.dtm.join(query)")
    return barrier


@contextmanager
def join(branch: Barrier | Mapping[str, str] | str) -> Iterator[Barrier]:
    """Serve one call of a coordinator: its query parameters, its query string, or a Barrier. Raises NoTransaction."""
    barrier = branch if isinstance(branch, Barrier) else Barrier.from_query(branch)
    token = _CURRENT.set(barrier)
    try:
        yield barrier
    finally:
        _CURRENT.reset(token)


def barrier(connection: Any, *, barrier_id: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function runs behind the barrier of the current request; it gets the connection first.

    It returns None where it is not to run. `async def` works on an async connection. See `Barrier.call`.

    Raises (when called):
        NoTransaction: outside of a coordinator's call.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*arguments: Any, **named: Any) -> Any:
                def work(opened: Any) -> Any:
                    return function(opened, *arguments, **named)

                return await current_barrier().acall(connection, work, barrier_id=barrier_id)

            return awaited

        @functools.wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            def work(opened: Any) -> Any:
                return function(opened, *arguments, **named)

            return current_barrier().call(connection, work, barrier_id=barrier_id)

        return called

    return decorate


# --- messages ---


def message_barrier(gid: str, *, keeping: Keeping = _DEFAULT) -> Barrier:
    """The barrier of a message's local transaction, as its check-back looks for it."""
    return Barrier(gid, MESSAGE_BRANCH, MESSAGE_OP, "msg", keeping=keeping)


def check_back(connection: Any, gid: str, *, keeping: Keeping = _DEFAULT) -> bool:
    """Whether the local transaction of message `gid` was committed; if not, it never will be (it is barred now).

    A transaction that is still running is waited for, as the database waits for a lock.
    """
    door = BlockingDoor(connect_by(connection), keeping)
    return run(answered_check_back(gid, door), door, NoCoordinator())


async def acheck_back(connection: Any, gid: str, *, keeping: Keeping = _DEFAULT) -> bool:
    """`check_back` on an async connection."""
    door = AsyncDoor(connect_by(connection), keeping)
    return await arun(answered_check_back(gid, door), door, NoCoordinator())
