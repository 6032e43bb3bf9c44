"""AT: phase one is the RM's local transaction; commit deletes undo logs later, rollback applies them.

Rows are free as soon as the commit is decided; on rollback each branch frees its rows when it is undone.
"""

from __future__ import annotations

from troth.core.model import OnTimeout, Verb
from troth.core.modes.mode import Mode, Order

AT = Mode(
    forward=(),
    on_commit=Verb.COMMIT,
    on_rollback=Verb.ROLLBACK,
    on_timeout=OnTimeout.ROLL_BACK,
    may_wait=True,
    locks_rows=True,
    commit_is_asynchronous=True,
    rollback_order=Order.NEWEST_FIRST_PER_RESOURCE,
)
