"""Lock texts: how Seata clients name the rows of a branch (`table:pk,pk;table:pk`, PROTOCOL §9)."""

from __future__ import annotations

from sys import intern

from troth.core.model import RowKey

_new_tuple = tuple.__new__
"""What RowKey's own constructor comes down to, without its call: a registration makes a key for every row."""


class LockTextError(ValueError):
    """A lock text that does not split cleanly; Seata's own parser drops the rest of the keys silently."""


def parse_lock_text(resource_id: str, text: str | None) -> tuple[RowKey, ...]:
    """The rows that `text` names, without repeats, in its order; a trailing `;` is clean (Go clients write it).

    Splits each table at the first `:`, since key values may hold colons. Raises LockTextError.
    """
    if not text:
        return ()
    keys: dict[RowKey, None] = {}
    for part in text.removesuffix(";").split(";"):
        table, colon, pks = part.partition(":")
        if not colon or not table or not pks:
            raise LockTextError(f"lock key {part[:80]!r} is not of the form table:pk[,pk]")
        table = intern(table)  # a few names, in every lock of every open transaction
        for pk in pks.split(","):
            if not pk:
                raise LockTextError(f"lock key of table {table[:80]!r} has an empty primary key")
            keys[_new_tuple(RowKey, (resource_id, table, pk))] = None
    return tuple(keys)
