"""Before, after and now of a branch's rows, as text for a person who has to decide."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from troth.cli.tables import printable, table

_STATES: Mapping[str, str] = MappingProxyType(
    {
        "gone": "no undo row: the local transaction has not committed, or the branch has been undone already",
        "guard": "no undo row, and a guard: a phase one that came late would fail",
    }
)


def images_text(branch: Mapping[str, Any]) -> str:
    """One branch of GET …/images."""
    lines = [f"\nimages of branch {branch['branch_id']} of {branch['resource_id']}"]
    report = branch["report"]
    if report is None:
        lines.append("  no client that can show them serves this resource: `troth inspect XID --db URL` looks itself")
    else:
        lines += report_lines(report)
    if branch["holder"] is not None:
        lines.append(f"  rows held  by {branch['holder']} for {_age(branch['held_since'])}")
    for waiter in branch["queue"]:
        since = "" if waiter["since"] is None else f" for {_age(waiter['since'])}"
        lines.append(f"  waiting    {waiter['xid']}{since}")
    if branch["frozen"] and not branch["queue"]:
        lines.append("  waiting    nobody: who wants these rows is refused while the branch is frozen")
    lines.append(f"  next step  {branch['next_step']}")
    return "\n".join([lines[0], *map(printable, lines[1:])])


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What a resource manager has reported, row by row; nothing of it moves the cursor of who looks at it."""
    return map(printable, _report_lines(report))


def _report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    state = _STATES.get(report["state"])
    if state is not None:
        yield f"  {state}"
    if report.get("problem"):
        yield f"  problem    {report['problem']}"
    if report.get("refused"):
        yield f"  refused    {report['refused']}"
    rows = report.get("rows") or []
    for row in rows:
        yield from _row_lines(row)
    hidden = report.get("row_count", 0) - len(rows)
    if hidden > 0:
        yield f"  … and {hidden} more rows that are not shown"


def _row_lines(row: Mapping[str, Any]) -> Iterator[str]:
    done = f", decided: {row['decision']}" if row.get("decision") else ""
    yield f"  row {row['row']}  {_VERDICTS[row['verdict']]}{done}"
    before, after, now = row["exists"]
    lines = [
        (
            ("* " if column["differs"] else "  ") + column["name"],
            _cell(column["before"], before),
            _cell(column["after"], after),
            _cell(column["now"], now),
        )
        for column in row["columns"]
    ]
    for line in table(("  COLUMN", "BEFORE", "AFTER", "NOW"), lines).splitlines():
        yield f"    {line}"
    if row["sql"] and row.get("decision") in (None, "undone", "force-before"):
        word = "rollback would run" if row["verdict"] == "as-left" else "--force-before would run"
        yield f"    {'done by' if row.get('decision') else word}: {row['sql']}  {row.get('parameters') or []}"


_VERDICTS: Mapping[str, str] = MappingProxyType(
    {
        "as-left": "as the branch left it",
        "done": "as it was before the branch",
        "dirty": "CHANGED BY SOMEBODY ELSE",
    }
)


def _cell(value: str | None, exists: bool) -> str:
    if not exists:
        return "(no row)"
    return "NULL" if value is None else value


def _age(since_ms: int) -> str:
    return f"{max(time.time() - since_ms / 1000, 0):.0f}s"
