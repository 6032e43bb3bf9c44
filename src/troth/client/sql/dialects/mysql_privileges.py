"""Which tables' triggers a user of MySQL or MariaDB cannot see: AT would take such a table for one without triggers.

MySQL shows triggers to holders of the privilege TRIGGER only. So did MariaDB until MDEV-37474, since when whoever may
INSERT, UPDATE or DELETE sees their names, which is enough for AT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from troth.client.flow import Flow, query

_SHOWN: Final = 5
_NAME = r"\*|`(?:[^`]|``)*`|\"(?:[^\"]|\"\")*\""
_LINE = re.compile(
    rf"(?P<verb>GRANT|REVOKE) (?P<privileges>.+?) ON (?P<schema>{_NAME})\.(?P<table>{_NAME}) (?:TO|FROM) "
)
_TRIGGER = re.compile(r"(?:^|, )(?:ALL PRIVILEGES|TRIGGER)(?:,|$)")
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_SHOWS_NAMES_FROM: Final = (10, 11, 19)
"""Of MariaDB 10.11: the first version known (by a test) to show them without the privilege."""

_TABLES = (
    "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE = 'BASE TABLE' "
    "AND TABLE_NAME NOT IN ('undo_log', 'troth_hot_rows') ORDER BY TABLE_NAME"
)


def hidden_triggers() -> Flow[list[str]]:
    """A warning, in a sentence, if there are tables whose triggers are hidden from the connection's user."""
    ((version, database, user),) = (yield from query("SELECT VERSION(), DATABASE(), CURRENT_USER()")).rows
    if shows_names(str(version)):
        return []
    tables = yield from without_trigger(str(version), str(database))
    if not tables:
        return []
    shown = ", ".join(tables[:_SHOWN]) + (f" and {len(tables) - _SHOWN} more" if len(tables) > _SHOWN else "")
    return [
        f"{user} has no privilege TRIGGER on {shown}: the server hides their triggers from it, so AT cannot refuse to "
        f"write there, nor undo what they write. GRANT TRIGGER ON the database or on those tables, or make sure "
        "that they have none"
    ]


def shows_names(version: str) -> bool:
    """Whether a server of that version is known to show triggers to whoever may write to their table."""
    numbers = _NUMBERS.search(version)
    if numbers is None or "mariadb" not in version.lower():
        return False
    major, minor, patch = map(int, numbers.groups())
    return (major, minor) == _SHOWS_NAMES_FROM[:2] and patch >= _SHOWS_NAMES_FROM[2]


def without_trigger(version: str, database: str) -> Flow[list[str]]:
    """The tables of `database` on which the connection's user has no TRIGGER, by the grants that hold now."""
    lines = yield from _grants(version)
    held = [grant for grant in _parsed(lines) if grant.holds_in(database)]
    revoked = any(grant.is_revoked for grant in held)
    if any(grant.table == "*" and not (grant.schema == "*" and revoked) for grant in held if not grant.is_revoked):
        return []
    named = {grant.table for grant in held}
    tables = yield from query(_TABLES, (database,))
    return [str(row[0]) for row in tables.rows if str(row[0]) not in named]


def _grants(version: str) -> Flow[list[str]]:
    lines = [str(row[0]) for row in (yield from query("SHOW GRANTS")).rows]
    # MariaDB's list has those of the role that is set; MySQL's has them if one asks (roles came with 8.0).
    if "mariadb" in version.lower() or int(version.partition(".")[0]) < 8:
        return lines
    roles = str((yield from query("SELECT CURRENT_ROLE()")).rows[0][0])
    if roles == "NONE":
        return lines
    return [str(row[0]) for row in (yield from query(f"SHOW GRANTS FOR CURRENT_USER() USING {roles}")).rows]


@dataclass(frozen=True, slots=True)
class _Grant:
    """TRIGGER on a table, a schema (perhaps a pattern) or everything; or taken away again (MySQL's partial revokes)."""

    schema: str
    table: str
    is_revoked: bool

    def holds_in(self, database: str) -> bool:
        if self.schema == "*":
            return True
        if self.table != "*" or self.is_revoked:
            return self.schema.casefold() == database.casefold()
        return _like(self.schema).fullmatch(database) is not None


def _parsed(lines: Iterable[str]) -> Iterator[_Grant]:
    for line in lines:
        found = _LINE.match(line)
        if found is not None and _TRIGGER.search(found["privileges"]):
            yield _Grant(_unquoted(found["schema"]), _unquoted(found["table"]), found["verb"] == "REVOKE")


def _unquoted(name: str) -> str:
    quote = name[0]
    return name if quote == "*" else name[1:-1].replace(quote * 2, quote)


def _like(pattern: str) -> re.Pattern[str]:
    """A pattern of SQL's LIKE, as names of schemas in grants are."""
    pieces = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    text = "".join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces)
    return re.compile(text, re.IGNORECASE | re.DOTALL)
