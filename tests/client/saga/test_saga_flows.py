"""The flows of a run, stepped by hand: what a coordinator that is silent, gone or ahead makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import troth
from troth.client.errors import ClientClosed, CoordinatorUnavailable, OutcomeUnknown
from troth.client.flow import Flow, Invoke, Pause, Tell
from troth.client.modes.saga import Patience, Policy, Run, RunEnds, claim, perform, record
from troth.client.modes.saga_end import end
from troth.client.modes.saga_records import Ended, Undo, UndoContext
from troth.client.settings import ClientSettings
from troth.wire.seata import messages as m
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.saga import RunClaimRequest, RunClaimResponse, StepRecordRequest, StepRecordResponse


class Notebook:
    """Answers a flow: a coordinator with records, a clock that only pauses move, and calls that are made."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.records: dict[str, tuple[str, bool]] = {}
        self.said: list[str] = []
        self.failures: Iterator[Exception] = iter(())
        self.commits_as = GlobalStatus.Committed

    def answer(self, step: object) -> object:
        match step:
            case Pause(delay_s):
                self.now += delay_s
                return None
            case Invoke(function, arguments):
                return function(*arguments)
            case Tell(message):
                for failure in self.failures:
                    raise failure
                return self.told(message)
        raise AssertionError(step)

    def told(self, message: m.Message) -> m.Message:
        match message:
            case StepRecordRequest():
                assert message.key
                self.records.setdefault(message.key, (message.application_data or "", message.failed))
                self.said.append(message.key)
                return StepRecordResponse(application_data=self.records[message.key][0])
            case RunClaimRequest():
                page = [(key, data, failed) for key, (data, failed) in self.records.items()][message.first :][:2]
                return RunClaimResponse(records=msgspec.json.encode(page).decode(), total=len(self.records))
            case m.BranchRegisterRequest():
                data = msgspec.json.decode(message.application_data or "", type=Undo)
                self.said.append(f"branch {data.key}{' needs human' if data.needs_human else ''}")
                return m.BranchRegisterResponse(branch_id=1)
            case m.GlobalRollbackRequest():
                self.said.append("rollback")
                return m.GlobalRollbackResponse(global_status=GlobalStatus.RollbackFailed)
            case m.GlobalCommitRequest():
                self.said.append("commit")
                return m.GlobalCommitResponse(global_status=self.commits_as)
            case m.GlobalStatusRequest():
                return m.GlobalStatusResponse(global_status=GlobalStatus.Rollbacked)
        raise AssertionError(message)

    def run(self, flow: Flow[Any]) -> Any:
        try:
            step = next(flow)
            while True:
                try:
                    answer = self.answer(step)
                except Exception as error:  # noqa: BLE001 - the flow decides
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as ended:
            return ended.value


class Piece:
    """A step without a function."""

    compensates = True
    resource_id = "undo:app:piece"

    def __init__(self, name: str, diary: list[str], errors: int = 0) -> None:
        self.name = name
        self.policy = Policy(attempts=2, pause_s=0.001)
        self.diary = diary
        self.errors = errors

    def call(self, context: object) -> str:
        self.diary.append(f"do {self.name}")
        return self.name

    def undo(self, context: UndoContext) -> None:
        self.diary.append(f"undo {self.name}{'' if context.known else '?'}")
        if self.errors:
            self.errors -= 1
            raise OSError("down")


@pytest.fixture
def book() -> Notebook:
    return Notebook()


def new_run(book: Notebook, *pieces: Piece, attempt: int = 0, deadline_ms: int | None = None) -> Run:
    find: Callable[[str], Any] = {piece.name: piece for piece in pieces}.get
    patience = Patience(total_s=5.0, pause_s=0.5)
    return Run("h:1:2", attempt, deadline_ms, clock=lambda: book.now, find=find, patience=patience)


def done(run: Run, piece: Piece) -> Flow[Any]:
    return perform(run, piece, piece.name, {}, piece.call)


def ended(run: Run, error: Exception | None, book: Notebook) -> Any:
    return book.run(end(run, error, ClientSettings(), lambda: book.now))


def test_a_record_is_told_until_there_is_an_answer(book: Notebook) -> None:
    book.failures = iter([CoordinatorUnavailable("gone")] * 3)
    run, diary = new_run(book), list[str]()
    assert book.run(done(run, Piece("a", diary))) == "a"
    assert (diary, book.said) == (["do a"], ["a"]), "it is told again, not done again"


def test_a_coordinator_that_stays_away_ends_the_run_and_nothing_is_compensated(book: Notebook) -> None:
    diary: list[str] = []
    piece = Piece("a", diary)
    run = new_run(book, piece)
    book.failures = iter([CoordinatorUnavailable("gone")] * 1000)
    with pytest.raises(OutcomeUnknown, match="no coordinator takes its records"):
        book.run(done(run, piece))
    book.failures = iter(())
    with pytest.raises(OutcomeUnknown):
        ended(run, ValueError("the body's own"), book)
    assert (diary, book.said) == (["do a"], [])


