"""What can happen to a cell. Ids and times are drawn by the shell and come in with the event.

`reply_to` is an opaque token of the door that asked; the core hands it back in an `Answer` and never looks inside.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from troth.core.model import BranchType, LockMode, Outcome, PhaseOne, Plan, RowKey, Terms, Verb


class NewStep(msgspec.Struct, frozen=True):
    """A branch from the beginning on: a forward step, a message, a runner. Its `seq` is its place, from 1."""

    branch_id: int
    branch_type: BranchType
    resource_id: str
    application_data: str | None
    plan: Plan | None


class Begin(msgspec.Struct, frozen=True):
    """A TM opens a global transaction.

    With a gid that is known already it changes nothing and is answered `Known`. `submit`: it is committed in the same
    turn; then the answer is `Begun`, or with `wait` what a Commit that waits would hear.
    `client_id` and `channel`: over which connection a runner among `steps` runs.
    """

    xid: str
    name: str
    application: str
    group: str
    timeout_ms: int
    reply_to: object
    terms: Terms | None = None
    steps: tuple[NewStep, ...] = ()
    submit: bool = False
    wait: bool = False
    client_id: str = ""
    channel: object = None


class Register(msgspec.Struct, frozen=True):
    """An RM adds a branch, after its local change and before its local commit, and wants `keys` locked.

    `may_wait` is false where the answer cannot go out on its own (a merged request of an old client).
    """

    xid: str
    branch_id: int
    branch_type: BranchType
    resource_id: str
    lock_text: str
    keys: tuple[RowKey, ...]
    application_data: str | None
    auto_commit: bool
    client_id: str
    channel: object
    may_wait: bool
    reply_to: object
    lock_mode: LockMode = LockMode.EXCLUSIVE
    plan: Plan | None = None


class LockWait(msgspec.Struct, frozen=True):
    """An RM that holds nothing locally queues for rows, and gets them reserved: a cold wait (design/coordinator §4).

    `branch_id` is the number of the wait and of its reservation, drawn like a branch's.
    """

    xid: str
    branch_id: int
    resource_id: str
    lock_text: str
    keys: tuple[RowKey, ...]
    channel: object
    may_wait: bool
    reply_to: object
    lock_mode: LockMode = LockMode.EXCLUSIVE

    @property
    def auto_commit(self) -> bool:
        """It has freed its local rows."""
        return True


class Report(msgspec.Struct, frozen=True):
    """An RM tells how its local transaction ended; `application_data` overwrites the registered one, null included.

    `phase_one` None: the report says something else, and what was reported of phase one stays as it is. `read_only`:
    the database has ended it already, since it has changed nothing; an XA branch then has no phase two.
    """

    xid: str
    branch_id: int
    phase_one: PhaseOne | None
    application_data: str | None
    reply_to: object
    read_only: bool = False


class Vote(msgspec.Struct, frozen=True):
    """A participant makes the transaction rollback-only (GlobalReport with Rollbacking)."""

    xid: str
    reply_to: object


class Commit(msgspec.Struct, frozen=True):
    """The TM asks for the commit; asked again after a lost answer, it hears what was decided.

    `wait` false: it is answered as soon as the decision is durable. `reason`: words to keep with it.
    `attempt`: whoever asks is this attempt of the runner, and may have been superseded.
    """

    xid: str
    reply_to: object
    wait: bool = True
    reason: str | None = None
    attempt: int | None = None


class Rollback(msgspec.Struct, frozen=True):
    """The TM asks for the rollback. The other fields are those of `Commit`."""

    xid: str
    reply_to: object
    wait: bool = True
    reason: str | None = None
    attempt: int | None = None


class Stop(msgspec.Struct, frozen=True):
    """An operator ends a transaction as rolled back, at once; nothing is undone, and its rows are free."""

    xid: str
    reply_to: object


class Record(msgspec.Struct, frozen=True):
    """Whoever runs a transaction tells how its step `key` ended; what is stored under a key stays.

    `attempt`: of the runner's, so that one who was superseded records nothing; None: not checked.
    """

    xid: str
    attempt: int | None
    branch_id: int
    key: str
    application_data: str | None
    failed: bool
    reply_to: object


class Claim(msgspec.Struct, frozen=True):
    """A process takes the run over, on question number `attempt`; it is told what is recorded."""

    xid: str
    attempt: int
    client_id: str
    channel: object
    reply_to: object


class Status(msgspec.Struct, frozen=True):
    """Somebody asks how a transaction stands."""

    xid: str
    reply_to: object


class LockQuery(msgspec.Struct, frozen=True):
    """Would `keys` be granted to `xid` now? Locks nothing. An unknown xid may ask too."""

    xid: str
    keys: tuple[RowKey, ...]
    reply_to: object


class CallResult(Enum):
    """How a call to a branch ended, as far as the core needs to know. ONGOING: not yet, and no failure; ask again."""

    __hash__ = object.__hash__  # as those of the model: it is counted under this key at every answer

    DONE = "done"
    RETRY = "retry"
    REFUSED = "refused"
    NO_CHANNEL = "no-channel"
    ONGOING = "ongoing"


class Answered(msgspec.Struct, frozen=True):
    """A call to a branch came back (or could not be sent: NO_CHANNEL). `detail` is at most 2 KiB of text."""

    xid: str
    branch_id: int
    verb: Verb
    attempt: int
    result: CallResult
    detail: str | None = None
    worker: str | None = None


class Due(msgspec.Struct, frozen=True):
    """The moment that `due_ms(tx)` named has come: timeouts, retries, overdue answers and waits, all alike."""

    xid: str


class Served(msgspec.Struct, frozen=True):
    """A client that serves `resource_id` has just registered: what lacked a channel is due now."""

    resource_id: str


class ChannelClosed(msgspec.Struct, frozen=True):
    """A client's connection is gone, and with it the registrations that waited on it."""

    channel: object


