"""The example of docs/modes/state-language.md shows what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_purchase() -> None:
    done = subprocess.run(
        [sys.executable, "examples/state_machine/purchase.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "3 apples:  bought for 6",
        "5 apples:  state machine purchase failed NOT_BOUGHT: the purchase was not made, and is compensated",
        "a car:     state machine purchase failed NOT_BOUGHT: the purchase was not made, and is compensated",
        "left: {'apple': 7, 'car': 1}, balance: 9",
    ]
