"""Lists of DTM's transactions: those that have not ended, newest first, then those that have."""

from __future__ import annotations

import heapq

import msgspec

from troth.core.model import Global, Outcome
from troth.server.engine import Engine
from troth.server.inbound.admin_views import Cursor, EndedCursor, OpenCursor, encode_cursor, parse_cursor
from troth.server.inbound.dtm_views import STATUSES, gid_of, view_global
from troth.wire.dtm.results import BadInput
from troth.wire.dtm.views import FAILED, SUCCEED, PageView
from troth.wire.dtm.views import STATUSES as STATUS_NAMES

_MOST_STORE_PAGES = 50
"""A filter that the store does not have may skip whole pages; a request reads no more than so many."""
_ENDED = frozenset({SUCCEED, FAILED})


class Wanted(msgspec.Struct, frozen=True):
    """Which transactions; empty texts mean any. Times of their beginning, milliseconds, both included."""

    gid: str
    status: str
    kind: str
    from_ms: int
    to_ms: int

    def takes(self, tx: Global | Outcome) -> bool:
        """True if this one is wanted. Only transactions of DTM's doors are."""
        if tx.terms is None or not tx.terms.kind:
            return False
        return (
            (not self.kind or tx.terms.kind == self.kind)
            and (not self.status or STATUSES[tx.phase] == self.status)
            and (not self.gid or gid_of(tx) == self.gid)
            and self.from_ms <= tx.begin_ms <= self.to_ms
        )


async def page_of(engine: Engine, wanted: Wanted, limit: int, position: str) -> PageView:
    """One page from `position` on. Raises BadInput."""
    if wanted.status and wanted.status not in STATUS_NAMES:
        raise BadInput(f"status is one of {', '.join(sorted(STATUS_NAMES))}, not {wanted.status!r}")
    try:
        cursor = parse_cursor(position)
    except ValueError as error:
        raise BadInput(f"position: {error}") from None
    page = PageView([], "")
    if wanted.gid:
        return await _page_of_one(engine, wanted) if cursor is None else page
    if wanted.status not in _ENDED and not isinstance(cursor, EndedCursor):
        found = _newest_open(engine, wanted, cursor, limit + 1)
        page.transactions = [view_global(tx) for tx in found[:limit]]
        if len(found) > limit:
            page.next_position = encode_cursor(OpenCursor(found[limit - 1].begin_ms, found[limit - 1].xid))
            return page
    if not wanted.status or wanted.status in _ENDED:
        await _add_ended(engine, page, wanted, limit, cursor)
    return page


async def _page_of_one(engine: Engine, wanted: Wanted) -> PageView:
    """A name is looked up, however many transactions there are."""
    xid = await engine.find(wanted.gid)
    tx = None
    if xid is not None:
        tx = engine.transactions().get(xid) or engine.outcome_in_memory(xid) or await engine.store.outcome(xid)
    return PageView([view_global(tx)] if tx is not None and wanted.takes(tx) else [], "")


def _newest_open(engine: Engine, wanted: Wanted, after: OpenCursor | None, limit: int) -> list[Global]:
    bound = (after.begin_ms, after.xid) if after is not None else None
    return heapq.nlargest(
        limit,
        (
            tx
            for tx in engine.transactions().values()
            if (bound is None or (tx.begin_ms, tx.xid) < bound) and wanted.takes(tx)
        ),
        key=lambda tx: (tx.begin_ms, tx.xid),
    )


async def _add_ended(engine: Engine, page: PageView, wanted: Wanted, limit: int, cursor: Cursor | None) -> None:
    at = cursor.store if isinstance(cursor, EndedCursor) else None
    for _ in range(_MOST_STORE_PAGES):
        room = limit - len(page.transactions)
        if room == 0:
            break
        try:
            found = await engine.store.find_ended(None, room, at)
        except ValueError as error:
            raise BadInput(f"position: {error}") from None
        page.transactions += [view_global(outcome) for outcome in found.outcomes if wanted.takes(outcome)]
        at = found.cursor
        if at is None:
            return
    page.next_position = encode_cursor(EndedCursor(at))
