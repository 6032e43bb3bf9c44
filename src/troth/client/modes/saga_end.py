"""How a saga's run ends, as a flow: committed, compensated and rolled back, or handed to a human."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from troth.client import talks
from troth.client.errors import OutcomeUnknown, TransactionRolledBack, TrothError
from troth.client.flow import Flow, Pause, Tell
from troth.client.modes.saga import Run, hand_over, record_interrupted, roll_back, undo, undo_unrecorded
from troth.client.modes.saga_records import TOP
from troth.client.outcome import Verdict, verdict
from troth.client.saga_errors import NeedsHuman
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import GlobalStatus
from troth.wire.seata.messages import Message

T = TypeVar("T")
Now = Callable[[], float]


def end(run: Run, error: Exception | None, settings: ClientSettings, now: Now) -> Flow[None]:
    """End the saga whose body has ended, with `error` or normally. `now` is a monotonic clock, in seconds.

    Raises:
        NeedsHuman: a compensation could not be done; it is a frozen branch now.
        TransactionRolledBack, OutcomeUnknown: the commit was asked for, and did not happen, or was not heard of.
        TrothError: what has halted this run: the saga goes on later, or elsewhere.
    """
    if run.halted is not None and not isinstance(run.halted, NeedsHuman):
        raise run.halted
    if run.halted is None and error is None:
        yield from _interrupted_undone(run)
    if run.halted is None and error is None:
        yield from _committed(run, settings, now)
        return
    if run.halted is None and error is not None:
        yield from _compensated(run, error)
    if isinstance(run.halted, NeedsHuman):
        yield from hand_over(run, run.halted)
    status = yield from spoken(talks.rollback(run.xid, settings, now))
    if isinstance(run.halted, NeedsHuman):
        raise run.halted
    _check(run, status)


def _committed(run: Run, settings: ClientSettings, now: Now) -> Flow[None]:
    """Commit. Branches in the saga's own transaction may vote against it: what ran is compensated all the same.

    Nothing is recorded of that, since the transaction takes no records any more.
    """
    try:
        yield from spoken(talks.commit(run.xid, settings, now))
    except TransactionRolledBack as refused:
        for key in list(run.to_undo(TOP)):
            try:
                yield from undo_unrecorded(run, key)
            except TrothError as failure:
                refused.add_note(f"troth: {key} was NOT compensated: {failure}")
        raise


def _interrupted_undone(run: Run) -> Flow[None]:
    """The body went on after it had cut steps short (by a timeout of its own): what they did must not stay behind."""
    try:
        for key in reversed((yield from record_interrupted(run, TOP))):
            yield from undo(run, key)
    except NeedsHuman:
        return  # noted in run.halted


def _compensated(run: Run, error: Exception) -> Flow[None]:
    if run.handed_over:  # by a process that died while it did so
        run.halt(NeedsHuman(run.xid, "", "it was being handed over when its process died"))
        return
    try:
        yield from roll_back(run, TOP, error)
    except NeedsHuman:
        return  # noted in run.halted


def _check(run: Run, status: GlobalStatus) -> None:
    """Whether the coordinator agrees that it is rolled back."""
    if verdict(status) not in (Verdict.ROLLED_BACK, Verdict.ROLLBACK_FAILED):
        raise OutcomeUnknown(run.xid, f"it was compensated, but the coordinator answers {status.name}")


def spoken(talk: talks.Talk[T]) -> Flow[T]:
    """A talk as a flow."""
    try:
        step = next(talk)
        while True:
            answer: Message | None
            try:
                given = yield Tell(step.message) if isinstance(step, talks.Ask) else Pause(step.seconds)
                answer = given if isinstance(given, Message) else None
            except TrothError as error:
                step = talk.throw(error)
            else:
                step = talk.send(answer)
    except StopIteration as ended:
        result: T = ended.value
        return result
