"""A batch as the arguments of `troth.append_batch` (schema/postgres): one array a column, one call a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal
from troth.stores.folding import NetChange
from troth.stores.packed import pack_branches, pack_plan, pack_terms

CELL = "default"
"""The one cell of a database."""

APPEND = f"SELECT troth.append_batch({', '.join(f'${number}' for number in range(1, 51))})"

Columns = Sequence[Sequence[object]]


def encode(text: str) -> bytes:
    """Text as it is stored. A lone surrogate and a NUL pass: no content may fail a batch."""
    return text.encode("utf-8", "surrogatepass")


def decode(stored: bytes) -> str:
    """The text that `encode` was given."""
    return stored.decode("utf-8", "surrogatepass")


def decode_optional(stored: bytes | None) -> str | None:
    """As `decode`; None stays None."""
    return None if stored is None else decode(stored)


def columns(change: NetChange) -> list[object]:
    """`change` as the arrays that `APPEND` takes behind cell, epoch, number and last id."""
    return [
        *_turned((_drop_row(drop) for drop in change.drops), 2),
        *_turned((_open_row(opened) for opened in change.opens), 8),
        *_turned((_add_row(added) for added in change.adds), 11),
        *_turned((_branch_mark_row(marked) for marked in change.branch_marks), 14),
        *_turned((_mark_row(marked) for marked in change.marks), 5),
        *_turned((_end_row(ended) for ended in change.ends), 6),
    ]


def _turned(rows: Iterable[tuple[object, ...]], width: int) -> Columns:
    turned = list(zip(*rows, strict=True))
    return turned or [()] * width


def _encode_optional(text: str | None) -> bytes | None:
    return None if text is None else encode(text)


def _drop_row(drop: DropBranch) -> tuple[object, ...]:
    return encode(drop.xid), drop.branch_id


def _open_row(opened: OpenGlobal) -> tuple[object, ...]:
    return (
        encode(opened.xid),
        encode(opened.name),
        encode(opened.application),
        encode(opened.group),
        opened.begin_ms,
        opened.timeout_ms,
        None if opened.terms is None or not opened.terms.gid else encode(opened.terms.gid),
        pack_terms(opened.terms),
    )


def _add_row(added: AddBranch) -> tuple[object, ...]:
    return (
        encode(added.xid),
        added.branch_id,
        added.seq,
        added.branch_type.value,
        encode(added.resource_id),
        encode(added.lock_text),
        _encode_optional(added.application_data),
        added.auto_commit,
        encode(added.client_id),
        added.lock_mode.value,
        pack_plan(added.plan),
    )


def _branch_mark_row(marked: MarkBranch) -> tuple[object, ...]:
    return (
        encode(marked.xid),
        marked.branch_id,
        marked.phase_one.value,
        _encode_optional(marked.application_data),
        marked.attempts,
        marked.frozen,
        _encode_optional(marked.last_error),
        _encode_optional(marked.last_worker),
        marked.last_attempt_ms,
        marked.next_due_ms,
        marked.left,
        marked.ended,
        marked.epoch,
        _encode_optional(marked.client_id),
    )


def _mark_row(marked: MarkGlobal) -> tuple[object, ...]:
    cause = None if marked.cause is None else marked.cause.value
    return encode(marked.xid), marked.phase.value, cause, marked.rollback_only, _encode_optional(marked.reason)


def _end_row(ended: EndGlobal) -> tuple[object, ...]:
    return (
        encode(ended.xid),
        ended.phase.value,
        ended.cause.value,
        ended.end_ms,
        _encode_optional(ended.reason),
        pack_branches(ended.branches),
    )
