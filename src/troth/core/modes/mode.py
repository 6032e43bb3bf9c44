"""One mode's answers to the six questions that every mode answers (design/modes.md)."""

from __future__ import annotations

from enum import Enum

import msgspec

from troth.core.model import OnTimeout, Verb


class Order(Enum):
    """In which order the branches of one transaction are asked.

    PLANNED: by their plans. On the way forward a step comes after those that it names; on the way back before them.
    OLDEST_FIRST and NEWEST_FIRST: one at a time, among the branches of this mode.
    """

    ANY = "any"
    NEWEST_FIRST_PER_RESOURCE = "newest-first-per-resource"
    STRICT_REVERSE = "strict-reverse"
    NEWEST_FIRST = "newest-first"
    OLDEST_FIRST = "oldest-first"
    PLANNED = "planned"

    __hash__ = object.__hash__  # as the enums of the model


class Mode(msgspec.Struct, frozen=True):
    """A mode's answers.

    forward: the verbs that the coordinator itself runs before the decision (they may refuse).
    on_commit, on_rollback: the verb after the decision (it cannot refuse); None: nothing is to be done, it leaves.
    on_timeout: what the global timeout usually means. may_wait: may a registration queue for its rows.
    locks_rows: does a branch hold rows at all (if not, lock keys that a client sends mean nothing).
    commit_is_asynchronous: is the caller done when the commit decision is durable.
    commit_order, rollback_order: who goes first; a branch is retried for ever and frozen only by a refusal.
    """

    forward: tuple[Verb, ...]
    on_commit: Verb | None
    on_rollback: Verb | None
    on_timeout: OnTimeout
    may_wait: bool
    locks_rows: bool
    commit_is_asynchronous: bool
    rollback_order: Order
    commit_order: Order = Order.ANY
