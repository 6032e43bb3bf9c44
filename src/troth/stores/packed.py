"""Terms, plans and ended branches as bytes: one column each, so that the usual transaction has none of them.

MessagePack arrays, with the texts of clients as bytes: MessagePack's own text cannot hold a lone surrogate. Of terms, a
field may be added at the end; a reader takes what is missing for the default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from troth.core.model import BranchType, EndedBranch, OnTimeout, PhaseOne, Plan, Terms


def pack_terms(terms: Terms | None) -> bytes | None:
    """What `unpack_terms` reads."""
    if terms is None:
        return None
    return msgspec.msgpack.encode(
        (
            _bytes(terms.gid),
            _bytes(terms.kind),
            terms.detail,
            terms.on_timeout.value,
            terms.retry_ms,
            terms.retry_limit,
            terms.answer_timeout_ms,
            terms.start_ms,
        )
    )


def unpack_terms(packed: bytes | None) -> Terms | None:
    """Raises ValueError for what `pack_terms` has not made."""
    if packed is None:
        return None
    gid, kind, detail, on_timeout, *numbers = _fields(packed, least=4)
    return Terms(_text(gid), _text(kind), _raw(detail), OnTimeout(on_timeout), *numbers[:4])


def pack_plan(plan: Plan | None) -> bytes | None:
    """What `unpack_plan` reads."""
    return None if plan is None else msgspec.msgpack.encode((plan.by_url, plan.after))


def unpack_plan(packed: bytes | None) -> Plan | None:
    """Raises ValueError for what `pack_plan` has not made."""
    if packed is None:
        return None
    by_url, after = _fields(packed, least=2)[:2]
    return Plan(bool(by_url), tuple(_list(after)))


def pack_branches(branches: Iterable[EndedBranch]) -> bytes | None:
    """What `unpack_branches` reads; None for none."""
    rows = [
        (
            branch.branch_id,
            branch.seq,
            branch.branch_type.value,
            _bytes(branch.resource_id),
            None if branch.application_data is None else _bytes(branch.application_data),
            branch.phase_one.value,
            branch.ended,
            branch.attempts,
            None if branch.last_error is None else _bytes(branch.last_error),
        )
        for branch in branches
    ]
    return msgspec.msgpack.encode(rows) if rows else None


def unpack_branches(packed: bytes | None) -> tuple[EndedBranch, ...]:
    """Raises ValueError for what `pack_branches` has not made."""
    if packed is None:
        return ()
    return tuple(_branch(row) for row in _fields(packed, least=1))


def _branch(row: Any) -> EndedBranch:
    branch_id, seq, branch_type, resource_id, data, phase_one, ended, attempts, last_error = _list(row)
    return EndedBranch(
        branch_id,
        seq,
        BranchType(branch_type),
        _text(resource_id),
        None if data is None else _text(data),
        PhaseOne(phase_one),
        bool(ended),
        attempts,
        None if last_error is None else _text(last_error),
    )


def _fields(packed: bytes, least: int) -> list[Any]:
    fields = _list(msgspec.msgpack.decode(packed))
    if len(fields) < least:
        raise ValueError("a packed column has too few fields")
    return fields


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a packed column has {type(value).__name__}, not a list")  # noqa: TRY004 - it is the contents
    return value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(stored: Any) -> str:
    return _raw(stored).decode("utf-8", "surrogatepass")


def _raw(stored: Any) -> bytes:
    if not isinstance(stored, bytes):
        raise ValueError(f"a packed column has {type(stored).__name__}, not bytes")  # noqa: TRY004 - it is the contents
    return stored
