"""Where a page of ended transactions stopped, as text that callers pass back unread."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple


class Position(NamedTuple):
    """The last outcome of a page; pages run from the newest end, of one millisecond from the highest xid."""

    end_ms: int
    xid: str


def encode_cursor(position: Position) -> str:
    """URL-safe text of `position`."""
    text = f"{position.end_ms}:{position.xid}"
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def decode_cursor(cursor: str) -> Position:
    """The position that `cursor` names; raises ValueError for text that `encode_cursor` has not made."""
    try:
        text = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode("utf-8", "surrogatepass")
    except (UnicodeError, binascii.Error) as broken:
        raise ValueError(f"{cursor[:80]!r} is not a cursor of this list") from broken
    end_ms, colon, xid = text.partition(":")
    # 18 digits are 31 million years, and fit the 64 bits in which every store keeps a time
    if not colon or not end_ms.isascii() or not end_ms.removeprefix("-").isdigit() or len(end_ms) > 18:
        raise ValueError(f"{cursor[:80]!r} is not a cursor of this list")
    return Position(int(end_ms), xid)


def check_limit(limit: int) -> None:
    """Raises ValueError for a page of no or negative length."""
    if limit < 1:
        raise ValueError(f"a page has at least one entry, not {limit}")
