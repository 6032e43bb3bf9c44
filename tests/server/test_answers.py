"""States in Seata's words: the whole table, as the protocol wants it."""

from itertools import product

import pytest

from troth.core.effects import Conflict, NoBranch, NotActive, Registered, Stands, Unknown
from troth.core.model import Cause, Phase, RowKey, Standing, Trouble
from troth.server.inbound import seata_answers as answers
from troth.wire.seata.enums import GlobalStatus, ResultCode, TransactionExceptionCode

NONE, RETRYING, FROZEN = Trouble.NONE, Trouble.RETRYING, Trouble.FROZEN

QUERY = [
    # phase, cause, trouble, asynchronous: what a status query hears
    (Phase.OPEN, None, NONE, True, 1),
    (Phase.COMMITTING, Cause.ASKED, NONE, True, 8),
    (Phase.COMMITTING, Cause.ASKED, NONE, False, 2),
    (Phase.COMMITTING, Cause.ASKED, RETRYING, True, 3),
    (Phase.COMMITTING, Cause.ASKED, RETRYING, False, 3),
    (Phase.COMMITTING, Cause.ASKED, FROZEN, True, 10),
    (Phase.COMMITTED, Cause.ASKED, NONE, False, 9),
    (Phase.FORWARD, None, NONE, True, 1),
    (Phase.FORWARD, None, RETRYING, False, 1),
    (Phase.ROLLING_BACK, Cause.ASKED, NONE, True, 4),
    (Phase.ROLLING_BACK, Cause.VOTE, NONE, True, 4),
    (Phase.ROLLING_BACK, Cause.PHASE_ONE_FAILED, RETRYING, True, 5),
    (Phase.ROLLING_BACK, Cause.ASKED, FROZEN, True, 12),
    (Phase.ROLLED_BACK, Cause.VOTE, NONE, False, 11),
    (Phase.ROLLING_BACK, Cause.TIMEOUT, NONE, True, 6),
    (Phase.ROLLING_BACK, Cause.TIMEOUT, RETRYING, True, 7),
    (Phase.ROLLING_BACK, Cause.TIMEOUT, FROZEN, True, 14),
    (Phase.ROLLED_BACK, Cause.TIMEOUT, NONE, False, 13),
]


@pytest.mark.parametrize(("phase", "cause", "trouble", "asynchronous", "code"), QUERY)
def test_what_a_query_hears(phase: Phase, cause: Cause | None, trouble: Trouble, asynchronous: bool, code: int) -> None:
    assert answers.status_of(Standing("x", phase, cause, trouble, asynchronous)) == code


def test_whoever_asked_for_the_commit_never_takes_a_rollback_for_success() -> None:
    for phase, cause, trouble, later in product(Phase, Cause, Trouble, (True, False)):
        status = answers.status_of(Standing("x", phase, cause, trouble, later), commit_asked=True)
        if phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
            assert status in (6, 7, 13, 14)
        elif phase is Phase.COMMITTED or (phase is Phase.COMMITTING and later):
            assert status is GlobalStatus.Committed
        elif phase is Phase.COMMITTING:
            assert status in (2, 3, 10)
        else:
            assert status is GlobalStatus.Begin


def test_every_standing_has_a_name() -> None:
    for facts in product(Phase, [*Cause, None], Trouble, (True, False), (True, False)):
        *standing, asked = facts
        assert isinstance(answers.status_of(Standing("x", *standing), asked), GlobalStatus)


def conflict(*, fail_fast: bool, auto_commit: bool) -> Conflict:
    key = RowKey("jdbc:x", "account", "1")
    return Conflict("h:1:2", 77, key, "h:1:9", 1500, fail_fast, auto_commit)


@pytest.mark.parametrize(
    ("fail_fast", "auto_commit", "code"), [(True, False, 20), (True, True, 2), (False, False, 2), (False, True, 2)]
)
def test_only_a_client_inside_a_local_transaction_fails_fast(fail_fast: bool, auto_commit: bool, code: int) -> None:
    answer = answers.register_answer(conflict(fail_fast=fail_fast, auto_commit=auto_commit))
    assert answer.transaction_exception_code == code
    assert answer.msg == (
        "TransactionException[Global lock acquire failed xid = h:1:2 branchId = 77] "
        "row account:1 is held by xid = h:1:9 for 1500 ms"
    )


def test_refused_registrations() -> None:
    assert answers.register_answer(Registered(5)).branch_id == 5
    unknown = answers.register_answer(Unknown("h:1:2"))
    assert unknown.result_code is ResultCode.Failed
    assert unknown.transaction_exception_code is TransactionExceptionCode.GlobalTransactionNotExist
    expected = "TransactionException[Could not found global transaction xid = h:1:2, may be has finished.]"
    assert unknown.msg == expected
    late = answers.register_answer(NotActive(Standing("h:1:2", Phase.COMMITTED, Cause.ASKED)))
    assert late.transaction_exception_code is TransactionExceptionCode.GlobalTransactionNotActive
    assert "Committed" in late.msg
    report = answers.branch_report_answer(NoBranch("h:1:2", 5))
    assert report.transaction_exception_code is TransactionExceptionCode.BranchTransactionNotExist


def test_a_report_on_an_unknown_xid_echoes_the_claim() -> None:
    for claimed in GlobalStatus:
        assert answers.report_answer(claimed)(Unknown("x")).global_status is claimed
    stands = Stands(Standing("x", Phase.COMMITTED, Cause.ASKED))
    assert answers.report_answer(GlobalStatus.Begin)(stands).global_status is GlobalStatus.Committed
