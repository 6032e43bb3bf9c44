"""What can go wrong for a program that uses the client; every error here is a `TrothError`.

Two families matter to a caller. Where the outcome is *known*, the class says it: `TransactionRolledBack`,
`CommitFailed`. Where it is not, the class says that instead: `OutcomeUnknown` (ask again with the xid),
`CoordinatorUnavailable` (the request was not answered). Nothing here turns "I did not hear" into "it failed".
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from troth.wire.seata.enums import GlobalStatus, TransactionExceptionCode


class TrothError(Exception):
    """Base of every error that the client raises by itself."""


class NotInitialised(TrothError):
    """No client was given and the process has no default one: call `troth.init(...)` first."""


class ClientClosed(TrothError):
    """The client was closed; open a new one with `troth.init(...)`."""


class CoordinatorUnavailable(TrothError):
    """The request could not be sent, or its answer was lost. Whether the coordinator acted on it is not known."""


class RequestTimeout(CoordinatorUnavailable):
    """The link is up, but no answer came within the request's time limit."""


class CoordinatorRefused(TrothError):
    """The coordinator answered `Failed`: `code` is Seata's exception code, `reason` its text."""

    def __init__(self, reason: str, code: TransactionExceptionCode | None = None) -> None:
        super().__init__(reason if code is None else f"{reason} ({code.name})")
        self.reason = reason
        self.code = code


class OutcomeUnknown(TrothError):
    """The end of a global transaction was asked for, but no truthful answer came: it may be committed or rolled back.

    The coordinator brings it to one of the two by itself. Ask later by `xid` (`troth inspect XID`).
    """

    def __init__(self, xid: str, reason: str) -> None:
        super().__init__(f"the outcome of {xid} is unknown: {reason}")
        self.xid = xid
        self.reason = reason


class TransactionRolledBack(TrothError):
    """A commit was asked for, but the global transaction is (being) rolled back; `cause` says why, as far as known."""

    def __init__(self, xid: str, status: GlobalStatus, cause: str) -> None:
        super().__init__(f"{xid} is rolled back ({status.name}): {cause}")
        self.xid = xid
        self.status = status
        self.cause = cause


class CommitFailed(TrothError):
    """The commit was decided, but a branch can not be committed: an operator has to look (`troth inspect XID`)."""

    def __init__(self, xid: str, status: GlobalStatus | None, cause: str) -> None:
        super().__init__(f"{xid} could not be committed ({'no status' if status is None else status.name}): {cause}")
        self.xid = xid
        self.status = status
        self.cause = cause


class VoteNotTaken(TrothError):
    """A rollback-only vote was sent, but the coordinator does not honour it: the transaction may still commit."""

    def __init__(self, xid: str, answer: str) -> None:
        super().__init__(
            f"the vote to roll back {xid} was not taken (answer: {answer}); raise an exception to the caller instead"
        )
        self.xid = xid
        self.answer = answer


class PropagationRefused(TrothError):
    """The propagation rule forbids the call: MANDATORY without a transaction, or NEVER inside one."""


class NoTransaction(TrothError):
    """The call needs a global transaction, and none is bound to this thread or task."""


class BranchFailed(TrothError):
    """The local part of a global transaction could not be done; the local transaction was rolled back."""


class LockConflict(BranchFailed):
    """Another global transaction holds a row that this one wants to change.

    `key` is the row (`table:pk`) as far as known, `holder` the xid that has it, `age` how long the wait lasted.
    """

    def __init__(
        self,
        key: str | None = None,
        holder: str | None = None,
        age: timedelta | None = None,
        *,
        detail: str | None = None,
    ) -> None:
        who = "another global transaction" if holder is None else holder
        what = "a row it wants" if key is None else key
        waited = "" if age is None else f" after {age.total_seconds():.3f} s"
        super().__init__(f"{what} is held by {who}{waited}" + (f": {detail}" if detail else ""))
        self.key = key
        self.holder = holder
        self.age = age


class FloorReached(BranchFailed):
    """An additive statement would take more from a hot row than may be taken now.

    `key` is the row (`table:pk`), `value` what `column` had, `reserved` what open global transactions have added to it
    and may yet take back, `wanted` what the statement takes, `floor` the least that must stay. Where `may_pass`, only
    what is reserved stands in the way: tried again when those have ended, the statement may go.
    """

    def __init__(
        self, *, key: str, column: str, floor: Decimal, value: Decimal, reserved: Decimal, wanted: Decimal
    ) -> None:
        open_part = f", of which {reserved:f} are open increments of others" if reserved else ""
        super().__init__(
            f"{key}: {column} is {value:f}{open_part}; {wanted:f} cannot be taken, since {floor:f} must stay"
        )
        self.key = key
        self.column = column
        self.floor = floor
        self.value = value
        self.reserved = reserved
        self.wanted = wanted

    @property
    def may_pass(self) -> bool:
        """Whether the statement may go once the open increments are committed."""
        return self.value - self.wanted >= self.floor


class NotSupported(TrothError):
    """A statement or call is refused inside a global transaction: `reason` says why, `hint` what to do instead."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason if hint is None else f"{reason} Hint: {hint}")
        self.reason = reason
        self.hint = hint

    def add_hint(self, more: str) -> None:
        """Say `more` of what to do instead (nothing, if it is empty)."""
        if more:
            self.hint = more if self.hint is None else f"{self.hint} {more}"
            self.args = (f"{self.reason} Hint: {self.hint}",)
