"""XA: phase one prepares the branch in its database; commit or rollback of what is prepared is asked for until done.

A prepared branch keeps its rows locked in the database, so the branches need no order: a newer one that still waits for
rows of an older one must not hold back the older one's rollback. Lock keys count where a client sends them (Java's does
not): they keep AT away from the rows.
"""

from __future__ import annotations

from troth.core.model import OnTimeout, Verb
from troth.core.modes.mode import Mode, Order

XA = Mode(
    forward=(),
    on_commit=Verb.COMMIT,
    on_rollback=Verb.ROLLBACK,
    on_timeout=OnTimeout.ROLL_BACK,
    may_wait=True,
    locks_rows=True,
    commit_is_asynchronous=False,
    rollback_order=Order.ANY,
)
