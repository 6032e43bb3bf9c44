"""Tells what happens, for people: one aligned line at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from troth.demo.events import Anything, Begun, Branch, Change, Committed, Ending, Heard, Listed, Ready, Row
from troth.demo.scenario import COMMODITY, COUNT, PRICE, USER, Expected, FailAt, Rows

_STYLES: Final = MappingProxyType({"bold": "1", "dim": "2", "green": "32", "red": "31", "yellow": "33", "cyan": "36"})
_WHO_WIDTH: Final = 13
_WHAT_WIDTH: Final = 11


class Story:
    """Writes to `out`; colours only where `out` is a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty()
        self._services: dict[str, str] = {}

    def line(self, text: str = "") -> None:
        """Write one line, at once."""
        self._out.write(text + "\n")
        self._out.flush()

    def say(self, who: str, what: str, detail: str, style: str | None = None) -> None:
        """Write one line of the story: who did what."""
        self.line(f"  {who:<{_WHO_WIDTH}}{self._styled(f'{what:<{_WHAT_WIDTH}}', style)}{detail}")

    def title(self, fail_at: FailAt, expected: Expected) -> None:
        """Open a chapter: one purchase."""
        self.line()
        call = f'purchase("{USER}", "{COMMODITY}", {COUNT})'
        self.line(self._styled(f"{call}   --fail-at {fail_at}: {expected.story}", "bold"))

    def started(self, directory: Path, databases: Mapping[str, str]) -> None:
        """Say where everything lies, and remember whose database is whose, by parts of what they are called."""
        self._services = {part: name for name, part in databases.items()}
        self.line(f"everything lies in {directory}; a piece costs {PRICE}")

    def event(self, who: str, event: Anything) -> None:
        """Tell what a process said."""
        match event:
            case Ready():
                self.say(who, "serves", event.address + (f", admin {event.admin}" if event.admin else ""))
            case Begun():
                self.say(who, "began", f"{event.xid}, timeout {event.timeout_s:g} s", "cyan")
            case Committed():
                self.say(who, "branch", f"{event.branch_id} registered, committed locally; its undo log holds", "cyan")
                for change in event.changes:
                    self._change(change)
            case Listed():
                self._listed(event.branches)
            case Ending():
                self.say(who, event.asks, event.why, "yellow")
            case Heard():
                self.say(who, "ended", event.text)

    def status(self, status: str) -> None:
        """Tell the status of the global transaction."""
        good = status in ("Begin", "Committed", "AsyncCommitting", "Committing")
        self.say("coordinator", "status", status, "green" if good else "yellow")

    def second_phase(self, service: str, branch_id: str, status: str) -> None:
        """Tell that the second phase of a service's branch is done."""
        done = "undone by its undo log" if "ollback" in status else "kept; its undo log is deleted"
        self.say(service, "phase two", f"{branch_id} {done}", "cyan")

    def table(self, before: Rows, after: Rows, expected: Rows) -> bool:
        """Write the rows read from the databases, next to what they must be; returns whether they are right."""
        self.line()
        self.line(f"  {'read from the databases':<34}{'before':>8}{'after':>8}{'expected':>10}")
        for label, was, now, wanted in (
            (f"account     money of {USER}", before.balance, after.balance, expected.balance),
            (f"stock       count of {COMMODITY}", before.stock, after.stock, expected.stock),
            ("order       orders", before.orders, after.orders, expected.orders),
            ("all three   undo logs", before.undo_logs, after.undo_logs, expected.undo_logs),
        ):
            mark = self._styled("ok", "green") if now == wanted else self._styled("WRONG", "red")
            self.line(f"  {label:<34}{was:>8}{now:>8}{wanted:>10}  {mark}")
        return after == expected

    def verdict(self, ok: bool, outcome: str, expected: str) -> None:
        """Close a chapter."""
        if ok:
            self.line(self._styled(f"  all or nothing: {outcome}, and every row is as it must be", "green"))
        else:
            self.line(self._styled(f"  NOT as it must be: the outcome is {outcome}, expected {expected}", "red"))

    def _service(self, resource_id: str) -> str:
        return next((name for part, name in self._services.items() if part in resource_id), resource_id)

    def _listed(self, branches: list[Branch]) -> None:
        self.say("coordinator", "knows", f"{len(branches)} branches")
        for branch in branches:
            locks = branch.lock_keys or ""
            detail = f"{branch.branch_id} {branch.branch_type} on {self._service(branch.resource_id)}, locks {locks}"
            self.line(f"  {'':<{_WHO_WIDTH}}{'':<{_WHAT_WIDTH}}{detail}")

    def _change(self, change: Change) -> None:
        for label, rows in (("before", change.before), ("after", change.after)):
            shown = [_row(row) for row in rows] or ["(no row)"]
            for text in shown:
                self.say("", label, self._styled(f"{change.table}  {text}", "dim"))

    def _styled(self, text: str, style: str | None) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and self._colours else text


def _row(row: Row) -> str:
    return "  ".join(f"{name}={value}" for name, value in row.items())