class Retry(msgspec.Struct, frozen=True):
    """An operator wants the next attempt now, of frozen branches too."""

    xid: str
    reply_to: object


class Loaded(msgspec.Struct, frozen=True):
    """What the store knows of an xid that the cell does not hold: its outcome, or None for an unknown one."""

    xid: str
    outcome: Outcome | None


class Sweep(msgspec.Struct, frozen=True):
    """Time to forget outcomes that ended at or before `before_ms`; the store keeps them longer."""

    before_ms: int


# ---- inside the cell only: what the lock table and the machine tell each other ----


class Granted(msgspec.Struct, frozen=True):
    """The rows that a registration wanted are its own now."""

    xid: str
    register: Register


class Reserved(msgspec.Struct, frozen=True):
    """The rows that a cold wait wanted are kept for it now."""

    xid: str
    wait: LockWait


class Lapsed(msgspec.Struct, frozen=True):
    """The channel for which rows were reserved is gone."""

    xid: str
    wait: LockWait


class Denied(msgspec.Struct, frozen=True):
    """The rows that a registration wanted cannot be had: `holder` has had `key` for `held_ms` milliseconds.

    `fail_fast`: trying again cannot help. The holder is rolling back, and its undo may need what the asker holds
    locally; or the asker is the youngest of `cycle`, in which each waits for the next and the last for the first.
    """

    xid: str
    register: Register | LockWait
    key: RowKey
    holder: str
    held_ms: int
    fail_fast: bool
    cycle: tuple[str, ...] = ()


class Cancelled(msgspec.Struct, frozen=True):
    """The channel on which a registration waited is gone: nobody is there to hear an answer."""

    xid: str
    register: Register | LockWait


class Lost(msgspec.Struct, frozen=True):
    """The channel over which the runner ran is gone."""

    xid: str


class Ran(msgspec.Struct, frozen=True):
    """Every forward step of a transaction has run."""

    xid: str


class Wake(msgspec.Struct, frozen=True):
    """`resource_id` is served again, and this transaction has a branch there that found nobody."""

    xid: str
    resource_id: str


class Drained(msgspec.Struct, frozen=True):
    """A decided transaction has no branch left."""

    xid: str


TransactionEvent = (
    Begin
    | Register
    | LockWait
    | Report
    | Vote
    | Commit
    | Rollback
    | Stop
    | Record
    | Claim
    | Status
    | Answered
    | Due
    | Retry
    | Granted
    | Reserved
    | Lapsed
    | Denied
    | Cancelled
    | Lost
    | Ran
    | Wake
    | Drained
)
CellEvent = LockQuery | Served | ChannelClosed | Loaded | Sweep
CELL_EVENTS = frozenset({LockQuery, Served, ChannelClosed, Loaded, Sweep})
Event = TransactionEvent | CellEvent
