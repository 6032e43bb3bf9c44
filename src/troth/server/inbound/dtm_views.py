"""How a transaction looks to DTM's clients: their statuses, one row for each op of a branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from troth.core.due import due_ms
from troth.core.model import Branch, BranchType, Cause, EndedBranch, Global, Outcome, Phase, PhaseOne
from troth.wire.dtm.branches import (
    ACTION,
    CANCEL,
    COMMIT,
    COMPENSATE,
    CONFIRM,
    ROLLBACK,
    Detail,
    UrlBranch,
    decode_branch,
    decode_detail,
)
from troth.wire.dtm.messages import WORKFLOW
from troth.wire.dtm.views import (
    ABORTING,
    FAILED,
    PREPARED,
    SUBMITTED,
    SUCCEED,
    BranchView,
    GlobalView,
    rfc3339,
)

STATUSES: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.OPEN: PREPARED,
        Phase.FORWARD: SUBMITTED,
        Phase.COMMITTING: SUBMITTED,
        Phase.ROLLING_BACK: ABORTING,
        Phase.COMMITTED: SUCCEED,
        Phase.ROLLED_BACK: FAILED,
    }
)
_OPS: Mapping[BranchType, tuple[str, ...]] = MappingProxyType(
    {
        BranchType.SAGA: (COMPENSATE, ACTION),
        BranchType.TCC: (CANCEL, CONFIRM),
        BranchType.XA: (ROLLBACK, COMMIT),
        BranchType.MESSAGE: (ACTION,),
    }
)
"""In the order in which DTM shows them."""
_UNDOING = frozenset({COMPENSATE, CANCEL, ROLLBACK})
_PHASE_ONE: Mapping[PhaseOne, str] = MappingProxyType(
    {PhaseOne.REGISTERED: PREPARED, PhaseOne.DONE: SUCCEED, PhaseOne.FAILED: FAILED}
)


def view_global(tx: Global | Outcome) -> GlobalView:
    """The transaction itself."""
    terms = tx.terms
    detail = decode_detail(terms.detail) if terms is not None else Detail()
    ended = isinstance(tx, Outcome)
    end_ms = tx.end_ms if isinstance(tx, Outcome) else None
    next_ms = due_ms(tx) if isinstance(tx, Global) else None
    committed = tx.phase is Phase.COMMITTED
    return GlobalView(
        id=int(tx.xid.rpartition(":")[2]),
        create_time=rfc3339(tx.begin_ms),
        update_time=rfc3339(tx.end_ms if isinstance(tx, Outcome) else _touched_ms(tx)),
        gid=gid_of(tx),
        trans_type="" if terms is None else terms.kind,
        status=STATUSES[tx.phase],
        query_prepared=detail.query_prepared,
        protocol=detail.protocol or ("http" if terms is not None and terms.kind else ""),
        finish_time=rfc3339(end_ms) if committed else "",
        rollback_time=rfc3339(end_ms) if ended and not committed else "",
        result=(tx.reason or "") if committed and terms is not None and terms.kind == WORKFLOW else "",
        rollback_reason="" if tx.phase in _FORWARD else rollback_reason(tx),
        options=detail.options,
        custom_data=detail.custom_data,
        next_cron_interval=(terms.retry_ms or 0) // 1000 if terms is not None else 0,
        next_cron_time=rfc3339(next_ms),
        concurrent=b'"concurrent":true' in detail.options.encode(),
    )


def view_branches(tx: Global | Outcome) -> list[BranchView]:
    """Every op of every branch that has a URL, and every step that a workflow has recorded."""
    gid, begin = gid_of(tx), rfc3339(tx.begin_ms)
    rows = []
    for branch in _branches(tx):
        kept = _url_branch(branch)
        if kept is None:
            continue
        for op, status in _ops(tx, branch, kept):
            rows.append(
                BranchView(
                    id=branch.branch_id,
                    create_time=begin,
                    update_time=begin,
                    gid=gid,
                    url=kept.urls.get(op, ""),
                    bin_data=kept.payload,
                    branch_id=kept.id,
                    op=op,
                    status=status,
                )
            )
    return rows


def gid_of(tx: Global | Outcome) -> str:
    """The name that DTM's clients and branches know it by."""
    return tx.terms.gid if tx.terms is not None and tx.terms.gid else tx.xid


def protocol_of(tx: Global | Outcome | None) -> str:
    """Of its calls; empty where nothing is said."""
    return decode_detail(tx.terms.detail).protocol if tx is not None and tx.terms is not None else ""


def rollback_reason(tx: Global | Outcome) -> str:
    """Why it was rolled back, in DTM's words where it has some."""
    terms = tx.terms
    if tx.cause is Cause.RETRIES and terms is not None:
        return f"RetryCount is greater than RetryLimit, RetryLimit: {terms.retry_limit - 1}"
    if tx.reason:
        return tx.reason
    if tx.cause is Cause.TIMEOUT:
        return f"Timeout after {tx.timeout_ms // 1000} seconds"
    return "forced to stop" if tx.cause is Cause.OPERATOR else ""


_FORWARD = frozenset({Phase.OPEN, Phase.FORWARD, Phase.COMMITTING, Phase.COMMITTED})


def _branches(tx: Global | Outcome) -> Iterable[Branch | EndedBranch]:
    if isinstance(tx, Outcome):
        return tx.branches
    return sorted((*tx.branches.values(), *tx.finished.values()), key=lambda branch: branch.seq)


def _url_branch(branch: Branch | EndedBranch) -> UrlBranch | None:
    """None for what no URL belongs to, and for the runner, which DTM does not show."""
    if branch.branch_type not in _OPS and branch.branch_type is not BranchType.RECORD:
        return None
    try:
        return decode_branch(branch.application_data or "")
    except msgspec.DecodeError:
        return None


def _ops(tx: Global | Outcome, branch: Branch | EndedBranch, kept: UrlBranch) -> Iterable[tuple[str, str]]:
    if branch.branch_type is BranchType.RECORD:
        return [(op, _PHASE_ONE[branch.phase_one]) for op in kept.urls]
    undone = tx.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    rows = []
    for op in _OPS[branch.branch_type]:
        if op == ACTION and branch.branch_type is BranchType.SAGA:
            rows.append((op, _PHASE_ONE[branch.phase_one]))
        else:
            done = branch.ended and (op in _UNDOING) == undone
            rows.append((op, SUCCEED if done else PREPARED))
    return rows


def _touched_ms(tx: Global) -> int:
    return max([tx.begin_ms, *(branch.last_attempt_ms or 0 for branch in tx.branches.values())])
