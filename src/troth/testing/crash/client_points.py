"""Where a client's process can die: as RM around registration, local commit and phase two; as TM around its calls."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from troth.client.flow import Query
from troth.testing.crash import seams
from troth.testing.crash.point import Hit, Point, Role
from troth.testing.crash.seams import Attach
from troth.wire.seata.enums import BranchType, ResultCode
from troth.wire.seata.messages import (
    BranchCommitResponse,
    BranchRegisterRequest,
    BranchReportRequest,
    BranchRollbackResponse,
    GlobalBeginRequest,
    GlobalCommitRequest,
    GlobalRollbackRequest,
    Message,
)

Kind = type[Message]

_AT = "troth.client.modes.at"
_TWO = "troth.client.modes.at_phase_two"
_WIRE = "troth.client.links.wire:Wire"

# ---- messages ----


def _before_send(kind: Kind) -> Attach:
    def when(_: object, message: Message) -> bool:
        return isinstance(message, kind)

    def attach(hit: Hit) -> None:
        seams.function("troth.client.client:Client.tell", lambda tell: seams.before(tell, hit, when))
        seams.coroutine("troth.client.client:Client.atell", lambda atell: seams.before_await(atell, hit, when))

    return attach


def _answered(kind: Kind) -> Attach:
    def when(answer: Any, _: object, message: Message) -> bool:
        return isinstance(message, kind) and answer.result_code is ResultCode.Success

    def attach(hit: Hit) -> None:
        seams.function("troth.client.client:Client.tell", lambda tell: seams.after(tell, hit, when))
        seams.coroutine("troth.client.client:Client.atell", lambda atell: seams.after_await(atell, hit, when))

    return attach


def _sent(kind: Kind) -> Attach:
    """A request is in the socket; its answer has not been heard."""

    def attach(hit: Hit) -> None:
        queued: WeakSet[Any] = WeakSet()

        def ask(original: Any) -> Any:
            def hooked(wire: Any, call: Any, due: float) -> None:
                if isinstance(call.message, kind):
                    queued.add(wire)
                original(wire, call, due)

            return hooked

        seams.function(f"{_WIRE}.ask", ask)
        seams.function(f"{_WIRE}.flush", lambda flush: _hit_when_out(flush, queued, hit))

    return attach


def _replied(kind: Kind) -> Attach:
    """An answer to the coordinator's request is in the socket."""

    def attach(hit: Hit) -> None:
        queued: WeakSet[Any] = WeakSet()

        def answer(original: Any) -> Any:
            def hooked(wire: Any, request: object, message: Message) -> None:
                if isinstance(message, kind):
                    queued.add(wire)
                original(wire, request, message)

            return hooked

        seams.function(f"{_WIRE}.answer", answer)
        seams.function(f"{_WIRE}.flush", lambda flush: _hit_when_out(flush, queued, hit))

    return attach


def _hit_when_out(flush: Any, queued: WeakSet[Any], hit: Hit) -> Any:
    def hooked(wire: Any) -> None:
        flush(wire)
        if wire in queued and not wire._outbox:
            queued.discard(wire)
            hit()

    return hooked


# ---- statements ----


def _deletes_undo_rows(step: object) -> bool:
    """In any dialect's spelling."""
    asked = getattr(step, "query", step)  # a postponed query carries it
    return isinstance(asked, Query) and asked.sql.startswith("DELETE") and "undo_log" in asked.sql


# ---- TCC ----


class _Dying:
    """A resource's handler, with a hook before or after one of its verbs."""

    def __init__(self, inner: Any, verb: str, *, after: bool, hit: Hit) -> None:
        self._inner = inner
        hook = seams.after if after else seams.before
        setattr(self, verb, hook(getattr(inner, verb), hit))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _tcc(verb: str, *, after: bool) -> Attach:
    def attach(hit: Hit) -> None:
        def make(original: Any) -> Any:
            def handler(participant: object, key: tuple[BranchType, str]) -> Any:
                found = original(participant, key)
                return _Dying(found, verb, after=after, hit=hit) if key[0] is BranchType.TCC else found

            return handler

        seams.function("troth.client.participant:Participant.handler", make)

    return attach


