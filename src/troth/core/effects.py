"""What must follow a decision: deltas to write, then, once they are durable, calls and answers in order."""

from __future__ import annotations

import msgspec

from troth.core.model import (
    BranchType,
    Cause,
    EndedBranch,
    LockMode,
    Phase,
    PhaseOne,
    Plan,
    RowKey,
    Standing,
    Terms,
    Verb,
)

# ---- writes: deltas, because a transaction of 1000 branches must not cost n² ----


class OpenGlobal(msgspec.Struct, frozen=True):
    xid: str
    name: str
    application: str
    group: str
    begin_ms: int
    timeout_ms: int
    terms: Terms | None = None


class MarkGlobal(msgspec.Struct, frozen=True):
    """The decision, that it goes forward, or a rollback-only vote."""

    xid: str
    phase: Phase
    cause: Cause | None
    rollback_only: bool
    reason: str | None = None


class AddBranch(msgspec.Struct, frozen=True):
    xid: str
    branch_id: int
    seq: int
    branch_type: BranchType
    resource_id: str
    lock_text: str
    application_data: str | None
    auto_commit: bool
    client_id: str
    lock_mode: LockMode = LockMode.EXCLUSIVE
    plan: Plan | None = None


class MarkBranch(msgspec.Struct, frozen=True):
    """All facts of a branch that can change, as they are now. `client_id` None: it is as it was."""

    xid: str
    branch_id: int
    phase_one: PhaseOne
    application_data: str | None
    attempts: int
    frozen: bool
    last_error: str | None
    last_worker: str | None
    last_attempt_ms: int | None
    next_due_ms: int | None
    left: bool = False
    ended: bool = False
    epoch: int = 0
    client_id: str | None = None


class DropBranch(msgspec.Struct, frozen=True):
    xid: str
    branch_id: int


class EndGlobal(msgspec.Struct, frozen=True):
    """The transaction has ended: its branches go, its outcome stays, with `branches` if it had terms."""

    xid: str
    phase: Phase
    cause: Cause
    end_ms: int
    reason: str | None = None
    branches: tuple[EndedBranch, ...] = ()


Write = OpenGlobal | MarkGlobal | AddBranch | MarkBranch | DropBranch | EndGlobal

# ---- answers: what a door turns into its own words ----


class Begun(msgspec.Struct, frozen=True):
    xid: str


class Known(msgspec.Struct, frozen=True):
    """The gid of a Begin names a transaction that is there already, or has ended."""

    xid: str
    standing: Standing


class Registered(msgspec.Struct, frozen=True):
    branch_id: int


class Recorded(msgspec.Struct, frozen=True):
    """What is stored of a step of this key: this, or what was there before."""

    branch_id: int
    application_data: str | None
    failed: bool = False


class Claimed(msgspec.Struct, frozen=True):
    """The run is the claimer's. `records`: (key, application_data, failed) of each step, in the order of recording."""

    xid: str
    records: tuple[tuple[str, str | None, bool], ...]


class Superseded(msgspec.Struct, frozen=True):
    """Another attempt, number `attempt`, runs the transaction now."""

    xid: str
    attempt: int


class RowsReserved(msgspec.Struct, frozen=True):
    """The rows of a cold wait are kept for it, for so long."""

    keep_ms: int


class Conflict(msgspec.Struct, frozen=True):
    """Rows are held by another transaction. `fail_fast`: waiting longer cannot help (see `events.Denied`)."""

    xid: str
    branch_id: int
    key: RowKey
    holder: str
    held_ms: int
    fail_fast: bool
    auto_commit: bool
    cycle: tuple[str, ...] = ()


class NotActive(msgspec.Struct, frozen=True):
    """The transaction is known, but takes no branches or reports any more."""

    standing: Standing


class Unknown(msgspec.Struct, frozen=True):
    """No such transaction, neither open nor among the kept outcomes."""

    xid: str


class NoBranch(msgspec.Struct, frozen=True):
    xid: str
    branch_id: int


class Stands(msgspec.Struct, frozen=True):
    """How the transaction stands. `commit_asked`: the answer goes to somebody who asked for the commit."""

    standing: Standing
    commit_asked: bool = False


class Voted(msgspec.Struct, frozen=True):
    """The rollback-only vote is durable."""

    xid: str


class Reported(msgspec.Struct, frozen=True):
    branch_id: int


class Lockable(msgspec.Struct, frozen=True):
    lockable: bool


class Retrying(msgspec.Struct, frozen=True):
    """So many branches were made due now."""

    xid: str
    branches: int


Result = (
    Begun
    | Known
    | Registered
    | Recorded
    | Claimed
    | Superseded
    | RowsReserved
    | Conflict
    | NotActive
    | Unknown
    | NoBranch
    | Stands
    | Voted
    | Reported
    | Lockable
    | Retrying
)


class Answer(msgspec.Struct, frozen=True):
    """Give `result` to whoever asked with `reply_to`."""

    reply_to: object
    result: Result


class Call(msgspec.Struct, frozen=True):
    """Ask a branch to do `verb`; the answer comes back as an `Answered` event with the same attempt number.

    `gid`: the name that its user gave to the transaction, or the xid. `kind`, `detail`: those of the terms.
    `answer_timeout_ms`: when the call will be taken for failed; None: by the rules.
    """

    xid: str
    branch_id: int
    branch_type: BranchType
    resource_id: str
    application_data: str | None
    client_id: str
    verb: Verb
    attempt: int
    lock_mode: LockMode = LockMode.EXCLUSIVE
    plan: Plan | None = None
    gid: str = ""
    kind: str = ""
    detail: bytes = b""
    answer_timeout_ms: int | None = None


class Settled(msgspec.Struct, frozen=True):
    """The transaction has ended; nobody need be told, but metrics and logs want to know."""

    xid: str
    phase: Phase
    cause: Cause
    lived_ms: int
    kind: str = ""


Effect = Answer | Call | Settled
