"""A table of ours that is not there: the database's own error, and what to do about it."""

from __future__ import annotations

from typing import Final, TypeVar

from troth.client.flow import Flow

R = TypeVar("R")

_MISSING: Final = ("no such table", "does not exist", "doesn't exist")
"""What SQLite, PostgreSQL, and MySQL and MariaDB say."""


def explained(flow: Flow[R], table: str, command: str) -> Flow[R]:
    """Run `flow`; if it fails because `table` is missing, the error is noted with the `command` that makes it."""
    try:
        return (yield from flow)
    except Exception as error:
        text = str(error)
        if table in text and any(words in text for words in _MISSING):
            error.add_note(f"troth: `{command}` makes the table {table}")
        raise
