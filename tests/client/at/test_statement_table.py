"""docs/modes/at.md shows what the statement cases of each database say."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "scripts" / "draw_statements.py"


def test_the_page_is_up_to_date():
    drawing = runpy.run_path(str(SCRIPT))
    page = drawing["PAGE"].read_text()
    assert drawing["drawn"](page) == page, "run scripts/draw_statements.py"


def test_cells():
    cell = runpy.run_path(str(SCRIPT))["cell"]
    assert cell(["works", "works"]) == "✓"
    assert cell(["absent"]) == "—"
    assert cell(["refused: a | b", "refused: c"]) == "refused: a \\| b; c"
    assert cell(["works", "refused: c"]) == "✓ but refused: c"
