"""A coordinator without the extra `troth[grpc]` says what to install, and does everything else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from troth.core.effects import Call
from troth.core.model import BranchType, Verb
from troth.server import grpc_extra
from troth.server.grpc_extra import GrpcCalls, grpc_is_installed
from troth.server.outbound.url_calls import UrlCall
from troth.wire.dtm.results import Verdict

CALL = Call("127.0.0.1:8091:7", 9, BranchType.SAGA, "r", None, "dtm", Verb.ACTION, 1)
URL_CALL = UrlCall(CALL, "127.0.0.1:1/busi.Busi/In", "g", "saga", "01", "action", b"", {}, 1.0, False, "grpc")
SHUT_OUT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("grpc", "grpc_health", "grpc_reflection", "google"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import troth.server.app
from troth.server.grpc_extra import grpc_is_installed
print(grpc_is_installed())
"""


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_extra, "_WANTED", ("a_library_that_nobody_has",))
    assert not grpc_is_installed()
    settled: list[tuple[UrlCall, Verdict, str]] = []
    GrpcCalls(lambda *answer: settled.append(answer), 1).call(URL_CALL)
    assert settled == [(URL_CALL, Verdict.RETRY, settled[0][2])]
    assert "pip install 'troth[grpc]'" in settled[0][2]


def test_the_coordinator_loads_without_grpc() -> None:
    """So it does not load gRPC before it is used, either."""
    done = subprocess.run([sys.executable, "-c", SHUT_OUT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
