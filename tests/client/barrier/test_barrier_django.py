"""The barrier on Django's own connections: a project of its own in a process of its own (Django is set up once)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from troth.client.drivers import barrier as barrier_table

SERVICE = Path(__file__).parent / "django_service.py"


@pytest.mark.engines
@pytest.mark.parametrize(
    "engine",
    ["sqlite", pytest.param("postgres", marks=pytest.mark.soak), pytest.param("mariadb", marks=pytest.mark.soak)],
)
def test_views_stand_behind_the_barrier(engine: str, tmp_path: Path, barrier_urls: Callable[[str], str]) -> None:
    url = f"sqlite:///{tmp_path}/django.db" if engine == "sqlite" else barrier_urls(engine)
    barrier_table.init(url)
    done = subprocess.run([sys.executable, str(SERVICE), url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "twice": [200, 200],
        "cancelled": [200, 409],
        "empty": [200, 409],
        "failed": [500, 200],
        "refused": 409,
        "no call": 500,
        "too long": 400,
        "inside": 500,
        "unasked": 500,
        "message": [200],
        "check-back": [200, 409],
        "balance": 100 - 4 * 30,
    }
