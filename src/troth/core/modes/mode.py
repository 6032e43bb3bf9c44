"""One mode's answers to the six questions that every mode answers (design/modes.md)."""

from __future__ import annotations

from enum import Enum

import msgspec

from troth.core.model import Verb


class OnTimeout(Enum):
    """What a global timeout means for a transaction with such a branch."""

    ROLL_BACK = "roll-back"


class Order(Enum):
    """In which order the branches of one transaction are asked to roll back."""

    NEWEST_FIRST_PER_RESOURCE = "newest-first-per-resource"
    STRICT_REVERSE = "strict-reverse"
    ANY = "any"


class Mode(msgspec.Struct, frozen=True):
    """A mode's answers.

    forward: the verbs that the coordinator itself runs before the decision (they may refuse).
    on_commit, on_rollback: the verb after the decision (it cannot refuse).
    on_timeout: what the global timeout means. may_wait: may a registration queue for its rows.
    locks_rows: does a branch hold rows at all (if not, lock keys that a client sends mean nothing).
    commit_is_asynchronous: is the caller done when the commit decision is durable.
    rollback_order: who goes first; a branch is retried for ever and frozen only by a refusal.
    """

    forward: tuple[Verb, ...]
    on_commit: Verb
    on_rollback: Verb
    on_timeout: OnTimeout
    may_wait: bool
    locks_rows: bool
    commit_is_asynchronous: bool
    rollback_order: Order
