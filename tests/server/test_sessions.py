"""How phase two finds its channel (PROTOCOL §5)."""

import pytest

from troth.core.effects import Call
from troth.core.events import CallResult
from troth.core.model import BranchType, LockMode, Verb
from troth.server.outbound.seata import CallsOut, answered, request_for, unanswered
from troth.server.sessions import Channel, ClientName, Sessions
from troth.wire.seata.enums import BranchStatus, ResultCode
from troth.wire.seata.enums import BranchType as SeataBranchType
from troth.wire.seata.messages import BranchCommitResponse, BranchRollbackResponse, Message
from troth.wire.seata.saga import RunAskRequest


class NoLink:
    """A connection on which nothing is sent."""

    def answer_request(self, request_id: int, message: Message) -> bool:
        return False

    def call_branch(self, call: Call) -> None:
        raise AssertionError("nothing is sent here")


def channel(application: str, ip: str, port: int) -> Channel:
    one = Channel(NoLink(), ip, port)
    one.introduce(application, "g", "2.3.0")
    return one


def call(client_id: str, branch_type: BranchType = BranchType.AT, verb: Verb = Verb.COMMIT) -> Call:
    return Call("h:1:2", 7, branch_type, "jdbc:x", None, client_id, verb, 1)


SELF = channel("shop", "10.0.0.1", 5000)
NEIGHBOUR = channel("shop", "10.0.0.1", 5001)
SIBLING = channel("shop", "10.0.0.2", 5000)
STRANGER = channel("other", "10.0.0.1", 5000)


@pytest.mark.parametrize("branch_type", [BranchType.AT, BranchType.TCC])
def test_the_nearest_channel_is_found(branch_type: BranchType) -> None:
    sessions = Sessions()
    for one in (STRANGER, NEIGHBOUR, SELF, SIBLING):
        one.resources.clear()
        assert sessions.add_resources(one, ["jdbc:x", "jdbc:x", "jdbc:y"]) == ["jdbc:x", "jdbc:y"]
        assert sessions.add_resources(one, ["jdbc:x"]) == []
    wanted = call("shop:10.0.0.1:5000", branch_type)
    for expected in (SELF, NEIGHBOUR, SIBLING):
        assert sessions.find(wanted) is expected
        sessions.remove(expected)
    assert sessions.find(wanted) is (STRANGER if branch_type is BranchType.AT else None)
    sessions.remove(STRANGER)
    assert sessions.find(wanted) is None
    assert sessions.resources() == {}


def test_the_newest_of_equals_is_preferred() -> None:
    sessions = Sessions()
    old, new = channel("shop", "10.0.0.1", 1), channel("shop", "10.0.0.1", 2)
    sessions.add_resources(old, ["jdbc:x"])
    sessions.add_resources(new, ["jdbc:x"])
    assert sessions.find(call("shop:10.0.0.1:9")) is new


def test_additions_go_to_who_knows_lock_modes_only() -> None:
    """Their undo logs hold deltas, which a Java client would not understand."""
    sessions = Sessions()
    java, ours = channel("java", "10.0.0.1", 1), channel("ours", "10.0.0.9", 2)
    ours.waits_cold = True
    sessions.add_resources(java, ["jdbc:x"])
    addition = Call("h:1:2", 7, BranchType.AT, "jdbc:x", None, "java:10.0.0.1:1", Verb.COMMIT, 1, LockMode.ADD)
    assert sessions.find(addition) is None
    sessions.add_resources(ours, ["jdbc:x"])
    assert sessions.find(addition) is ours
    assert sessions.find(call("java:10.0.0.1:1")) is java


def test_a_resource_belongs_to_the_application_that_registered_it() -> None:
    """One connection may introduce itself under one name as TM and under another as RM."""
    sessions = Sessions()
    one = channel("as-tm", "10.0.0.1", 1)
    sessions.add_tm(one)
    one.introduce("as-rm", None, None)
    sessions.add_resources(one, ["jdbc:x"])
    assert sessions.find(call("as-rm:10.0.0.1:1", BranchType.TCC)) is one
    assert sessions.find(call("as-tm:10.0.0.1:1", BranchType.TCC)) is None
    sessions.remove(one)
    assert sessions.relatives(channel("as-tm", "10.0.0.1", 2)) == []


