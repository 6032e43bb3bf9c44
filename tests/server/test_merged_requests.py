"""Merged requests (59): batch results (121) to clients from 1.5.0 on, one 60 to older ones (design/coordinator §5)."""

from collections.abc import Callable

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient
from troth.server.sessions import Channel, knows_batch_results
from troth.wire.seata import messages as m
from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    GlobalStatus,
    MessageType,
    ResultCode,
    TransactionExceptionCode,
)
from troth.wire.seata.frame import Frame

Connect = Callable[..., WireClient]

OLD = ["0.9.0", "1.4.2", "1.4.9-SNAPSHOT", "1", "", None, "latest", "²·⁵"]
NEW = ["1.5.0", "1.5.0-SNAPSHOT", "1.10.0", "2.0.0", "2.6.0", "2"]


@pytest.mark.parametrize("version", OLD)
def test_versions_that_take_one_answer(version: str | None) -> None:
    assert not knows_batch_results(version or "")


@pytest.mark.parametrize("version", NEW)
def test_versions_that_take_batch_results(version: str) -> None:
    assert knows_batch_results(version)


def test_the_first_version_stands_for_the_connection() -> None:
    channel = Channel(None, "10.0.0.1", 5000)  # type: ignore[arg-type]
    channel.introduce("shop", "g", None)
    channel.introduce("shop", "g", "1.4.2")
    channel.introduce("shop", "g", "2.6.0")
    assert (channel.version, channel.takes_batch_results) == ("1.4.2", False)


def register(client: WireClient, version: str | None, resource: str) -> WireClient:
    assert client.ask(m.RegisterTMRequest(version, "shop", "default_tx_group", "")).identified
    assert client.ask(m.RegisterRMRequest(version or "0.9.0", "shop", "default_tx_group", "", resource)).identified
    return client


def post_merged(client: WireClient, *children: m.Message, first_id: int = 900) -> Frame:
    ids = tuple(range(first_id, first_id + len(children)))
    return client.send(client.connection.oneway(m.MergedWarpMessage(children, ids)))


def batch_results(client: WireClient, frame: Frame, count: int) -> dict[int, m.Message]:
    """`count` answers to a merged frame, each from a 121 of its own, by the child's id and in the order they came."""
    answers: dict[int, m.Message] = {}
    for _ in range(count):
        answer = client.answer_to(frame)
        assert answer.message_type is MessageType.RESPONSE
        assert isinstance(answer.body, m.BatchResultMessage)
        (message,), (child,) = answer.body.result_messages, answer.body.msg_ids
        assert child not in answers, "a child is answered once"
        answers[child] = message
    return answers


def some_of_each(holder: str, other: str, resource: str) -> tuple[m.Message, ...]:
    return (
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:1"),  # a conflict
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:2"),
        m.BranchRegisterRequest(other, BranchType.SAGA, resource),
        m.BranchReportRequest("nobody:1:1", 5, BranchStatus.PhaseOne_Done),
        m.GlobalLockQueryRequest(other, BranchType.AT, resource, "t:1"),
        m.GlobalStatusRequest(holder),
    )


KINDS = (
    m.BranchRegisterResponse,
    m.BranchRegisterResponse,
    m.BranchRegisterResponse,
    m.BranchReportResponse,
    m.GlobalLockQueryResponse,
    m.GlobalStatusResponse,
)
FAILED, SUCCESS = ResultCode.Failed, ResultCode.Success
CODES = (FAILED, SUCCESS, FAILED, FAILED, SUCCESS, SUCCESS)


@pytest.mark.engines
@pytest.mark.parametrize("version", ["0.9.0", "1.4.2", None, "unreadable"])
def test_an_old_client_gets_one_frame_in_order_and_nobody_waits(
    coordinator: CoordinatorProcess, connect: Connect, version: str | None
) -> None:
    resource = f"jdbc:old:{version}"
    client = register(connect(coordinator), version, resource)
    holder, other = client.begin(), client.begin()
    client.branch(holder, resource, "t:1")
    answer = client.answer_to(post_merged(client, *some_of_each(holder, other, resource)))
    assert answer.message_type is MessageType.RESPONSE
    assert isinstance(answer.body, m.MergeResultMessage)
    assert tuple(type(result) for result in answer.body.msgs) == KINDS
    assert tuple(result.result_code for result in answer.body.msgs) == CODES
    assert answer.body.msgs[0].transaction_exception_code is TransactionExceptionCode.LockKeyConflict
    assert client.answer_to(post_merged(client)).body == m.MergeResultMessage(())


@pytest.mark.engines
@pytest.mark.parametrize("version", ["1.5.0", "2.6.0"])
def test_a_newer_client_gets_a_batch_result_for_each_child(
    coordinator: CoordinatorProcess, connect: Connect, version: str
) -> None:
    resource = f"jdbc:sqlite:new:{version}"  # rows of SQLite are never waited for
    client = register(connect(coordinator), version, resource)
    holder, other = client.begin(), client.begin()
    client.branch(holder, resource, "t:1")
    frame = post_merged(client, *some_of_each(holder, other, resource))
    answers = batch_results(client, frame, 6)
    assert tuple(type(answers[900 + n]) for n in range(6)) == KINDS
    assert tuple(answers[900 + n].result_code for n in range(6)) == CODES
    assert client.answer_to(post_merged(client)).body == m.BatchResultMessage((), ())
    client.ping()  # and nothing else has come


@pytest.mark.engines
def test_a_child_that_waits_for_a_row_holds_back_nobody(coordinator: CoordinatorProcess, connect: Connect) -> None:
    resource = "jdbc:mysql://merged/waits"
    client = register(connect(coordinator), "2.6.0", resource)
    holder, other = client.begin(), client.begin()
    client.branch(holder, resource, "t:1")
    frame = post_merged(
        client,
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:1"),
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:2"),
    )
    (sibling,) = batch_results(client, frame, 1).items()
    assert (sibling[0], sibling[1].result_code) == (901, SUCCESS)
    assert client.commit(holder) is GlobalStatus.Committed
    (waited,) = batch_results(client, frame, 1).items()
    assert (waited[0], waited[1].result_code) == (900, SUCCESS)


@pytest.mark.engines
def test_a_merged_frame_counts_as_unanswered_until_its_last_child(
    new_coordinator: Callable[..., CoordinatorProcess], connect: Connect
) -> None:
    """With one request in flight allowed, the next is read only when the waiting child has been answered."""
    coordinator = new_coordinator("limits.in_flight=1", "lock.hot_wait=500ms").start()
    resource = "jdbc:mysql://merged/counts"
    keeper = connect(coordinator).register_tm().register_rm(resource)
    client = register(connect(coordinator), "2.6.0", resource)
    holder, other = keeper.begin(), keeper.begin()
    keeper.branch(holder, resource, "t:1")
    frame = post_merged(
        client,
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:1"),
        m.BranchRegisterRequest(other, BranchType.AT, resource, "t:2"),
    )
    assert list(batch_results(client, frame, 1)) == [901]
    client.send(client.connection.ping())
    refused = client.receive()
    assert isinstance(refused.body, m.BatchResultMessage)
    assert refused.body.result_messages[0].transaction_exception_code is TransactionExceptionCode.LockKeyConflict
    assert client.receive().message_type is MessageType.HEARTBEAT_PONG
