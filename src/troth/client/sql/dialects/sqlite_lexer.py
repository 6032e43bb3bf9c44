"""SQL text into tokens with their places in the text.

AT keeps the user's own words: the WHERE of an image is cut out of the statement, never printed from a syntax tree, so
it can not mean something else. That needs exact places of tokens, and the few rules below are all of SQLite's lexical
grammar. (A general SQL parser was tried and dropped: it fails on `?1`, reads REPLACE as an opaque command, and its
printer changes text.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a token is."""

    WORD = "word"
    QUOTED = "quoted name"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    SYMBOL = "symbol"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is `sql[start:end]`; `word` is its upper case if it is an unquoted word, else empty."""

    kind: Kind
    text: str
    start: int
    end: int
    word: str = ""

    @property
    def name(self) -> str:
        """The identifier, without its quotes."""
        if self.kind is not Kind.QUOTED:
            return self.text
        close = "]" if self.text[0] == "[" else self.text[0]
        return self.text[1:-1].replace(close * 2, close) if close != "]" else self.text[1:-1]


class LexicalError(ValueError):
    """Text that is not SQL: an open quote, or a character that means nothing."""


_TOKEN = re.compile(
    r"""
      (?P<skip>      [ \t\n\f\r]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string>    '(?:[^']|'')*' | [xX]'[0-9A-Fa-f]*' )
    | (?P<quoted>    "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<number>    0[xX][0-9A-Fa-f]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? )
    | (?P<parameter> \?\d* | [:@#$][A-Za-z0-9_$\x80-\U0010ffff]+(?:::[A-Za-z0-9_$\x80-\U0010ffff]+)*(?:\([^)\s]*\))? )
    | (?P<word>      [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<symbol>    [-+*/%(),.;<>=!|&~] )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`, without white space and comments. Raises LexicalError."""
    tokens: list[Token] = []
    place = 0
    while place < len(sql):
        match = _TOKEN.match(sql, place)
        if match is None:
            raise LexicalError(f"cannot read SQL at {sql[place : place + 20]!r}.")
        start, place = place, match.end()
        if match.lastgroup != "skip":
            tokens.append(_token(match.lastgroup or "", match[0], start, place))
    return tokens


def _token(group: str, text: str, start: int, end: int) -> Token:
    kind = Kind[group.upper()]
    return Token(kind, text, start, end, text.upper() if kind is Kind.WORD else "")
