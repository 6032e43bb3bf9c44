"""What the admin door shows: JSON shapes (DESIGN §7), and how transactions become them. Ids are texts, times ms."""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from troth.core.events import LockWait
from troth.core.listeners import standing
from troth.core.model import Branch, Cause, EndedBranch, Global, LockMode, Outcome, Phase, PhaseOne
from troth.server.inbound.seata_answers import status_of
from troth.wire.seata.enums import BranchStatus, GlobalStatus


class BranchView(msgspec.Struct):
    """One branch that has not ended. `lock_keys` is Seata's text, `table:pk,pk;table:pk`, as the client sent it.

    `lock_mode`: exclusive, or add for additions that bear each other.
    """

    branch_id: str
    branch_type: str
    resource_id: str
    status: str
    lock_keys: str
    lock_mode: str
    attempts: int
    next_due: int | None
    last_error: str | None
    last_attempt: int | None
    last_worker: str | None
    client_id: str


class WaitingView(msgspec.Struct):
    """One registration that queues for rows. `kind`: hot, if it holds local row locks meanwhile, else cold."""

    kind: str
    resource_id: str
    lock_keys: str
    lock_mode: str
    since: int
    until: int


class TransactionView(msgspec.Struct):
    """A global transaction. `outcome` is null until it has ended.

    `gid` is the name that its user chose, else the xid. `branches`: those that have not ended; of a transaction that
    was begun with terms (a saga, a message) all of them, also when it has ended.
    """

    xid: str
    gid: str
    name: str
    application: str
    group: str
    status: str
    outcome: str | None
    cause: str | None
    begin_time: int
    end_time: int | None
    timeout_ms: int
    rollback_only: bool
    branches: list[BranchView]
    waiting: list[WaitingView]


class PageView(msgspec.Struct):
    """Newest first, those that have not ended before those that have; `cursor` is null on the last page."""

    transactions: list[TransactionView]
    cursor: str | None


class ErrorView(msgspec.Struct):
    """Why a request was refused."""

    error: str


class HealthView(msgspec.Struct):
    """`status` is ok, or says what is not. `leader` and `epoch` only where several coordinators share a store."""

    status: str
    leader: str | msgspec.UnsetType = msgspec.UNSET
    epoch: int | msgspec.UnsetType = msgspec.UNSET


class RetryView(msgspec.Struct):
    """So many branches are asked again now."""

    xid: str
    branches: int


class SettingView(msgspec.Struct):
    """One setting in force, and where it came from."""

    key: str
    value: str
    source: str


_PHASE_ONE_NAMES: Mapping[PhaseOne, BranchStatus] = MappingProxyType(
    {
        PhaseOne.REGISTERED: BranchStatus.Registered,
        PhaseOne.DONE: BranchStatus.PhaseOne_Done,
        PhaseOne.FAILED: BranchStatus.PhaseOne_Failed,
    }
)
_FAILED_NAMES: Mapping[tuple[Phase, bool], BranchStatus] = MappingProxyType(
    {
        (Phase.COMMITTING, False): BranchStatus.PhaseTwo_CommitFailed_Retryable,
        (Phase.COMMITTING, True): BranchStatus.PhaseTwo_CommitFailed_Unretryable,
        (Phase.ROLLING_BACK, False): BranchStatus.PhaseTwo_RollbackFailed_Retryable,
        (Phase.ROLLING_BACK, True): BranchStatus.PhaseTwo_RollbackFailed_Unretryable,
    }
)


def view_open(tx: Global) -> TransactionView:
    """A transaction that has not ended."""
    waiting = [
        WaitingView(
            "cold" if isinstance(one.register, LockWait) else "hot",
            one.register.resource_id,
            one.register.lock_text,
            one.register.lock_mode.value,
            one.since_ms,
            one.until_ms,
        )
        for one in tx.waiting.values()
    ]
    return TransactionView(
        xid=tx.xid,
        gid=_gid(tx),
        name=tx.name,
        application=tx.application,
        group=tx.group,
        status=status_of(standing(tx)).name,
        outcome=None,
        cause=tx.cause.value if tx.cause else None,
        begin_time=tx.begin_ms,
        end_time=None,
        timeout_ms=tx.timeout_ms,
        rollback_only=tx.rollback_only,
        branches=_view_branches(tx),
        waiting=waiting,
    )


def view_ended(outcome: Outcome) -> TransactionView:
    """A transaction that has ended."""
    status = status_of(standing(outcome)).name
    return TransactionView(
        xid=outcome.xid,
        gid=_gid(outcome),
        name=outcome.name,
        application=outcome.application,
        group=outcome.group,
        status=status,
        outcome=status,
        cause=outcome.cause.value,
        begin_time=outcome.begin_ms,
        end_time=outcome.end_ms,
        timeout_ms=outcome.timeout_ms,
        rollback_only=outcome.phase is Phase.ROLLED_BACK and outcome.cause is Cause.VOTE,
        branches=[_view_left(outcome.phase, branch) for branch in outcome.branches],
        waiting=[],
    )


