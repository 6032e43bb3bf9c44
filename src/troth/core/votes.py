"""What a branch has promised to say before its transaction may be committed.

Only XA branches of our own clients promise: they name it in the applicationData with which they register, and keep the
promise by reporting PhaseOne_Done when the database has prepared them. Java's promise nothing.
"""

from __future__ import annotations

import msgspec

from troth.core.model import Branch, BranchType, PhaseOne


class _Facts(msgspec.Struct, frozen=True):
    reports: bool = False


_decode = msgspec.json.Decoder(_Facts).decode


def owes_vote(branch: Branch) -> bool:
    """Whether it promised to report that it is prepared, and has not: perhaps its process died before it was."""
    if branch.branch_type is not BranchType.XA or branch.phase_one is not PhaseOne.REGISTERED:
        return False
    if branch.plan is not None:
        return False  # it is reached by a URL, and the data is its user's
    try:
        return _decode(branch.application_data or "{}").reports
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False  # somebody else's data, and so no promise: text that is no UTF-8, or nested too deeply, included
