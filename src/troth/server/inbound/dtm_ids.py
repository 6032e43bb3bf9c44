"""Which branch ids of DTM a transaction has already, so that one that is registered again is told from a new one."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from troth.core.model import Global
from troth.wire.dtm.branches import decode_branch

_KEPT = 10_000
"""Transactions; of one that was dropped the ids are read from its branches again."""


class BranchIds:
    """DTM's id of a branch → a hash of what was registered under it, for the transactions that register just now."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, dict[str, int]] = OrderedDict()

    def is_same(self, tx: Global, branch_id: str, text: str) -> bool | None:
        """Is `text` what is registered under `branch_id`? None if nothing was: then it is, from now on."""
        ids = self._of.get(tx.xid)
        if ids is None:
            ids = self._of[tx.xid] = ids_of(tx)
            if len(self._of) > _KEPT:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(tx.xid)
        found = ids.get(branch_id)
        if found is None:
            ids[branch_id] = hash(text)
            return None
        return found == hash(text)

    def forget(self, xid: str) -> None:
        """It takes no branches any more."""
        self._of.pop(xid, None)


def ids_of(tx: Global) -> dict[str, int]:
    """As its branches have them."""
    ids = {}
    for branch in tx.branches.values():
        if branch.plan is not None and branch.application_data:
            try:
                ids[decode_branch(branch.application_data).id] = hash(branch.application_data)
            except msgspec.DecodeError:  # not one of ours
                continue
    return ids
