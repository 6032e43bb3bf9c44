"""A saga's run, as flows: steps that are recorded as they end, replayed where they have ended, compensated in reverse.

The pact of a step is *run, record, go on*: nothing later begins before the coordinator keeps how it ended, so a process
that takes the run over (`claim`) knows all but what was under way; that runs again, with the same idempotency key.
A failure is recorded before anything is compensated, and so is the end of each compensation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from troth.client.errors import (
    BranchFailed,
    ClientClosed,
    CoordinatorRefused,
    CoordinatorUnavailable,
    NotSupported,
    OutcomeUnknown,
    TrothError,
)
from troth.client.flow import Flow, Invoke, Pause, tell
from troth.client.modes.saga_records import (
    ABORT_MARK,
    TOP,
    UNDO_MARK,
    Ended,
    Started,
    StepContext,
    Undo,
    UndoContext,
    builtins,
    reason_of,
    written,
)
from troth.client.saga_errors import NeedsHuman, SagaDeadlinePassed, SagaKnown, SagaSuperseded, StepFailed, StepRefused
from troth.wire.seata.enums import BranchType, ResultCode
from troth.wire.seata.messages import BranchRegisterRequest, BranchRegisterResponse
from troth.wire.seata.saga import (
    NOBODY,
    RunClaimRequest,
    RunClaimResponse,
    SagaBeginRequest,
    SagaBeginResponse,
    StepRecordRequest,
    StepRecordResponse,
    records_in,
)

HAND_OVER_MARK: Final = "?"
"""Before a step's key: its compensation is a branch of the coordinator's now."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is tried. `attempts` in all, with pauses that double; `final`: errors that leave nothing behind."""

    attempts: int = 3
    pause_s: float = 0.1
    longest_pause_s: float = 30.0
    final: tuple[type[Exception], ...] = ()
    undo_attempts: int = 3

    def delay_s(self, attempt: int) -> float:
        """The pause after attempt number `attempt`."""
        return min(self.pause_s * 2.0 ** min(attempt - 1, 30), self.longest_pause_s)

    def is_final(self, error: BaseException) -> bool:
        """Whether `error` says that the step failed for good and left nothing behind."""
        return isinstance(error, (StepRefused, *self.final))


class Work(Protocol):
    """A step, as a run needs it."""

    @property
    def name(self) -> str:
        """By which its records name it."""
        ...

    @property
    def policy(self) -> Policy:
        """How it is tried."""
        ...

    @property
    def resource_id(self) -> str:
        """Under which the coordinator asks for its compensation."""
        ...

    @property
    def compensates(self) -> bool:
        """Whether it has a compensation."""
        ...

    def undo(self, context: UndoContext) -> object:
        """Compensate; may be awaitable. False: it could not be done."""
        ...


class RunEnds(TrothError):
    """This process stops running the saga, which goes on later or elsewhere: nothing is compensated here."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run asks a coordinator that does not answer, and how often; seconds."""

    total_s: float = 60.0
    pause_s: float = 0.1