def test_a_client_that_is_closed_ends_the_run(book: Notebook) -> None:
    run = new_run(book)
    book.failures = iter([ClientClosed("closed")])
    with pytest.raises(RunEnds, match="goes on elsewhere"):
        book.run(record(run, "a", Ended("a")))


def test_what_is_recorded_counts_more_than_what_was_done_again(book: Notebook) -> None:
    book.records["a"] = (msgspec.json.encode(Ended("a", result="earlier")).decode(), False)
    assert book.run(done(new_run(book), Piece("a", []))) == "earlier"


def test_a_claim_takes_all_pages(book: Notebook) -> None:
    for key in ("a", "b", "c", "~c", "!", "?a"):
        book.records[key] = (msgspec.json.encode(Ended(key)).decode(), False)
    run = new_run(book, attempt=3)
    book.run(claim(run))
    assert list(run.entries) == ["a", "b", "c"]
    assert (run.undone, set(run.aborted), run.handed_over) == ({"c"}, {""}, {"a"})
    assert list(run.to_undo("")) == ["b"]


def test_a_claim_that_is_refused_halts_the_run(book: Notebook) -> None:
    run = new_run(book, attempt=3)
    book.told = lambda _: RunClaimResponse(ResultCode.Failed, "too late", superseded_by=4)  # type: ignore[method-assign]
    with pytest.raises(troth.SagaSuperseded) as caught:
        book.run(claim(run))
    assert caught.value.attempt == 4
    with pytest.raises(troth.SagaSuperseded):
        run.check()


def test_past_the_deadline_a_taken_over_step_of_which_nobody_knows_is_compensated(book: Notebook) -> None:
    """Its process may have died inside it; to run it now would be too late."""
    diary: list[str] = []
    first, second = Piece("first", diary), Piece("second", diary)
    book.records["first"] = (msgspec.json.encode(Ended("first", result=1)).decode(), False)
    run = new_run(book, first, second, attempt=1, deadline_ms=int(book.now * 1000))
    book.run(claim(run))
    assert book.run(done(run, first)) == 1
    with pytest.raises(troth.StepFailed, match="deadline"):
        book.run(done(run, second))
    assert diary == ["undo second?"]
    fresh = new_run(book, first, second, deadline_ms=int(book.now * 1000))
    with pytest.raises(troth.SagaDeadlinePassed):
        book.run(done(fresh, Piece("third", diary)))
    assert diary == ["undo second?"], "in the first run it has certainly not begun"


def test_what_is_left_when_a_compensation_fails_is_handed_over_oldest_first(book: Notebook) -> None:
    diary: list[str] = []
    pieces = [Piece("a", diary), Piece("b", diary, errors=100), Piece("c", diary)]
    run = new_run(book, *pieces)
    for piece in pieces:
        book.run(done(run, piece))
    with pytest.raises(troth.NeedsHuman, match="the compensation of b in h:1:2 failed"):
        ended(run, ValueError("no"), book)
    assert diary[3:] == ["undo c", *["undo b"] * 3]
    assert book.said == ["a", "b", "c", "!", "~c", "branch a", "?a", "branch b needs human", "?b", "rollback"]


def test_who_goes_on_with_a_hand_over_registers_only_what_is_left_and_compensates_nothing(book: Notebook) -> None:
    diary: list[str] = []
    pieces = [Piece("a", diary), Piece("b", diary)]
    for key in ("a", "b", "!", "?a"):
        book.records[key] = (msgspec.json.encode(Ended(key)).decode(), False)
    run = new_run(book, *pieces, attempt=2)
    book.run(claim(run))
    with pytest.raises(troth.NeedsHuman):
        ended(run, ValueError("no"), book)
    assert (diary, book.said) == ([], ["branch b needs human", "?b", "rollback"])


def test_a_process_that_lacks_a_step_leaves_it_to_another(book: Notebook) -> None:
    book.records["lost"] = (msgspec.json.encode(Ended("lost")).decode(), False)
    run = new_run(book, attempt=1)
    book.run(claim(run))
    with pytest.raises(RunEnds, match="this process has no step 'lost'"):
        ended(run, ValueError("no"), book)
    assert book.said == ["!"]


def test_a_commit_that_becomes_a_rollback_is_compensated_all_the_same(book: Notebook) -> None:
    """A branch in the saga's own transaction has voted against it: it takes no records any more, but steps have run."""
    diary: list[str] = []
    pieces = [Piece("a", diary), Piece("b", diary, errors=3), Piece("c", diary)]
    run = new_run(book, *pieces)
    for piece in pieces:
        book.run(done(run, piece))
    book.commits_as = GlobalStatus.TimeoutRollbacked
    with pytest.raises(troth.TransactionRolledBack) as caught:
        ended(run, None, book)
    assert diary[3:] == ["undo c", *["undo b"] * 3, "undo a"]
    assert book.said == ["a", "b", "c", "commit"]
    assert caught.value.__notes__ == ["troth: b was NOT compensated: OSError: down (attempt 3 of 3)"]
