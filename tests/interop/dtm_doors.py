"""The two servers that real DTM clients are tested with: ours, and one of DTM's own where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dtm_go_app import Door, DtmGo, real_dtm

from fixtures_coordinator import CoordinatorProcess

BOTH = ("troth", pytest.param("dtm", marks=pytest.mark.soak))
"""Parameters of a `dtm` fixture: the real one in long runs, and only where `TROTH_TEST_DTM` names it."""


class Dtm:
    """A DTM door, and our coordinator behind it, if it is ours."""

    def __init__(self, door: Door, process: CoordinatorProcess | None) -> None:
        self.door = door
        self._process = process

    def restart(self) -> None:
        """SIGKILL, and a start on the same ports and store."""
        if self._process is None:
            pytest.skip("the real DTM server is not ours to kill")
        self._process.kill()
        self._process.start()


@contextlib.contextmanager
def open_dtm(which: str, directory: Path) -> Iterator[Dtm]:
    """`troth`: a coordinator of its own. `dtm`: the real one; skips without it."""
    if which == "dtm":
        yield Dtm(real_dtm(), None)
        return
    process = DtmCoordinator(directory)
    try:
        process.start()
        yield Dtm(door_of(process), process)
    finally:
        process.close()


def door_of(process: CoordinatorProcess) -> Door:
    """Of one that runs."""
    ready = process.ready
    return Door(f"http://127.0.0.1:{ready['dtm_http_port']}/api/dtmsvr", f"127.0.0.1:{ready['dtm_grpc_port']}")


class DtmCoordinator(CoordinatorProcess):
    """A coordinator with a gRPC door, too, which keeps its port over a restart."""

    def command(self) -> list[str]:
        return [*super().command(), "--dtm-grpc-port", str(self.ready.get("dtm_grpc_port", 0))]


@contextlib.contextmanager
def open_go(dtm: Dtm, directory: Path, new_database: Callable[[], str]) -> Iterator[DtmGo]:
    """The program of real clients, with a database of its own."""
    app = DtmGo(directory, dtm.door, new_database())
    try:
        yield app.start()
    finally:
        app.close()
