"""Plain SELECTs that must show committed rows only (at.md §7): they become locking reads, or are refused.

The row lock is what makes the check mean something: between the read and the coordinator's answer nobody can undo the
row, so a row whose global lock is free then was committed when it was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from troth.client.errors import NotSupported
from troth.client.sql.statement import Statement, Verb

Given = TypeVar("Given")

_QUERY = re.compile(r"\s*\(*\s*(?:SELECT|WITH|TABLE|VALUES)\b", re.IGNORECASE)
_COMMENTS = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_SOURCE = re.compile(r"\b(?:FROM|JOIN|TABLE)\s+([^\s,;]+)(\s*,)?", re.IGNORECASE)
_CATALOGUE = re.compile(
    r"[\"`(]*(?:(?:pg_catalog|information_schema|performance_schema|mysql|sys)[\"`]?\.|pg_|sqlite_|pragma_)",
    re.IGNORECASE,
)
_HINT = "Read the rows of one table by a statement of its own, or outside of read_committed (docs/modes/isolation.md)."


def checked_read(statement: Statement, locking: Callable[[str], Statement]) -> Statement:
    """`statement`, if it is a READ of tables: as the locking read of the same rows, or REFUSED if there is none.

    `locking` parses the text as one that locks its rows. Reads of the catalogue, and those of no table, stay.
    """
    if statement.verb is not Verb.READ:
        return statement
    text = _COMMENTS.sub(" ", statement.sql)
    if not _QUERY.match(text) or _only_catalogue(text):
        return statement
    locked = locking(statement.sql.rstrip("; \t\r\n"))
    if locked.verb is Verb.LOCKING_READ:
        return replace(locked, calls=statement.calls)
    why = f" ({locked.reason.rstrip('.')})" if locked.verb is Verb.REFUSED else ""
    reason = f"under read_committed AT cannot tell which rows this SELECT shows{why}."
    return replace(statement, verb=Verb.REFUSED, reason=reason, hint=_HINT)


def only_set(sets: Iterable[Given]) -> Given:
    """The one set of parameters that a locking read runs with. Raises NotSupported if there are several, or none."""
    found = list(sets)
    if len(found) != 1:
        raise NotSupported(
            f"a SELECT that checks its rows cannot run for {len(found)} sets of parameters at once.",
            "Execute it once for each of them.",
        )
    return found[0]


def _only_catalogue(text: str) -> bool:
    """Whether every table named is one of the database's own; true also if none is."""
    return all(_CATALOGUE.match(found[1]) and not found[2] for found in _SOURCE.finditer(text))
