"""Aligned columns for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks between them; line breaks and control characters in a cell are made visible."""
    cells = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def printable(text: str) -> str:
    """What a client supplied must not move the cursor of whoever looks at it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