def test_relatives_are_other_tm_channels_of_the_same_application_and_ip() -> None:
    sessions = Sessions()
    one, two, other = channel("a", "1.1.1.1", 1), channel("a", "1.1.1.1", 2), channel("b", "1.1.1.1", 3)
    for tm in (one, two, other):
        sessions.add_tm(tm)
    assert sessions.relatives(one) == [two]
    sessions.remove(two)
    assert sessions.relatives(one) == []


@pytest.mark.parametrize(
    ("application", "ip"), [("shop", "10.0.0.1"), ("a:b:c", "10.0.0.1"), ("a:b", "fe80::1"), ("", "::1")]
)
def test_client_ids_are_read_as_they_are_written(application: str, ip: str) -> None:
    one = channel(application, ip, 4711)
    assert ClientName.parse(one.client_id) == (application, one.ip, 4711)


@pytest.mark.parametrize("nonsense", ["", ":", "x", "a:b:c:d", "]", "a]:1"])
def test_other_texts_are_nobody(nonsense: str) -> None:
    assert ClientName.parse(nonsense).port in (0, 1)


DONE = {
    (Verb.COMMIT, BranchStatus.PhaseTwo_Committed),
    (Verb.ROLLBACK, BranchStatus.PhaseTwo_Rollbacked),
    (Verb.ASK, BranchStatus.PhaseTwo_Committed),
}
REFUSED = {BranchStatus.PhaseTwo_CommitFailed_Unretryable, BranchStatus.PhaseTwo_RollbackFailed_Unretryable}


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("status", BranchStatus)
def test_what_an_answer_means(verb: Verb, status: BranchStatus) -> None:
    kind = BranchCommitResponse if verb is Verb.COMMIT else BranchRollbackResponse
    event = answered(call("a:b:1", verb=verb), kind(branch_status=status), "worker")
    if (verb, status) in DONE:
        assert (event.result, event.detail) == (CallResult.DONE, None)
    elif (verb, status) == (Verb.ASK, BranchStatus.PhaseOne_Done):
        assert event.result is CallResult.ONGOING
    else:
        assert event.result is (CallResult.REFUSED if status in REFUSED else CallResult.RETRY)
        assert event.detail == status.name
    assert (event.attempt, event.worker) == (1, "worker")


def test_a_runner_is_asked_by_a_message_of_our_own() -> None:
    asked = request_for(call("a:b:1", BranchType.RUNNER, verb=Verb.ASK))
    assert isinstance(asked, RunAskRequest)
    assert (asked.branch_type, asked.attempt) == (SeataBranchType.SAGA, 1)


@pytest.mark.parametrize("branch_type", [BranchType.RUNNER, BranchType.SAGA])
def test_sagas_are_told_only_to_who_has_negotiated_them(branch_type: BranchType) -> None:
    sessions = Sessions()
    java, ours = channel("a", "1.1.1.1", 1), channel("a", "2.2.2.2", 2)
    for one in (java, ours):
        sessions.add_resources(one, ["jdbc:x"])
    wanted = call("a:1.1.1.1:1", branch_type, verb=Verb.ASK)
    assert sessions.find(wanted) is None
    ours.keeps_sagas = True
    assert sessions.find(wanted) is ours


def test_a_failed_answer_is_asked_again_with_its_text() -> None:
    response = BranchCommitResponse(
        result_code=ResultCode.Failed, msg="x" * 5000, branch_status=BranchStatus.PhaseTwo_Committed
    )
    event = answered(call("a:b:1"), response, "worker")
    assert event.result is CallResult.RETRY
    assert len(event.detail or "") == 2048
    assert unanswered(call("a:b:1"), CallResult.RETRY, "y" * 5000, None).detail == "y" * 2048


def test_a_refusal_with_its_reason_is_a_refusal() -> None:
    """Only a Failed result carries text on the wire, so that is how a dirty row reports itself."""
    response = BranchRollbackResponse(
        result_code=ResultCode.Failed,
        msg="row t:1 was changed by a stranger",
        branch_status=BranchStatus.PhaseTwo_RollbackFailed_Unretryable,
    )
    event = answered(call("a:b:1", verb=Verb.ROLLBACK), response, "worker")
    assert event.result is CallResult.REFUSED
    assert "changed by a stranger" in (event.detail or "")


def test_calls_that_nobody_answers_are_forgotten() -> None:
    out = CallsOut(keep_s=10)
    for second in range(100):
        out.add(second, call("a:b:1"), float(second))
    assert len(out) == 10
    assert out.take(5) is None
    assert out.take(95) is not None
    assert len(out.take_all()) == 9
    assert len(out) == 0
