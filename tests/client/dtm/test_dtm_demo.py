"""`troth demo dtm`, run as a user runs it: processes are killed, and no money is lost, frozen or moved twice."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from troth.demo.dtm_faults import EXPECTED, Fault

COMMAND = [sys.executable, "-m", "troth", "demo", "dtm"]
pytestmark = [pytest.mark.engines, pytest.mark.soak]


@pytest.mark.parametrize("fault", Fault, ids=str)
def test_each_fault(fault: Fault) -> None:
    done = subprocess.run(
        [*COMMAND, "--fault", fault, "--json"], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    expected = EXPECTED[fault]
    moved = 200 if expected.outcome == "succeed" else 0
    assert (told["fault"], told["outcome"], told["ok"]) == (fault.value, expected.outcome, True)
    assert (told["a"]["balance"], told["a"]["frozen"]) == (1000 - moved, 0)
    assert (told["c"]["balance"], told["c"]["frozen"]) == (moved, 0)
    for name, wanted in (("a", expected.a), ("c", expected.c)):
        assert [(what, told[name]["diary"].count(what)) for what, _ in wanted] == list(wanted)
