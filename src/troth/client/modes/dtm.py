"""What a client of DTM's style asks its coordinator and its branches, as flows: each `Request` is sent by a link.

A link is blocking or async; the flows yield `Invoke(link.send, …)` and do not know which.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from troth.client.errors import CoordinatorRefused, CoordinatorUnavailable, OutcomeUnknown, TransactionRolledBack
from troth.client.flow import Flow, Invoke
from troth.client.modes.dtm_answers import FAILURE, ONGOING, BranchUnanswered, Ongoing, check_answer
from troth.wire.seata.enums import GlobalStatus

_ENDED_BADLY: Final = MappingProxyType({"failed": GlobalStatus.Rollbacked, "aborting": GlobalStatus.Rollbacking})


def _empty() -> Mapping[str, str]:
    return {}


class Kind(StrEnum):
    """`trans_type`."""

    SAGA = "saga"
    TCC = "tcc"
    MESSAGE = "msg"
    XA = "xa"
    WORKFLOW = "workflow"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `url` is whole for a branch (a gRPC one has no scheme), and a name below the coordinator's base."""

    method: str
    url: str
    body: bytes | None = None
    query: Mapping[str, str] = field(default_factory=_empty)
    headers: Mapping[str, str] = field(default_factory=_empty)
    timeout_s: float | None = None
    is_branch: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer. `status` 0: none came; `body` says why."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class Link(Protocol):
    """Sends requests."""

    @property
    def base(self) -> str:
        """The coordinator's base URL, as branches are told it."""
        ...

    def send(self, request: Request) -> Any:
        """Gives a `Reply`, or an awaitable of one. Raises nothing for what goes wrong on the way."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a coordinator drives one transaction; None leaves it to the coordinator.

    Times are whole seconds there. `timeout`: undecided so long, it is rolled back (a message: asked for).
    `retry_interval`: the first pause between two tries of a branch; it doubles. `request_timeout`: of one call.
    `retry_limit`: so often a saga's action is tried before it is given up. `branch_headers`: sent with every call.
    `protocol`: how the coordinator calls branches: `http` (None), or `grpc`: then their URLs are
    `host:port/package.Service/Method`, and payloads that are bytes have to be UTF-8.
    """

    timeout: timedelta | None = None
    retry_interval: timedelta | None = None
    request_timeout: timedelta | None = None
    retry_limit: int | None = None
    branch_headers: Mapping[str, str] = field(default_factory=_empty)
    protocol: str | None = None

    def fields(self) -> dict[str, Any]:
        """As the coordinator reads them. Raises ValueError: a time that is not whole seconds, 1 at least."""
        found: dict[str, Any] = {
            "timeout_to_fail": _seconds("timeout", self.timeout),
            "retry_interval": _seconds("retry_interval", self.retry_interval),
            "request_timeout": _seconds("request_timeout", self.request_timeout),
            "retry_limit": self.retry_limit,
            "branch_headers": dict(self.branch_headers) or None,
            "protocol": self.protocol,
        }
        return {name: value for name, value in found.items() if value is not None}


def _seconds(name: str, time: timedelta | None) -> int | None:
    if time is None:
        return None
    if time % timedelta(seconds=1) or time < timedelta(seconds=1):
        raise ValueError(f"{name} is {time}, and DTM's protocol has whole seconds, 1 at least")
    return time // timedelta(seconds=1)


def payload_text(payload: object) -> str:
    """The body of a branch's call: None is none, bytes are sent as they are, everything else becomes JSON."""
    if payload is None:
        return ""
    if isinstance(payload, bytes):
        return payload.decode("utf-8")
    return msgspec.json.encode(payload).decode("utf-8")


@dataclass(slots=True)
class Transaction:
    """What is told of a transaction when it begins or is submitted."""

    gid: str
    kind: Kind
    options: Options = field(default_factory=Options)
    steps: list[dict[str, str]] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    custom: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, **more: Any) -> bytes:
        """The JSON of prepare, submit, abort."""
        found: dict[str, Any] = {"gid": self.gid, "trans_type": self.kind.value, **self.options.fields()}
        if self.steps:
            found |= {"steps": self.steps, "payloads": self.payloads}
        if self.custom:
            found["custom_data"] = msgspec.json.encode(self.custom).decode("utf-8")
        return msgspec.json.encode(found | self.extra | more)


# --- the coordinator ---


def prepare(link: Link, transaction: Transaction, **more: Any) -> Flow[None]:
    """Begin, or a half message. Raises CoordinatorRefused, CoordinatorUnavailable."""
    yield from _ask(link, Request("POST", "prepare", transaction.body(**more)))


def submit(link: Link, transaction: Transaction, *, wait: bool = False, **more: Any) -> Flow[None]:
    """Commit; with `wait` the answer comes when all is done.

    Raises:
        TransactionRolledBack: it is (being) rolled back.
        Ongoing: `wait`, and it is neither done nor undone yet; the coordinator goes on.
        OutcomeUnknown: no answer came.
        CoordinatorRefused: it makes no sense to the coordinator, and nothing was begun.
    """
    if wait:
        more["wait_result"] = True
    try:
        yield from _ask(link, Request("POST", "submit", transaction.body(**more), timeout_s=None if not wait else 60.0))
    except CoordinatorRefused as refused:
        if not (yield from _is_done(link, transaction.gid, refused)):
            raise
    except CoordinatorUnavailable as lost:
        raise OutcomeUnknown(transaction.gid, str(lost)) from lost


