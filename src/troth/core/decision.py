"""What one event brings about: deltas to write, effects to carry out, and what a step asks of its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.core.effects import Answer, Effect, Result, Write
from troth.core.events import LockWait, Register
from troth.core.model import Branch
from troth.core.rules import Rules

if TYPE_CHECKING:
    from troth.core.machine import Row


class Want(msgspec.Struct, frozen=True):
    """Lock these rows for this registration, or queue it until `wait_until_ms` (None: refuse at once)."""

    register: Register | LockWait
    wait_until_ms: int | None


class Free(msgspec.Struct, frozen=True):
    """This branch is not live any more: its rows are free unless another live branch of `xid` names them.

    Or a reservation has ended.
    """

    xid: str
    branch: Branch | LockWait


class GiveUp(msgspec.Struct, frozen=True):
    """This registration has waited long enough: deny it."""

    register: Register | LockWait


class Unqueue(msgspec.Struct, frozen=True):
    """This registration has had its answer: take it out of the queues."""

    register: Register | LockWait


class DenyWaiters(msgspec.Struct, frozen=True):
    """Whoever waits for the rows of `branch` is denied in this same turn.

    Its transaction is about to roll back: who waits may hold what the undo needs. Cold waits hold nothing, so they wait
    on; unless it is frozen (`cold_too`): then only a person ends it.
    """

    xid: str
    branch: Branch
    cold_too: bool = False


class Drain(msgspec.Struct, frozen=True):
    """No branch is left."""

    xid: str


class RanAll(msgspec.Struct, frozen=True):
    """No forward step is left to run."""

    xid: str


class Submit(msgspec.Struct, frozen=True):
    """Commit it in this same turn; whoever is to be told waits for the first round."""

    xid: str
    reply_to: object


class Watch(msgspec.Struct, frozen=True):
    """The transaction runs over `channel`, and wants to know when that closes."""

    xid: str
    channel: object


class Unwatch(msgspec.Struct, frozen=True):
    """It does not run over `channel` any more."""

    xid: str
    channel: object


Ask = Want | Free | GiveUp | Unqueue | DenyWaiters | Drain | RanAll | Submit | Watch | Unwatch


class Decision:
    """Collects, over one turn of the cell, what must be made durable (`writes`) and what must follow (`effects`).

    `asks` is what the step under way wants of the lock table, `moved` are the xids whose due time may have
    changed, each once, in order; `rows` the transitions that were taken.
    """

    __slots__ = ("asks", "effects", "moved", "rows", "rules", "writes")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.writes: list[Write] = []
        self.effects: list[Effect] = []
        self.asks: list[Ask] = []
        self.moved: dict[str, None] = {}
        self.rows: list[Row] = []

    def answer(self, reply_to: object, result: Result) -> None:
        if reply_to is not None:
            self.effects.append(Answer(reply_to, result))
