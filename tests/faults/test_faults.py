"""Transfers on three databases while something breaks: sums hold, nothing is half done, nothing is left.

One fault again: `pytest tests/faults --fault NAME --seed N`. The seed fixes what is drawn and what the fault does;
when the processes do what they do is up to the machine.
"""

from __future__ import annotations

import sys

import pytest
from bank import Run
from bank_holder import BankHolder
from fault_list import FAULTS
from fault_table import Row

from troth.demo.servers.install import command, missing
from troth.demo.servers.plan import Kind

SHORT_S = 0.5
LONG_S = 8.0

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(sys.platform != "linux", reason="preloaded library, /proc, SIGSTOP of servers"),
]


@pytest.fixture(scope="module", autouse=True)
def _servers() -> None:
    absent = missing([Kind.POSTGRES, Kind.MARIADB])
    if absent:
        pytest.skip(f"not installed. As root: {command(absent)}")


def play(name: str, seed: int, during_s: float, holder: BankHolder, table: list[Row]) -> None:
    fault = FAULTS[name]
    print(f"fault {name}, seed {seed}: pytest tests/faults --fault {name} --seed {seed} --during {during_s:g}")
    reason = fault.needs()
    if reason:
        table.append(Row(name, f"skipped: {reason}", seed=seed, during_s=during_s))
        pytest.skip(reason)
    outcome, run = "fails", None
    try:
        run = holder.get().run(fault.strike, seed, during_s)
        for reason, count in run.audit.reasons.most_common(8):
            print(f"{count:5} x {reason or 'as wanted'}")
        assert not run.audit.wrong, "\n".join(run.audit.wrong[:20])
        assert run.struck > 0, "the fault never struck"
        assert run.audit.committed > 0
        outcome = "holds"
    finally:
        table.append(Row(name, outcome, cells(run), seed, during_s))
        if outcome != "holds":
            holder.discard()


def cells(run: Run | None) -> tuple[str, ...]:
    if run is None:
        return ("",) * 7
    audit = run.audit
    counts = (run.struck, audit.transfers, audit.committed, audit.undone, audit.unknown, audit.unheard)
    return (*map(str, counts), f"{run.quiet_after_s:.1f} s")


def test_a_drawn_fault(
    drawn_fault: str, seed: int, pytestconfig: pytest.Config, bank_holder: BankHolder, table: list[Row]
) -> None:
    during_s = pytestconfig.getoption("--during", default=None) or SHORT_S
    play(drawn_fault, seed, during_s, bank_holder, table)


@pytest.mark.soak
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault(
    name: str, seed: int, pytestconfig: pytest.Config, bank_holder: BankHolder, table: list[Row]
) -> None:
    play(name, seed, pytestconfig.getoption("--during", default=None) or LONG_S, bank_holder, table)
