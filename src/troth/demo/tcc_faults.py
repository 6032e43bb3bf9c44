"""What can go wrong with the transfer of `troth demo tcc`, and what must stand in both banks afterwards."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

AMOUNT: Final = 200
AT_START: Final = 1000
"""What account A has; C has nothing."""


class Fault(StrEnum):
    """What goes wrong, once. A's bank suffers it, but for `refused`, which is C's."""

    NONE = "none"
    REFUSED = "refused"
    EMPTY_CANCEL = "empty-cancel"
    LATE_TRY = "late-try"
    DUPLICATE_CONFIRM = "duplicate-confirm"
    DUPLICATE_CANCEL = "duplicate-cancel"
    CRASH_AFTER_TRY = "crash-after-try"
    CRASH_BEFORE_CONFIRM = "crash-before-confirm"
    CRASH_AFTER_CONFIRM = "crash-after-confirm"
    TIMEOUT = "timeout"


class Expected(msgspec.Struct, frozen=True):
    """How the transfer must end: its status; how often A's try, confirm and cancel have run, its fence, and the diary.

    `asked`: how often at least its confirm (or cancel) was asked for. `shown`: what the diary of the bank must tell.
    """

    outcome: str
    ran: tuple[int, int, int]
    fence: str
    story: str
    asked: int = 1
    shown: str | None = None


_COMMITTED: Final = "Committed"
_ROLLED_BACK: Final = "Rollbacked"

EXPECTED: Final = MappingProxyType(
    {
        Fault.NONE: Expected(_COMMITTED, (1, 1, 0), "COMMITTED", "nothing goes wrong"),
        Fault.REFUSED: Expected(_ROLLED_BACK, (1, 0, 1), "ROLLBACKED", "C's account is closed: A gets its money back"),
        Fault.EMPTY_CANCEL: Expected(
            _ROLLED_BACK,
            (0, 0, 0),
            "SUSPENDED",
            "A's branch is registered, its try never runs: the cancel must not give back what was never taken",
            shown="no connection to the database, so no try",
        ),
        Fault.LATE_TRY: Expected(
            _ROLLED_BACK,
            (0, 0, 0),
            "SUSPENDED",
            "A's try is held up until the transfer is rolled back: it must not freeze what nobody will free",
            shown="the late try is refused",
        ),
        Fault.DUPLICATE_CONFIRM: Expected(
            _COMMITTED, (1, 1, 0), "COMMITTED", "the answer to A's confirm is lost: it is asked for twice, done once", 2
        ),
        Fault.DUPLICATE_CANCEL: Expected(
            _ROLLED_BACK,
            (1, 0, 1),
            "ROLLBACKED",
            "the answer to A's cancel is lost: it is asked for twice, done once",
            2,
        ),
        Fault.CRASH_AFTER_TRY: Expected(
            _ROLLED_BACK,
            (1, 0, 1),
            "ROLLBACKED",
            "A's bank is killed behind its try: the next process gives the money back",
            shown="kill -9 after the try",
        ),
        Fault.CRASH_BEFORE_CONFIRM: Expected(
            _COMMITTED,
            (1, 1, 0),
            "COMMITTED",
            "A's bank is killed before it confirms: the next process confirms",
            2,
            "kill -9 before the confirm",
        ),
        Fault.CRASH_AFTER_CONFIRM: Expected(
            _COMMITTED,
            (1, 1, 0),
            "COMMITTED",
            "A's bank is killed behind its confirm: the next process is asked again, and finds it done",
            2,
            "kill -9 after the confirm",
        ),
        Fault.TIMEOUT: Expected(
            "TimeoutRollbacked", (1, 0, 1), "ROLLBACKED", "the transfer is held open beyond its timeout"
        ),
    }
)
