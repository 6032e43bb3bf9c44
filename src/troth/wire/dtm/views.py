"""What DTM's door shows: its JSON, names and statuses. Empty values are left out, as DTM does."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from troth.wire.dtm.results import FAILURE, ONGOING

PREPARED = "prepared"
SUBMITTED = "submitted"
ABORTING = "aborting"
SUCCEED = "succeed"
FAILED = "failed"
STATUSES = frozenset({PREPARED, SUBMITTED, ABORTING, SUCCEED, FAILED})


class GlobalView(msgspec.Struct, omit_defaults=True):
    """A transaction; times are RFC 3339 in UTC. `options` is JSON text."""

    id: int
    create_time: str
    update_time: str
    gid: str
    trans_type: str = ""
    status: str = ""
    query_prepared: str = ""
    protocol: str = ""
    finish_time: str = ""
    rollback_time: str = ""
    result: str = ""
    rollback_reason: str = ""
    options: str = ""
    custom_data: str = ""
    next_cron_interval: int = 0
    next_cron_time: str = ""
    owner: str = ""
    ext_data: str = ""
    concurrent: bool | None = None
    """Always shown: set it."""


class BranchView(msgspec.Struct, omit_defaults=True):
    """One op of one branch."""

    id: int
    create_time: str
    update_time: str
    gid: str
    url: str = ""
    bin_data: bytes = b""
    branch_id: str = ""
    op: str = ""
    status: str = ""
    finish_time: str = ""
    rollback_time: str = ""


class QueryView(msgspec.Struct):
    """One transaction with its branches; null where there is none."""

    transaction: GlobalView | None
    branches: list[BranchView]


class ProgressView(msgspec.Struct):
    """Where a workflow stands."""

    transaction: GlobalView
    progresses: list[BranchView]


class PageView(msgspec.Struct):
    """Newest first; `next_position` is opaque, empty at the end."""

    transactions: list[GlobalView]
    next_position: str


class ResetView(msgspec.Struct):
    """So many transactions are tried anew now."""

    has_remaining: bool
    succeed_count: int


class KvView(msgspec.Struct):
    """One kept value."""

    id: int
    create_time: str
    update_time: str
    cat: str
    k: str
    v: str
    version: int


class KvPageView(msgspec.Struct):
    """Some kept values."""

    kv: list[KvView]
    next_position: str | msgspec.UnsetType = msgspec.UNSET


class Subscriber(msgspec.Struct):
    """Who gets what is sent to a topic."""

    url: str
    remark: str = ""


def rfc3339(time_ms: int | None) -> str:
    """Milliseconds since 1970 as text; empty for None.

    >>> rfc3339(1_700_000_000_123)
    '2023-11-14T22:13:20.123Z'
    """
    if time_ms is None:
        return ""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def encode_good(value: object, *, plain: str = "") -> bytes:
    """JSON in which the words that clients look for in a text are spelt so that they are not found (Go's client takes
    a good answer that has FAILURE in it for a failure): the values are the same. `plain`: the word that is meant.
    """
    body = msgspec.json.encode(value)
    if b"FAILURE" in body and plain != FAILURE:
        body = body.replace(b"FAILURE", b"\\u0046AILURE")
    if b"ONGOING" in body and plain != ONGOING:
        body = body.replace(b"ONGOING", b"\\u004fNGOING")
    return body
