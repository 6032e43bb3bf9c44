"""The fence, in both of its modes, on every kind of connection: each anomaly is made to happen, and held."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from tcc_banks import Bank, play, withdraw

import troth
from fixtures_coordinator import until
from troth.client.modes.fence import FenceStatus, LateTry
from troth.client.tcc_handler import ActionHandler
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus
from troth.wire.seata.messages import BranchCommitRequest, BranchRollbackRequest, GlobalRollbackRequest

pytestmark = pytest.mark.engines

TRIED, COMMITTED, ROLLBACKED, SUSPENDED, TRYING = FenceStatus


def _soak(*kinds: str) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.soak) for kind in kinds]


DATA = '{"actionContext":{"account":"A","amount":10,"useTCCFence":true}}'


@pytest.fixture(params=["local-tx", "intent-first"])
def fence(request: pytest.FixtureRequest) -> str:
    mode: str = request.param
    return mode


def handler_of(action: Any) -> ActionHandler:
    handler: ActionHandler = action.try_._handler
    return handler


def rollback_request(action: Any, branch_id: int, xid: str = "a:1:1") -> BranchRollbackRequest:
    return BranchRollbackRequest(xid, branch_id, BranchType.TCC, action.try_.name, DATA)


def commit_request(action: Any, branch_id: int, xid: str = "a:1:1") -> BranchCommitRequest:
    return BranchCommitRequest(xid, branch_id, BranchType.TCC, action.try_.name, DATA)


def test_commit_and_rollback(bank: Bank, fence: str) -> None:
    action = withdraw(bank, fence)
    play(action, {"amount": 30})
    assert (bank.log, bank.books(), bank.fences()) == (["try", "confirm"], (70, 0), [COMMITTED])
    confirmed = bank.contexts[-1]
    assert (confirmed.arguments, confirmed.result) == ({"account": "A", "amount": 30, "fail": False}, {"reserved": 30})
    assert (confirmed.xid, confirmed.branch_id) == (bank.contexts[0].xid, bank.contexts[0].branch_id)
    with pytest.raises(KeyError):
        play(action, {"amount": 5}, {"amount": 6}, error=KeyError())
    assert bank.log[2:] == ["try", "try", "cancel", "cancel"]
    assert [ctx["amount"] for ctx in bank.contexts[-2:]] == [6, 5]
    assert (bank.books(), bank.fences()) == ((70, 0), [COMMITTED, ROLLBACKED, ROLLBACKED])


def test_an_empty_cancel_does_nothing_and_the_try_that_comes_late_is_refused(
    bank: Bank, fence: str, tcc_client: troth.Client
) -> None:
    """The try is registered, then held up until the whole has been rolled back."""
    action = withdraw(bank, fence)
    tx = troth.transaction(name="late")

    def roll_back() -> None:
        tcc_client.tell(GlobalRollbackRequest(xid=tx.xid))
        until(lambda: tcc_client.status(tx.xid) is GlobalStatus.Rollbacked)

    # An async action is cancelled in the loop of its try, which a blocking hook would block: so that is unknown to it.
    handler_of(action).remember_loop = lambda: None  # type: ignore[method-assign]
    bank.hooks["connect"] = roll_back

    def late() -> None:
        with tx:
            play(action, {"amount": 30})

    with pytest.raises(LateTry, match="cancelled before its try came"):
        late()
    assert (bank.log, bank.books(), bank.fences()) == ([], (100, 0), [SUSPENDED])


def test_a_confirm_that_comes_again_is_done_once(bank: Bank, fence: str) -> None:
    action = withdraw(bank, fence)
    play(action, {"amount": 30})
    seen = bank.contexts[-1]
    again = commit_request(action, seen.branch_id, seen.xid)
    for _ in range(2):
        (answer,) = handler_of(action).commit([again, again])
        assert answer.branch_status is BranchStatus.PhaseTwo_Committed
    assert (bank.log, bank.books()) == (["try", "confirm"], (70, 0))
    refused = handler_of(action).rollback(rollback_request(action, seen.branch_id, seen.xid))
    assert refused.branch_status is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    assert "confirmed already" in (refused.msg or "")


def test_a_confirm_that_fails_is_asked_for_until_it_succeeds(bank: Bank, fence: str) -> None:
    action = withdraw(bank, fence)
    bank.hooks["confirm"] = lambda: 1 / 0
    play(action, {"amount": 30})
    until(lambda: bank.fences() == [COMMITTED])
    assert (bank.log, bank.books()) == (["try", "confirm", "confirm"], (70, 0)), "the first confirm has left nothing"


def test_a_cancel_that_fails_is_asked_for_until_it_succeeds(bank: Bank, fence: str) -> None:
    action = withdraw(bank, fence)
    bank.hooks["cancel"] = lambda: 1 / 0
    with pytest.raises(KeyError):
        play(action, {"amount": 30}, error=KeyError())
    until(lambda: bank.fences() == [ROLLBACKED])
    assert (bank.log, bank.books()) == (["try", "cancel", "cancel"], (100, 0))


def test_c08_a_try_that_throws_is_cancelled_if_its_intent_was_first(bank: Bank, fence: str) -> None:
    """With local-tx nothing is left of it, so there is nothing to cancel; a message it has sent would be forgotten."""
    action = withdraw(bank, fence)
    with pytest.raises(ValueError, match="the try failed"):
        play(action, {"amount": 30, "fail": True})
    if fence == "local-tx":
        until(lambda: bank.fences() == [SUSPENDED])
        assert bank.log == ["try"]
    else:
        until(lambda: bank.fences() == [ROLLBACKED])
        assert bank.log == ["try", "cancel"]
        # The SQL of the try is gone, and the cancel undid it all the same: with intent-first it has to look.
        assert bank.books() == (130, -30)


def test_c22_a_try_whose_error_is_swallowed_rolls_the_whole_back(bank: Bank, fence: str) -> None:
    if bank.is_async:
        pytest.skip("the same flow")
    action = withdraw(bank, fence)

    def swallow() -> None:
        with troth.transaction(name="swallow"):
            action.try_("A", 10)
            with pytest.raises(ValueError, match="the try failed"):
                action.try_("A", 20, fail=True)

    with pytest.raises(troth.TransactionRolledBack):
        swallow()
    until(lambda: TRIED not in bank.fences())
    assert "confirm" not in bank.log


def test_intent_first_a_cancel_waits_for_the_try_or_its_deadline(bank: Bank) -> None:
    if bank.is_async:
        pytest.skip("the hooks of this test block")
    action = withdraw(bank, "intent-first", deadline=timedelta(hours=1))

    def cancel() -> BranchStatus:
        seen = bank.contexts[-1]
        return handler_of(action).rollback(rollback_request(action, seen.branch_id, seen.xid)).branch_status

    def run_beyond_the_deadline() -> None:
        assert cancel() is BranchStatus.PhaseTwo_RollbackFailed_Retryable, "the try runs"
        bank.let_the_deadline_pass()
        assert cancel() is BranchStatus.PhaseTwo_Rollbacked

    bank.hooks["try"] = run_beyond_the_deadline
    with pytest.raises(LateTry, match=r"at the deadline of its try|another has moved"):
        play(action, {"amount": 30})
    until(lambda: bank.fences() == [ROLLBACKED])
    assert bank.log == ["try", "cancel"], "what the try did on the connection is rolled back with it"


def test_intent_first_a_try_that_would_begin_after_its_deadline_does_not_begin(bank: Bank) -> None:
    action = withdraw(bank, "intent-first", deadline=timedelta(seconds=5))
    clock = iter((100.0, 106.0))
    action.try_._fencing = replace(action.try_._fencing, clock=lambda: next(clock))
    with pytest.raises(LateTry, match="did not begin before its deadline of 5000 ms"):
        play(action, {"amount": 30})
    assert (bank.log, bank.books(), bank.fences()) == ([], (100, 0), [SUSPENDED]), "and there is nothing to cancel"


def test_c10_an_empty_rollback_is_answered_and_not_retried(bank: Bank, fence: str, tcc_client: troth.Client) -> None:
    """The branch is registered, its process has never come to the try: the fence is where the action is."""
    action = withdraw(bank, fence)
    for _ in range(2):
        answer = handler_of(action).rollback(rollback_request(action, 7))
        assert answer.branch_status is BranchStatus.PhaseTwo_Rollbacked
    assert (bank.log, bank.books(), bank.fences()) == ([], (100, 0), [SUSPENDED])
    (answer_to_commit,) = handler_of(action).commit([commit_request(action, 7), commit_request(action, 7)])
    assert answer_to_commit.branch_status is BranchStatus.PhaseTwo_CommitFailed_Retryable


@pytest.mark.parametrize("kind", ["pymysql", *_soak("psycopg", "sqlalchemy-mariadb")])
def test_c09_cancels_side_by_side_are_no_deadlock(new_bank: Callable[[str], Bank], kind: str) -> None:
    """20 empty cancels of neighbouring keys, each asked for twice at once: InnoDB's gap locks are not touched."""
    bank = new_bank(kind)
    action = withdraw(bank)
    gate = threading.Barrier(8)

    def cancel(number: int) -> tuple[BranchStatus, str | None]:
        if number < 8:
            gate.wait(10)
        answer = handler_of(action).rollback(rollback_request(action, number // 2))
        return answer.branch_status, answer.msg

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(cancel, range(40)))
    assert set(answers) == {(BranchStatus.PhaseTwo_Rollbacked, None)}
    assert bank.fences() == [SUSPENDED] * 20


@pytest.mark.parametrize("kind", ["pymysql", *_soak("psycopg", "sqlite", "redis")])
def test_many_at_once_confirm_one_branch_once(new_bank: Callable[[str], Bank], kind: str) -> None:
    bank = new_bank(kind)
    action = withdraw(bank)
    bank.hooks["confirm"] = lambda: 1 / 0  # the first attempt of the coordinator fails, so that the row is still open
    with troth.transaction(name="storm"):
        action.try_("A", 30)
    seen = bank.contexts[0]
    with ThreadPoolExecutor(6) as threads:
        for _ in threads.map(
            lambda _: handler_of(action).commit([commit_request(action, seen.branch_id, seen.xid)]), range(12)
        ):
            pass
    until(lambda: bank.fences() == [COMMITTED])
    assert bank.books()[1] in (0, 20), "10 by this request's data, or 30 by the coordinator's: once"


@pytest.mark.parametrize("kind", ["sqlite", *_soak("psycopg", "pymysql")])
def test_clean_up_leaves_open_branches(new_bank: Callable[[str], Bank], kind: str) -> None:
    bank = new_bank(kind)
    action = withdraw(bank)
    play(action, {"amount": 30})
    with troth.transaction(name="open"):
        action.try_("A", 1)
        assert action.try_.clean_up(timedelta(hours=1)) == 0
        assert bank.fences() == [COMMITTED, TRIED]
        until(lambda: action.try_.clean_up(timedelta(0)) == 1)
        assert bank.fences() == [TRIED]


@pytest.mark.engines
def test_a_try_that_swallows_a_failed_statement_is_no_try(new_bank: Callable[[str], Bank]) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with ROLLBACK and no error: nothing was frozen."""
    bank = new_bank("psycopg")

    def swallows(ctx: troth.ActionContext) -> None:
        with contextlib.suppress(psycopg.Error):
            bank.run(ctx.connection, "UPDATE no_such_table SET x = 1")

    action = troth.tcc(name="swallows", connection=bank.opened, confirm=swallows, cancel=swallows)(swallows)
    with pytest.raises(troth.BranchFailed, match="swallowed"), troth.transaction(name="transfer"):
        action()
    assert bank.fences() == [FenceStatus.SUSPENDED]  # cancelled, and found never tried
