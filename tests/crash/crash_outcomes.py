"""How the transaction under way ends after a death at each point: checked by the tests, shown in docs/recovery.md."""

from __future__ import annotations

COMMITTED = "committed"
ROLLED_BACK = "rolled back"
TIMED_OUT = "timed out"
NOTHING = "nothing"
"""None was under way, as far as the program knew."""

_ANY = (COMMITTED, ROLLED_BACK, TIMED_OUT, NOTHING)
_TC = (
    # point, how the program's transaction ends, and how that comes about
    ("begin.before-write", (NOTHING,), "never begun: the program asks again and gets another xid"),
    ("begin.after-write", (NOTHING,), "rolled back after its timeout; the program asks again and gets another xid"),
    ("register.before-write", (ROLLED_BACK,), "rolled back: the program hears of no branch and gives up"),
    ("register.after-write", (ROLLED_BACK,), "rolled back: the branch without local work gets a guard row"),
    ("report.before-write", (ROLLED_BACK,), "rolled back: the program's local COMMIT has failed"),
    ("report.after-write", (ROLLED_BACK,), "rolled back: the program's local COMMIT has failed"),
    ("attempt.before-write", (COMMITTED, NOTHING), "driven to its end: the branch is called again"),
    ("attempt.after-write", (COMMITTED, NOTHING), "driven to its end: the branch is called again"),
    ("vote.before-write", (ROLLED_BACK,), "rolled back: the program hears no answer to its vote and gives up"),
    ("vote.after-write", (ROLLED_BACK,), "rolled back: the vote is kept"),
    ("commit-decision.before-write", (COMMITTED,), "committed: the program asks again"),
    ("commit-decision.after-write", (COMMITTED,), "committed: the repeated question hears the decision"),
    ("rollback-decision.before-write", (ROLLED_BACK,), "rolled back: the program asks again"),
    ("rollback-decision.after-write", (ROLLED_BACK,), "rolled back: the repeated question hears the decision"),
    ("branch-end.before-write", _ANY, "driven to its end: the branch is called again, and finds it done"),
    ("branch-end.after-write", _ANY, "driven to its end: only what is left is called"),
    ("global-end.before-write", _ANY, "driven to its end: the last branch is called again, and finds it done"),
    ("global-end.after-write", _ANY, "ended, and its outcome is kept"),
    ("commit-decision.not-committed", (COMMITTED,), "committed: the program asks again"),
    ("effects.before", (NOTHING,), "rolled back after its timeout; the program asks again and gets another xid"),
    ("answers.middle", (COMMITTED, NOTHING), "driven to its end: who was not told asks again, or is called again"),
    ("calls.middle", (COMMITTED, NOTHING), "driven to its end: both branches are called, one perhaps twice"),
    ("bytes.middle", (NOTHING,), "rolled back after its timeout; the program asks again and gets another xid"),
    ("recovery.before-load", (NOTHING,), "the next start takes it up"),
    ("recovery.loaded", (NOTHING,), "the next start takes it up"),
    ("recovery.restored", (NOTHING,), "the next start takes it up"),
    ("stop.before-close", (NOTHING,), "the next start takes it up"),
)
_RM = (
    ("register.before-send", (TIMED_OUT,), "rolled back after its timeout: no branch"),
    ("register.sent", (TIMED_OUT,), "rolled back after its timeout: the branch gets a guard row"),
    ("register.answered", (TIMED_OUT,), "rolled back after its timeout: the branch gets a guard row"),
    ("undo-row.before", (TIMED_OUT,), "rolled back after its timeout: the branch gets a guard row"),
    ("local-commit.before", (TIMED_OUT,), "rolled back after its timeout: the branch gets a guard row"),
    ("local-commit.after", (TIMED_OUT,), "rolled back after its timeout: a successor undoes the branch"),
    ("report.before-send", (TIMED_OUT,), "rolled back after its timeout: the failed branch gets a guard row"),
    ("report.sent", (TIMED_OUT,), "rolled back after its timeout: the failed branch gets a guard row"),
    ("rollback.before-undo", _ANY, "rolled back: a successor undoes the branch"),
    ("rollback.undone", _ANY, "rolled back: the database has taken back the half undo, a successor does it whole"),
    ("rollback.before-commit", _ANY, "rolled back: the database has taken back the undo, a successor does it"),
    ("rollback.before-answer", _ANY, "rolled back: a successor is asked again, and finds it undone"),
    ("rollback.answered", _ANY, "rolled back"),
    ("commit.before-delete", _ANY, "committed: a successor deletes the undo row"),
    ("commit.deleted", _ANY, "committed: a successor deletes the undo row"),
    ("commit.before-answer", _ANY, "committed: a successor is asked again, and finds it deleted"),
    ("commit.answered", _ANY, "committed"),
    ("confirm.before", _ANY, "committed: a successor confirms"),
    ("confirm.after", _ANY, "committed: a successor is asked again, and finds it confirmed"),
    ("cancel.before", _ANY, "rolled back: a successor cancels"),
    ("cancel.after", _ANY, "rolled back: a successor is asked again, and finds it cancelled"),
)
_TM = (
    ("begin.before-send", (NOTHING,), "never begun"),
    ("begin.sent", (NOTHING,), "rolled back after its timeout: no branch"),
    ("begin.answered", (NOTHING,), "rolled back after its timeout: no branch"),
    ("commit.before-send", (TIMED_OUT,), "rolled back after its timeout"),
    ("commit.sent", (COMMITTED,), "committed: the coordinator has the question; a successor serves phase two"),
    ("commit.answered", (COMMITTED,), "committed; a successor serves phase two"),
    ("rollback.before-send", (TIMED_OUT,), "rolled back after its timeout"),
    ("rollback.sent", (ROLLED_BACK,), "rolled back: the coordinator has the question; a successor undoes"),
    ("rollback.answered", (ROLLED_BACK,), "rolled back"),
)
_ALL = [
    (f"{role}.{name}", ends, how) for role, rows in (("tc", _TC), ("rm", _RM), ("tm", _TM)) for name, ends, how in rows
]
OUTCOMES = {name: ends for name, ends, _ in _ALL}
"""Any: phase two goes on beside the program, which may be in another transaction by then."""
SENTENCES = {name: how for name, _, how in _ALL}


def outcome_of(xid: str | None, ended: dict[str, str]) -> str:
    """In one word, from Seata's name."""
    if xid is None:
        return NOTHING
    return {"Committed": COMMITTED, "Rollbacked": ROLLED_BACK, "TimeoutRollbacked": TIMED_OUT}[ended[xid]]