def _is_done(link: Link, gid: str, refused: CoordinatorRefused) -> Flow[bool]:
    """What a refused submit means: DTM answers alike to one that is done, rolled back, or not decided yet."""
    try:
        found = yield from query(link, gid)
    except (CoordinatorRefused, CoordinatorUnavailable) as error:
        raise OutcomeUnknown(gid, f"{refused}; then {error}") from refused
    transaction = found.get("transaction") or {}
    status = str(transaction.get("status"))
    if status in _ENDED_BADLY:
        reason = transaction.get("rollback_reason") or refused.reason
        raise TransactionRolledBack(gid, _ENDED_BADLY[status], reason) from refused
    if status == "submitted":
        raise Ongoing(f"{gid} is not done yet, and goes on: {refused.reason}") from refused
    return bool(status == "succeed")


def abort(link: Link, transaction: Transaction, reason: str = "") -> Flow[None]:
    """Roll back. Raises CoordinatorRefused, CoordinatorUnavailable."""
    more = {"rollback_reason": reason[:1000]} if reason else {}
    yield from _ask(link, Request("POST", "abort", transaction.body(**more)))


def abort_because(link: Link, transaction: Transaction, error: BaseException) -> Flow[None]:
    """Roll back because of `error`, which the caller raises; what goes wrong here is noted on it: the timeout helps."""
    try:
        yield from abort(link, transaction, f"{type(error).__name__}: {error}")
    except (CoordinatorRefused, CoordinatorUnavailable) as second:
        error.add_note(f"troth: {transaction.gid} could not be aborted, its timeout will do that: {second}")


def register(link: Link, gid: str, kind: Kind, branch_id: str, data: Mapping[str, str]) -> Flow[None]:
    """Tell the coordinator of a branch before it is called. Raises CoordinatorRefused, CoordinatorUnavailable."""
    body = {"gid": gid, "trans_type": kind.value, "branch_id": branch_id, **data}
    yield from _ask(link, Request("POST", "registerBranch", msgspec.json.encode(body)))


def query(link: Link, gid: str) -> Flow[dict[str, Any]]:
    """`{"transaction": … or None, "branches": […]}` as the coordinator shows it."""
    return (yield from _ask(link, Request("GET", "query", query={"gid": gid})))


def prepare_workflow(link: Link, transaction: Transaction, callback: str) -> Flow[dict[str, Any]]:
    """Begin a workflow, or find what there is of it: `{"transaction": …, "progresses": […]}`."""
    body = transaction.body(query_prepared=callback)
    return (yield from _ask(link, Request("POST", "prepareWorkflow", body)))


def _ask(link: Link, request: Request) -> Flow[dict[str, Any]]:
    reply = yield from _sent(link, request)
    if reply.status == 0 or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise CoordinatorUnavailable(f"{request.url} at {link.base}: {reply.status or 'no answer'}: {reply.text[:500]}")
    if reply.status == HTTPStatus.TOO_EARLY:
        raise Ongoing(_message(reply))
    if reply.status == HTTPStatus.NOT_FOUND:  # maybe not the port that was meant
        raise CoordinatorRefused(f"{request.url} at {link.base}: {_message(reply)}")
    if reply.status != HTTPStatus.OK:
        raise CoordinatorRefused(_message(reply))
    try:
        found = msgspec.json.decode(reply.body)
    except msgspec.DecodeError as error:
        raise CoordinatorUnavailable(f"{link.base} is no coordinator of DTM's style: {reply.text[:200]}") from error
    if not isinstance(found, dict):
        raise CoordinatorUnavailable(f"{link.base} is no coordinator of DTM's style: {reply.text[:200]}")
    if found.get("dtm_result") in (FAILURE, ONGOING):
        raise CoordinatorRefused(_message(reply))
    return found


def _message(reply: Reply) -> str:
    try:
        found = msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        return f"{reply.status}: {reply.text[:500]}"
    if not isinstance(found, dict) or "message" not in found:
        return f"{reply.status}: {reply.text[:500]}"
    return str(found["message"] or found)


def _sent(link: Link, request: Request) -> Flow[Reply]:
    reply = yield Invoke(link.send, (request,))
    if not isinstance(reply, Reply):
        raise TypeError(f"a Request is answered with a Reply, not with {type(reply).__name__}")
    return reply


# --- branches ---


def call_branch(
    link: Link,
    transaction: Transaction,
    branch_id: str,
    op: str,
    url: str,
    payload: str,
    more: Mapping[str, str] | None = None,
) -> Flow[bytes]:
    """Call a branch as its client; the body of its answer.

    Raises:
        BranchRefused, Ongoing, BranchUnanswered: what it said.
    """
    names = {"dtm": link.base, "gid": transaction.gid, "trans_type": transaction.kind.value}
    names |= {"branch_id": branch_id, "op": op, **(more or {})}
    headers = {"Content-Type": "application/json", **transaction.options.branch_headers}
    time = transaction.options.request_timeout
    timeout_s = None if time is None else time.total_seconds()
    reply = yield from _sent(link, Request("POST", url, payload.encode(), names, headers, timeout_s, is_branch=True))
    if reply.status == 0:
        raise BranchUnanswered(f"{url} did not answer: {reply.text}")
    check_answer(url, reply.status, reply.text)
    return reply.body


def encoded(data: bytes) -> str:
    """Bytes in the coordinator's JSON."""
    return base64.b64encode(data).decode("ascii")


def decoded(data: object) -> bytes:
    """`encoded`, the other way."""
    return base64.b64decode(data) if isinstance(data, str) else b""
