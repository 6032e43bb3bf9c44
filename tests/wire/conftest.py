"""`vector`: each frame that Seata 2.6.0's own codec wrote."""

import json
from pathlib import Path

import pytest

VECTORS = Path(__file__).parent / "data" / "vectors.jsonl"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        vectors = [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]
        metafunc.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


@pytest.fixture(scope="session")
def vectors() -> dict[str, dict]:
    """All vectors by name."""
    lines = VECTORS.read_text(encoding="utf-8").splitlines()
    return {vector["name"]: vector for vector in map(json.loads, lines)}
