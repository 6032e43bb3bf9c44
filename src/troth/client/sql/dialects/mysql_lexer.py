"""MySQL's lexical rules in the default SQL mode. (The catalogue refuses `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES`.)"""

from __future__ import annotations

import re

from troth.client.sql.lexer import Kind, LexicalError, Token
from troth.client.sql.lexer import tokenize as tokenize_by

_EXECUTABLE = re.compile(r"/\*(?:!|M!)")

_RULES = r"""
      (?P<skip>      [ \t\n\v\f\r]+ | \#[^\n]* | --(?:[ \t\n\v\f\r][^\n]*|\Z) | /\*(?!!|M!).*?\*/ )
    | (?P<string>    [xXbBnN]?'(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" )
    | (?P<quoted>    `(?:[^`]|``)*` )
    | (?P<number>    0[xX][0-9A-Fa-f]+(?![\w$]) | 0b[01]+(?![\w$])
                   | (?:\d+(?:\.\d*)?|(?<![\w$`])\.\d+)(?:[eE][-+]?\d+)?(?![\w$]) )
"""
_REST = r"""
    | (?P<word>      [0-9A-Za-z_$\x80-\U0010ffff]+ )
    | (?P<symbol>    :=|->>|->|<=>|<<|>>|\|\||&&|%%|[-+*/%(),.;<>=!|&~^@{}] )
"""
_PARAMETERS = r"""
    | (?P<parameter> %s | %\([^)]+\)s )
"""

_WITH_PARAMETERS = re.compile(_RULES + _PARAMETERS + _REST, re.VERBOSE | re.DOTALL)
_WITHOUT_PARAMETERS = re.compile(_RULES + _REST, re.VERBOSE | re.DOTALL)


def tokenize(sql: str, *, parameterised: bool) -> list[Token]:
    """The tokens of `sql`, without white space and comments. Raises LexicalError."""
    if _EXECUTABLE.search(sql):
        # It might be in a text or a name; then it is refused without need.
        raise LexicalError("comments that MySQL executes (/*! … */) are not understood.")
    if parameterised:
        return tokenize_by(sql, _WITH_PARAMETERS, lambda kind, text: _name_of(kind, text).replace("%%", "%"))
    return tokenize_by(sql, _WITHOUT_PARAMETERS, _name_of)


def _name_of(kind: Kind, text: str) -> str:
    return text[1:-1].replace("``", "`") if kind is Kind.QUOTED else text
