"""Statements of one connection that met rows of other global transactions: their next run asks for the rows first.

Who runs the statement to find out whose row it is takes the row's local lock for it, and lets it go only after the
coordinator has refused: meanwhile the transaction whose turn it is waits for that lock. On a row that everybody writes
this happens at every hand-over. So a statement that was refused queues at the coordinator *before* it touches the
row, for its next few runs on this connection; then it is tried plainly again, because the crowd may have gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from troth.client.errors import BranchFailed, CoordinatorUnavailable
from troth.client.flow import Flow, Parameters, tell
from troth.client.isolation import CHECK_ONLY
from troth.client.modes.at_wait import CONFLICTS, Denied, lock_conflict
from troth.wire.seata.enums import BranchType, ResultCode
from troth.wire.seata.lock_wait import LockWaitRequest, LockWaitResponse

_RUNS_AHEAD: Final = 16
"""So many runs ask first after one that was refused."""
_REMEMBERED: Final = 64
_LONGEST_KEY: Final = 400


class HotStatements:
    """What this connection remembers. A wrong guess costs one message: rows kept for it lapse at its register."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Denied, int]] = OrderedDict()

    def note(self, sql: str, sets: Sequence[Parameters], denied: Denied) -> None:
        """This statement with these values was refused for `denied`."""
        key = _key(sql, sets)
        if key is None:
            return
        self._known[key] = denied, _RUNS_AHEAD
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def queue_ahead(self, xid: str, sql: str, sets: Sequence[Parameters]) -> Flow[None]:
        """Wait for the rows that this statement was refused for lately, if it was.

        Raises:
            LockConflict: they could not be had in time, or all would have waited for each other.
            BranchFailed: the coordinator refuses; the global transaction has ended, say.
        """
        if not self._known or xid == CHECK_ONLY:
            return
        key = _key(sql, sets)
        known = None if key is None else self._known.get(key)
        if key is None or known is None:
            return
        denied, runs = known
        if runs > 1:
            self._known[key] = denied, runs - 1
        else:
            del self._known[key]
        request = LockWaitRequest(xid, BranchType.AT, denied.resource_id, denied.locks, None, denied.mode)
        try:
            answer = yield from tell(request, LockWaitResponse)
        except CoordinatorUnavailable:  # nothing hangs on the answer: the statement's own registration tells it
            return
        if answer.result_code is ResultCode.Success:
            return
        self._known.pop(key, None)
        if answer.transaction_exception_code in CONFLICTS:
            raise lock_conflict(denied.locks, answer.msg)
        if answer.keep_ms >= 0:
            code = answer.transaction_exception_code.name
            raise BranchFailed(f"{xid} cannot wait for {denied.locks}: {answer.msg} ({code})")


def _key(sql: str, sets: Sequence[Parameters]) -> str | None:
    """Statement and values, or None where they are too long to be worth remembering."""
    if len(sets) != 1 or len(sql) > _LONGEST_KEY:
        return None
    values = repr(sets[0])
    return f"{sql}\0{values}" if len(values) <= _LONGEST_KEY else None
