"""Two messages of our own: what the images of a branch say, and what an operator has decided about its rows.

The coordinator holds no images, so it asks a resource manager. Only one that has announced it is asked: its
registration's `extraData`, which Seata leaves empty and does not read, says `troth=branch-inquiry`. No Seata client
or server ever meets these type codes, and they are not in the table of Seata's messages (`bodies.LAYOUTS`).

What is asked and answered stands in `applicationData`, as the JSON of `Inquiry` and `BranchReport`.
"""

from enum import IntEnum
from typing import ClassVar, Final

import msgspec

from troth.wire.seata.fields import pack_long, read_text2, read_text4, text2, text4, unpack_long
from troth.wire.seata.layouts import Layout, branch_end
from troth.wire.seata.messages import BranchEndRequest, Message

ANNOUNCEMENT: Final = "troth=branch-inquiry"
"""The line of `extraData` by which an RM says that it answers inquiries."""
LARGEST_CONTENT_BYTES: Final = 1 << 20
"""An answer holds no more than about this: the rows that do not fit are counted, not shown."""


class PrivateTypeCode(IntEnum):
    """Type codes beyond all of Seata's."""

    BRANCH_INQUIRY = 1001
    BRANCH_INQUIRY_RESULT = 1002


class BranchInquiryRequest(BranchEndRequest, frozen=True, gc=False):
    """Ask an RM about a branch, or to end it as an operator has decided. `application_data` is an `Inquiry`."""

    TYPE_CODE: ClassVar[PrivateTypeCode] = PrivateTypeCode.BRANCH_INQUIRY  # type: ignore[assignment]


class BranchInquiryResponse(Message, frozen=True, gc=False):
    """Answer to `BranchInquiryRequest`. `application_data` is a `BranchReport`."""

    TYPE_CODE: ClassVar[PrivateTypeCode] = PrivateTypeCode.BRANCH_INQUIRY_RESULT  # type: ignore[assignment]
    xid: str | None = None
    branch_id: int = 0
    application_data: str | None = None


def announces_inquiries(extra_data: str | None) -> bool:
    """Whether a registration with this `extraData` says that inquiries are answered."""
    return ANNOUNCEMENT in (extra_data or "").splitlines()


# --- what stands inside ----------------------------------------------------------------------------------------------


class Inquiry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`action` examine: only look. resolve: end the branch by `rows` and `others`. abandon: end it without undo.

    `rows` names rows as reports do (`table:key`) with force-before or keep; `others` is for the dirty rows not named.
    `seen` gives, for rows, the `now_digest` that the decision was made on: a row that has changed since is refused.
    """

    action: str = "examine"
    rows: dict[str, str] = {}
    others: str | None = None
    seen: dict[str, str] = {}


class ColumnReport(msgspec.Struct, frozen=True):
    """One column in the three versions of its row, as text; null is SQL's NULL, or the whole row is absent.

    `differs`: it is now not what the branch left behind.
    """

    name: str
    before: str | None
    after: str | None
    now: str | None
    differs: bool


class RowReport(msgspec.Struct, frozen=True):
    """One row that a branch has changed, all its statements together.

    `verdict` is as-left, done (it is as before the branch already) or dirty. `sql` undoes it (for a dirty row: forces
    the before image); empty where nothing is to do or it cannot be done. `exists` is for before, after, now.
    `decision` is what was done with it: undone, nothing, force-before, keep; null while only looked at.
    """

    row: str
    table: str
    verdict: str
    exists: tuple[bool, bool, bool]
    columns: list[ColumnReport]
    now_digest: str
    sql: str = ""
    parameters: list[str | None] = []
    decision: str | None = None


class BranchReport(msgspec.Struct, frozen=True):
    """What an RM found, and did. `state`: undo-log, gone (no undo row), guard, unreadable, or unknown (see `problem`).

    `ended`: the branch has nothing left to undo, so the coordinator may end it. `refused` says why a resolution was
    not carried out; nothing was changed then. `rows` are the dirty ones first; `row_count` may be higher.
    """

    state: str
    rows: list[RowReport] = []
    row_count: int = 0
    dirty_count: int = 0
    ended: bool = False
    problem: str | None = None
    refused: str | None = None


# --- the layouts -----------------------------------------------------------------------------------------------------


def _read_answer(buf: bytes, pos: int, end: int) -> tuple[Message, int]:
    xid, pos = read_text2(buf, pos, end)
    (branch_id,) = unpack_long(buf, pos)
    content, pos = read_text4(buf, pos + 8, end)
    return BranchInquiryResponse(xid, branch_id, content), pos


def _write_answer(message: BranchInquiryResponse) -> bytes:
    return text2(message.xid) + pack_long(message.branch_id) + text4(message.application_data)


PRIVATE_LAYOUTS: Final = (
    branch_end(BranchInquiryRequest),
    Layout(BranchInquiryResponse, _read_answer, _write_answer),
)
