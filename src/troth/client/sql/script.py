"""A file of SQL as single statements with their lines.

It is read with the widest of lexical rules: strings, quoted names, comments and dollar quotes are kept whole, and what
else stands between is the dialect's business. The body of a trigger or routine (`BEGIN … END`) is one with its CREATE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

_COMMENT = r"--[^\n]* | /\*.*?(?:\*/|\Z)"
_DOLLARS = r"\$(?P<tag>(?:[A-Za-z_][A-Za-z0-9_]*)?)\$.*?(?:\$(?P=tag)\$|\Z)"
_RULES = MappingProxyType(
    {
        "mysql": rf"""{_COMMENT} | \#[^\n]* | '(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" | `(?:[^`]|``)*`""",
        "postgresql": rf"""{_COMMENT} | [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | {_DOLLARS}""",
        "sqlite": rf"""{_COMMENT} | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]""",
    }
)
_REST = r"| (?P<word>[A-Za-z_\x80-\U0010ffff][\w$]*) | (?P<end>;) | (?P<space>\s+) | (?P<other>.)"
_ROUTINE = re.compile(r"CREATE\s+(?:\w+\s+)*?(?:TRIGGER|PROCEDURE|FUNCTION|EVENT)\b", re.IGNORECASE)
_OPENS = frozenset({"BEGIN", "CASE"})


@dataclass(frozen=True, slots=True)
class Part:
    """One statement; `line` is that of its first word (from 1)."""

    sql: str
    line: int

    @property
    def head(self) -> str:
        """The statement without the body, if it makes a trigger or a routine."""
        if not _ROUTINE.match(self.sql):
            return self.sql
        return re.split(r"\bBEGIN\b", self.sql, maxsplit=1, flags=re.IGNORECASE)[0].rstrip()


def statements(text: str, dialect: str) -> Iterator[Part]:
    """The statements of `text`, without what ends them; `dialect` is `postgresql`, `mysql` or `sqlite`."""
    pattern = re.compile(_RULES[dialect] + _REST, re.VERBOSE | re.DOTALL)
    start: int | None = None
    depth = 0
    for match in pattern.finditer(text):
        kind = match.lastgroup
        if kind == "end" and depth == 0:
            if start is not None:
                yield _part(text, start, match.start())
            start = None
        elif start is None and _is_code(match):
            start = match.start()
        depth = _depth(text, start, match, depth) if start is not None else 0
    if start is not None:
        yield _part(text, start, len(text))


def _is_code(match: re.Match[str]) -> bool:
    return match.lastgroup not in ("space", "end") and not match[0].startswith(("--", "/*", "#"))


def _depth(text: str, start: int, match: re.Match[str], depth: int) -> int:
    """How many `BEGIN` and `CASE` of a routine are open behind this token."""
    if match.lastgroup != "word" or not _ROUTINE.match(text, start):
        return depth
    word = match[0].upper()
    if word in _OPENS:
        return depth + 1
    followed = text[match.end() :].lstrip()[:6].upper()
    if word == "END" and not followed.startswith(("IF", "LOOP", "WHILE", "REPEAT", "CASE;")):
        return max(0, depth - 1)
    return depth


def _part(text: str, start: int, end: int) -> Part:
    return Part(text[start:end].rstrip(), text.count("\n", 0, start) + 1)
