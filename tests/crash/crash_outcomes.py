"""How the transaction under way ends after a death at each point: checked by the tests, shown in docs/recovery.md."""

from __future__ import annotations

OUTCOMES: dict[str, tuple[str, ...]] = {}


def outcome_of(xid: str | None, ended: dict[str, str]) -> str:
    """In one word; `nothing`: none was under way, as far as the program knew."""
    if xid is None:
        return "nothing"
    return {"Committed": "committed", "TimeoutRollbacked": "timed out"}.get(ended[xid], "rolled back")
