"""The examples of docs/modes/dtm.md and message.md show what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.engines, pytest.mark.soak]


def shown(example: str) -> list[str]:
    command = [sys.executable, f"examples/transfer_dtm/{example}.py"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    ).stdout.splitlines()


def test_transfer() -> None:
    assert shown("transfer") == [
        "saga:        A 800, C 300",
        "  refused:   True; A 800, C 300",
        "  tried:     A 750 and 50 frozen, C 350 and -50 frozen",
        "tcc:         A 750, C 350",
        "message:     A 700, C 400",
        "workflow:    A 600, C 500, transferred",
    ]


def test_shop() -> None:
    assert shown("shop") == [
        "bought:  1 orders, buyer 600, points 1",
        "refused: 1 orders, buyer 600, points 1",
    ]
