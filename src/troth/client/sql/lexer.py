"""SQL text into tokens with their places in the text.

AT keeps the user's own words: the WHERE of an image is cut out of the statement, never printed from a syntax tree, so
it can not mean something else. That needs exact places of tokens; a dialect brings its lexical rules as one pattern.
(A general SQL parser was tried and dropped: it fails on `?1`, reads REPLACE as an opaque command, and its printer
changes text.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a token is. A dialect's pattern has a group for each (in lower case), and `skip` for what is none."""

    WORD = "word"
    QUOTED = "quoted name"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is `sql[start:end]`; `word` is its upper case if it is an unquoted word, else empty.

    `name` is the identifier that a word or a quoted name means, without quotes and in the database's case.
    """

    kind: Kind
    text: str
    start: int
    end: int
    word: str = ""
    name: str = ""


class LexicalError(ValueError):
    """Text that is not SQL: an open quote, or a character that means nothing."""


def tokenize(sql: str, pattern: re.Pattern[str], name_of: Callable[[Kind, str], str]) -> list[Token]:
    """The tokens of `sql`, without white space and comments. Raises LexicalError."""
    tokens: list[Token] = []
    place = 0
    while place < len(sql):
        match = pattern.match(sql, place)
        if match is None:
            raise LexicalError(f"cannot read SQL at {sql[place : place + 20]!r}.")
        start, place = place, match.end()
        if match.lastgroup != "skip":
            tokens.append(_token(match.lastgroup or "", match[0], start, place, name_of))
    return tokens


def _token(group: str, text: str, start: int, end: int, name_of: Callable[[Kind, str], str]) -> Token:
    kind = Kind[group.upper()]
    name = name_of(kind, text) if kind in (Kind.WORD, Kind.QUOTED) else ""
    return Token(kind, text, start, end, text.upper() if kind is Kind.WORD else "", name)
