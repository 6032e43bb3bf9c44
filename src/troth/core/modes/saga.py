"""Saga: steps whose effects are there at once, and are compensated if the whole does not succeed.

The coordinator runs the planned ones itself before it decides, each after those that its plan names. The others were
run by their client, which registered each before it ran it. On commit nothing is left to do. On rollback every step
that ran or may have run is compensated, the later one before the earlier.
"""

from __future__ import annotations

from troth.core.model import OnTimeout, Verb
from troth.core.modes.mode import Mode, Order

SAGA = Mode(
    forward=(),
    on_commit=None,
    on_rollback=Verb.ROLLBACK,
    on_timeout=OnTimeout.ROLL_BACK,
    may_wait=False,
    locks_rows=False,
    commit_is_asynchronous=True,
    rollback_order=Order.STRICT_REVERSE,
)
PLANNED_SAGA = Mode(
    forward=(Verb.ACTION,),
    on_commit=None,
    on_rollback=Verb.ROLLBACK,
    on_timeout=OnTimeout.ROLL_BACK,
    may_wait=False,
    locks_rows=False,
    commit_is_asynchronous=True,
    rollback_order=Order.PLANNED,
)
