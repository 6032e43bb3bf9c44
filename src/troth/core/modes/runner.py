"""Runner: whoever runs a transaction from outside, or knows how it stands; and the steps of which he has told.

A runner is asked while the transaction is open; its answer decides. Once it is decided, neither a runner nor a recorded
step has anything left to do.
"""

from __future__ import annotations

from troth.core.model import OnTimeout
from troth.core.modes.mode import Mode, Order

RUNNER = Mode(
    forward=(),
    on_commit=None,
    on_rollback=None,
    on_timeout=OnTimeout.ASK,
    may_wait=False,
    locks_rows=False,
    commit_is_asynchronous=True,
    rollback_order=Order.ANY,
)
RECORD = RUNNER
