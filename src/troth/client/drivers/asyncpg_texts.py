"""asyncpg's texts and psycopg's: the dialect writes `%s`, `%(name)s` and `%%`, asyncpg wants `$1`.

The user's `$1` becomes `%(1)s` before the dialect sees it, so that it may stand in any order afterwards. What AT asks
by itself carries its values as literals in the text: the server then reads them just as it reads psycopg's, as
literals of no type yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PIECE = re.compile(
    r"""
      --[^\n]* | /\*.*?\*/
    | [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$.*?\$(?P=tag)\$
    | [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*
    | \$(?P<number>\d+)
    | %
    """,
    re.VERBOSE | re.DOTALL,
)
_MARK = re.compile(r"%%|%\((\d+)\)s|%s")


@dataclass(frozen=True, slots=True)
class Numbered:
    """A text of the user's for the dialect, and how many parameters it takes."""

    sql: str
    count: int


def to_dialect(sql: str) -> Numbered:
    """The user's text (`$1`) as the dialect reads it (`%(1)s`, with `%` doubled)."""
    highest = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal highest
        if match["number"] is None:
            return match[0].replace("%", "%%")
        highest = max(highest, int(match["number"]))
        return f"%({int(match['number'])})s"

    return Numbered(_PIECE.sub(replaced, sql), highest)


def named(arguments: Iterable[object]) -> Mapping[str, object]:
    """The user's arguments under the names that `to_dialect` gives them."""
    return {str(number): value for number, value in enumerate(arguments, start=1)}


def from_dialect(sql: str) -> tuple[str, tuple[str, ...]]:
    """A text of the dialect's with the user's parameters, for asyncpg; and the names of `$1`, `$2` … in it."""
    names: dict[str, int] = {}

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return _MARK.sub(replaced, sql), tuple(names)


def with_literals(sql: str, values: Iterable[object]) -> str:
    """A text of the dialect's own with its values in it.

    Raises:
        TypeError: a value that AT itself never sends.
    """
    given = iter(values)
    return _MARK.sub(lambda match: "%" if match[0] == "%%" else literal(next(given)), sql)


def literal(value: object) -> str:
    """`value` as SQL has it; a text has no type yet. Raises TypeError."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return f"({value})" if value < 0 else str(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace("'", "''")
            return f" E'{escaped}'"
        case bytes() | bytearray() | memoryview():
            return f" E'\\\\x{bytes(value).hex()}'::bytea"
        case list():
            return f"ARRAY[{', '.join(map(literal, value))}]"
        case _:
            raise TypeError(f"a {type(value).__name__} is no value of an image")
