"""All of SQLite's lexical grammar."""

from __future__ import annotations

import re

from troth.client.sql import lexer
from troth.client.sql.lexer import Kind, Token

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
    return lexer.tokenize(sql, _TOKEN, _name)


def _name(kind: Kind, text: str) -> str:
    """The identifier as it is written: SQLite's names have no case of their own."""
    if kind is not Kind.QUOTED:
        return text
    if text[0] == "[":
        return text[1:-1]
    return text[1:-1].replace(text[0] * 2, text[0])
