"""What one step of one transaction brings about, and the numbers that steps go by."""

from __future__ import annotations

import msgspec

from troth.core.effects import Answer, Effect, Result, Write
from troth.core.events import Register
from troth.core.model import Branch
from troth.core.retry import Backoff


class Rules(msgspec.Struct, frozen=True):
    """The settings that decisions depend on, in milliseconds.

    hot_wait_ms: how long registrations of one (xid, resource) may queue for rows, over all their retries.
    answer_timeout_ms: after this a call to a branch counts as failed. first_round_ms: a TM waits at most so
    long for the first phase-two round. outcome_memory_max: ended transactions kept in memory (the store keeps more).
    """

    hot_wait_ms: int = 300
    answer_timeout_ms: int = 15_000
    first_round_ms: int = 10_000
    backoff: Backoff = Backoff()
    outcome_memory_ms: int = 600_000
    outcome_memory_max: int = 100_000


class Want(msgspec.Struct, frozen=True):
    """Lock these rows for this registration, or queue it until `wait_until_ms` (None: refuse at once)."""

    register: Register
    wait_until_ms: int | None


class Free(msgspec.Struct, frozen=True):
    """This branch is not live any more: its rows are free unless another live branch of `xid` names them."""

    xid: str
    branch: Branch


class GiveUp(msgspec.Struct, frozen=True):
    """This registration has waited long enough: deny it."""

    register: Register


class Unqueue(msgspec.Struct, frozen=True):
    """This registration has had its answer: take it out of the queues."""

    register: Register


class DenyWaiters(msgspec.Struct, frozen=True):
    """The holder is about to roll back: whoever waits for the rows of `branch` is denied in this same turn."""

    branch: Branch


class Drain(msgspec.Struct, frozen=True):
    """No branch is left."""

    xid: str


Ask = Want | Free | GiveUp | Unqueue | DenyWaiters | Drain


class Step:
    """Collects what one step writes, answers and calls (`writes`, `effects`) and what it asks of the cell (`asks`)."""

    __slots__ = ("asks", "effects", "row", "rules", "writes")

    def __init__(self, row: str, rules: Rules) -> None:
        self.row = row
        self.rules = rules
        self.writes: list[Write] = []
        self.effects: list[Effect] = []
        self.asks: list[Ask] = []

    def answer(self, reply_to: object, result: Result) -> None:
        self.effects.append(Answer(reply_to, result))
