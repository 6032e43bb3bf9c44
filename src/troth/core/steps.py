"""What the rows of FORWARD do with an answer: the coordinator runs steps that may refuse, and decides by them."""

from __future__ import annotations

from troth.core import events as ev
from troth.core.calls import after_answer, call_ends, call_ready, mark
from troth.core.decision import Decision, RanAll
from troth.core.due import followers
from troth.core.model import Global, PhaseOne


def note_ran(tx: Global, event: ev.Answered, now: int, out: Decision) -> None:
    """A step has run; those that came after it may have their turn now."""
    assert tx.course is not None
    branch = tx.branches[event.branch_id]
    call_ends(tx, branch)
    branch.phase_one, branch.last_error, branch.next_due_ms = PhaseOne.DONE, None, None
    out.writes.append(mark(tx, branch))
    tx.course.to_run -= 1
    if tx.course.to_run:
        call_ready(tx, followers(tx, branch), now, out)
        after_answer(tx, out)
    else:
        out.asks.append(RanAll(tx.xid))
