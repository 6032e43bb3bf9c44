"""Branches that can not be undone by themselves: what their resource managers see, and what an operator decides.

The coordinator holds no images. It asks a resource manager that has announced that it answers (wire/seata/private.py).
A decision is written to the audit trail before anything is done, carried out by the resource manager in one local
transaction with the undo row locked, written to the trail again with the three versions of every row, and only then
told to the core, as the branch's own answer that it is done. Whatever is lost on the way, the branch stays frozen and
the same decision may be given again: where the undo row is gone already, only what is left is done.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import msgspec

from troth.core.events import Answered, CallResult, Status
from troth.core.model import Branch, BranchType, Global, Phase, Verb
from troth.server.engine import Engine
from troth.server.logs import get_logger
from troth.server.sessions import Sessions
from troth.server.waiters import FutureReply
from troth.stores.audit import AuditEntry, AuditTrail
from troth.wire.seata import enums
from troth.wire.seata.private import BranchInquiryRequest, BranchInquiryResponse, BranchReport, Inquiry

log = get_logger("troth.resolution")

ANSWER_WITHIN_S = 15.0
"""A resource manager waits for local locks shortly, and may have a queue."""
MOST_BRANCHES = 50
"""Of one transaction are looked at in one request."""


class ResolutionRefused(Exception):
    """Nothing was decided or done, or it is not known what was; the text says which. `status` is an HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Order(msgspec.Struct, frozen=True):
    """What an operator wants done with one branch. `direct`: he does it himself, over a connection of his own."""

    inquiry: Inquiry
    operator: str
    source: str
    reason: str | None = None
    direct: bool = False


