"""TCC: phase one is the user's try; confirm or cancel is asked for until it succeeds.

Nothing is undone behind the user's back, so a caller hears of the commit after the confirms, and a cancel may rely on
everything that came after its try being gone already.
"""

from __future__ import annotations

from troth.core.model import OnTimeout, Verb
from troth.core.modes.mode import Mode, Order

TCC = Mode(
    forward=(),
    on_commit=Verb.COMMIT,
    on_rollback=Verb.ROLLBACK,
    on_timeout=OnTimeout.ROLL_BACK,
    may_wait=False,
    locks_rows=False,
    commit_is_asynchronous=False,
    rollback_order=Order.STRICT_REVERSE,
)
