"""How SQLite's values are spelled in lock keys."""

from __future__ import annotations

import string

from troth.client.sql.tables import Column
from troth.client.sql.values import java_double_text

FOLDABLE = frozenset({"BINARY", "NOCASE", "RTRIM"})
"""The collations whose equality is known here."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def lock_part(column: Column, collation: str, value: object) -> str:
    """A value in a lock key, folded as the column compares it (NOCASE, RTRIM; 1 and 1.0)."""
    match value:
        case str():
            return _folded(value, collation)
        case float() if value.is_integer() and not column.keeps_real:
            return str(int(value))
        case float():
            return java_double_text(value)
        case bytes():
            return "x" + value.hex()
        case _:
            return str(value)


def _folded(value: str, collation: str) -> str:
    match collation:
        case "NOCASE":
            return value.translate(_LOWER)
        case "RTRIM":
            return value.rstrip(" ")
        case _:
            return value
