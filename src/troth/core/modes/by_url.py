"""TCC and XA branches that are reached by a URL: asked one at a time, as DTM's users expect it."""

from __future__ import annotations

from msgspec.structs import replace

from troth.core.modes.mode import Order
from troth.core.modes.tcc import TCC
from troth.core.modes.xa import XA

TCC_BY_URL = replace(TCC, commit_order=Order.NEWEST_FIRST)
XA_BY_URL = replace(XA, commit_order=Order.OLDEST_FIRST, rollback_order=Order.OLDEST_FIRST)