def _gid(tx: Global | Outcome) -> str:
    """The name that its user chose, else the xid."""
    return tx.xid if tx.terms is None else tx.terms.gid or tx.xid


def _view_branches(tx: Global) -> list[BranchView]:
    """Those that have not ended, and of a transaction with terms the others too; by seq."""
    shown = [(branch.seq, _view_branch(tx.phase, branch)) for branch in tx.branches.values()]
    shown += [(branch.seq, _view_left(tx.phase, branch)) for branch in tx.finished.values()]
    return [view for _, view in sorted(shown, key=lambda pair: pair[0])]


def _view_left(phase: Phase, branch: Branch | EndedBranch) -> BranchView:
    """A branch about which nothing is to be done any more."""
    status = _PHASE_ONE_NAMES[branch.phase_one]
    if branch.ended:
        commits = phase in (Phase.COMMITTING, Phase.COMMITTED)
        status = BranchStatus.PhaseTwo_Committed if commits else BranchStatus.PhaseTwo_Rollbacked
    return BranchView(
        branch_id=str(branch.branch_id),
        branch_type=branch.branch_type.name,
        resource_id=branch.resource_id,
        status=status.name,
        lock_keys="",
        lock_mode=LockMode.EXCLUSIVE.value,
        attempts=branch.attempts,
        next_due=None,
        last_error=branch.last_error,
        last_attempt=None,
        last_worker=None,
        client_id="",
    )


def _view_branch(phase: Phase, branch: Branch) -> BranchView:
    failed = branch.frozen or branch.last_error is not None
    status = _FAILED_NAMES.get((phase, branch.frozen)) if failed else None
    return BranchView(
        branch_id=str(branch.branch_id),
        branch_type=branch.branch_type.name,
        resource_id=branch.resource_id,
        status=(status or _PHASE_ONE_NAMES[branch.phase_one]).name,
        lock_keys=branch.lock_text,
        lock_mode=branch.lock_mode.value,
        attempts=branch.attempts,
        next_due=branch.next_due_ms if branch.next_due_ms is not None else branch.answer_due_ms,
        last_error=branch.last_error,
        last_attempt=branch.last_attempt_ms,
        last_worker=branch.last_worker,
        client_id=branch.client_id,
    )


# ---- which of them ----


class Filter(msgspec.Struct, frozen=True):
    """What `?status=` selects. `status` None: any."""

    opened: bool
    ended: bool
    status: GlobalStatus | None = None

    @property
    def ended_phase(self) -> Phase | None:
        """The phase to ask the store for; None: any."""
        if self.status is None:
            return None
        return Phase.COMMITTED if self.status is GlobalStatus.Committed else Phase.ROLLED_BACK

    def takes(self, thing: Global | Outcome) -> bool:
        """True if this transaction is wanted."""
        return self.status is None or status_of(standing(thing)) is self.status


_ENDED = frozenset({GlobalStatus.Committed, GlobalStatus.Rollbacked, GlobalStatus.TimeoutRollbacked})


def parse_status(text: str | None) -> Filter:
    """`?status=`: one of Seata's names, `open` or `ended`. Raises ValueError."""
    if not text:
        return Filter(opened=True, ended=True)
    if text in ("open", "ended"):
        return Filter(opened=text == "open", ended=text == "ended")
    try:
        status = GlobalStatus[text]
    except KeyError:
        names = ", ".join(status.name for status in GlobalStatus)
        raise ValueError(f"status is open, ended or one of {names}; not {text!r}") from None
    return Filter(opened=status not in _ENDED, ended=status in _ENDED, status=status)


def parse_limit(text: str | None) -> int:
    """`?limit=`: 1 to 1000, 100 unless given. Raises ValueError."""
    if text is None:
        return 100
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise ValueError(f"limit is a number from 1 to 1000, not {text!r}")
    return int(text)


class OpenCursor(msgspec.Struct, frozen=True, tag="open"):
    """Go on below this transaction, among those that have not ended."""

    begin_ms: int
    xid: str


class EndedCursor(msgspec.Struct, frozen=True, tag="ended"):
    """Go on here among those that have ended; None: from the newest."""

    store: str | None


Cursor = OpenCursor | EndedCursor


def encode_cursor(cursor: Cursor) -> str:
    """A text for `?cursor=`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def parse_cursor(text: str | None) -> Cursor | None:
    """What `encode_cursor` gave. Raises ValueError."""
    if not text:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(packed, type=OpenCursor | EndedCursor)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise ValueError("cursor is not one that this server gave") from None


def newest_open(
    transactions: Mapping[str, Global], wanted: Filter, after: OpenCursor | None, limit: int
) -> tuple[list[Global], bool]:
    """At most `limit` of them, newest first, and whether there are more."""
    bound = (after.begin_ms, after.xid) if after else None
    found = heapq.nlargest(
        limit + 1,
        (tx for tx in transactions.values() if (bound is None or (tx.begin_ms, tx.xid) < bound) and wanted.takes(tx)),
        key=lambda tx: (tx.begin_ms, tx.xid),
    )
    return found[:limit], len(found) > limit
