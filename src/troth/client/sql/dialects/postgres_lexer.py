"""PostgreSQL's lexical grammar, in texts for psycopg (`%s`, `%(name)s`, `%%`).

Strings are read as with `standard_conforming_strings = on` (that it is on is seen to elsewhere). psycopg looks for
placeholders everywhere, also in strings and comments; one there is refused.
"""

from __future__ import annotations

import re
import string

from troth.client.sql import lexer
from troth.client.sql.lexer import Kind, LexicalError, Token

_TOKEN = re.compile(
    r"""
      (?P<skip>      [ \t\n\f\r\v]+ | --[^\n]* | /\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/ )
    | (?P<string>    [eE]'(?:[^'\\]|''|\\.)*' | [bBxXnN]'[^']*' | '(?:[^']|'')*'
                   | \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$.*?\$(?P=tag)\$ )
    | (?P<quoted>    "(?:[^"]|"")+" )
    | (?P<number>    (?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)? )
    | (?P<parameter> %[sbt] | %\([^)]*\)[sbt] )
    | (?P<word>      [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<symbol>    %% | [-+*/(),.;:<>=!|&~^@#?`\[\]] )
    """,
    re.VERBOSE | re.DOTALL,
)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`, without white space and comments. Raises LexicalError."""
    tokens = lexer.tokenize(sql, _TOKEN, _name)
    end = 0
    for token in tokens:
        between = sql[end : token.start]
        if token.kind in (Kind.STRING, Kind.QUOTED):
            between += token.text
        _check_percent(between)
        end = token.end
    _check_percent(sql[end:])
    return tokens


def _check_percent(text: str) -> None:
    if "%" in text.replace("%%", ""):
        raise LexicalError("a placeholder (or a single %) inside of a string or comment is not understood.")


def _name(kind: Kind, text: str) -> str:
    """The identifier as the catalogue spells it."""
    if kind is Kind.QUOTED:
        return text[1:-1].replace('""', '"').replace("%%", "%")
    return text.translate(_LOWER)