class Run:
    """One process's run of one saga. `clock` gives seconds since 1970; `find` the steps by their names."""

    def __init__(
        self,
        xid: str,
        attempt: int,
        deadline_ms: int | None,
        *,
        clock: Callable[[], float],
        find: Callable[[str], Work | None],
        forward: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.xid = xid
        self.attempt = attempt
        self.deadline_ms = deadline_ms
        self.forward = forward
        self.find = find
        self.patience = patience or Patience()
        self.entries: dict[str, Ended] = {}
        """How steps ended, by key, in the order in which they were recorded."""
        self.started: dict[str, Ended] = {}
        """Steps that this process has begun, by key, and not recorded; as they count if they were interrupted."""
        self.undone: set[str] = set()
        self.aborted: dict[str, Ended] = {}
        self.handed_over: set[str] = set()
        self.halted: TrothError | None = None
        """Why this process must do nothing more for the saga."""
        self.causes: dict[str, BaseException] = {}
        self.clock = clock

    def take(self, records: list[tuple[str, str | None, bool]]) -> None:
        """What earlier processes have recorded."""
        for key, text, _ in records:
            self.keep(key, msgspec.json.decode(text or "{}", type=Ended))

    def keep(self, key: str, ended: Ended) -> None:
        """One record."""
        mark, name = key[:1], key[1:]
        if mark == UNDO_MARK:
            self.undone.add(name)
        elif mark == ABORT_MARK:
            self.aborted[name] = ended
        elif mark == HAND_OVER_MARK:
            self.handed_over.add(name)
        else:
            self.entries[key] = ended

    def halt(self, error: TrothError) -> TrothError:
        """Do nothing more in this process; the first reason stays. Returns it."""
        self.halted = self.halted or error
        return self.halted

    def check(self) -> None:
        """Raise what has halted this run. (A body that swallows it gets it again.)"""
        if self.halted is not None:
            raise self.halted

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline_ms is not None and self.clock() * 1000 >= self.deadline_ms

    def to_undo(self, scope: str) -> Iterator[str]:
        """What ran, or may have run, in `scope` and is not compensated, newest first."""
        for key in reversed(list(self.entries)):
            inside = not scope or key.startswith(f"{scope}/")
            settled = self.entries[key].refused or key in self.undone or key in self.handed_over
            if inside and not settled:
                yield key


# --- beginning, and going on -----------------------------------------------------------------------------------------


def begin(
    name: str, resource_id: str, started: Started, timeout_ms: int, check_ms: int, gid: str | None = None
) -> Flow[str]:
    """Begin a saga that this process runs; its xid.

    Raises:
        SagaKnown: there is one of the name `gid` already.
        NotSupported: the coordinator keeps no sagas, or an argument does not serialise.
        CoordinatorRefused: it said no.
        CoordinatorUnavailable: no answer. What it may have begun is asked for later: this process runs it then.
    """
    text = written(f"the arguments of the saga {name}", started)
    request = SagaBeginRequest(timeout_ms, name, resource_id, text, check_ms, gid)
    answer = yield from tell(request, SagaBeginResponse)
    if answer.result_code is not ResultCode.Success or not answer.xid:
        raise _begin_refusal(answer)
    if answer.known:
        raise SagaKnown(gid or "", answer.xid)
    return answer.xid


def _begin_refusal(answer: SagaBeginResponse) -> TrothError:
    reason = answer.msg or "begin was refused without a reason"
    if "keeps no sagas" in reason:
        return NotSupported(f"{reason}.")
    return CoordinatorRefused(reason, answer.transaction_exception_code)


def claim(run: Run) -> Flow[None]:
    """Take the run over, with all that was recorded. Raises SagaSuperseded, or what the coordinator says instead."""
    have = 0
    while True:
        answer = yield from _asked(run, RunClaimRequest(run.xid, run.attempt, have), RunClaimResponse)
        if answer.result_code is not ResultCode.Success:
            raise run.halt(_refusal(run, answer.msg, answer.superseded_by))
        records = records_in(answer.records)
        run.take(records)
        have += len(records)
        if have >= answer.total or not records:
            return


def _refusal(run: Run, reason: str | None, newer: int) -> TrothError:
    return SagaSuperseded(run.xid, run.attempt, None if newer == NOBODY else newer, reason or "")


def _asked(run: Run, message: Any, answer_type: Any) -> Flow[Any]:
    """Ask until there is an answer: a claim or a record that is repeated does no harm."""
    give_up = run.clock() + run.patience.total_s
    while True:
        try:
            return (yield from tell(message, answer_type))
        except ClientClosed as error:
            raise run.halt(RunEnds(f"saga {run.xid} goes on elsewhere: {error}")) from error
        except CoordinatorUnavailable as error:
            if run.clock() >= give_up:
                reason = f"no coordinator takes its records ({error}); whoever it asks next goes on"
                raise run.halt(OutcomeUnknown(run.xid, reason)) from error
        yield Pause(run.patience.pause_s)


def record(run: Run, key: str, ended: Ended) -> Flow[Ended]:
    """Let the coordinator keep how something ended; what it keeps (said twice, the first one stays)."""
    text = written(f"the record of {ended.step}", ended)
    request = StepRecordRequest(run.xid, run.attempt, key, text, ended.failed)
    answer = yield from _asked(run, request, StepRecordResponse)
    if answer.result_code is not ResultCode.Success:
        raise run.halt(_refusal(run, answer.msg, answer.superseded_by))
    kept = msgspec.json.decode(answer.application_data or text, type=Ended)
    run.keep(key, kept)
    run.started.pop(key, None)
    return kept


# --- a step ----------------------------------------------------------------------------------------------------------


def perform(
    run: Run, work: Work, key: str, arguments: dict[str, Any], call: Callable[[StepContext], object]
) -> Flow[Any]:
    """One step: what it returned, now or in an earlier run.

    Raises:
        StepFailed: it failed for good; if it may have left something behind, that is compensated already.
        SagaDeadlinePassed, SagaSuperseded, NeedsHuman, OutcomeUnknown: the saga cannot go on here.
    """
    run.check()
    kept = run.entries.get(key)
    if kept is None:
        if run.late and not run.attempt:
            raise SagaDeadlinePassed(f"the deadline of saga {run.xid} passed before its step {key}")
        kept = yield from _performed(run, work, key, arguments, call)
    if not kept.failed:
        return kept.result
    if not kept.refused:
        yield from undo(run, key)
    raise failure(kept) from run.causes.pop(key, None)


def failure(kept: Ended) -> StepFailed:
    """What the body hears of a recorded failure."""
    return StepFailed(kept.step, kept.reason or "", kept.error_type, refused=kept.refused, attempts=kept.attempts)


def _performed(
    run: Run, work: Work, key: str, arguments: dict[str, Any], call: Callable[[StepContext], object]
) -> Flow[Ended]:
    written(f"the arguments of {work.name}", Ended(work.name, arguments))  # it must be possible to record it
    if run.late:
        # It may have run in the process that had the saga before, and to run it now would be too late.
        text = "the deadline of the saga passed before it was known whether it had run"
        ended = Ended(work.name, arguments, reason=text, error_type=SagaDeadlinePassed.__name__)
    else:
        run.started[key] = Ended(work.name, arguments, reason="it was interrupted", error_type="Interrupted")
        ended = yield from tried(work, key, arguments, call, run)
    try:
        written(f"the record of {work.name}", ended)
    except NotSupported as error:
        ended = Ended(work.name, arguments, reason=reason_of(error), error_type=NotSupported.__name__)
    return (yield from record(run, key, ended))


class Trial(Protocol):
    """Where a step is tried: in a run, or in a global transaction."""

    xid: str
    forward: bool

    @property
    def late(self) -> bool:
        """Whether it is too late for another attempt."""
        ...

    def check(self) -> None:
        """Raise if nothing more may be done."""
        ...

    causes: dict[str, BaseException]

    def halt(self, error: TrothError) -> TrothError:
        """Nothing more is to be done; returns `error`."""
        ...


def tried(
    work: Work, key: str, arguments: dict[str, Any], call: Callable[[StepContext], object], place: Trial
) -> Flow[Ended]:
    """Try a step until it succeeds, refuses, or has used up its attempts."""
    attempt = 0
    while True:
        attempt += 1
        try:
            result = yield Invoke(call, (StepContext(place.xid, work.name, key, attempt),))
            return Ended(work.name, arguments, builtins(f"what {work.name} returned", result), attempts=attempt)
        except RunEnds:
            raise
        except Exception as error:  # whatever it is, it decides between another attempt and a compensation
            final = work.policy.is_final(error)
            # What cannot be kept was done all the same: to do it again would not help.
            exhausted = final or isinstance(error, NotSupported) or attempt >= work.policy.attempts or place.late
            if exhausted and (final or not place.forward):
                place.causes[key] = error
                reason, kind = reason_of(error), type(error).__name__
                return Ended(work.name, arguments, None, reason, kind, final, attempt)
            if exhausted:
                text = (
                    f"{work.name} failed {attempt} times ({type(error).__name__}: {reason_of(error)}); it goes on later"
                )
                raise place.halt(RunEnds(text)) from error
        yield Pause(work.policy.delay_s(attempt))
        place.check()


# --- compensating ----------------------------------------------------------------------------------------------------


def roll_back(run: Run, scope: str, error: BaseException) -> Flow[None]:
    """Compensate what ran in `scope`, in reverse; from here on its body is not run any more, in whatever process.

    Raises NeedsHuman (the attempts of one are used up), and what `record` raises.
    """
    run.check()
    if scope not in run.aborted:
        reason = Ended(scope or "saga", reason=reason_of(error), error_type=type(error).__name__)
        yield from record(run, f"{ABORT_MARK}{scope}", reason)
    yield from record_interrupted(run, scope)
    for key in list(run.to_undo(scope)):
        yield from undo(run, key)


def record_interrupted(run: Run, scope: str) -> Flow[list[str]]:
    """Record the steps of `scope` that were begun here and cut short (a cancelled task): their outcome is unknown."""
    cut = [key for key in run.started if not scope or key.startswith(f"{scope}/")]
    for key in cut:
        yield from record(run, key, run.started[key])
    return cut


def undo(run: Run, key: str) -> Flow[None]:
    """Compensate one step, once."""
    run.check()
    ended = run.entries[key]
    if key in run.undone:
        return
    try:
        yield from undo_unrecorded(run, key)
    except UndoFailed as error:
        raise run.halt(NeedsHuman(run.xid, key, str(error))) from error.__cause__
    yield from record(run, f"{UNDO_MARK}{key}", Ended(ended.step))


def undo_unrecorded(run: Run, key: str) -> Flow[None]:
    """Compensate one step. Raises UndoFailed, and RunEnds if this process cannot."""
    ended = run.entries[key]
    work = _required(run, ended.step)
    if work.compensates:
        context = UndoContext(run.xid, ended.step, key, ended.arguments, ended.result, known=not ended.failed)
        yield from undo_tried(work, context, work.policy.undo_attempts)


class UndoFailed(TrothError):
    """A compensation failed as often as it may."""


def undo_tried(work: Work, context: UndoContext, attempts: int) -> Flow[None]:
    """Compensate, with `attempts` tries. Raises UndoFailed."""
    attempt = 0
    while True:
        attempt += 1
        try:
            done = yield Invoke(work.undo, (context,))
            if done is not False:
                return
            reason, cause = "it returned False", None
        except RunEnds:
            raise
        except Exception as error:  # noqa: BLE001 - another attempt, or UndoFailed with this as its cause
            reason, cause = f"{type(error).__name__}: {reason_of(error)}", error
        if attempt >= attempts:
            raise UndoFailed(f"{reason} (attempt {attempt} of {attempts})") from cause
        yield Pause(work.policy.delay_s(attempt))


def hand_over(run: Run, stuck: NeedsHuman) -> Flow[None]:
    """Make branches of what is left to compensate: the coordinator asks for them, and freezes the one that is stuck.

    They are registered oldest first, since it asks for the newest first.
    """
    if TOP not in run.aborted:
        yield from record(run, f"{ABORT_MARK}{TOP}", Ended("saga", reason=str(stuck), error_type=NeedsHuman.__name__))
    left = list(run.to_undo(TOP))
    human = stuck.step if stuck.step in left else left[0] if left else ""
    for key in reversed(left):
        ended = run.entries[key]
        work = _required(run, ended.step)
        if not work.compensates:
            continue
        data = Undo(ended.step, key, ended.arguments, ended.result, known=not ended.failed, needs_human=key == human)
        yield from register_undo(run.xid, work.resource_id, data)
        yield from record(run, f"{HAND_OVER_MARK}{key}", Ended(ended.step))


def _required(run: Run, step: str) -> Work:
    """Raises RunEnds: this process cannot compensate it."""
    work = run.find(step)
    if work is None:
        error = RunEnds(f"this process has no step {step!r}: another one that serves {run.xid} has to compensate it")
        run.halt(error)
        raise error
    return work


def register_undo(xid: str, resource_id: str, data: Undo) -> Flow[int]:
    """A branch whose rollback is a compensation; its id. Raises BranchFailed."""
    text = written(f"what the compensation of {data.step} needs", data)
    request = BranchRegisterRequest(xid, BranchType.SAGA, resource_id, None, text)
    answer = yield from tell(request, BranchRegisterResponse)
    if answer.result_code is not ResultCode.Success:
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"the coordinator refused {data.step} in {xid}: {answer.msg} ({code})")
    return answer.branch_id
