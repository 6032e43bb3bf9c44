"""The pact between mode logic and whoever runs it.

A *flow* is a generator that holds all the logic of a mode and has no colour: it **yields what it needs** (a `Query` on
its connection, perhaps `Postponed`, a message to `Tell` the coordinator, a `Pause`, an `Invoke`) and gets the answer
back from `yield`.
`troth.client.drivers.running.run` and `arun` answer the steps, blocking or awaiting; what goes wrong is thrown into the
flow at the `yield`, so that `try/except` in a flow reads as in any other code.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from troth.client.errors import CoordinatorUnavailable
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchType
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    Message,
)
from troth.wire.seata.private import BranchReport, Inquiry

Parameters: TypeAlias = Sequence[object] | Mapping[str, object]


@dataclass(slots=True)  # not frozen: it is made several times for each statement, in half the time
class Query:
    """Run `sql` on the flow's connection; answered with `Rows`.

    `as_user`: the statement is the user's own, and its result values are read as the user has set up the connection
    (text factory, converters). All others are read as plain SQL values.
    """

    sql: str
    parameters: Parameters = ()
    as_user: bool = False


@dataclass(slots=True)  # not frozen: it is made several times for each statement, in half the time
class Rows:
    """What a `Query` gave: plain tuples, the names of their columns, and what the driver counted.

    `status` is what the database says it did (PostgreSQL's command tag), where it says it; `native` is the driver's
    own result, where the user's rows are made out of that.
    """

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]
    rowcount: int
    lastrowid: int | None
    status: str | None = None
    native: object = None


@dataclass(slots=True)
class Later:
    """The answer of a `Postponed` query: it is there when the flow's next `Query` has been answered, or has failed."""

    rows: Rows | None = None

    @property
    def answer(self) -> Rows:
        """The rows. Raises RuntimeError if the query was not run (yet)."""
        if self.rows is None:
            raise RuntimeError("a postponed query was not run yet")
        return self.rows


@dataclass(slots=True)  # not frozen: it is made several times for each statement, in half the time
class Postponed:
    """Run `query` before the flow's next `Query`, in one trip with it where the driver can; answered with `Later`.

    If it fails, that next query is not run, and fails with its error.
    """

    query: Query


@dataclass(frozen=True, slots=True)
class Tell:
    """Send `message` to the coordinator; answered with the coordinator's response."""

    message: Message


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call `function(*arguments)`; answered with what it returns (awaited first, where the runner is async)."""

    function: Callable[..., object]
    arguments: tuple[object, ...] = ()


Step: TypeAlias = Query | Postponed | Tell | Pause | Invoke

R = TypeVar("R")
M = TypeVar("M", bound=Message)

Flow: TypeAlias = Generator[Step, object, R]


def query(sql: str, parameters: Parameters = ()) -> Flow[Rows]:
    """Yield a `Query` and give its `Rows`, typed."""
    return _rows((yield Query(sql, parameters)))


def user_query(sql: str, parameters: Parameters) -> Flow[Rows]:
    """Yield a `Query` of the user's own statement and give its `Rows`, typed."""
    return _rows((yield Query(sql, parameters, as_user=True)))


def postponed(sql: str, parameters: Parameters = (), *, as_user: bool = False) -> Flow[Later]:
    """Yield a `Postponed` query and give its `Later`, typed."""
    answer = yield Postponed(Query(sql, parameters, as_user))
    if not isinstance(answer, Later):
        raise TypeError(f"a Postponed query is answered with Later, not with {type(answer).__name__}")
    return answer


def tell(message: Message, answer_type: type[M]) -> Flow[M]:
    """Yield a `Tell` and give the response, checked to be an `answer_type`.

    Raises:
        CoordinatorUnavailable: another type of message came back, so whether the request was acted on is not known.
    """
    answer = yield Tell(message)
    if not isinstance(answer, answer_type):
        raise CoordinatorUnavailable(
            f"{type(message).__name__} was answered with {type(answer).__name__} instead of {answer_type.__name__}"
        )
    return answer


def _rows(answer: object) -> Rows:
    if not isinstance(answer, Rows):
        raise TypeError(f"a Query is answered with Rows, not with {type(answer).__name__}")
    return answer


class Coordinator(Protocol):
    """Where a flow's `Tell` goes. Both raise `troth.client.errors` when the link fails."""

    def tell(self, message: Message) -> Message:
        """Send and wait, blocking the thread."""
        ...

    async def atell(self, message: Message) -> Message:
        """Send and wait, in an event loop."""
        ...


class ResourceHandler(Protocol):
    """Phase two of one resource. Called from the client's worker threads; works on connections of its own."""

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Commit a batch of branches: one response per request, in the same order. Raises nothing."""
        ...

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Undo one branch. What went wrong is in the response (`branch_status`, `msg`). Raises nothing."""
        ...

    def delete_undo_logs(self, save_days: int) -> None:
        """Delete what is older than `save_days` days and belongs to no open transaction."""
        ...


@runtime_checkable
class InquiryHandler(Protocol):
    """A `ResourceHandler` that can also show a branch's images, and end it as an operator has decided."""

    def inquire(self, xid: str, branch_id: int, inquiry: Inquiry) -> BranchReport:
        """Called as the others. What went wrong is in the report. Raises nothing."""
        ...


class ResourceClient(Coordinator, Protocol):
    """What a connection needs of a client: a way to the coordinator, and a place to register its resource."""

    @property
    def settings(self) -> ClientSettings:
        """How often a row lock is tried, among others."""
        ...

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: ResourceHandler) -> None:
        """Serve phase two of `resource_id` by `handler`. The same resource may be registered again."""
        ...
