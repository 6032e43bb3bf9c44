"""`troth demo tcc`, run as a user runs it: each fault is shown, and no money is lost or frozen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from troth.demo.tcc_faults import EXPECTED, Fault

PATIENCE_S = 180.0
COMMAND = [sys.executable, "-m", "troth", "demo", "tcc"]
QUICK = (Fault.LATE_TRY,)
"""In short runs; the others are in long ones: each starts three processes."""

pytestmark = pytest.mark.engines


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in QUICK else pytest.mark.soak) for fault in Fault], ids=str
)
def test_each_fault(fault: Fault) -> None:
    done = subprocess.run(
        [*COMMAND, "--fault", fault, "--json"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    expected = EXPECTED[fault]
    moved = 200 if expected.outcome == "Committed" else 0
    assert (told["fault"], told["outcome"], told["ok"]) == (fault.value, expected.outcome, True)
    assert (told["a"]["balance"], told["a"]["frozen"]) == (1000 - moved, 0)
    assert (told["c"]["balance"], told["c"]["frozen"]) == (moved, 0)
    assert told["a"]["fence"] == [expected.fence]
    assert [told["a"]["diary"].count(verb) for verb in ("try", "confirm", "cancel")] == list(expected.ran)


@pytest.mark.soak
def test_an_unknown_fault_is_a_usage_error() -> None:
    done = subprocess.run([*COMMAND, "--fault", "rain"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "late-try" in done.stderr
