"""What can go wrong with the transfer of `troth demo dtm`, and what must stand in both banks afterwards."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

AMOUNT: Final = 200
AT_START: Final = 1000
"""What account A has; C has nothing."""


class Fault(StrEnum):
    """What goes wrong, once."""

    NONE = "none"
    REFUSED = "refused"
    LOST_ANSWER = "lost-answer"
    BANK_CRASH = "bank-crash"
    COORDINATOR_CRASH = "coordinator-crash"
    TCC = "tcc"
    LATE_TRY = "late-try"
    MESSAGE = "message"
    SENDER_CRASH = "sender-crash"
    SENDER_CRASH_BEFORE_COMMIT = "sender-crash-before-commit"
    WORKFLOW_CRASH = "workflow-crash"


class Style(StrEnum):
    """How the money goes over."""

    SAGA = "saga"
    TCC = "tcc"
    MESSAGE = "msg"
    WORKFLOW = "workflow"


class Expected(msgspec.Struct, frozen=True):
    """How it must end, and what each bank's diary must have, as often as it says.

    `a`, `c`: (what, how often) of what was done. `asked`: of what was asked for, at least.
    """

    style: Style
    outcome: str
    story: str
    a: tuple[tuple[str, int], ...]
    c: tuple[tuple[str, int], ...]
    asked: tuple[tuple[str, int], ...] = ()
    shown: str | None = None
    """What stands in a diary if the fault has struck."""


_MOVED_BY_SAGA: Final = ((("withdraw", 1), ("withdraw-undo", 0)), (("deposit", 1), ("deposit-undo", 0)))

EXPECTED: Final = MappingProxyType(
    {
        Fault.NONE: Expected(Style.SAGA, "succeed", "a saga, and nothing goes wrong", *_MOVED_BY_SAGA),
        Fault.REFUSED: Expected(
            Style.SAGA,
            "failed",
            "a saga, and C's account is closed: A gets its money back",
            (("withdraw", 1), ("withdraw-undo", 1)),
            (("deposit", 0), ("deposit-undo", 0)),
            (("a withdraw-undo", 1), ("c deposit-undo", 1)),
        ),
        Fault.LOST_ANSWER: Expected(
            Style.SAGA,
            "succeed",
            "a saga, and A's answer is lost: it is asked twice, and pays once",
            *_MOVED_BY_SAGA,
            (("a withdraw", 2),),
            "the answer is lost",
        ),
        Fault.BANK_CRASH: Expected(
            Style.SAGA,
            "succeed",
            "a saga, and C's bank is killed behind its deposit: the next process is asked again, and finds it done",
            *_MOVED_BY_SAGA,
            (("c deposit", 2),),
            "kill -9",
        ),
        Fault.COORDINATOR_CRASH: Expected(
            Style.SAGA,
            "succeed",
            "a saga, and the coordinator is killed while A pays: the next one goes on",
            *_MOVED_BY_SAGA,
            (("a withdraw", 2),),
            "the coordinator is killed",
        ),
        Fault.TCC: Expected(
            Style.TCC,
            "succeed",
            "try, confirm, cancel, and nothing goes wrong",
            (("try", 1), ("confirm", 1), ("cancel", 0)),
            (("try", 1), ("confirm", 1), ("cancel", 0)),
        ),
        Fault.LATE_TRY: Expected(
            Style.TCC,
            "failed",
            "A's try is held up until it is cancelled: it must not freeze what nobody will free",
            (("try", 0), ("confirm", 0), ("cancel", 0)),
            (("try", 0), ("confirm", 0), ("cancel", 0)),
            (("a cancel", 1),),
            "the late try is refused",
        ),
        Fault.MESSAGE: Expected(
            Style.MESSAGE,
            "succeed",
            "A pays in a local transaction, and a message tells C",
            (("pay", 1),),
            (("deposit", 1),),
        ),
        Fault.SENDER_CRASH: Expected(
            Style.MESSAGE,
            "succeed",
            "A's bank is killed between its COMMIT and the submit: it is asked back, and the message goes out",
            (("pay", 1),),
            (("deposit", 1),),
            (("a check-back", 1),),
            "kill -9",
        ),
        Fault.SENDER_CRASH_BEFORE_COMMIT: Expected(
            Style.MESSAGE,
            "failed",
            "A's bank is killed before its COMMIT: it is asked back, and the message is dropped",
            (("pay", 0),),
            (("deposit", 0),),
            (("a check-back", 1),),
        ),
        Fault.WORKFLOW_CRASH: Expected(
            Style.WORKFLOW,
            "succeed",
            "code in A's bank that is killed between its two steps: the next process goes on where it was",
            (("pay", 1),),
            (("deposit", 1),),
            (("a run", 2),),
            "kill -9",
        ),
    }
)
