"""What readers and local transactions see of global transactions that are not decided yet: words, no behaviour."""

from __future__ import annotations

from enum import Enum
from typing import Final

CHECK_ONLY: Final = ""
"""Stands for an xid where local transactions check global locks and take none; no transaction is called so."""


class Isolation(Enum):
    """What a plain SELECT on a connection under AT shows of other global transactions that are not decided yet."""

    READ_UNCOMMITTED = "read_uncommitted"
    """What they have committed locally, as in Seata. The default: reads cost nothing."""
    READ_COMMITTED = "read_committed"
    """Nothing: a row that another one holds is waited for, or refused with `LockConflict`."""
