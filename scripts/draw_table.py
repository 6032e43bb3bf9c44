"""Prints docs/transitions.md: the transition table of troth.core.machine as a picture and as a list.

python scripts/draw_table.py > docs/transitions.md
"""

from __future__ import annotations

from troth.core.machine import TABLE, Row
from troth.core.model import Phase

HEAD = """\
# How a global transaction moves

Drawn from `troth.core.machine.TABLE` by `scripts/draw_table.py` (`make docs`); a test compares them. For a phase and an
event the first row whose condition holds is taken. Every arrow is taken by a test.
"""


def words(row: Row) -> str:
    guard = f" [{row.guard.__name__.replace('_', ' ')}]" if row.guard else ""
    return f"{row.event.__name__}{guard}"


def node(phase: Phase | None) -> str:
    return "[*]" if phase is None else phase.name


def picture() -> str:
    arrows: dict[tuple[Phase | None, Phase], list[str]] = {}
    for row in TABLE:
        if row.source is not row.target:
            arrows.setdefault((row.source, row.target), []).append(words(row))
    lines = [f"    {node(a)} --> {node(b)}: {', '.join(texts)}" for (a, b), texts in arrows.items()]
    ends = [f"    {phase.name} --> [*]" for phase in Phase if phase.ended]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, *ends, "```"])


def table() -> str:
    lines = ["| phase | event | does | then |", "|---|---|---|---|"]
    for row in TABLE:
        source = row.source.value if row.source else "(none)"
        lines.append(f"| {source} | {words(row)} | {row.action.__name__.replace('_', ' ')} | {row.target.value} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(HEAD)
    print(picture())
    print()
    print(table())
