"""The numbers that decisions go by: settings, handed to the cell once."""

from __future__ import annotations

import msgspec

from troth.core.retry import Backoff


class Rules(msgspec.Struct, frozen=True):
    """The settings that decisions depend on, in milliseconds.

    hot_wait_ms: how long registrations of one (xid, resource) may queue for rows, over all their retries; also how
    long rows stay reserved for a cold wait. cold_wait_ms: how long one that holds no local row locks may queue.
    answer_timeout_ms: after this a call to a branch counts as failed. first_round_ms: a TM waits at most so
    long for the first phase-two round. outcome_memory_max: ended transactions kept in memory (the store keeps more);
    of one with terms each branch, and each kilobyte of its data, counts as one more.
    """

    hot_wait_ms: int = 300
    cold_wait_ms: int = 30_000
    answer_timeout_ms: int = 15_000
    first_round_ms: int = 10_000
    backoff: Backoff = Backoff()
    outcome_memory_ms: int = 600_000
    outcome_memory_max: int = 100_000
