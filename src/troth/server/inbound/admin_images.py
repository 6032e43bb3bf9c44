"""The admin door's part about images and decisions: look at the branches of a transaction, end one, list decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from troth.core.model import Branch, BranchType, Global, Phase
from troth.server.engine import Engine
from troth.server.resolution import MOST_BRANCHES, Order, ResolutionRefused, Resolutions
from troth.stores.audit import AuditEntry
from troth.stores.store import StoreError
from troth.wire.seata.private import BranchReport, Inquiry

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

_MOST_BODY_BYTES = 4 << 20
_MOST_ENTRIES = 1000


class QueueView(msgspec.Struct):
    """A transaction that queues for a row of the branch; `since` in ms, null where that is not known."""

    xid: str
    since: int | None


class BranchImagesView(msgspec.Struct):
    """One AT branch: what its resource manager sees (null: nobody could be asked), who waits, and what to do next.

    `holder` is the transaction that holds its rows, with the time (ms) of its begin; null once they are free.
    """

    branch_id: str
    resource_id: str
    frozen: bool
    last_error: str | None
    holder: str | None
    held_since: int | None
    queue: list[QueueView]
    report: BranchReport | None
    next_step: str


class ImagesView(msgspec.Struct):
    """The AT branches of a transaction that has not ended, the first so many; `branch_count` counts all."""

    xid: str
    branch_count: int
    branches: list[BranchImagesView]


class ResolveBody(msgspec.Struct, forbid_unknown_fields=True):
    """`action` resolve: by `rows` (row → force-before, keep) and `others`, for all dirty rows not named; or abandon.

    `seen` (row → now_digest) refuses where a row has changed since. `direct`: decided means that the operator will
    do it over his own connection, with what he saw in `report`; done, with `resolution`, that he has done it.
    """

    action: Literal["resolve", "abandon"]
    operator: str
    rows: dict[str, Literal["force-before", "keep"]] = {}
    others: Literal["force-before", "keep"] | None = None
    seen: dict[str, str] = {}
    reason: str | None = None
    direct: Literal["decided", "done"] | None = None
    resolution: str | None = None
    report: BranchReport | None = None


class ResolvedView(msgspec.Struct):
    """`ended`: the branch has ended. For a direct decision `resolution` is what its end must name."""

    xid: str
    branch_id: str
    ended: bool
    report: BranchReport | None = None
    resolution: str | None = None


class AuditView(msgspec.Struct):
    """Decisions, newest first."""

    entries: list[AuditEntry]


async def images(engine: Engine, resolutions: Resolutions, tx: Global) -> ImagesView:
    """Everything that a person needs to decide about the AT branches of `tx`."""
    branches = [branch for branch in tx.branches.values() if branch.branch_type is BranchType.AT]
    reports = await resolutions.examine(tx)
    shown = [_view(engine, tx, branch, reports.get(branch.branch_id)) for branch in branches[:MOST_BRANCHES]]
    return ImagesView(tx.xid, len(branches), shown)


def _view(engine: Engine, tx: Global, branch: Branch, report: BranchReport | None) -> BranchImagesView:
    holds = bool(branch.keys) and tx.phase is not Phase.COMMITTING
    return BranchImagesView(
        branch_id=str(branch.branch_id),
        resource_id=branch.resource_id,
        frozen=branch.frozen,
        last_error=branch.last_error,
        holder=tx.xid if holds else None,
        held_since=tx.begin_ms if holds else None,
        queue=[QueueView(xid, _since(engine, xid)) for xid in engine.queueing_for(branch.keys)] if holds else [],
        report=report,
        next_step=next_step(tx, branch, report),
    )


def _since(engine: Engine, xid: str) -> int | None:
    waiter = engine.transactions().get(xid)
    return None if waiter is None else min((one.since_ms for one in waiter.waiting.values()), default=None)


def next_step(tx: Global, branch: Branch, report: BranchReport | None) -> str:
    """What a person should do, in words."""
    if tx.phase is Phase.OPEN:
        return "nothing: the transaction is not decided yet"
    if not branch.frozen:
        return "nothing: the branch is asked again by itself"
    retry, resolve = f"`troth retry {tx.xid}`", f"`troth resolve {tx.xid} --branch {branch.branch_id}"
    if report is None:
        return (
            f"start a client that serves {branch.resource_id}, or look and decide over a connection of your own: "
            f"`troth inspect {tx.xid} --db URL`, `troth resolve {tx.xid} --db URL`"
        )
    if report.state == "unknown":
        return f"look again: {report.problem}"
    if report.state in ("gone", "guard"):
        return f"nothing is left to undo: {retry} ends the branch"
    if report.state == "unreadable":
        return f"put the rows right by hand, then {resolve} --abandon`"
    if report.dirty_count:
        rows = "1 dirty row" if report.dirty_count == 1 else f"{report.dirty_count} dirty rows"
        return (
            f"decide about {rows}: {resolve} --force-before`, --keep or --abandon, "
            f"row by row with --row ROW=DECISION; or put them back to `after` by hand, then {retry}"
        )
    return f"the rows are as the branch left them: {retry} undoes it"


async def resolve(
    resolutions: Resolutions, tx: Global | None, xid: str, branch_id: int, request: Request
) -> ResolvedView:
    """Carry out what the body of `request` says. Raises HTTPException, with the reason."""
    body = await _body(request)
    source = request.client.host if request.client is not None else "unknown"
    inquiry = Inquiry(body.action, dict(body.rows), body.others, body.seen)
    order = Order(inquiry, body.operator[:200], source, (body.reason or "")[:2000] or None, body.direct is not None)
    try:
        if body.direct == "done":
            if body.resolution is None or body.report is None:
                raise HTTPException(400, "a direct end names its resolution and brings its report")
            await resolutions.done_directly(xid, branch_id, body.resolution, body.report)
            return ResolvedView(xid, str(branch_id), True, body.report, body.resolution)
        branch = None if tx is None else tx.branches.get(branch_id)
        if tx is None or branch is None:
            raise HTTPException(404, f"transaction {xid!r} has no branch {branch_id} that has not ended")
        if body.direct == "decided":
            seen = body.report or BranchReport("unknown")
            return ResolvedView(
                xid, str(branch_id), False, None, await resolutions.decide_directly(tx, branch, order, seen)
            )
        return ResolvedView(xid, str(branch_id), True, await resolutions.resolve(tx, branch, order))
    except ResolutionRefused as refused:
        raise HTTPException(refused.status, str(refused)) from refused
    except StoreError as error:
        raise HTTPException(503, str(error)) from error


async def _body(request: Request) -> ResolveBody:
    if request.headers.get("content-type") is None:
        raise HTTPException(415, "the body must be application/json")
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST_BODY_BYTES:
            raise HTTPException(413, f"the body has more than {_MOST_BODY_BYTES} bytes")
    try:
        body = msgspec.json.decode(content, type=ResolveBody)
    except msgspec.DecodeError as error:
        raise HTTPException(400, f"the body is not as it must be: {error}") from error
    if not body.operator.strip():
        raise HTTPException(400, "an operator is needed: who decides this?")
    return body


async def audit(resolutions: Resolutions, xid: str | None, limit: int) -> AuditView:
    """The newest decisions. Raises HTTPException."""
    try:
        entries: Sequence[AuditEntry] = await resolutions.audit.entries(xid, min(limit, _MOST_ENTRIES))
    except StoreError as error:
        raise HTTPException(503, str(error)) from error
    return AuditView(list(entries))
