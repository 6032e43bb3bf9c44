"""The nouns: global transactions, branches, rows, and the facts kept of each.

Facts only are stored (phase, cause, attempts); names such as Seata's eighteen statuses are derived from a
`Standing` by one table at each door.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from troth.core.events import LockWait, Register


class Phase(Enum):
    """Where a global transaction stands in its life: Open → [Forward] → decided (completing) → ended.

    FORWARD: it was submitted, and the coordinator itself runs steps of it that may still refuse.
    """

    OPEN = "open"
    FORWARD = "forward"
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
    REFUSED = "refused"
    """A forward step, or the runner, said no."""
    RETRIES = "retries"
    """A forward step had no success in as many attempts as it may have."""
    OPERATOR = "operator"
    """Somebody stopped it: nothing was undone."""


class OnTimeout(Enum):
    """What the global timeout means while nothing is decided.

    ASK: the transaction's runner is asked how it stands; GO_ON: nothing at all.
    """

    __hash__ = object.__hash__

    ROLL_BACK = "roll-back"
    ASK = "ask"
    GO_ON = "go-on"


class Verb(Enum):
    """What the coordinator asks of a branch: after the decision, or before it (ACTION in FORWARD, ASK while open).

    ACTION: run the step, or take the message. ASK: say how the transaction stands, or go on with its run.
    """

    __hash__ = object.__hash__

    COMMIT = "commit"
    ROLLBACK = "rollback"
    ACTION = "action"
    ASK = "ask"


class BranchType(IntEnum):
    """The mode of a branch, by Seata's ordinals (PROTOCOL §3).

    Those from 100 on are ours, and no Seata client sees them.
    MESSAGE is delivered after the commit. RUNNER is whoever runs the transaction, or knows how it stands; at most one.
    RECORD is a step that its client ran and told of: it is never called.
    """

    __hash__ = int.__hash__  # as the other enums here: Enum's own hash is a call into Python

    AT = 0
    TCC = 1
    SAGA = 2
    XA = 3
    MESSAGE = 100
    RUNNER = 101
    RECORD = 102


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


class Terms(msgspec.Struct, frozen=True):
    """What was agreed for a transaction beyond the usual; a usual Seata transaction has none.

    gid: the name that its user chose, unique in the cell; empty if he chose none. kind: the word of the door that began
    it (saga, tcc, msg, xa, workflow). detail: what that door needs again; opaque here.
    retry_ms: the first interval between attempts, which doubles; None: by the rules. retry_limit: so many attempts
    has a forward step, each at once after the one before; 0: no limit. answer_timeout_ms: after this a call counts as
    failed; None: by the rules. start_ms: what follows a submit begins so long after the beginning.
    """

    gid: str
    kind: str
    detail: bytes
    on_timeout: OnTimeout = OnTimeout.ROLL_BACK
    retry_ms: int | None = None
    retry_limit: int = 0
    answer_timeout_ms: int | None = None
    start_ms: int = 0


class Plan(msgspec.Struct, frozen=True):
    """How the coordinator reaches a branch, and after which others (by `seq`) it runs forward or is delivered.

    by_url: its resource is a URL, else whoever serves the resource on a channel. A step is undone before those
    that it comes after.
    """

    by_url: bool
    after: tuple[int, ...] = ()


class Branch(msgspec.Struct):
    """One participant's share of a global transaction; ids are 64-bit, times integer milliseconds.

    `seq` (1, 2, … within the transaction) orders rollbacks, never an id or a time (field-notes C3).
    `answer_due_ms` is the deadline of the call that is out now, `next_due_ms` the time of the next attempt.
    `phase_one` of a forward step is what came of its action. `left`: nothing is to be done about it any more, it is
    kept to be shown; `ended`: because its phase two is done. `epoch`: which attempt of a runner has the run now.
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
    plan: Plan | None = None
    left: bool = False
    ended: bool = False
    epoch: int = 0

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


class Course(msgspec.Struct):
    """What a transaction with steps, a runner or terms needs beyond the usual.

    `finished`: branches that have left and are kept to be shown. The others live in memory only. `forward`: it is, or
    was, in FORWARD; `to_run`: how many steps have not run yet. `held`: how many others keep a branch from its turn;
    `holds`: whose turn waits for a branch. `records`: key of a recorded step → its branch. `asked`: number of the last
    question to the runner; `channel`: over which it runs.
    """

    finished: dict[int, Branch] = {}
    forward: bool = False
    to_run: int = 0
    held: dict[int, int] = {}
    holds: dict[int, list[int]] = {}
    records: dict[str, int] = {}
    runner: int | None = None
    asked: int = 0
    channel: object = None


_NONE: Mapping[int, Branch] = MappingProxyType({})


class Global(msgspec.Struct):
    """A global transaction that has not ended, with what is stored of it and what lives in memory only.

    `reason`: words that came with the decision.
    """

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
    terms: Terms | None = None
    reason: str | None = None
    course: Course | None = None
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

    @property
    def finished(self) -> Mapping[int, Branch]:
        """Branches that have left and are kept to be shown."""
        return _NONE if self.course is None else self.course.finished


class EndedBranch(msgspec.Struct, frozen=True):
    """What is kept of a branch of an ended transaction that has terms. `ended`: its phase two was done."""

    branch_id: int
    seq: int
    branch_type: BranchType
    resource_id: str
    application_data: str | None
    phase_one: PhaseOne
    ended: bool
    attempts: int
    last_error: str | None


class Outcome(msgspec.Struct, frozen=True):
    """What is kept of an ended transaction, so that a repeated question hears the truth.

    `terms`, and `branches` in the order of `seq`, only of one that had terms.
    """

    xid: str
    name: str
    application: str
    group: str
    begin_ms: int
    timeout_ms: int
    phase: Phase
    cause: Cause
    end_ms: int
    reason: str | None = None
    terms: Terms | None = None
    branches: tuple[EndedBranch, ...] = ()


class Standing(msgspec.Struct, frozen=True):
    """The facts from which every door derives its own name for a transaction's state.

    `asynchronous`: all that is left after the commit decision may be done later (AT: undo logs to delete).
    """

    xid: str
    phase: Phase
    cause: Cause | None = None
    trouble: Trouble = Trouble.NONE
    asynchronous: bool = False
    reason: str | None = None
