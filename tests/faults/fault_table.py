"""docs/faults.md: fault x outcome, as a run has found it."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from fault_list import FAMILIES, FAULTS, NOT_YET

_HEAD = """# Faults on real processes

Made by `pytest tests/faults -m soak --faults-table docs/faults.md`; do not edit.

A bank: three services, each with a database of its own (SQLite, PostgreSQL, MariaDB) under AT; two programs with three
threads each that move money between two of them in global transactions, reached over HTTP, a share of them undone on
purpose; one `troth serve` on its durable SQLite store. All are processes, and every client's way to the coordinator
leads through a proxy that knows frames. While they transfer, a fault strikes again and again; then all is healed, the
load ends, and within {limit} s there must be: no open transaction, no lock, no undo row that waits, no open local
transaction; of each transfer both rows or none; every balance the sum of its rows; whoever was told *committed* finds
his rows, whoever was told that it is *undone* finds none. Any difference fails the run.

`struck`: how often the fault fired. `unknown`: the program was told that the outcome is not known
(`troth.OutcomeUnknown`); `unheard`: it was killed before it heard. Both were checked for both rows or none. `quiet`:
from the end of the load until all of the above held.

| fault | what happens | struck | transfers | committed | undone | unknown | unheard | quiet | outcome |
|---|---|---:|---:|---:|---:|---:|---:|---:|---|
"""


@dataclass(frozen=True)
class Row:
    """One fault's line."""

    fault: str
    outcome: str
    cells: tuple[str, ...] = ("",) * 7
    seed: int = 0
    during_s: float = 0.0

    def told(self) -> str:
        """The figures in one line."""
        names = ("struck", "transfers", "committed", "undone", "unknown", "unheard", "quiet")
        return ", ".join(
            f"{cell} {name}" if name != "quiet" else f"quiet after {cell}"
            for name, cell in zip(names, self.cells, strict=True)
            if cell
        )


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def write(path: Path, rows: list[Row]) -> None:
    """Write the table; faults that did not run are in it as such."""
    ran = {row.fault: row for row in rows}
    text = _HEAD.replace("{limit}", "30")
    for family, faults in FAMILIES.items():
        text += _line(f"**{family}**", *[""] * 9)
        for fault in faults:
            row = ran.get(fault.name, Row(fault.name, "not run"))
            text += _line(f"`{fault.name}`", fault.what, *row.cells, row.outcome)
    text += _line("**not yet**", *[""] * 9)
    for name, why in NOT_YET.items():
        text += _line(f"`{name}`", why, *[""] * 7, "not yet")
    seeds = sorted({row.seed for row in rows})
    text += (
        f"\n{sum(row.outcome == 'holds' for row in rows)} of {len(FAULTS)} faults hold. Seed {seeds}, each fault for "
        f"{max((row.during_s for row in rows), default=0):g} s or one strike; Python {platform.python_version()} on "
        f"{sys.platform}, {os.cpu_count()} cores. One of them again: "
        "`pytest tests/faults --fault NAME --seed N --during SECONDS`.\n"
    )
    path.write_text(text, encoding="utf-8")