class Resolutions:
    """Asks resource managers about branches, and carries out what operators decide."""

    def __init__(self, engine: Engine, sessions: Sessions, flush: Callable[[], None], audit: AuditTrail) -> None:
        self.audit = audit
        self._engine = engine
        self._sessions = sessions
        self._flush = flush
        self._busy: set[int] = set()

    async def examine(self, tx: Global) -> dict[int, BranchReport | None]:
        """What each AT branch looks like now, the first `MOST_BRANCHES`; None where nobody can be asked."""
        branches = [branch for branch in tx.branches.values() if branch.branch_type is BranchType.AT][:MOST_BRANCHES]
        reports = await asyncio.gather(*(self._ask(tx, branch, Inquiry()) for branch in branches))
        return {branch.branch_id: report for branch, report in zip(branches, reports, strict=True)}

    async def resolve(self, tx: Global, branch: Branch, order: Order) -> BranchReport:
        """Let the branch's resource manager end it. Raises ResolutionRefused, StoreError."""
        _check_resolvable(tx, branch)
        if branch.branch_id in self._busy:
            raise ResolutionRefused(409, f"branch {branch.branch_id} is being resolved right now")
        self._busy.add(branch.branch_id)
        try:
            return await self._resolve(tx, branch, order)
        finally:
            self._busy.discard(branch.branch_id)

    async def _resolve(self, tx: Global, branch: Branch, order: Order) -> BranchReport:
        seen = await self._ask(tx, branch, Inquiry())
        if seen is None:
            raise ResolutionRefused(409, _nobody(branch))
        if seen.state == "unknown":
            raise ResolutionRefused(409, f"the branch cannot be looked at: {seen.problem}")
        entry = self._entry(tx, branch, order, secrets.token_hex(8))
        await self.audit.append(_with_report(entry, "decided", seen))
        report = await self._ask(tx, branch, order.inquiry)
        if report is None or report.state == "unknown":
            problem = "the resource manager is gone" if report is None else report.problem
            await self.audit.append(self._later(entry, "unknown", report, problem))
            raise ResolutionRefused(503, f"it is not known whether that was done ({problem}): decide again")
        if not report.ended:
            await self.audit.append(self._later(entry, "refused", report, report.refused or report.problem))
            raise ResolutionRefused(409, report.refused or report.problem or "the resource manager has refused")
        await self._end(tx.xid, branch.branch_id, entry, report)
        return report

    async def decide_directly(self, tx: Global, branch: Branch, order: Order, seen: BranchReport) -> str:
        """An operator will do it over his own connection: write the decision down. Returns the resolution's id."""
        _check_resolvable(tx, branch)
        entry = self._entry(tx, branch, order, secrets.token_hex(8))
        await self.audit.append(_with_report(entry, "decided", seen))
        return entry.resolution

    async def done_directly(self, xid: str, branch_id: int, resolution: str, report: BranchReport) -> None:
        """The operator has done it. Raises ResolutionRefused, StoreError."""
        found = [
            entry
            for entry in await self.audit.entries(xid, 1000)
            if entry.resolution == resolution and entry.branch_id == str(branch_id)
        ]
        if not found:
            raise ResolutionRefused(409, f"no resolution {resolution!r} of this branch was decided")
        if not report.ended:
            raise ResolutionRefused(409, "the report does not say that the branch has ended")
        if any(entry.stage == "done" for entry in found):
            return
        await self._end(xid, branch_id, found[-1], report)

    async def _end(self, xid: str, branch_id: int, entry: AuditEntry, report: BranchReport) -> None:
        await self.audit.append(self._later(entry, "done", report, report.problem))
        worker = f"operator {entry.operator}"
        self._engine.submit(Answered(xid, branch_id, Verb.ROLLBACK, 0, CallResult.DONE, None, worker))
        reply = FutureReply()
        self._engine.submit(Status(xid, reply))  # answered once what went before is durable
        try:
            await asyncio.wait_for(reply.result, ANSWER_WITHIN_S)
        except TimeoutError:
            raise ResolutionRefused(503, "done in the database; the coordinator's store does not answer") from None
        log.warning(
            "branch ended by an operator",
            xid=xid,
            branch=str(branch_id),
            action=entry.action,
            operator=entry.operator,
            resolution=entry.resolution,
        )

    async def _ask(self, tx: Global, branch: Branch, inquiry: Inquiry) -> BranchReport | None:
        channel = self._sessions.find_to_ask(branch.client_id, branch.resource_id)
        if channel is None:
            return None
        answer: asyncio.Future[BranchInquiryResponse | None] = asyncio.get_running_loop().create_future()
        request = BranchInquiryRequest(
            tx.xid,
            branch.branch_id,
            enums.BranchType(branch.branch_type),
            branch.resource_id,
            msgspec.json.encode(inquiry).decode(),
        )
        channel.link.inquire(request, lambda message: None if answer.done() else answer.set_result(message))
        self._flush()
        try:
            response = await asyncio.wait_for(answer, ANSWER_WITHIN_S)
        except TimeoutError:
            return BranchReport("unknown", problem=f"{channel.client_id} has not answered in {ANSWER_WITHIN_S:.0f} s")
        if response is None:
            return BranchReport("unknown", problem=f"the connection of {channel.client_id} was lost")
        try:
            return msgspec.json.decode(response.application_data or "", type=BranchReport)
        except msgspec.DecodeError as error:
            return BranchReport("unknown", problem=f"{channel.client_id} has answered nonsense: {error}")

    def _entry(self, tx: Global, branch: Branch, order: Order, resolution: str) -> AuditEntry:
        return AuditEntry(
            resolution=resolution,
            stage="decided",
            at_ms=self._engine.clock.now_ms(),
            operator=order.operator,
            source=order.source,
            xid=tx.xid,
            branch_id=str(branch.branch_id),
            resource_id=branch.resource_id,
            action=order.inquiry.action,
            decisions=order.inquiry.rows,
            others=order.inquiry.others,
            reason=order.reason,
            via="direct" if order.direct else "client",
        )

    def _later(self, entry: AuditEntry, stage: str, report: BranchReport | None, problem: str | None) -> AuditEntry:
        changed = msgspec.structs.replace(entry, at_ms=self._engine.clock.now_ms(), problem=problem, rows=[])
        return _with_report(changed, stage, report)


def _check_resolvable(tx: Global, branch: Branch) -> None:
    if tx.phase is not Phase.ROLLING_BACK:
        raise ResolutionRefused(409, f"{tx.xid} is not being rolled back: there is nothing to decide")
    if branch.branch_type is not BranchType.AT:
        raise ResolutionRefused(409, f"a {branch.branch_type.name} branch has no images: `troth retry` asks it again")
    if not branch.frozen:
        raise ResolutionRefused(409, f"branch {branch.branch_id} is not frozen: it is asked by itself")


def _nobody(branch: Branch) -> str:
    return (
        f"no client that can show images serves {branch.resource_id}: start one, "
        "or name the database itself: `troth resolve XID --db URL`"
    )


def _with_report(entry: AuditEntry, stage: str, report: BranchReport | None) -> AuditEntry:
    rows = [] if report is None else [msgspec.Raw(msgspec.json.encode(row)) for row in report.rows]
    return msgspec.structs.replace(
        entry,
        stage=stage,
        state=None if report is None else report.state,
        rows=rows,
        row_count=0 if report is None else report.row_count,
    )
