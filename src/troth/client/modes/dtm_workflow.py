"""A workflow of DTM's style: the user's code runs here, each step's result is kept at the coordinator.

If the process dies, the coordinator calls back, the code runs from its start, and a step whose result is kept gives
that instead of being done again. So between its steps the code must do the same each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from troth.client.errors import NotSupported, TransactionRolledBack
from troth.client.flow import Flow, Invoke
from troth.client.modes.dtm import (
    Kind,
    Link,
    Transaction,
    call_branch,
    decoded,
    encoded,
    prepare_workflow,
    register,
    submit,
)
from troth.client.modes.dtm_answers import BranchRefused, BranchUnanswered
from troth.client.modes.fence import LateTry
from troth.wire.seata.enums import GlobalStatus

ACTION: Final = "action"
COMMIT: Final = "commit"
ROLLBACK: Final = "rollback"
_DONE: Final = "succeed"
_REFUSED: Final = "failed"

Work = Callable[[str, str], Flow[Any]]
"""Of one branch: (branch_id, op) → a flow that does it and gives what is to be kept, as JSON can."""


@dataclass(slots=True)
class Branch:
    """One step that has begun."""

    branch_id: str
    commit: Work | None
    rollback: Work | None
    refused: bool = False
    undo_refused: bool = False


@dataclass(slots=True)
class Run:
    """One run of a workflow's code: what earlier runs have kept, and what this one has begun."""

    link: Link
    transaction: Transaction
    kept: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    branches: list[Branch] = field(default_factory=list)


def began(run: Run, callback: str) -> Flow[Any]:
    """Begin, or find what is kept. An (ended, result): `ended` if there is nothing left to run.

    Raises TransactionRolledBack: it has ended so.
    """
    found = yield from prepare_workflow(run.link, run.transaction, callback)
    told = found.get("transaction") or {}
    status = told.get("status")
    if status == _DONE:
        return True, decoded(told.get("result"))
    if status == _REFUSED:
        raise TransactionRolledBack(run.transaction.gid, GlobalStatus.Rollbacked, told.get("rollback_reason") or "")
    for kept in found.get("progresses") or ():
        name = (kept["branch_id"], kept["op"])
        run.kept[name] = (kept.get("status", ""), decoded(kept.get("bin_data")))
    return False, b""


def stepped(run: Run, branch: Branch, work: Work) -> Flow[Any]:
    """One step: kept from an earlier run, or done now and kept.

    Raises:
        BranchRefused: it refused, now or then.
        Exception: of `work`: it may have been done; nothing is kept, and a later run does it again.
    """
    run.branches.append(branch)
    try:
        return (yield from _recorded(run, branch.branch_id, ACTION, work))
    except (BranchRefused, LateTry):
        branch.refused = True
        raise


def _recorded(run: Run, branch_id: str, op: str, work: Work) -> Flow[Any]:
    kept = run.kept.get((branch_id, op))
    if kept is not None:
        status, data = kept
        if status == _REFUSED:
            raise BranchRefused(data.decode("utf-8", "replace"))
        return _read(data)
    try:
        result = yield from work(branch_id, op)
    except (BranchRefused, LateTry) as refused:
        if op != ACTION:
            raise BranchUnanswered(f"{op} of step {branch_id} is decided, and was refused: {refused}") from refused
        yield from _keep(run, branch_id, op, _REFUSED, str(refused).encode())
        raise
    yield from _keep(run, branch_id, op, _DONE, written(result))
    return result


def _keep(run: Run, branch_id: str, op: str, status: str, data: bytes) -> Flow[None]:
    text = data.decode("utf-8")  # sync: DTM would else write it later, and a crash lose it
    yield from register(
        run.link,
        run.transaction.gid,
        Kind.WORKFLOW,
        branch_id,
        {"op": op, "status": status, "data": text, "sync": "true"},
    )
    run.kept[branch_id, op] = (status, data)


def written(result: object) -> bytes:
    """A result as it is kept. Raises NotSupported: JSON has no such thing."""
    try:
        return msgspec.json.encode(result)
    except (TypeError, ValueError) as error:
        raise NotSupported(f"the result of a step is kept as JSON, and this is none: {error}.") from error


def _read(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data


def committed(run: Run, result: bytes) -> Flow[None]:
    """The code has returned: each step's commit, in order, then the end.

    Raises BranchUnanswered: a commit was refused, though it is decided; a later run asks again.
    """
    for branch in run.branches:
        if branch.commit is not None:
            yield from _recorded(run, branch.branch_id, COMMIT, branch.commit)
    more = {"status": _DONE, "result": encoded(result)}
    yield from submit(run.link, run.transaction, req_extra=more)


def rolled_back(run: Run, refused: BaseException) -> Flow[None]:
    """A step refused: each step's rollback, newest first, then the end.

    Raises:
        TransactionRolledBack: it has ended so.
        BranchUnanswered: a rollback was refused, though it is decided; a later run asks again.
    """
    for branch in reversed(run.branches):
        if branch.rollback is not None and (branch.undo_refused or not branch.refused):
            yield from _recorded(run, branch.branch_id, ROLLBACK, branch.rollback)
    reason = str(refused)[:1000]
    yield from submit(run.link, run.transaction, req_extra={"status": _REFUSED, "rollback_reason": reason})
    raise TransactionRolledBack(run.transaction.gid, GlobalStatus.Rollbacked, reason) from refused


def by_url(run: Run, url: str, payload: str) -> Work:
    """A branch that is another service's."""

    def called(branch_id: str, op: str) -> Flow[Any]:
        return _read((yield from call_branch(run.link, run.transaction, branch_id, op, url, payload)))

    return called


def by_function(function: Callable[[str, str], Any]) -> Work:
    """A branch that is a function of the user's: called with (branch_id, op)."""

    def called(branch_id: str, op: str) -> Flow[Any]:
        return (yield Invoke(function, (branch_id, op)))

    return called
