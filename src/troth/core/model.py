"""The nouns: global transactions, branches, rows, and the facts kept of each.

Facts only are stored (phase, cause, attempts); names such as Seata's eighteen statuses are derived from a
`Standing` by one table at each door.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from troth.core.events import LockWait, Register


class Phase(Enum):
    """Where a global transaction stands in its life: Open → decided (completing) → ended."""

    OPEN = "open"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling-back"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"

    __hash__ = object.__hash__  # members are single; Enum's own hash is slow, and every step looks a phase up

    @property
    def ended(self) -> bool:
        return self is Phase.COMMITTED or self is Phase.ROLLED_BACK


class Cause(Enum):
    """Why a global transaction was decided as it was."""

    __hash__ = object.__hash__

    ASKED = "asked"
    TIMEOUT = "timeout"
    VOTE = "vote"
    PHASE_ONE_FAILED = "phase-one-failed"


class Verb(Enum):
    """What the coordinator asks of a branch after the decision."""

    __hash__ = object.__hash__

    COMMIT = "commit"
    ROLLBACK = "rollback"


class BranchType(IntEnum):
    """The mode of a branch, by Seata's ordinals (PROTOCOL §3)."""

    __hash__ = int.__hash__  # as the other enums here: Enum's own hash is a call into Python

    AT = 0
    TCC = 1
    SAGA = 2
    XA = 3


class LockMode(Enum):
    """How a branch holds its rows. Additions (`SET n = n + ?`) bear each other, and nothing else (at.md §6)."""

    __hash__ = object.__hash__

    EXCLUSIVE = "exclusive"
    ADD = "add"


class PhaseOne(Enum):
    """What the resource manager has said of a branch's local transaction.

    FAILED is not a fact: Java reports it when COMMIT threw, and the change may be in (design/coordinator §5).
    """

    REGISTERED = "registered"
    DONE = "done"
    FAILED = "failed"


class Trouble(Enum):
    """The worst thing that holds back the end of a decided transaction."""

    __hash__ = object.__hash__

    NONE = "none"
    RETRYING = "retrying"
    FROZEN = "frozen"


class RowKey(NamedTuple):
    """One row that a branch has changed; `pk` is the key's text as Java's String.valueOf writes it."""

    resource_id: str
    table: str
    pk: str


class Branch(msgspec.Struct):
    """One participant's share of a global transaction; ids are 64-bit, times integer milliseconds.

    `seq` (1, 2, … within the transaction) orders rollbacks, never an id or a time (field-notes C3).
    `answer_due_ms` is the deadline of the call that is out now, `next_due_ms` the time of the next attempt.
    """

    branch_id: int
    seq: int
    branch_type: BranchType
    resource_id: str
    lock_text: str
    keys: tuple[RowKey, ...]
    application_data: str | None
    auto_commit: bool
    client_id: str
    phase_one: PhaseOne = PhaseOne.REGISTERED
    attempts: int = 0
    frozen: bool = False
    last_error: str | None = None
    last_worker: str | None = None
    last_attempt_ms: int | None = None
    next_due_ms: int | None = None
    answer_due_ms: int | None = None
    lock_mode: LockMode = LockMode.EXCLUSIVE

    @property
    def called(self) -> bool:
        """True while a call to this branch is unanswered."""
        return self.answer_due_ms is not None


class Waiting(msgspec.Struct):
    """A registration or a cold wait that queues; lives in memory only: a lost one is an unanswered request."""

    register: Register | LockWait
    until_ms: int
    since_ms: int


class Reservation(msgspec.Struct):
    """Rows that a cold wait was granted, until its statement has run again; lives in memory only."""

    wait: LockWait
    until_ms: int


class Listener(msgspec.Struct):
    """A request for the outcome that is answered after the first phase-two round, or at `until_ms`."""

    reply_to: object
    until_ms: int
    commit_asked: bool


class Global(msgspec.Struct):
    """A global transaction that has not ended, with what is stored of it and what lives in memory only."""

    xid: str
    name: str
    application: str
    group: str
    begin_ms: int
    timeout_ms: int
    phase: Phase = Phase.OPEN
    cause: Cause | None = None
    rollback_only: bool = False
    next_seq: int = 1
    branches: dict[int, Branch] = {}
    # in memory only
    waiting: dict[int, Waiting] = {}
    reservations: dict[int, Reservation] = {}
    listeners: list[Listener] = []
    hot_wait_spent_ms: dict[str, int] = {}
    calls_out: int = 0
    agenda: list[tuple[int, int]] = []
    newest: list[int] = []
    newest_of: dict[str, list[int]] = {}

    @property
    def deadline_ms(self) -> int:
        return self.begin_ms + self.timeout_ms


class Outcome(msgspec.Struct, frozen=True):
    """What is kept of an ended transaction, so that a repeated question hears the truth."""

    xid: str
    name: str
    application: str
    group: str
    begin_ms: int
    timeout_ms: int
    phase: Phase
    cause: Cause
    end_ms: int


class Standing(msgspec.Struct, frozen=True):
    """The facts from which every door derives its own name for a transaction's state.

    `asynchronous`: all that is left after the commit decision may be done later (AT: undo logs to delete).
    """

    xid: str
    phase: Phase
    cause: Cause | None = None
    trouble: Trouble = Trouble.NONE
    asynchronous: bool = False
