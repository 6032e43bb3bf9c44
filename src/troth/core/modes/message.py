"""Message: delivered until it is accepted, if and only if the transaction commits.

If its sender stays silent past the timeout, he is asked how his local transaction ended (see `runner`).
"""

from __future__ import annotations

from troth.core.model import OnTimeout, Verb
from troth.core.modes.mode import Mode, Order

MESSAGE = Mode(
    forward=(),
    on_commit=Verb.ACTION,
    on_rollback=None,
    on_timeout=OnTimeout.ASK,
    may_wait=False,
    locks_rows=False,
    commit_is_asynchronous=False,
    rollback_order=Order.ANY,
    commit_order=Order.PLANNED,
)