def _rm(name: str, sentence: str, attach: Attach) -> Point:
    return Point(f"rm.{name}", Role.RM, sentence, attach)


def _tm(name: str, sentence: str, attach: Attach) -> Point:
    return Point(f"tm.{name}", Role.TM, sentence, attach)


def _around_call(verb: str, kind: Kind) -> tuple[Point, ...]:
    return (
        _tm(f"{verb}.before-send", f"the {verb} has not been asked for", _before_send(kind)),
        _tm(f"{verb}.sent", f"the {verb} has been asked for, no answer is here", _sent(kind)),
        _tm(f"{verb}.answered", f"the {verb} has been answered, the program has not gone on", _answered(kind)),
    )


CLIENT_POINTS: tuple[Point, ...] = (
    _rm(
        "register.before-send",
        "the local transaction has its changes, the branch is not registered",
        _before_send(BranchRegisterRequest),
    ),
    _rm("register.sent", "the branch's registration is out, no answer is here", _sent(BranchRegisterRequest)),
    _rm("register.answered", "the branch is registered, its undo row not written", _answered(BranchRegisterRequest)),
    _rm(
        "undo-row.before",
        "the branch is registered, AT is about to write its undo row",
        seams.before_flow(f"{_AT}:PhaseOne._write_undo"),
    ),
    _rm(
        "local-commit.before",
        "changes and undo row are in the local transaction, which is not committed",
        seams.after_flow(f"{_AT}:PhaseOne._write_undo"),
    ),
    _rm(
        "local-commit.after",
        "the local transaction is committed, the caller has not been told",
        seams.after_flow(f"{_AT}:PhaseOne._commit_branches"),
    ),
    _rm(
        "report.before-send",
        "the local COMMIT has failed, the coordinator does not know",
        _before_send(BranchReportRequest),
    ),
    _rm("report.sent", "the report of the failed COMMIT is out, no answer is here", _sent(BranchReportRequest)),
    _rm(
        "rollback.before-undo",
        "phase two has the undo row, nothing is undone",
        seams.before_flow(f"{_TWO}:_undo"),
    ),
    _rm(
        "rollback.undone",
        "rows are restored, the undo row is still there, nothing is committed",
        seams.before_step(f"{_TWO}:_undo", _deletes_undo_rows),
    ),
    _rm(
        "rollback.before-commit",
        "rows are restored and the undo row is deleted, nothing is committed",
        seams.after_flow(f"{_TWO}:_undo"),
    ),
    _rm(
        "rollback.before-answer",
        "the undo is committed, the coordinator has not been told",
        seams.after_flow(f"{_TWO}:_roll_back_branch"),
    ),
    _rm("rollback.answered", "the answer that the branch is undone is out", _replied(BranchRollbackResponse)),
    _rm(
        "commit.before-delete",
        "the coordinator has asked for the commit, the undo row is still there",
        seams.before_step("troth.client.drivers.resource:commit_branches", _deletes_undo_rows),
    ),
    _rm(
        "commit.deleted",
        "the undo row is deleted, which is not committed",
        seams.after_step("troth.client.drivers.resource:commit_branches", _deletes_undo_rows),
    ),
    _rm(
        "commit.before-answer",
        "the undo row is gone, the coordinator has not been told",
        seams.after_flow("troth.client.drivers.resource:commit_branches"),
    ),
    _rm("commit.answered", "the answer that the branch is committed is out", _replied(BranchCommitResponse)),
    _rm("confirm.before", "a TCC branch is asked to confirm, and has not begun to", _tcc("commit", after=False)),
    _rm("confirm.after", "a TCC branch has confirmed, the coordinator has not been told", _tcc("commit", after=True)),
    _rm("cancel.before", "a TCC branch is asked to cancel, and has not begun to", _tcc("rollback", after=False)),
    _rm("cancel.after", "a TCC branch has cancelled, the coordinator has not been told", _tcc("rollback", after=True)),
    *_around_call("begin", GlobalBeginRequest),
    *_around_call("commit", GlobalCommitRequest),
    *_around_call("rollback", GlobalRollbackRequest),
)
