"""The examples of docs/modes/saga.md show what it promises, and `troth lint` finds nothing in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from troth.cli.main import app

ROOT = Path(__file__).parents[2]


def printed_by(example: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, f"examples/{example}"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


def test_a_trip_is_booked_given_back_and_gone_on_with() -> None:
    assert printed_by("saga_trip/trip.py") == [
        "ann: LH 454, room 7, a red one",
        "bob: payment refused: CardRefused: not enough on the card",
        "     book the flight; book the hotel; rent the car; "
        "give back the car; give back the hotel; give back the flight",
        "cleo: the process that booked was ended by signal 9, and another one went on",
        "      book the flight; book the hotel; rent the car; pay",
    ]


def test_an_agents_tools_are_taken_back() -> None:
    lines = printed_by("agent_tools/agent.py")
    assert [line for line in lines if line.startswith(("inbox", "given up", "     refunded"))] == [
        "inbox ['bob: lunch on Friday?'], calendar {'fri-12': 'bob'}",
        "     refunded 40 €",
        "given up: no slot, and no money",
        "inbox ['bob: lunch on Friday?'], calendar {'fri-12': 'bob'}",
    ]
    assert sum("-> sent" in line for line in lines) == 3, "the model repeats one call by its id; it is done once"
    assert any("KeyError" in line and "do not try this again" in line for line in lines)
    assert any("ApprovalDenied" in line for line in lines)


@pytest.mark.parametrize("example", ["saga_trip", "agent_tools"])
def test_there_is_nothing_to_find_in_them(example: str) -> None:
    result = CliRunner().invoke(app, ["lint", str(ROOT / "examples" / example)])
    assert (result.exit_code, result.output) == (0, "")
