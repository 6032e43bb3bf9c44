"""Modes: siblings of one shape, and the tables of those that this coordinator runs."""

from __future__ import annotations

from types import MappingProxyType

from troth.core.model import Branch, BranchType
from troth.core.modes.at import AT
from troth.core.modes.by_url import TCC_BY_URL, XA_BY_URL
from troth.core.modes.message import MESSAGE
from troth.core.modes.mode import Mode
from troth.core.modes.runner import RECORD, RUNNER
from troth.core.modes.saga import PLANNED_SAGA, SAGA
from troth.core.modes.tcc import TCC
from troth.core.modes.xa import XA

MODES: MappingProxyType[BranchType, Mode] = MappingProxyType(
    {
        BranchType.AT: AT,
        BranchType.TCC: TCC,
        BranchType.SAGA: SAGA,
        BranchType.XA: XA,
        BranchType.MESSAGE: MESSAGE,
        BranchType.RUNNER: RUNNER,
        BranchType.RECORD: RECORD,
    }
)
"""Of branches without a plan."""

PLANNED: MappingProxyType[tuple[BranchType, bool], Mode] = MappingProxyType(
    {(branch_type, by_url): mode for branch_type, mode in MODES.items() for by_url in (False, True)}
    | {(BranchType.SAGA, by_url): PLANNED_SAGA for by_url in (False, True)}
    | {(BranchType.TCC, True): TCC_BY_URL, (BranchType.XA, True): XA_BY_URL}
)
"""Of branches with a plan, by whether they are reached by a URL."""

SEATA_MODES = (BranchType.AT, BranchType.TCC, BranchType.XA)
"""What a Seata client may register."""


def mode_of(branch: Branch) -> Mode:
    """The answers of this branch's mode."""
    plan = branch.plan
    return MODES[branch.branch_type] if plan is None else PLANNED[branch.branch_type, plan.by_url]
