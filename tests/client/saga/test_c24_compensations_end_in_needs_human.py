"""C24: a compensation that fails is tried a bounded number of times; then the saga needs a human, by that name.

Elsewhere "retry 3" compensates for ever, and eats memory (Seata issues 2861 and 5077 in docs/field.md's list).
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import troth
from fixtures_coordinator import until

NewStep = Callable[..., Any]
SOON = timedelta(milliseconds=2)
DOWN = OSError("the hotel is down")


class Operator:
    """What somebody at the admin door sees and does."""

    def __init__(self, admin: str) -> None:
        self.admin = admin

    def shown(self, xid: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.admin}/api/transactions/{xid}", timeout=10) as answer:
            return dict(json.load(answer))

    def retry(self, xid: str) -> None:
        request = urllib.request.Request(f"{self.admin}/api/transactions/{xid}/retry", method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@pytest.fixture
def operator(saga_coordinator: Any) -> Operator:
    return Operator(saga_coordinator.ready.admin)


def test_bounded_attempts_then_a_frozen_branch_that_a_retry_sets_free(
    operator: Operator, new_step: NewStep, diary: list[Any]
) -> None:
    flight, car = new_step("flight"), new_step("car")
    hotel = new_step("hotel", undo_errors=(DOWN,) * 4)

    @troth.saga(name="trip")
    def trip() -> None:
        flight()
        hotel()
        car()
        raise KeyError("changed my mind")

    with pytest.raises(troth.NeedsHuman, match="needs-human: the compensation of hotel") as caught:
        trip()
    xid = caught.value.xid
    until(lambda: operator.shown(xid)["status"] == "RollbackFailed", what="it is frozen")
    attempts = ["undo hotel"] * 4
    """Three by the run, one by the coordinator's branch, which is frozen by that."""
    assert diary == ["do flight", "do hotel", "do car", "undo car", *attempts]

    shown = {branch["resource_id"]: branch for branch in operator.shown(xid)["branches"]}
    frozen = shown["undo:embedded:hotel"]
    assert frozen["status"] == "PhaseTwo_RollbackFailed_Unretryable"
    assert "needs-human: the compensation of hotel failed 3 times: OSError: the hotel is down" in frozen["last_error"]
    assert frozen["next_due"] is None
    time.sleep(0.5)  # longer than any pause between attempts: nothing may happen by itself
    assert diary[-5:] == ["undo car", *attempts]

    operator.retry(xid)
    until(lambda: operator.shown(xid)["outcome"] == "Rollbacked", what="the retry has ended it")
    assert diary == ["do flight", "do hotel", "do car", "undo car", *attempts, "undo hotel", "undo flight"]


def test_an_undoable_call_too_has_bounded_attempts_and_is_frozen_then(
    operator: Operator, new_step: NewStep, diary: list[Any]
) -> None:
    mail = new_step("mail", undo_errors=(DOWN,) * 3)
    xids = []

    def body() -> None:
        with troth.transaction(name="agent") as tx:
            xids.append(tx.xid)
            mail()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    until(lambda: operator.shown(xids[0])["status"] == "RollbackFailed", what="it is frozen")
    assert diary == ["do mail", *["undo mail"] * 3]
    operator.retry(xids[0])
    until(lambda: operator.shown(xids[0])["outcome"] == "Rollbacked", what="the retry has ended it")
    assert diary == ["do mail", *["undo mail"] * 4]


def test_a_step_that_is_put_off_is_no_secret(operator: Operator, new_step: NewStep, diary: list[Any]) -> None:
    """Forward recovery: the saga waits for its step, and the runner's branch says why."""
    broken = [True]
    xids = []

    @troth.step(name="stuck", attempts=2, pause=SOON)
    def stuck() -> None:
        xids.append(troth.current_step().xid)
        if broken:
            raise OSError("the bank is closed")

    @troth.saga(name="patient", recovery="forward", check_every=timedelta(milliseconds=50))
    def patient() -> None:
        stuck()

    with pytest.raises(troth.TrothError, match="it goes on later"):
        patient()

    def reason() -> str:
        branches = operator.shown(xids[0])["branches"]
        return str(next(branch["last_error"] for branch in branches if branch["branch_type"] == "RUNNER"))

    until(lambda: "stuck failed 2 times (OSError: the bank is closed)" in reason(), what="the reason is shown")
    broken.clear()
    until(lambda: operator.shown(xids[0])["outcome"] == "Committed", what="it has gone on")
