"""Modes: siblings of one shape, and the table of those that this coordinator runs."""

from __future__ import annotations

from types import MappingProxyType

from troth.core.model import BranchType
from troth.core.modes.at import AT
from troth.core.modes.mode import Mode
from troth.core.modes.tcc import TCC
from troth.core.modes.xa import XA

MODES: MappingProxyType[BranchType, Mode] = MappingProxyType(
    {BranchType.AT: AT, BranchType.TCC: TCC, BranchType.XA: XA}
)
