"""A statement that met somebody else's row asks for the row first, the next few times."""

from __future__ import annotations

import pytest

from troth.client.errors import CoordinatorUnavailable, LockConflict
from troth.client.flow import Flow, Tell
from troth.client.isolation import CHECK_ONLY
from troth.client.modes.at_hot import HotStatements
from troth.client.modes.at_wait import Denied
from troth.wire.seata.enums import ResultCode, TransactionExceptionCode
from troth.wire.seata.lock_wait import NOT_NEGOTIATED, LockWaitRequest, LockWaitResponse

SQL = "UPDATE hot SET n = n + ? WHERE id = ?"
SETS = [(1, 7)]
DENIED = Denied("jdbc:sqlite:shop", "hot:7")
KEPT = LockWaitResponse(result_code=ResultCode.Success, keep_ms=300)
REFUSED = LockWaitResponse(
    result_code=ResultCode.Failed,
    msg="row hot:7 is held by xid = a:1:2 for 40 ms",
    transaction_exception_code=TransactionExceptionCode.LockKeyConflict,
)


def asked(flow: Flow[None], answer: LockWaitResponse | Exception = KEPT) -> list[LockWaitRequest]:
    """What the flow tells the coordinator, each answered with `answer`."""
    found: list[LockWaitRequest] = []
    try:
        step = next(flow)
        while True:
            assert isinstance(step, Tell)
            assert isinstance(step.message, LockWaitRequest)
            found.append(step.message)
            step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    except StopIteration:
        return found


@pytest.fixture
def hot() -> HotStatements:
    remembered = HotStatements()
    remembered.note(SQL, SETS, DENIED)
    return remembered


def test_nothing_is_asked_of_a_statement_that_was_never_refused() -> None:
    assert asked(HotStatements().queue_ahead("a:1:1", SQL, SETS)) == []


def test_the_rows_that_were_refused_are_asked_for_first(hot: HotStatements) -> None:
    (request,) = asked(hot.queue_ahead("a:1:1", SQL, SETS))
    assert (request.xid, request.resource_id, request.lock_key) == ("a:1:1", "jdbc:sqlite:shop", "hot:7")


def test_other_values_are_other_rows(hot: HotStatements) -> None:
    assert asked(hot.queue_ahead("a:1:1", SQL, [(1, 8)])) == []
    assert asked(hot.queue_ahead("a:1:1", SQL, [(1, 7), (1, 8)])) == []


def test_after_some_runs_it_is_tried_plainly_again(hot: HotStatements) -> None:
    runs = [len(asked(hot.queue_ahead("a:1:1", SQL, SETS))) for _ in range(20)]
    assert runs == [1] * 16 + [0] * 4


def test_a_refusal_is_told_and_not_asked_for_again(hot: HotStatements) -> None:
    with pytest.raises(LockConflict, match="hot:7"):
        asked(hot.queue_ahead("a:1:1", SQL, SETS), REFUSED)
    assert asked(hot.queue_ahead("a:1:1", SQL, SETS)) == []


def test_a_coordinator_that_knows_no_such_wait_is_asked_once(hot: HotStatements) -> None:
    asked(hot.queue_ahead("a:1:1", SQL, SETS), NOT_NEGOTIATED)
    assert asked(hot.queue_ahead("a:1:1", SQL, SETS)) == []


def test_a_lost_answer_is_the_business_of_the_registration(hot: HotStatements) -> None:
    assert len(asked(hot.queue_ahead("a:1:1", SQL, SETS), CoordinatorUnavailable("gone"))) == 1


def test_outside_of_a_global_transaction_nothing_can_be_kept(hot: HotStatements) -> None:
    assert asked(hot.queue_ahead(CHECK_ONLY, SQL, SETS)) == []


def test_it_remembers_few_and_short_ones() -> None:
    remembered = HotStatements()
    for number in range(100):
        remembered.note(SQL, [(1, number)], DENIED)
    known = [number for number in range(100) if asked(remembered.queue_ahead("a:1:1", SQL, [(1, number)]))]
    assert known == list(range(36, 100))
    remembered.note(SQL, [("x" * 1000,)], DENIED)
    assert asked(remembered.queue_ahead("a:1:1", SQL, [("x" * 1000,)])) == []
