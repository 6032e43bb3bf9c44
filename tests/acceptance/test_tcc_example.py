"""The example of docs/modes/tcc.md shows what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_transfer() -> None:
    done = subprocess.run(
        [sys.executable, "examples/tcc_transfer/transfer.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "frozen by the try: A 800 and 200 frozen",
        "transferred:       A 800, C 200",
        "frozen by the try: A 500 and 300 frozen",
        "D is closed:       A 800, C 200",
    ]
