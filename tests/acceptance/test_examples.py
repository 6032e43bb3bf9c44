"""Each example is started as its docs say, and shows what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("shop", ["fastapi_shop", pytest.param("flask_shop", marks=pytest.mark.soak), "django_shop"])
def test_shop(shop: str) -> None:
    """The script ends with 1 if a row is not what it should be."""
    done = subprocess.run(
        [sys.executable, "examples/run.py", shop], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ":  " in line)
    assert [text.strip()[:4] for text in list(lines.values())[:3]] == ["(200", "(402", "(409"]
    assert lines["stock (it was 100)"].strip() == "(200, {'commodity': 'C00321', 'count': 98})"
    assert lines["orders"].strip() == "(200, {'orders': [{'commodity': 'C00321', 'count': 2}]})"
