"""A bank, and the two servers that a client of DTM's style works at: ours, and one of DTM's own where there is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dtm_bank import Bank

import troth.dtm
from fixtures_coordinator import CoordinatorProcess

BOTH = ("troth", pytest.param("dtm", marks=pytest.mark.soak))


class DtmCoordinator(CoordinatorProcess):
    """A coordinator whose DTM door keeps its port over a restart."""

    def command(self) -> list[str]:
        port = self.ready.get("dtm_http_port", 0)
        return [*super().command(), "--dtm-http-port", str(port), "--dtm-grpc-port", "off"]


@pytest.fixture(scope="module")
def troth_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """Our coordinator with its DTM door."""
    process = DtmCoordinator(tmp_path_factory.mktemp("coordinator"))
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture(scope="module", params=BOTH)
def dtm_server(request: pytest.FixtureRequest) -> str:
    """The address of a DTM door."""
    if request.param == "troth":
        return f"http://127.0.0.1:{request.getfixturevalue('troth_server').ready['dtm_http_port']}"
    if "TROTH_TEST_DTM" not in os.environ:
        pytest.skip("TROTH_TEST_DTM names no DTM server")
    return os.environ["TROTH_TEST_DTM"].removesuffix("/api/dtmsvr")


@pytest.fixture
def client(dtm_server: str) -> Iterator[troth.dtm.DtmClient]:
    with troth.dtm.connect(dtm_server) as opened:
        yield opened


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    opened = Bank(tmp_path)
    yield opened
    opened.close()
