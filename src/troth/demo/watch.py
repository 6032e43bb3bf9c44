"""Follows one global transaction at the coordinator's admin door and tells what changes."""

from __future__ import annotations

from typing import Final

from troth.demo.admin import ENDED, Admin
from troth.demo.events import Anything, Begun, Committed
from troth.demo.story import Story

_CLEAN_ENDS: Final = frozenset({"Committed", "Rollbacked", "TimeoutRollbacked"})


class Watch:
    """Hears what the processes say, and looks at the coordinator as often as `look` is called."""

    def __init__(self, admin: Admin, story: Story) -> None:
        self.xid: str | None = None
        self.status = "Begin"
        self._admin = admin
        self._story = story
        self._open: dict[str, str] = {}

    @property
    def ended(self) -> bool:
        """Whether the transaction has its final status."""
        return self.status in ENDED

    def hear(self, who: str, event: Anything) -> None:
        """Tell an event, and remember the transaction and its branches."""
        self._story.event(who, event)
        match event:
            case Begun():
                self.xid = event.xid
            case Committed():
                self._open[event.branch_id] = who

    def look(self) -> None:
        """Ask the coordinator, and tell what is new."""
        if self.xid is None or self.ended:
            return
        seen = self._admin.transaction(self.xid)
        if seen is None:
            return
        there = {branch.branch_id for branch in seen.branches}
        if seen.status in ENDED:
            if seen.status in _CLEAN_ENDS:
                self._close(set(self._open), seen.status)
            self._tell_status(seen.status)
        else:
            self._tell_status(seen.status)
            if seen.status != "Begin":
                self._close(self._open.keys() - there, seen.status)

    def _tell_status(self, status: str) -> None:
        if status != self.status:
            self.status = status
            self._story.status(status)

    def _close(self, branch_ids: set[str], status: str) -> None:
        for branch_id in sorted(branch_ids):
            self._story.second_phase(self._open.pop(branch_id), branch_id, status)
